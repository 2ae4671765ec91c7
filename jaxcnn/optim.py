"""Optimisers and schedules as optax transforms; every recipe keeps the learning rate in force readable in its state."""

import difflib
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from jaxcnn.core.types import InputError, Tree, named

Rate = float | Callable[[Any], Any]  # a number, or a schedule of the step


KERNELS = {
    "kernel": 0,
    "weight": 2,
    "w": 2,
}  # what kernels are called, and the fewest axes: norms call their scale weight, too
Mask = Tree | Callable[[Tree], Tree]


def decay_mask(params: Tree) -> Tree:
    """True for kernels of convolutions and dense layers, false for everything else: what weight decay should touch.

    Kernels go by their name: `kernel`, or `weight` or `w` with two axes or more. Biases, scales of norms and layers, positions, class
    tokens and embeddings are not decayed, whatever their shape, as published recipes of transformers have it. For modules that
    call their kernels otherwise, give a recipe a `mask` of your own; one that finds nothing to decay warns.
    """
    return jax.tree.unflatten(jax.tree.structure(params), [_is_kernel(name, p) for name, p in named(params)])


def _is_kernel(name: str, p: jax.Array) -> bool:
    last = name.split(".")[-1]
    return last in KERNELS and p.ndim >= KERNELS[last]


def sgd(
    learning_rate: Rate,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip: float | None = None,
    mask: Mask = decay_mask,
) -> optax.GradientTransformation:
    """Stochastic gradient descent with momentum (Sutskever et al., 2013); decay is added to the gradient, as in PyTorch.

    In every recipe `mask` says which parameters are decayed: a tree of booleans, or a function of the parameters to one.
    """
    _check_shares(momentum=momentum)
    moving = optax.trace(momentum, nesterov) if momentum else optax.identity()
    return _chain(learning_rate, clip, _decay(weight_decay, mask), moving)


def adam(
    learning_rate: Rate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip: float | None = None,
    mask: Mask = decay_mask,
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, 2014, arXiv:1412.6980); decay is added to the gradient, so it is scaled like one."""
    _check_shares(b1=b1, b2=b2)
    return _chain(learning_rate, clip, _decay(weight_decay, mask), optax.scale_by_adam(b1, b2, eps))


def adamw(
    learning_rate: Rate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
    clip: float | None = None,
    mask: Mask = decay_mask,
) -> optax.GradientTransformation:
    """Adam with decay of the weights themselves (Loshchilov and Hutter, 2017, arXiv:1711.05101)."""
    _check_shares(b1=b1, b2=b2)
    return _chain(learning_rate, clip, optax.scale_by_adam(b1, b2, eps), _decay(weight_decay, mask))


def lamb(
    learning_rate: Rate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 1e-4,
    clip: float | None = None,
    mask: Mask = decay_mask,
) -> optax.GradientTransformation:
    """LAMB, layer-wise rates for large batches (You et al., 2019, arXiv:1904.00962)."""
    _check_shares(b1=b1, b2=b2)
    return _chain(
        learning_rate, clip, optax.scale_by_adam(b1, b2, eps), _decay(weight_decay, mask), optax.scale_by_trust_ratio()
    )


OPTIMIZERS = {"sgd": sgd, "adam": adam, "adamw": adamw, "lamb": lamb}


def constant(peak: float, *, warmup: int = 0) -> optax.Schedule:
    """Hold the rate at `peak`, after a linear rise over `warmup` steps."""
    _check_schedule(peak, warmup)
    return _warm(optax.constant_schedule(peak), peak, warmup)


def step(peak: float, *, boundaries: dict[int, float], warmup: int = 0) -> optax.Schedule:
    """Multiply the rate by a factor at each boundary: `{6_000: 0.1, 9_000: 0.1}`; boundaries count all steps.

    Raises:
        InputError: a boundary before the end of the warmup.

    """
    _check_schedule(peak, warmup)
    if any(at < warmup for at in boundaries):
        raise InputError(f"boundaries={boundaries}: must not lie before the end of the warmup, step {warmup}")
    return _warm(
        optax.piecewise_constant_schedule(peak, {at - warmup: by for at, by in boundaries.items()}), peak, warmup
    )


def cosine(peak: float, *, steps: int, warmup: int = 0, end: float = 0.0) -> optax.Schedule:
    """Rise over `warmup` steps, then fall along half a cosine to `end` at `steps` (Loshchilov and Hutter, 2016, arXiv:1608.03983)."""
    _check_schedule(peak, warmup, steps)
    return _warm(optax.cosine_decay_schedule(peak, max(steps - warmup, 1), end / peak), peak, warmup)


def one_cycle(
    peak: float, *, steps: int, warmup: int | None = None, start: float = 0.04, end: float = 0.0
) -> optax.Schedule:
    """Rise along a cosine from `start * peak` over `warmup` steps (by default 30 %), then fall along one to `end * peak`.

    Reference: Smith and Topin, 2017, arXiv:1708.07120.
    """
    warmup = round(0.3 * steps) if warmup is None else warmup
    _check_schedule(peak, warmup, steps)
    rise = optax.cosine_decay_schedule(1.0, max(warmup, 1))
    fall = optax.cosine_decay_schedule(1.0, max(steps - warmup, 1))
    up, down = lambda t: peak * (start + (1 - start) * (1 - rise(t))), lambda t: peak * (end + (1 - end) * fall(t))
    return optax.join_schedules([up, down], [warmup])


def freeze(tx: optax.GradientTransformation, frozen: Sequence[str]) -> optax.GradientTransformation:
    """Leave some parameters as they are: no update, no decay, no state of the optimiser, no part in a clipped norm.

    The gradient of what is frozen is not computed where nothing else asks for it; `transfer.stop_gradient_on` asks for none.
    BatchNorm's running statistics are no parameters: see `transfer.keep_stats`.

    Args:
        tx: what updates the others.
        frozen: patterns, see `which`.

    Raises:
        InputError: (at init) a pattern that names no parameter.

    """
    label = lambda params: jax.tree.map(lambda k: "trained" if k < 0 else "frozen", which(params, [frozen]))  # noqa: E731
    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, label)


def by_group(
    tx: optax.GradientTransformation, groups: Sequence[Sequence[str]], factors: Sequence[Rate]
) -> optax.GradientTransformation:
    """Multiply the updates of each group of parameters by a factor of its own: a learning rate of its own, decay included.

    Args:
        tx: what makes the updates, `freeze` included; its rate stays the one that `learning_rate` reads.
        groups: patterns of each group, see `which`; a parameter belongs to the first group that names it.
        factors: one a group, a number or a function of the update's number, from 0.

    Raises:
        InputError: not a factor for each group; (at init) a pattern that names no parameter, or a parameter in no group.

    """
    if len(factors) != len(groups):
        raise InputError(f"factors={list(factors)}: {len(factors)} for {len(groups)} groups; give one for each")

    def init(params: Tree) -> ByGroup:
        alone = [name for name, k in named(which(params, groups)) if k < 0]
        if alone:
            raise InputError(f"groups: {alone[0]} is in none of the {len(groups)}; add it to one of them")
        return ByGroup(jnp.zeros((), jnp.int32))

    def update(updates: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, ByGroup]:
        del params
        now = [factor(state.count) if callable(factor) else factor for factor in factors]
        scaled = jax.tree.map(lambda u, k: (u * now[k]).astype(u.dtype), updates, which(updates, groups))
        return scaled, ByGroup(state.count + 1)

    return optax.chain(tx, optax.GradientTransformation(init, update))


class ByGroup(NamedTuple):
    """State of `by_group`: how many updates there were, so that a resumed run goes on with the same factors."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride] (Optax names it so, over `tuple.count`)


def layerwise_lr_decay(
    tx: optax.GradientTransformation, groups: Sequence[Sequence[str]], decay: float
) -> optax.GradientTransformation:
    """Discriminative learning rates: those of each group `decay` times those of the group before it.

    Args:
        tx: what updates the first group, usually the head, with the whole rate.
        groups: from the head down to the stem, as `transfer.groups` gives them.
        decay: in (0, 1]; the paper divides by 2.6, which is 0.38.

    Raises:
        InputError: `decay` outside its range, or as `by_group`.

    Reference: Howard and Ruder, 2018, arXiv:1801.06146.

    """
    if not 0 < decay <= 1:
        raise InputError(f"decay={decay}: must be above 0 and at most 1")
    return by_group(tx, groups, [decay**k for k in range(len(groups))])


def gradual_unfreezing(
    tx: optax.GradientTransformation, groups: Sequence[Sequence[str]], starts: Sequence[int]
) -> optax.GradientTransformation:
    """Gradual unfreezing: a group stays as it is up to a step of its own, inside one compiled program.

    The optimiser's moments of a group that waits are those of its gradient all the same, so it begins with warm ones.

    Args:
        tx: what updates a group once it has begun.
        groups: from the head down to the stem, as `transfer.groups` gives them.
        starts: for each group, how many updates it waits.

    Raises:
        InputError: a negative start, or as `by_group`.

    Reference: Howard and Ruder, 2018, arXiv:1801.06146.

    """
    if any(start < 0 for start in starts):
        raise InputError(f"starts={list(starts)}: must be at least 0")
    return by_group(tx, groups, [lambda count, start=start: count >= start for start in starts])


def which(params: Tree, groups: Sequence[Sequence[str]]) -> Tree:
    """Return for each parameter the number of the first group that names it, -1 for none.

    Args:
        params: a tree of parameters.
        groups: of each, regular expressions over dotted paths such as `stages_0_1.conv1.conv.kernel`. One must match a whole
            path, or the whole path of something that the parameter is in: `stem`, `stages_[01]_.*`, `.*norm`.

    Raises:
        InputError: not a regular expression, or one that matches nothing.

    """
    found = first_match([name for name, _ in named(params)], groups)
    return jax.tree.unflatten(jax.tree.structure(params), found)


def first_match(names: Sequence[str], groups: Sequence[Sequence[str]]) -> list[int]:
    """Do for dotted paths what `which` does for the parameters that have them."""
    within = {name: {name[:end] for end, c in enumerate(name + ".") if c == "."} for name in names}
    places = sorted(set().union(*within.values()))
    found: dict[str, int] = {}
    for k, pattern in ((k, pattern) for k, patterns in enumerate(groups) for pattern in patterns):
        try:
            matched = {place for place in places if re.fullmatch(pattern, place)}
        except re.error as error:
            raise InputError(f"pattern {pattern!r}: not a regular expression ({error})") from error
        if not matched:
            near = difflib.get_close_matches(pattern, places, 3, 0.3) or places[:3]
            raise InputError(f"pattern {pattern!r}: names no parameter; near it are {', '.join(near)}")
        for name in names:
            if within[name] & matched:
                found.setdefault(name, k)
    return [found.get(name, -1) for name in names]


def learning_rate(opt_state: Tree) -> float:
    """Read the rate of the update that made this state (of the first one, before any).

    Raises:
        InputError: the state was not made by a recipe of this module or with `optax.inject_hyperparams`.

    """
    found = optax.tree_utils.tree_get_all_with_path(
        opt_state, "learning_rate", filtering=lambda path, value: hasattr(value, "ndim")
    )
    if not found:
        raise InputError(
            "no learning rate in the optimiser state: use a recipe of jaxcnn.optim, or optax.inject_hyperparams"
        )
    return float(np.asarray(found[0][1]))


def check_rate(rate: float) -> float:
    """Return a learning rate, or refuse what is no positive number."""
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(f"learning_rate={rate}: must be a positive number")
    return rate


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise InputError(f"{name}={share}: must be at least 0 and below 1")


def _check_schedule(peak: float, warmup: int, steps: int | None = None) -> None:
    check_rate(peak)
    if warmup < 0:
        raise InputError(f"warmup={warmup}: must be at least 0")
    if steps is not None and steps < max(warmup, 1):
        raise InputError(f"steps={steps}: must be at least 1, and no less than warmup={warmup}")


def _warm(schedule: optax.Schedule, peak: float, warmup: int) -> optax.Schedule:
    if not warmup:
        return schedule
    # the first step already moves: (t + 1) / warmup of the peak
    return optax.join_schedules([lambda t: peak * (t + 1) / warmup, schedule], [warmup])


def _decay(weight_decay: float, mask: Mask) -> optax.GradientTransformation:
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise InputError(f"weight_decay={weight_decay}: must be a number of at least 0")
    if not weight_decay:
        return optax.identity()
    decay = optax.add_decayed_weights(weight_decay, mask)

    def init(params: Tree) -> Tree:
        names = [name or "array" for name, p in named(params) if p.ndim > 1]
        if names and mask is decay_mask and not any(jax.tree.leaves(mask(params))):
            known = ", ".join(KERNELS)
            warnings.warn(
                f"weight_decay={weight_decay} touches nothing: none of {known} among {', '.join(names[:3])}; give mask=",
                stacklevel=2,
            )
        return decay.init(params)

    return optax.GradientTransformation(init, decay.update)


def _chain(rate: Rate, clip: float | None, *transforms: optax.GradientTransformation) -> optax.GradientTransformation:
    if not callable(rate):
        check_rate(rate)
    if clip is not None and not clip > 0:
        raise InputError(f"clip={clip}: must be a positive norm, or None")
    clipped = [] if clip is None else [optax.clip_by_global_norm(clip)]
    return optax.chain(
        *clipped, *transforms, optax.inject_hyperparams(optax.scale_by_learning_rate)(learning_rate=rate)
    )


def muon(
    learning_rate: Rate, rest: optax.GradientTransformation, *, momentum: float = 0.7, steps: int = 3
) -> optax.GradientTransformation:
    """Muon for kernels of convolutions (Jordan, 2024, `airbench94_muon`), which a norm must follow, and `rest` for all other parameters.

    The momentum of a kernel, as a matrix with a row for each filter, is made nearly orthogonal before it is taken from the kernel,
    whose length is then set to the root of the number of filters: so the rate is the share by which it turns.

    Args:
        learning_rate: for the kernels.
        rest: for what is no kernel of four axes.
        momentum: in Nesterov's form, in [0, 1).
        steps: of the Newton-Schulz iteration.

    """
    _check_shares(momentum=momentum)
    shape = lambda tree: jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers((0, 1, 2), 3), tree)  # noqa: E731
    kernels = _chain(
        learning_rate, None, optax.contrib.scale_by_muon(ns_steps=steps, beta=momentum, weight_dimension_numbers=shape)
    )

    def of(params: Tree) -> Tree:
        labels = ["kernels" if p.ndim == 4 and _is_kernel(name, p) else "rest" for name, p in named(params)]
        return jax.tree.unflatten(jax.tree.structure(params), labels)

    return optax.multi_transform({"kernels": optax.chain(kernels, _kept_length()), "rest": rest}, of)


def _kept_length() -> optax.GradientTransformation:
    """Make updates that leave a kernel `[..., K]` with the length `sqrt(K)`."""

    def update(updates: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        def one(p: jax.Array, u: jax.Array) -> jax.Array:
            new = p + u
            return new * (math.sqrt(new.shape[-1]) / jnp.linalg.norm(new.ravel())) - p

        return jax.tree.map(one, params, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

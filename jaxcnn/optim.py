"""Optimisers and schedules as optax transforms; every recipe keeps the learning rate in force readable in its state."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from jaxcnn.types import InputError, Tree

Rate = float | Callable[[jax.Array], jax.Array]


def decay_mask(params: Tree) -> Tree:
    """True for kernels, false for biases and norm scales (whatever has one axis or none): what weight decay should touch."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def sgd(
    learning_rate: Rate, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0, clip: float | None = None
) -> optax.GradientTransformation:
    """Stochastic gradient descent with momentum (Sutskever et al., 2013); decay is added to the gradient, as in PyTorch."""
    _check_shares(momentum=momentum)
    moving = optax.trace(momentum, nesterov) if momentum else optax.identity()
    return _chain(learning_rate, clip, _decay(weight_decay), moving)


def adam(
    learning_rate: Rate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0, clip: float | None = None
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, 2014, arXiv:1412.6980); decay is added to the gradient, so it is scaled like one."""
    _check_shares(b1=b1, b2=b2)
    return _chain(learning_rate, clip, _decay(weight_decay), optax.scale_by_adam(b1, b2, eps))


def adamw(
    learning_rate: Rate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-4, clip: float | None = None
) -> optax.GradientTransformation:
    """Adam with decay of the weights themselves (Loshchilov and Hutter, 2017, arXiv:1711.05101)."""
    _check_shares(b1=b1, b2=b2)
    return _chain(learning_rate, clip, optax.scale_by_adam(b1, b2, eps), _decay(weight_decay))


def lamb(
    learning_rate: Rate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6, weight_decay: float = 1e-4, clip: float | None = None
) -> optax.GradientTransformation:
    """LAMB, layer-wise rates for large batches (You et al., 2019, arXiv:1904.00962)."""
    _check_shares(b1=b1, b2=b2)
    return _chain(learning_rate, clip, optax.scale_by_adam(b1, b2, eps), _decay(weight_decay), optax.scale_by_trust_ratio())


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
    return _warm(optax.piecewise_constant_schedule(peak, {at - warmup: by for at, by in boundaries.items()}), peak, warmup)


def cosine(peak: float, *, steps: int, warmup: int = 0, end: float = 0.0) -> optax.Schedule:
    """Rise over `warmup` steps, then fall along half a cosine to `end` at `steps` (Loshchilov and Hutter, 2016, arXiv:1608.03983)."""
    _check_schedule(peak, warmup, steps)
    return _warm(optax.cosine_decay_schedule(peak, max(steps - warmup, 1), end / peak), peak, warmup)


def one_cycle(peak: float, *, steps: int, warmup: int | None = None, start: float = 0.04, end: float = 0.0) -> optax.Schedule:
    """Rise along a cosine from `start * peak` over `warmup` steps (by default 30 %), then fall along one to `end * peak`.

    Reference: Smith and Topin, 2017, arXiv:1708.07120.
    """
    warmup = round(0.3 * steps) if warmup is None else warmup
    _check_schedule(peak, warmup, steps)
    rise = optax.cosine_decay_schedule(1.0, max(warmup, 1))
    fall = optax.cosine_decay_schedule(1.0, max(steps - warmup, 1))
    up, down = lambda t: peak * (start + (1 - start) * (1 - rise(t))), lambda t: peak * (end + (1 - end) * fall(t))
    return optax.join_schedules([up, down], [warmup])


def learning_rate(opt_state: Tree) -> float:
    """Read the rate of the update that made this state (of the first one, before any).

    Raises:
        InputError: the state was not made by a recipe of this module or with `optax.inject_hyperparams`.

    """
    found = optax.tree_utils.tree_get_all_with_path(opt_state, "learning_rate", filtering=lambda path, value: hasattr(value, "ndim"))
    if not found:
        raise InputError("no learning rate in the optimiser state: use a recipe of jaxcnn.optim, or optax.inject_hyperparams")
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


def _decay(weight_decay: float) -> optax.GradientTransformation:
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise InputError(f"weight_decay={weight_decay}: must be a number of at least 0")
    return optax.add_decayed_weights(weight_decay, decay_mask) if weight_decay else optax.identity()


def _chain(rate: Rate, clip: float | None, *transforms: optax.GradientTransformation) -> optax.GradientTransformation:
    if not callable(rate):
        check_rate(rate)
    if clip is not None and not clip > 0:
        raise InputError(f"clip={clip}: must be a positive norm, or None")
    clipped = [] if clip is None else [optax.clip_by_global_norm(clip)]
    return optax.chain(*clipped, *transforms, optax.inject_hyperparams(optax.scale_by_learning_rate)(learning_rate=rate))


def muon(learning_rate: Rate, rest: optax.GradientTransformation, *, momentum: float = 0.7, steps: int = 3) -> optax.GradientTransformation:
    """Muon for kernels of convolutions (Jordan, 2024, `airbench94_muon`), which a norm must follow, and `rest` for all other parameters.

    The momentum of a kernel, as a matrix with a row for each filter, is made nearly orthogonal before it is taken from the kernel,
    whose length is then set to the root of the number of filters: so the rate is the share by which it turns.

    Args:
        learning_rate: for the kernels.
        rest: for what has not four axes.
        momentum: in Nesterov's form, in [0, 1).
        steps: of the Newton-Schulz iteration.

    """
    _check_shares(momentum=momentum)
    shape = lambda tree: jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers((0, 1, 2), 3), tree)  # noqa: E731
    kernels = _chain(learning_rate, None, optax.contrib.scale_by_muon(ns_steps=steps, beta=momentum, weight_dimension_numbers=shape))
    of = lambda params: jax.tree.map(lambda p: "kernels" if p.ndim == 4 else "rest", params)  # noqa: E731
    return optax.multi_transform({"kernels": optax.chain(kernels, _kept_length()), "rest": rest}, of)


def _kept_length() -> optax.GradientTransformation:
    """Make updates that leave a kernel `[..., K]` with the length `sqrt(K)`."""

    def update(updates: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        def one(p: jax.Array, u: jax.Array) -> jax.Array:
            new = p + u
            return new * (math.sqrt(new.shape[-1]) / jnp.linalg.norm(new.ravel())) - p

        return jax.tree.map(one, params, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

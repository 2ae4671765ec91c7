"""Groups of parameters by patterns over their paths: frozen, with learning rates of their own, or begun one by one."""

import difflib
import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcnn.core.types import InputError, Tree, check_numbers, named
from jaxcnn.optim.schedules import Rate


def freeze(tx: optax.GradientTransformation, frozen: Sequence[str]) -> optax.GradientTransformation:
    """Leave some parameters as they are: no update, no decay, no state of the optimiser, no part in a clipped norm.

    The gradient of frozen parameters is computed only where something else needs it; with `transfer.stop_gradient_on`
    nothing does. BatchNorm's running statistics are not parameters: see `transfer.keep_stats`.

    Args:
        tx: what updates the others.
        frozen: patterns, see `which`.

    Raises:
        InputError: (at init) a pattern that names no parameter.

    """

    def label(params: Tree) -> Tree:
        return jax.tree.map(lambda k: "trained" if k < 0 else "frozen", which(params, [frozen]))

    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, label)


def by_group(
    tx: optax.GradientTransformation, groups: Sequence[Sequence[str]], factors: Sequence[Rate]
) -> optax.GradientTransformation:
    """Multiply the updates of each group by a factor of its own, which gives it its own learning rate, decay included.

    Args:
        tx: what makes the updates, `freeze` included; its rate stays the one that `learning_rate` reads.
        groups: patterns of each group, see `which`; a parameter belongs to the first group that names it.
        factors: one per group, a number or a function of the number of the update, from 0.

    Raises:
        InputError: not one factor per group; (at init) a pattern that names no parameter, or a parameter in no group.

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
    """State of `by_group`: the number of updates so far, with which a resumed run goes on with the same factors."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride] (Optax names it so, over `tuple.count`)


def layerwise_lr_decay(
    tx: optax.GradientTransformation, groups: Sequence[Sequence[str]], decay: float
) -> optax.GradientTransformation:
    """Discriminative learning rates: the rate of each group is `decay` times that of the group before it.

    Args:
        tx: what updates the first group, usually the head, with the whole rate.
        groups: from the head down to the stem, as `transfer.groups` gives them.
        decay: in (0, 1]; the paper divides by 2.6, which is 0.38.

    Raises:
        InputError: `decay` outside its range, or as `by_group`.

    Reference: Howard and Ruder, 2018, arXiv:1801.06146.

    """
    check_numbers(decay=decay)
    if not 0 < decay <= 1:
        raise InputError(f"decay={decay}: must be above 0 and at most 1")
    return by_group(tx, groups, [decay**k for k in range(len(groups))])


def gradual_unfreezing(
    tx: optax.GradientTransformation, groups: Sequence[Sequence[str]], starts: Sequence[int]
) -> optax.GradientTransformation:
    """Gradual unfreezing: each group stays as it is up to a step of its own, inside one compiled program.

    The optimiser's moments follow the gradient of a group that still waits, so the group begins with warm moments.

    Args:
        tx: what updates a group once it has begun.
        groups: from the head down to the stem, as `transfer.groups` gives them.
        starts: the number of updates that each group waits.

    Raises:
        InputError: a negative start, or as `by_group`.

    Reference: Howard and Ruder, 2018, arXiv:1801.06146.

    """
    if any(start < 0 for start in starts):
        raise InputError(f"starts={list(starts)}: must be at least 0")
    return by_group(tx, groups, [functools.partial(_begun, start) for start in starts])


def _begun(start: int, count: jax.Array) -> jax.Array:
    return count >= start


def which(params: Tree, groups: Sequence[Sequence[str]]) -> Tree:
    """Return for each parameter the number of the first group that names it, or -1.

    Args:
        params: a tree of parameters.
        groups: regular expressions of each group, over dotted paths such as `stages_0_1.conv1.conv.kernel`. An
            expression must match the whole path of the parameter, or of a module around it: `stem`, `stages_[01]_.*`,
            `.*norm`.

    Raises:
        InputError: a pattern is not a regular expression, or matches nothing.

    """
    found = first_match([name for name, _ in named(params)], groups)
    return jax.tree.unflatten(jax.tree.structure(params), found)


def first_match(names: Sequence[str], groups: Sequence[Sequence[str]]) -> list[int]:
    """Do for dotted paths what `which` does for the parameters at these paths."""
    within = {name: {name[:end] for end, c in enumerate(name + ".") if c == "."} for name in names}
    places = sorted(set().union(*within.values()))
    found: dict[str, int] = {}
    for k, pattern in ((k, pattern) for k, patterns in enumerate(groups) for pattern in patterns):
        matched = _matched(pattern, places)
        for name in names:
            if within[name] & matched:
                found.setdefault(name, k)
    return [found.get(name, -1) for name in names]


def _matched(pattern: str, places: Sequence[str]) -> set[str]:
    """Return the places that a pattern names, of which there must be one."""
    try:
        matched = {place for place in places if re.fullmatch(pattern, place)}
    except re.error as error:
        raise InputError(f"pattern {pattern!r}: not a regular expression ({error})") from error
    if not matched:
        near = difflib.get_close_matches(pattern, places, 3, 0.3) or places[:3]
        raise InputError(f"pattern {pattern!r}: names no parameter; near it are {', '.join(near)}")
    return matched

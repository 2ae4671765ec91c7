"""Pruning of single weights by their size, gradually while a network trains.

Weights that are zero are those that are pruned, so that nothing but the parameters has to be saved. Scattered zeros
shrink a compressed file; a CPU multiplies with them as with any number, and no runtime here becomes faster.
`methods.filters` removes whole filters, which does make a network smaller and faster.
"""

import functools
import math
import numbers
from typing import Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxcnn.core.types import Batch, InputError, MetricState, State, Step, Tree, check_numbers, named
from jaxcnn.optim.decay import is_kernel

Array = jax.Array
Scope = Literal["network", "layer"]
SCOPES = ("network", "layer")


def magnitude(params: Tree, sparsity: float | Array, scope: Scope = "network") -> Tree:
    """Set the smallest weights of the kernels to zero.

    Args:
        params: parameters of a network; only kernels are changed.
        sparsity: share of the kernels' weights that are zero afterwards, in [0, 1); more where weights are equal.
        scope: whether sizes are compared within the whole network, so that layers lose different shares, or within
            each layer.

    Raises:
        InputError: a value is out of range, there are no kernels, or (unless traced) one of their weights is NaN.

    References: Han et al., 2015, arXiv:1506.02626 (within layers); Blalock et al., 2020, arXiv:2003.03033 (both).

    """
    if scope not in SCOPES:
        raise InputError(f"scope={scope!r}: must be 'network' or 'layer'")
    if not isinstance(sparsity, Tracer):
        sparsity = float(sparsity)
    if isinstance(sparsity, float) and not 0 <= sparsity < 1:
        raise InputError(f"sparsity={sparsity}: must be at least 0 and below 1")
    kernels = _kernels(params)
    if not any(isinstance(p, Tracer) for p in kernels) and any(bool(jnp.isnan(p).any()) for p in kernels):
        raise InputError("params: a weight is NaN; use an earlier checkpoint")
    whole = _threshold(jnp.concatenate([_sizes(p) for p in kernels]), sparsity) if scope == "network" else None

    def one(name: str, p: Array) -> Array:
        if not is_kernel(name, p):
            return p
        return jnp.where(jnp.abs(p) <= (_threshold(_sizes(p), sparsity) if whole is None else whole), 0, p)

    return jax.tree.unflatten(jax.tree.structure(params), [one(name, p) for name, p in named(params)])


def sparsity(params: Tree) -> float:
    """Return the share of the kernels' weights that are zero."""
    kernels = [p for name, p in named(params) if is_kernel(name, p)]
    return sum(int((p == 0).sum()) for p in kernels) / max(sum(p.size for p in kernels), 1)


def gradual(step: Step, final: float, *, begin: int, end: int, every: int = 100, scope: Scope = "network") -> Step:
    """Wrap a training step so that it prunes more and more weights, and keeps pruned ones at zero.

    After step t between `begin` and `end`, the sparsity is `final * (1 - ((end - t) / (end - begin)) ** 3)`: much at
    first, while there are many weights that do not matter, and little in the end. It is raised every `every` steps and
    in step `end`, or in the first one after it that is not skipped. Weights that are zero before a step stay zero, so
    begin with a trained network, in which no kernel is initialised with zeros. Average weights (`with_ema`) outside of
    this wrapper fill in again what is pruned: fine-tune without them.

    Args:
        step: a training step.
        final: sparsity from step `end` on, in [0, 1).
        begin: the step before the first pruning, at least 0.
        end: the step of the last one, above `begin`; leave a third of the training after it.
        every: steps between two prunings, at least 1.
        scope: as for `magnitude`.

    Raises:
        InputError: a value is out of range; or (when traced) there are no kernels.

    Reference: Zhu and Gupta, 2017, arXiv:1710.01878, with an initial sparsity of 0.

    """
    check_numbers(final=final)
    if not 0 <= final < 1:
        raise InputError(f"final={final}: must be at least 0 and below 1")
    whole = all(isinstance(value, numbers.Integral) for value in (begin, end, every))
    if not (whole and 0 <= begin < end and every >= 1):
        line = f"begin={begin}, end={end}, every={every}: must be numbers of steps"
        raise InputError(f"{line}, 0 <= begin < end, and every at least 1")
    if scope not in SCOPES:
        raise InputError(f"scope={scope!r}: must be 'network' or 'layer'")

    def lacking(params: Tree) -> Array:
        """Return whether the final sparsity is not reached yet, as when step `end` was skipped."""
        kernels = _kernels(params)
        zero = jnp.sum(jnp.stack([jnp.sum(p == 0) for p in kernels]))
        return zero + len(kernels) < final * sum(p.size for p in kernels)  # the shares of layers are rounded down

    @functools.wraps(step)
    def pruned(state: State, batch: Batch) -> tuple[State, dict[str, MetricState]]:
        new, sums = step(state, batch)
        held = [
            jnp.where(before == 0, 0, after) if is_kernel(name, before) else after
            for (name, before), (_, after) in zip(named(state.params), named(new.params), strict=True)
        ]
        params = jax.tree.unflatten(jax.tree.structure(new.params), held)
        t = new.step
        now = ((t > begin) & (t < end) & ((t - begin) % every == 0)) | (t >= end) & lacking(params)
        left = (end - t.astype(jnp.float32)) / (end - begin)
        share = final * (1 - jnp.clip(left, 0, 1) ** 3)
        params = jax.lax.cond(now, lambda p: magnitude(p, share, scope), lambda p: p, params)
        return new.replace(params=params), sums

    return pruned


def _kernels(params: Tree) -> list[Array]:
    kernels = [p for name, p in named(params) if is_kernel(name, p)]
    if not kernels:
        raise InputError("params: have no kernels; nothing can be pruned")
    return kernels


def _sizes(p: Array) -> Array:
    return jnp.abs(p).reshape(-1).astype(jnp.float32)


def _threshold(sizes: Array, share: float | Array) -> Array:
    """Return the largest of the share of sizes that go; below all of them if none does."""
    if isinstance(share, float):
        count = math.floor(share * sizes.size)
        return jnp.sort(sizes)[count - 1] if count else jnp.float32(-1)
    count = jnp.floor(share * sizes.size).astype(jnp.int32)
    return jnp.where(count > 0, jnp.sort(sizes)[jnp.maximum(count - 1, 0)], -1.0)

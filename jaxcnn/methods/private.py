"""Differentially private training: gradients clipped per row with noise, rows drawn by Poisson sampling, accounting.

The three parts belong together. The guarantee is for the presence of one row, and holds against everyone who does not
know the seed, which decides both the rows of each batch and the noise: choose it at random and keep it secret.
It is for the parameters: metrics that are logged beside them are exact, and are not to be published.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.collectives import all_sum, leader, part, row_count, row_numbers
from jaxcnn.core.types import (
    Batch,
    InputError,
    MetricState,
    State,
    Step,
    Tree,
    check_numbers,
    check_whole,
    named,
    row_mask,
    rows,
)
from jaxcnn.data import Resident
from jaxcnn.data.order import ALL, Shard, fill, padded
from jaxcnn.methods.accounting import Accountant as Accountant
from jaxcnn.methods.accounting import epsilon as epsilon
from jaxcnn.methods.accounting import noise_for as noise_for
from jaxcnn.parallel.compile import IndexedChunk
from jaxcnn.train.step import Estimator, Gradient, Objective

Array = jax.Array
DRAWN = "poisson"  # column with the expected number of rows (or clients) of a batch of Poisson sampling
SAFETY = 8  # standard deviations of the size of a batch for which there is room


def private(clip: float, noise: float, batch_size: int, *, parts: int = 1) -> Estimator:
    """Estimate a gradient that hides each row: DP-SGD, an estimator for `make_train_step`.

    The gradient of each row is scaled to a length of at most `clip`; their sum gets Gaussian noise of standard
    deviation `noise * clip` in every value and is divided by `batch_size`, whatever the number of rows. A row whose
    gradient is not finite adds nothing, unless `clip` is infinite.

    Args:
        clip: largest length of a row's gradient, positive; infinite for none, which needs `noise=0`.
        noise: standard deviation of the noise over `clip`, at least 0; see `noise_for`.
        batch_size: rows of a batch, or their expected number with `poisson`, over all devices.
        parts: the rows of a device are taken in this many parts, one after the other, to save memory; the last part may
            be padded.

    Returns:
        The estimator. It refuses models whose state mixes rows, such as batch normalisation; its steps refuse
        transforms that mix rows, such as mixup, and `skip_nonfinite`, whose choice of steps depends on the rows.

    Raises:
        InputError: a value is outside its range; or (when traced) the model has a state, or there is noise and batches
            are not those of `Poisson`, for which alone `epsilon` holds. If they have another expected size, the
            gradient is NaN.

    Reference: Abadi et al., 2016, arXiv:1607.00133.

    """
    check_numbers(clip=clip, noise=noise)
    if not clip > 0:
        raise InputError(f"clip={clip}: must be positive")
    if not 0 <= noise < math.inf or noise and math.isinf(clip):
        raise InputError(f"noise={noise}: must be at least 0, and 0 without clipping (clip={clip})")
    for name, value in (("batch_size", batch_size), ("parts", parts)):
        check_whole(name, value, 1)

    def estimator(objective: Objective) -> Gradient:
        def one(count: int, params: Tree, model_state: Tree, row: Batch, number: Array, key: Array) -> tuple[Tree, Any]:
            row = jax.tree.map(lambda x: x[None], row)
            with part(number, count):  # dropout masks are those of the row in the batch
                slope, (_, _, sums) = jax.grad(objective, has_aux=True)(params, model_state, row, key)
            if math.isinf(clip):
                return slope, sums
            length = jnp.sqrt(sum(jnp.vdot(g, g).astype(jnp.float32) for g in jax.tree.leaves(slope)))
            share = jnp.where(length > clip, clip / jnp.maximum(length, 1e-30), 1.0)
            slope = jax.tree.map(lambda g: jnp.where(jnp.isfinite(length), g * share, 0).astype(g.dtype), slope)
            return slope, sums

        def gradient(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Tree, Tree, Any]:
            check_state(model_state)
            n, count = rows(batch), row_count(rows(batch))
            drawn = check_sampling(batch, count, batch_size, "rows", "methods.private.Poisson") if noise else 1.0
            noises = jax.random.fold_in(key, zlib.crc32(b"noise"))  # the loss has the key that it has without noise
            each = jax.vmap(functools.partial(one, count), (None, None, 0, 0, None))

            def body(total: Tree, some: tuple[Batch, Array]) -> tuple[Tree, Any]:
                found, sums = each(params, model_state, *some, key)
                return jax.tree.map(lambda t, g: t + g.sum(0), total, found), _summed(sums)

            numbers = jnp.pad(row_numbers(n), (0, -n % parts)).reshape(parts, -1)
            zero = jax.tree.map(jnp.zeros_like, params)
            total, sums = jax.lax.scan(body, zero, (_divided(batch, parts), numbers))
            total = jax.tree.map(lambda t: t * drawn, total)
            total = noisy(all_sum(total), noise * clip if noise else 0.0, noises)
            return jax.tree.map(lambda g: g / batch_size, total), model_state, _summed(sums)

        return gradient

    # see `train.step.make_train_step`
    estimator.private = estimator.by_row = True  # pyright: ignore[reportFunctionMemberAccess]
    return estimator


def check_sampling(batch: Batch, count: int, expected: int, what: str, fix: str) -> Array:
    """Raise `InputError` for a batch that Poisson sampling did not draw; return 1, or NaN if it drew at another size.

    Args:
        batch: the batch, or the part of it that a device has.
        count: of rows or clients in the batch, padding included.
        expected: their expected number.
        what: `"rows"` or `"clients"`.
        fix: what draws them.

    """
    most = room(expected, count) + jax.device_count()  # padded to a multiple of the devices
    if DRAWN not in batch or not expected < count < most:
        line = f"batches have {count} {what}, which Poisson sampling of {expected} does not draw"
        raise InputError(f"private: {line}; use {fix}, and the same batch_size={expected} in fit")
    return jnp.where((batch[DRAWN] == expected).all(), 1.0, jnp.nan)  # a trace cannot refuse


def _divided(batch: Batch, parts: int) -> Batch:
    """Return a batch in parts of equal size, `[parts, n, ...]`, padded with rows that do not count."""
    more = -rows(batch) % parts
    if more:
        batch = {**batch, "row_mask": row_mask(batch)}
        batch = jax.tree.map(lambda x: jnp.pad(x, ((0, more), *[(0, 0)] * (x.ndim - 1))), batch)
    return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), dict(batch))


def _summed(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: x.sum(0), tree)


def noisy(total: Tree, deviation: float, key: Array) -> Tree:
    """Add Gaussian noise to the arrays of a sum over all devices, on each of them the same.

    Args:
        total: arrays of floats.
        deviation: standard deviation, at least 0; 0 adds nothing.
        key: random key, the same on every device.

    """
    if not deviation:
        return total
    leaves, form = jax.tree.flatten(total)
    keys = jax.random.split(key, len(leaves))
    noise = [deviation * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(form, [x + n for x, n in zip(leaves, noise, strict=True)])


def check_state(model_state: Tree) -> None:
    """Raise `InputError` for a model with a state, which noise in the gradient does not hide."""
    names = [name for name, _ in named(model_state)]
    if names:
        fix = "use GroupNorm or no norm instead of BatchNorm, and no wrapper that keeps state"
        raise InputError(f"private: the model state {names[0]} is not covered by the noise; {fix}")


@dataclasses.dataclass(frozen=True)
class Poisson(Resident):
    """Rows in memory, of which each is in each training batch with the same probability, whatever the others do.

    The probability is `batch_size / size`; batches have different numbers of rows, and are padded with `row_mask = 0`
    to one size. A batch may be empty. Its column `"poisson"` has `batch_size`. Evaluation reads every row once.

    Attributes: those of `Resident`.

    """

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> IndexedChunk:
        """Return training batches `start` to `start + count`, see `Data.chunk`.

        Raises:
            InputError: a batch would need every row, or more than there is room for (once in 10^14 batches).

        """
        del shard
        if batch_size >= self.size:
            raise InputError(f"batch_size={batch_size}: must be less than the {self.size} rows for Poisson sampling")
        width = room(batch_size, self.size)
        index, inside = np.zeros((count, width), np.int64), np.zeros((count, width), np.float32)
        for i in range(count):
            draws = np.random.default_rng([self.seed, start + i, 0xD9])
            n = draws.binomial(self.size, batch_size / self.size)
            if n > width:
                raise InputError(
                    f"batch_size={batch_size}: batch {start + i} has {n} rows, more than {width}; use a new seed"
                )
            index[i, :n], inside[i, :n] = draws.choice(self.size, n, replace=False), 1
        index, more = padded(index, multiple)
        inside = inside if more is None else np.pad(inside, ((0, 0), (0, index.shape[1] - width)))
        return IndexedChunk(
            marked(self, batch_size), fill(index.astype(np.int32), capacity), fill(inside, capacity), np.int32(count)
        )


def marked(data: Resident, batch_size: int) -> dict[str, Any]:
    """Return the arrays of data with the column that says how many rows or clients a batch was expected to have."""
    return {**data.arrays, DRAWN: np.full(data.size, batch_size, np.int32)}


def room(batch_size: int, size: int) -> int:
    """Return the number of rows for which a batch of Poisson sampling has room."""
    return min(math.ceil(batch_size + SAFETY * math.sqrt(batch_size)) + SAFETY, size)


def with_epsilon(step: Step, spent: Callable[[int], float]) -> Step:
    """Add the metric `"epsilon"`: what training has spent after the last step that was counted.

    Args:
        step: a training step with the estimator `private` (or `federated` with noise).
        spent: function from the number of updates to epsilon, such as a `partial` of `epsilon`.

    Raises:
        InputError: the step is not private.

    """
    if not getattr(step, "private", False):
        raise InputError("with_epsilon: the step is not private; make it with make_train_step(task, tx, private(...))")

    class Spent(NamedTuple):
        count: Any
        places: Any

        def compute(self) -> float:
            n = int(self.count)
            return spent(round(int(self.places) / n + (n - 1) / 2)) if n else 0.0  # of consecutive steps, the last

    @functools.wraps(step)
    def counted(state: State, batch: Batch) -> tuple[State, dict[str, MetricState]]:
        state, sums = step(state, batch)
        one = jnp.int32(leader())
        return state, sums | {"epsilon": Spent(one, one * state.step)}

    return counted

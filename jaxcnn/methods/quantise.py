"""8-bit integers: grids for what layers read and make, measured on rows, and training that sees the rounding.

`calibrate` adds the collection `"grids"` to the variables of a network; `simulated` predicts with it as a program in
integers does, and `quantised` also trains so. An ONNX file of a simulated program holds the same grids and computes in
integers: see `deploy.quantised`. Kernels have a step per output channel, which norms that are folded into a convolution
do not change; arrays between layers have one grid each.

References: Jacob et al., 2017, arXiv:1712.05877; Krishnamoorthi, 2018, arXiv:1806.08342; for the choice of grids,
Nagel et al., 2021, arXiv:2106.08295.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import Batch, InputError, Mean, Task, Tree, accept
from jaxcnn.layers.calls import Call, Path, by_path, from_paths
from jaxcnn.methods import quantise_points
from jaxcnn.methods.combined import changes
from jaxcnn.methods.low_rank import DOWN
from jaxcnn.methods.quantise_points import MADE, READ, Points
from jaxcnn.ops.quantise import HIGHEST, fake_quantise, fake_quantise_kernel

Array = jax.Array
Predict = Callable[[Tree, Batch], Any]
GRIDS = "grids"
NAMES = {READ: "input_grid", MADE: "output_grid"}
SAMPLE = 4096  # values of an array that a batch gives
SHARES = np.linspace(0.2, 1.0, 41)  # of the range of values, among which the best grid is chosen


def calibrate(predict: Predict, variables: Tree, rows: Mapping[str, Any], *, batch_size: int = 32) -> dict[str, Tree]:
    """Choose the grids of a network on rows.

    Each grid covers the share of the range of values that gives the smallest squared error. The rows must not be those
    on which the result is measured; a few hundred training rows suffice.

    Args:
        predict: `(variables, batch) -> outputs`, such as `task.predict`; its Linen modules are found by tracing it.
        variables: its variables. Grids that are there are replaced.
        rows: arrays `[N, ...]` by name, as `predict` reads them.
        batch_size: rows per batch, at least 1.

    Returns:
        The variables with the collection `"grids"`: for each module `"input_grid"` or `"output_grid"`, `[2]` float32,
        a step and the integer that stands for 0.

    Raises:
        InputError: there are no rows, columns of different lengths, no layer that can be rounded, rows that `predict`
            refuses, values that are not finite, or factorised layers.

    """
    rows = {name: np.asarray(x) for name, x in rows.items()}
    counts = sorted({len(x) for x in rows.values()}) or [0]
    if counts[0] < 1 or batch_size < 1:
        raise InputError(f"rows: {counts[0]}, batch_size={batch_size}: calibration needs at least one of each")
    if len(counts) > 1:
        raise InputError(f"rows: arrays of {counts[0]} and {counts[-1]} rows; each must have one entry per row")
    getattr(predict, "check", accept)(rows)
    count = counts[0]
    plain = {name: tree for name, tree in variables.items() if name != GRIDS}
    size = min(batch_size, count)
    if any(path[-1] == DOWN for path in by_path(plain["params"])):
        raise InputError("variables: have layers in two parts, which cannot be rounded; quantise the whole network")
    points = quantise_points.find(predict, plain, {name: x[:size] for name, x in rows.items()})
    if not points.read:
        raise InputError("predict: calls no convolution or dense layer outside of loops; there is nothing to quantise")
    watched = jax.jit(lambda variables, batch: _seen(predict, points, variables, batch))
    rounded = {**plain, "params": _kernels(plain["params"], points.read)}
    parts = []
    for start in range(0, count, size):
        index = np.arange(start, start + size) % count  # the last batch is filled up with first rows
        parts.append(jax.device_get(watched(rounded, {name: x[index] for name, x in rows.items()})))
    own = {key: _grid(key, [part[key] for part in parts]) for key in parts[0]}
    tied = {(READ, path): own[MADE, source] for path, source in points.read.items() if source is not None}
    flat = {(*path, NAMES[kind]): grid for (kind, path), grid in {**own, **tied}.items()}
    return {**plain, GRIDS: from_paths(flat)}


def simulated(predict: Predict) -> Predict:
    """Return `predict` as a program in integers computes it, for variables from `calibrate`.

    Args:
        predict: `(variables, batch) -> outputs`, as `calibrate` got it.

    Raises:
        InputError: when called, the variables have no grids.

    """

    def predicted(variables: Tree, batch: Batch) -> Any:
        own = _rounded(variables)
        with quantise_points.watched(_rounding):
            return predict(own, batch)

    return predicted


def quantised(task: Task) -> Task:
    """Wrap a task so that it trains and predicts as a program in integers: quantisation-aware training.

    The derivative of a rounding is 1 within its range. Grids stay as `calibrate` chose them, on the network that the
    training starts from: a few epochs at a low learning rate recover what rounding lost. Give the variables to
    `init_state` or `Plan(variables=...)`; those of `task.init` have grids of NaN.

    Args:
        task: any task whose model is a Linen module.

    Returns:
        The task; its metrics in training are those of the rounded network.

    Raises:
        InputError: when called, the variables have no grids.

    """

    def init(key: Array, batch: Batch) -> Tree:
        variables = task.init(key, batch)
        points = quantise_points.find(task.predict, variables, batch)
        keys = [(*path, NAMES[READ]) for path in points.read] + [(*path, NAMES[MADE]) for path in points.made]
        return {**variables, GRIDS: from_paths({key: jnp.full(2, jnp.nan) for key in keys})}

    @functools.wraps(task.loss)
    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Tree]]:
        own = _rounded({"params": params, **model_state})
        with quantise_points.watched(_rounding):
            return task.loss(own["params"], model_state, batch, key)

    outputs = None if task.outputs is None else simulated(task.outputs)
    loss_ = changes("quantised", loss)
    return task._replace(init=init, loss=loss_, predict=simulated(task.predict), outputs=outputs)


def _rounded(variables: Tree) -> dict[str, Tree]:
    """Return the variables with rounded kernels."""
    if GRIDS not in variables:
        raise InputError("variables: have no 'grids'; give those that methods.quantise.calibrate returns")
    paths = [path[:-1] for path in by_path(variables[GRIDS]) if path[-1] == NAMES[READ]]
    return {**variables, "params": _kernels(variables["params"], paths)}


def _kernels(params: Tree, paths: Any) -> Tree:
    flat = by_path(params)
    for path in paths:
        if (*path, "kernel") in flat:  # not of a layer in two parts
            flat[*path, "kernel"] = fake_quantise_kernel(flat[*path, "kernel"])
    return from_paths(flat)


def _rounding(x: Array, kind: str, call: Call) -> Array:
    """Round what a module reads or makes, where it has a grid."""
    grid = call.variable(GRIDS, NAMES[kind])
    return x if grid is None else fake_quantise(x, grid)


def _seen(predict: Predict, points: Points, variables: Tree, batch: Batch) -> dict[tuple[str, Path], Any]:
    """Return least and largest value, and some values, of each array that gets a grid of its own."""
    wanted = {(MADE, path) for path in points.made}
    wanted |= {(READ, path) for path, source in points.read.items() if source is None}
    found: dict[tuple[str, Path], Any] = {}

    def note(x: Array, kind: str, call: Call) -> Array:
        if (kind, call.path) in wanted:
            flat = x.reshape(-1).astype(jnp.float32)
            index = np.random.default_rng(0).integers(0, flat.size, min(SAMPLE, flat.size))
            seen = jnp.stack([flat.min(), flat.max()]), flat[index]
            before = found.get((kind, call.path))  # of a module that is called several times
            if before is not None:
                bounds = jnp.stack([jnp.minimum(before[0], seen[0])[0], jnp.maximum(before[0], seen[0])[1]])
                seen = bounds, jnp.concatenate([before[1], seen[1]])
            found[kind, call.path] = seen
        return x

    with quantise_points.watched(note):
        predict(variables, batch)
    return found


def _grid(key: tuple[str, Path], parts: list[Any]) -> Array:
    """Return the grid with the smallest squared error on the values of all batches."""
    ends = np.stack([part[0] for part in parts])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if not np.isfinite(ends).all():
        raise InputError(f"{'.'.join(key[1])}: has values that are not finite on these rows; check weights and rows")
    low, high = min(low, 0.0), max(high, 0.0)  # 0 is exact: padding and ReLU need it
    values = np.concatenate([part[1] for part in parts])
    grids = [_covering(share * low, share * high) for share in SHARES]
    errors = [np.square(_nearest(values, *grid) - values).sum() for grid in grids]
    return jnp.asarray(grids[int(np.argmin(errors))], jnp.float32)


def _covering(low: float, high: float) -> tuple[np.float32, np.float32]:
    step = np.float32((high - low) / HIGHEST) if high > low else np.float32(1)
    return step, np.float32(np.clip(np.round(-low / step), 0, HIGHEST) + 0)


def _nearest(x: np.ndarray, step: np.float32, zero: np.float32) -> np.ndarray:
    return (np.clip(np.round(x / step) + zero, 0, HIGHEST) - zero) * step

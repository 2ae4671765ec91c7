"""evaluate and collect: every row of a data set exactly once, whatever the batch size and the devices."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcnn.core.types import CompiledStep, InputError, Interrupted, Tree, accept, add, compute
from jaxcnn.data.anything import as_data
from jaxcnn.data.checking import checked
from jaxcnn.parallel import mesh
from jaxcnn.parallel.compile import compile_map, empty, host
from jaxcnn.parallel.prefetch import ahead, patiently
from jaxcnn.train import rehearsal


def evaluate(
    run: CompiledStep, variables: Tree, data: Any, *, batch_size: int = 256, stop: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """Measure every row exactly once.

    Args:
        run: a compiled evaluation step (`make_eval_step`), with `donate=False`.
        variables: what the step carries, `{"params": ..., ...}`.
        data: a data set, a dict of arrays, or a pair of images and labels; rows that were not placed with `run.replicate` go to the device
            while it works on those before.
        batch_size: rows at a time over all devices; changes speed and memory, never the result.
        stop: asked between dispatches, and while one is waited for.

    Returns:
        Name to value, as each state computes it from sums in float64.

    Raises:
        InputError: `batch_size` below 1, no rows, or rows that the task cannot mean.
        Interrupted: `stop()` was true.

    """
    return timed_evaluate(run, variables, data, batch_size=batch_size, stop=stop)[0]


def timed_evaluate(
    run: CompiledStep, variables: Tree, data: Any, *, batch_size: int = 256, stop: Callable[[], bool] | None = None
) -> tuple[dict[str, Any], float]:
    """Like `evaluate`, with the seconds that it took, compilation left out."""
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: must be at least 1")
    data = as_data(data)
    _has_rows(data)
    data = checked(data, run.check)
    if rehearsal.running():
        return rehearsal.measured(run, variables, data, batch_size), 0.0
    variables, total, waiting, start = run.put(variables), None, None, 0.0
    alone = stop if jax.process_count() == 1 else None  # several processes only stop where all of them do
    with contextlib.closing(ahead(data.once(batch_size, run.parts, mesh.process_shard()), run.shard, alone)) as chunks:
        for chunk in chunks:
            if total is None:  # compiles, the first time
                total = host(patiently(lambda: run.call(variables, empty(chunk)), alone)[1])  # noqa: B023 (used at once)
                start = time.perf_counter()
            if stop and mesh.all_max(stop())[0]:
                raise Interrupted
            _, sums = run.call(variables, chunk)
            total, waiting = (
                total if waiting is None else add(total, host(waiting)),
                sums,
            )  # the one before: this one runs on
    total = add(total, host(waiting))
    seconds = time.perf_counter() - start
    return compute(total), seconds


def collect(
    predict: Callable[[Tree, Mapping[str, Any]], Tree],
    variables: Tree,
    data: Any,
    *,
    keep: Sequence[str] = (),
    batch_size: int = 256,
) -> tuple[Tree, dict[str, np.ndarray]]:
    """Outputs of every row, in order and without padding, for whatever needs all of them at once (exact AUC, embeddings).

    Args:
        predict: `(variables, batch) -> outputs`, such as `task.predict`.
        variables: its first argument.
        data: a data set, a dict of arrays, or a pair of images and labels.
        keep: keys of the batch to return beside the outputs.
        batch_size: rows at a time.

    Returns:
        `(outputs [N, ...], {key: [N, ...]})`, NumPy arrays.

    Raises:
        InputError: no rows, a key that they have not, several processes, or images that the task of `predict` cannot mean.

    """
    data = as_data(data)
    _has_rows(data)
    if jax.process_count() > 1:
        raise InputError("collect: runs in one process; each has only a part of the rows")
    data = checked(data, getattr(predict, "check", accept))
    if rehearsal.running():
        return rehearsal.collected(predict, variables, data, keep)
    mapped, outputs, kept = compile_map(predict, (*keep, "row_mask")), [], []
    variables, data = jax.device_put(variables), data.put(jax.device_put)
    for chunk in data.once(batch_size):
        if missing := set(keep) - set(names := chunk.at(0)):
            raise InputError(
                f"keep={sorted(missing)[0]!r}: the rows have no such array, only {', '.join(sorted(names))}"
            )
        for k in range(int(chunk.count)):
            out, batch = mapped(variables, chunk, k)
            true = np.asarray(batch["row_mask"]) > 0
            outputs.append(jax.tree.map(lambda x: np.asarray(x)[true], out))  # noqa: B023 (used at once)
            kept.append({key: np.asarray(batch[key])[true] for key in keep})

    def join(trees):
        return jax.tree.map(lambda *parts: np.concatenate(parts), *trees)

    return join(outputs), join(kept)


def _has_rows(data: Any) -> None:
    if data.size < 1:
        raise InputError("data: no rows to measure")

"""evaluate and collect: visit every row of a data set exactly once, with any batch size and any number of devices."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcnn.core.types import CompiledStep, InputError, Interrupted, State, Tree, accept, add, check_whole, compute
from jaxcnn.data.anything import as_data
from jaxcnn.data.checking import checked
from jaxcnn.parallel import mesh
from jaxcnn.parallel.compile import compile_map, empty, host
from jaxcnn.parallel.prefetch import ahead, patiently
from jaxcnn.train import rehearsal


def evaluate(
    run: CompiledStep, variables: Tree, data: Any, *, batch_size: int = 256, stop: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """Compute the metrics of a data set. Every row counts exactly once.

    Args:
        run: a compiled evaluation step (`make_eval_step`; one of your own is compiled with `donate=False`).
        variables: parameters and running statistics, `{"params": ..., ...}`.
        data: a data set, a dict of arrays, or a pair of images and labels. Rows that `run.replicate` did not place are
            sent to the devices while these work on the batches before.
        batch_size: rows per batch, over all devices, at least 1. It affects speed and memory, never the result.
        stop: called between dispatches and during a wait for one. If it returns True, the evaluation stops.

    Returns:
        A dict from metric names to values, computed from sums in float64.

    Raises:
        InputError: `batch_size` is below 1, or the data have no rows or do not suit the task.
        Interrupted: `stop()` returned True.

    """
    return timed_evaluate(run, variables, data, batch_size=batch_size, stop=stop)[0]


def timed_evaluate(
    run: CompiledStep, variables: Tree, data: Any, *, batch_size: int = 256, stop: Callable[[], bool] | None = None
) -> tuple[dict[str, Any], float]:
    """Evaluate like `evaluate`, and measure the time.

    Args:
        run: see `evaluate`.
        variables: see `evaluate`.
        data: see `evaluate`.
        batch_size: see `evaluate`.
        stop: see `evaluate`.

    Returns:
        The metrics, and the seconds that the evaluation took without compilation.

    Raises:
        InputError: see `evaluate`.
        Interrupted: see `evaluate`.

    """
    check_whole("batch_size", batch_size, 1)
    if isinstance(variables, State):
        raise InputError("variables: got a State; pass state.variables")
    data = as_data(data)
    _has_rows(data)
    data = checked(data, run.check)
    if rehearsal.running():
        return rehearsal.measured(run, variables, data, batch_size), 0.0
    variables, total, waiting, start = run.put(variables), None, None, 0.0
    alone = stop if jax.process_count() == 1 else None  # several processes must stop at the same batch
    with contextlib.closing(ahead(data.once(batch_size, run.parts, mesh.process_shard()), run.shard, alone)) as chunks:
        for chunk in chunks:
            if total is None:  # the first call compiles
                total = host(patiently(lambda: run.call(variables, empty(chunk)), alone)[1])  # noqa: B023 (used at once)
                start = time.perf_counter()
            if stop and mesh.all_max(stop())[0]:
                raise Interrupted
            _, sums = run.call(variables, chunk)
            if waiting is not None:  # the sums of the dispatch before; this one is still running
                total = add(total, host(waiting))
            waiting = sums
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
    """Return the outputs of all rows, in order and without padding: for exact AUC, embeddings and the like.

    Args:
        predict: `(variables, batch) -> outputs`, such as `task.predict`.
        variables: the first argument of `predict`.
        data: a data set, a dict of arrays, or a pair of images and labels.
        keep: keys of the batch whose arrays are returned beside the outputs, such as `"label"`.
        batch_size: rows per batch.

    Returns:
        `(outputs, {key: array})`, NumPy arrays `[N, ...]` for N rows.

    Raises:
        InputError: `batch_size` is below 1, the data have no rows, lack a key or do not suit the task of `predict`, or
            there is more than one process.

    """
    check_whole("batch_size", batch_size, 1)
    data = as_data(data)
    _has_rows(data)
    if jax.process_count() > 1:
        raise InputError("collect: runs in a single process only; each of several has only some rows")
    data = checked(data, getattr(predict, "check", accept))
    if rehearsal.running():
        return rehearsal.collected(predict, variables, data, keep)
    mapped, outputs, kept = compile_map(predict, (*keep, "row_mask")), [], []
    variables, data = jax.device_put(variables), data.put(jax.device_put)
    for chunk in data.once(batch_size):
        if missing := set(keep) - set(names := chunk.at(0)):
            raise InputError(
                f"keep={sorted(missing)[0]!r}: the rows have no such array; give one of {', '.join(sorted(names))}"
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
        raise InputError("data: no rows to evaluate; give at least one")

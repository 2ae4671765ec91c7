"""The outputs of a run for a few rows at a time, by one program that compiles once for each number of rows."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.core.types import Tree
from jaxcnn.tasks import detected

Row = dict[str, np.ndarray]
Outputs = Callable[[Sequence[Row], int], list[Any]]
AT_ONCE = 32  # rows in one call
MOST_BYTES = 2**28  # of the outputs of one call


def outputs(loaded: Any, together: bool = False) -> Outputs:
    """Return how a run answers a few rows.

    On a CPU, a loop inside the program computes one row after another, so that the bits of an answer do not depend on
    the rows that come with it: XLA's sums are in another order for another number of rows, and for some networks also
    at another place in a batch.

    Args:
        loaded: result of `load_run`.
        together: compute all rows at once, which is up to three times as fast, but lets answers differ by rounding;
            on an accelerator they always are.

    Returns:
        `(rows, width) -> outputs of each row`. The program is compiled once per `width`, the most rows that the call
        may have; those that are missing cost nothing in the loop. Detections are those of `tasks.detected`.

    """
    boxes = loaded.config["build"]["task"]["name"] == "detection"
    at_once = together or jax.default_backend() != "cpu"

    def answer(variables: Tree, batch: Row) -> Any:
        found = loaded.task.predict(variables, batch)
        return detected(found) if boxes else found

    def one_by_one(variables: Tree, batch: Row, count: jax.Array) -> Any:
        def one(i: Any) -> Any:
            row = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, i, 1), batch)
            return answer(variables, row)

        def body(i: jax.Array, found: Any) -> Any:
            return jax.tree.map(lambda all_, x: lax.dynamic_update_slice_in_dim(all_, x, i, 0), found, one(i))

        width = len(next(iter(batch.values())))
        like = jax.eval_shape(one, jnp.int32(0))
        return lax.fori_loop(0, count, body, jax.tree.map(lambda x: jnp.zeros((width, *x.shape[1:]), x.dtype), like))

    run = jax.jit((lambda variables, batch, _: answer(variables, batch)) if at_once else one_by_one)

    def call(rows: Sequence[Row], width: int) -> list[Any]:
        batch = {name: np.zeros((width, *x.shape), x.dtype) for name, x in rows[0].items()}
        for i, row in enumerate(rows):
            for name, x in row.items():
                batch[name][i] = x
        found = jax.tree.map(np.asarray, run(loaded.variables, batch, np.int32(len(rows))))
        return [jax.tree.map(lambda x, i=i: x[i], found) for i in range(len(rows))]

    return call


def width_within(loaded: Any, row: Row, most: int) -> int:
    """Return how many rows a call may have so that its outputs stay within 256 MiB: at least 1, at most `most`."""
    batch = {name: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for name, x in row.items()}
    found = jax.eval_shape(loaded.task.predict, loaded.variables, batch)
    each = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(found))
    return max(1, min(most, MOST_BYTES // max(each, 1)))

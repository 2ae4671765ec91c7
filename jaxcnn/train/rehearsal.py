"""A rehearsal calls `validate` before the first step to learn its names, without a pass over its data.

During a rehearsal `evaluate` and `collect` return zeros with the right names and shapes, from `jax.eval_shape`.
"""

import contextlib
import contextvars
import copy
import dataclasses
import io
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxcnn.core.types import CompiledStep, InputError, Tree, compute

LARGEST = 2**26  # bytes of zeros that `collect` may return
UNKNOWN = object()


@dataclasses.dataclass
class _Rehearsal:
    made_up: bool = False  # whether `evaluate` or `collect` returned zeros, which `validate` may reject


_current: contextvars.ContextVar[_Rehearsal | None] = contextvars.ContextVar("rehearsal", default=None)


class _UnknownError(Exception):
    """The names or shapes cannot be determined without an evaluation."""


def running() -> bool:
    """Whether a rehearsal is in progress."""
    return _current.get() is not None


def names(validate: Callable[[Any], Any], state: Any) -> Any:
    """Call `validate` once to learn its names and shapes.

    The lists, dicts, sets and iterators that `validate` closes over are copied first, so that the rehearsal leaves the
    originals unchanged. Its printed output is discarded. Its exceptions are ignored, because it does not expect zeros.

    Args:
        validate: the function that `fit` was given.
        state: the initial state.

    Returns:
        The result of `validate` with arbitrary values, or `UNKNOWN` if the call failed.

    Raises:
        InputError: `validate` raised it before `evaluate` or `collect` returned zeros.

    """
    rehearsal = _Rehearsal()
    token = _current.set(rehearsal)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return _apart(validate)(state)
    except InputError:
        if rehearsal.made_up:
            return UNKNOWN
        raise
    except Exception:  # the real call raises it again
        return UNKNOWN
    finally:
        _current.reset(token)


def measured(run: CompiledStep, variables: Tree, data: Any, batch_size: int) -> dict[str, Any]:
    """Stand in for `evaluate`.

    Args:
        run: the compiled evaluation step.
        variables: its variables.
        data: the data set.
        batch_size: rows per batch.

    Returns:
        A dict from metric names to the values that sums of zero give.

    """
    width = max(min(batch_size, data.size), 1)
    width = -(-width // run.parts) * run.parts  # the width of the real batches, so that both share one trace
    batch = abstract(data.example(), width) | {"row_mask": jax.ShapeDtypeStruct((width,), np.float32)}
    zeros = sums(run, variables, batch)
    _made_up()
    return zeros


def collected(
    predict: Callable[[Tree, Mapping[str, Any]], Tree], variables: Tree, data: Any, keep: Any
) -> tuple[Tree, dict[str, Any]]:
    """Stand in for `collect`.

    Args:
        predict: see `collect`.
        variables: see `collect`.
        data: the data set.
        keep: see `collect`.

    Returns:
        Zeros with the shapes and dtypes that `collect` returns.

    """
    batch = abstract(data.example(), data.size)
    shapes = jax.eval_shape(predict, variables, batch), {key: batch[key] for key in keep}
    if sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)) > LARGEST:
        raise _UnknownError
    _made_up()
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def _made_up() -> None:
    if rehearsal := _current.get():
        rehearsal.made_up = True


def sums(run: CompiledStep, carry: Tree, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dict from metric names to the values that sums of zero give. The step is traced, but not run.

    The trace has the options of a compiled step (`inline`), so that JAX reuses it.

    Args:
        run: a compiled step.
        carry: the first argument of the step.
        batch: shapes and dtypes of a batch.

    Returns:
        The values.

    """
    if run.step is None:
        raise _UnknownError
    shapes = jax.eval_shape(jax.jit(run.step, inline=True), carry, dict(batch))[1]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return compute(jax.tree.map(lambda x: np.zeros(x.shape, np.float64), shapes))


def batch_of(data: Any, batch_size: int) -> dict[str, Any]:
    """Return the shapes and dtypes of a whole training batch on a device, as the data draw it."""
    if not hasattr(data, "arrays"):  # a stream, which would have to be read
        return abstract(data.example(), batch_size)
    return jax.eval_shape(lambda chunk: chunk.at(0), data.chunk(batch_size, 0, 1, 1))


def abstract(example: Mapping[str, Any], rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes that a batch of `rows` rows like those of `example` has on a device."""

    def shaped(x: Any) -> jax.ShapeDtypeStruct:
        x = np.asarray(x)
        return jax.ShapeDtypeStruct((rows, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype))

    return jax.tree.map(shaped, dict(example))


def _apart(fn: Any, depth: int = 3) -> Any:
    """Return a function whose closure has copies of the mutable objects."""
    if not isinstance(fn, types.FunctionType) or not fn.__closure__ or not depth:
        return fn
    cells = []
    for cell in fn.__closure__:
        with contextlib.suppress(ValueError):  # an empty cell
            held = cell.cell_contents
            if isinstance(held, types.FunctionType):
                cell = types.CellType(_apart(held, depth - 1))
            elif type(held) in (list, dict, set) or isinstance(held, Iterator):
                cell = types.CellType(copy.copy(held))  # copying a generator fails, which ends the rehearsal
            else:
                cell = types.CellType(held)
        cells.append(cell)
    apart = types.FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, tuple(cells))
    apart.__kwdefaults__ = fn.__kwdefaults__
    return apart

"""Calling `validate` before the first step for the names that it gives, without a pass over its data.

Meanwhile `evaluate` and `collect` return zeros of the right names and shapes, from `jax.eval_shape`.
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

LARGEST = 2**26  # bytes of zeros in place of all outputs
UNKNOWN = object()


@dataclasses.dataclass
class _Rehearsal:
    made_up: bool = False  # whether something returned zeros: what is computed from them may be refused


_current: contextvars.ContextVar[_Rehearsal | None] = contextvars.ContextVar("rehearsal", default=None)


class _UnknownError(Exception):
    """What would be measured cannot be told without measuring it."""


def running() -> bool:
    """Whether `validate` is called only for its names."""
    return _current.get() is not None


def names(validate: Callable[[Any], Any], state: Any) -> Any:
    """Return what `validate` gives, names and shapes right and values made up; `UNKNOWN` where that cannot be told.

    It is called once, with copies of the lists, dicts, sets and iterators that it closes over, so that what it counts
    there does not count this call; what it prints is dropped. What it raises means nothing, because zeros are not what it expects.

    Raises:
        InputError: `validate` itself refuses its input, before any value was made up.

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
    except Exception:  # whatever it is, it comes again where it counts
        return UNKNOWN
    finally:
        _current.reset(token)


def measured(run: CompiledStep, variables: Tree, data: Any, batch_size: int) -> dict[str, Any]:
    """Stand in for `evaluate`."""
    width = max(min(batch_size, data.size), 1)
    width = -(-width // run.parts) * run.parts  # as the data give them: one trace serves both
    batch = abstract(data.example(), width) | {"row_mask": jax.ShapeDtypeStruct((width,), np.float32)}
    zeros = sums(run, variables, batch)
    _made_up()
    return zeros


def collected(
    predict: Callable[[Tree, Mapping[str, Any]], Tree], variables: Tree, data: Any, keep: Any
) -> tuple[Tree, dict[str, Any]]:
    """Stand in for `collect`."""
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
    """Return what sums of nothing compute to, by name, without running the step.

    It is traced as a compiled step traces it (`inline`), so that JAX does not trace it again.
    """
    if run.step is None:
        raise _UnknownError
    shapes = jax.eval_shape(jax.jit(run.step, inline=True), carry, dict(batch))[1]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return compute(jax.tree.map(lambda x: np.zeros(x.shape, np.float64), shapes))


def abstract(example: Mapping[str, Any], rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of a batch of rows such as `example`, on a device."""

    def shaped(x: Any) -> jax.ShapeDtypeStruct:
        x = np.asarray(x)
        return jax.ShapeDtypeStruct((rows, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype))

    return jax.tree.map(shaped, dict(example))


def _apart(fn: Any, depth: int = 3) -> Any:
    """Return the function with copies of what it closes over and could change."""
    if not isinstance(fn, types.FunctionType) or not fn.__closure__ or not depth:
        return fn
    cells = []
    for cell in fn.__closure__:
        with contextlib.suppress(ValueError):  # an empty cell
            held = cell.cell_contents
            if isinstance(held, types.FunctionType):
                cell = types.CellType(_apart(held, depth - 1))
            elif type(held) in (list, dict, set) or isinstance(held, Iterator):
                cell = types.CellType(copy.copy(held))  # a generator cannot be copied, and so is not called
            else:
                cell = types.CellType(held)
        cells.append(cell)
    apart = types.FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, tuple(cells))
    apart.__kwdefaults__ = fn.__kwdefaults__
    return apart

"""The records that all rooms share, and the convention for the keys of a batch."""

import dataclasses
import numbers
import types
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from typing_extensions import TypeIs

Array = jax.Array
Tree = Any  # a pytree of arrays

# A batch maps names to arrays whose first axis is the row:
#   "image"  [B, H, W, C] uint8 0..255, or float 0..1; [B, D, H, W, C] for volumes and, with time first, videos
#   "text"   int [B, T], numbers of words or bytes, 0 after the end
#   "audio"  float [B, T] in -1..1, and "series" float [B, T, C]; 0 after the end
#   "length" int [B], how much of a row of text, sound or series is not padding; absent: all of it
#   "label"  int [B], float [B, K], int [B, H, W], ...
#   "symbols" int [B, L], a string of symbols 0..K-1, -1 after its end
#   "mask"   [B, H, W] or [B, H, W, K], a value per pixel
#   "boxes"  float [B, N, 4], yxyx in 0..1, with "box_mask" [B, N], 1 for a box and 0 for padding; "box_label" int
#             [B, N] in 0..K-1, without a class for the background; "box_crowd" [B, N], 1 for a region that neither has
#             to be found nor counts as wrong (COCO's iscrowd, VOC's difficult); absent: none is
#   "sample_weight"  float [B], how much a row counts in the loss; absent: all alike
#   "row_mask"   [B], 1 for a row and 0 for padding; absent: no padding.  Training batches are padded only where
#             devices do not divide them, or where an example could not be read.
Batch = Mapping[str, Any]


class InputError(ValueError):
    """A value that the caller can correct; the message is one line that quotes the value and names the fix."""


class Interrupted(Exception):  # noqa: N818 (nothing went wrong)
    """A stop was requested during a wait or an evaluation."""


class MetricState(Protocol):
    """A NamedTuple of arrays that is merged by adding leaves; `compute` runs on the host, once."""

    def compute(self) -> Any:
        """Turn the sums into the metric's value, or into a dict from names to several values."""


class Mean(NamedTuple):
    """A weighted total and its weight, divided once at the very end (means of masked means are wrong)."""

    total: Any
    weight: Any

    def compute(self) -> float:
        """Return the weighted mean; NaN where the weight is zero."""
        return float(self.total) / float(self.weight) if float(self.weight) else float("nan")


class Count(NamedTuple):
    """The number of rows that are not padding."""

    n: Any

    def compute(self) -> int:
        """Return the number as an `int`."""
        return int(self.n)


# (outputs, batch) -> MetricState; weighted by "row_mask"; no collectives inside
Metric = Callable[[Any, Batch], MetricState]
# (values of the metrics by name, names of the classes) -> a matplotlib figure, or None where there is nothing to draw
Figure = Callable[[Mapping[str, Any], Sequence[str]], Any]


def accept(rows: Batch) -> None:
    """Accept any rows."""


class Task(NamedTuple):
    """What to learn, as pure functions; change one with `task._replace(loss=...)`.

    Attributes:
        init: `(key, batch) -> {"params": ..., "batch_stats": ...}`.
        loss: `(params, model_state, batch, key) -> (Mean, (outputs, model_state))`; the loss is a sum and its weight,
            which are not divided.
        predict: `(variables, batch) -> outputs`; deterministic; reads inputs only, never labels.
        metrics: from names to `(outputs, batch) -> MetricState`; `"count"` is among them, and `"loss"` where evaluation
            reports a loss.
        check: `rows -> None`, called on the host before the first step with arrays `[N, ...]` by name, of all the data
            or of one batch; raises `InputError` for targets that do not fit the task.
        headline: names of the metrics that a run prints while it trains and plots over epochs, in this order.
        monitor: the validation metric that decides which weights are the best, and `"min"` or `"max"`.
        figures: from names to functions that draw a picture from the test metrics and the names of the classes.
        shares: names of the metrics that are shares of the counted rows; their 95 % intervals are reported with them.
        outputs: `(variables, batch) -> outputs` for the metrics in evaluation, where these need more than `predict`
            returns; None: what `predict` returns.

    """

    init: Callable[[Array, Batch], Tree]
    loss: Callable[[Tree, Tree, Batch, Array], tuple[Mean, tuple[Any, Tree]]]
    predict: Callable[[Tree, Batch], Any]
    metrics: Mapping[str, Metric]
    check: Callable[[Batch], None] = accept
    headline: tuple[str, ...] = ("loss",)
    monitor: tuple[str, str] = ("loss", "min")
    figures: Mapping[str, Figure] = types.MappingProxyType({})
    shares: tuple[str, ...] = ()
    outputs: Callable[[Tree, Batch], Any] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Everything that training changes, and nothing else: a pytree of arrays, so it can be saved, mapped and donated.

    Attributes:
        step: int32 scalar, the number of optimiser updates so far.
        params: the parameters, which the optimiser changes.
        model_state: other collections of the model, such as `{"batch_stats": ...}`.
        opt_state: the state of the optimiser.
        rng: the base key; see `jaxcnn.train.stream`.
        extras: values that belong to wrappers of a step, such as `{"ema": variables}`.

    """

    step: Array
    params: Tree
    model_state: Tree
    opt_state: Tree
    rng: Array
    extras: dict[str, Tree] = dataclasses.field(default_factory=dict)

    def replace(self, **changes: Any) -> "State":
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def variables(self) -> dict[str, Tree]:
        """Parameters and model state in one dict, as `Task.predict` and Flax's `apply` take them."""
        return {"params": self.params, **self.model_state}


@jax.tree_util.register_pytree_node_class
class FrozenState(dict):
    """A model state that a loss only reads: norms use their running statistics; see `transfer.keep_stats`."""

    def tree_flatten(self) -> tuple[tuple[Tree, ...], tuple[str, ...]]:
        """Flatten, for JAX."""
        return tuple(self.values()), tuple(self)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], values: tuple[Tree, ...]) -> "FrozenState":
        """Unflatten, for JAX."""
        return cls(zip(names, values, strict=True))


# train: carry = State, its step one higher each time; eval: carry = variables, unchanged
Step = Callable[[Any, Batch], tuple[Any, dict[str, MetricState]]]


class CompiledStep(NamedTuple):
    """A compiled `Step`.

    Attributes:
        call: `(carry, chunk) -> (carry, sums)`; runs all batches of a chunk in one dispatch; may donate `carry`.
        put: moves a carry to the devices, laid out as the step needs it.
        replicate: copies arrays to every device; used once for data that stays there.
        devices: the number of devices.
        parts: the number of parts that a batch is divided into; its rows, padding included, are a multiple of it.
        strategy: `"eager"`, `"jit"`, `"sharded"` or `"pmap"`.
        shard: splits a chunk over the devices before its call; `call` also takes chunks that are on the host.
        step: the `Step` before compilation.
        check: `Task.check` of the task that the step was made from; accepts all rows where the step has none.

    """

    call: Callable[[Any, Any], tuple[Any, dict[str, MetricState]]]
    put: Callable[[Tree], Tree]
    replicate: Callable[[Tree], Tree]
    devices: int
    parts: int
    strategy: str
    shard: Callable[[Any], Any] = lambda chunk: chunk
    step: Step | None = None
    check: Callable[[Batch], None] = accept


def add(a: Tree, b: Tree) -> Tree:
    """Merge two trees of sums."""
    return jax.tree.map(lambda x, y: x + y, a, b)


def compute(sums: Mapping[str, MetricState]) -> dict[str, Any]:
    """Turn sums into a dict of values; no value overwrites another.

    A metric with one value gives it the metric's name. A metric with several values names them itself, such as
    `f1_macro`. Where two metrics give values of the same name, each value is prefixed with its metric's name, as in
    `a/f1_macro`. A metric with one value, or one whose value has the metric's own name (`confusion`), keeps the plain
    name, so the columns of a log do not change when a second metric of that kind is added.

    Raises:
        InputError: two names are still equal, such as `a/b` of one metric and the value `b` of a metric named `a`.

    """
    given = {name: total.compute() for name, total in sums.items()}
    several = {name: dict(value) if isinstance(value, Mapping) else {name: value} for name, value in given.items()}
    owned = Counter(key for name, values in several.items() if name in values for key in values)
    every = Counter(key for values in several.values() for key in values)
    out: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name, values in several.items():
        for key, value in values.items():
            first = name in values and owned[key] == 1
            plain = key == name or first or every[key] == 1
            called = key if plain else f"{name}/{key}"
            if called in origin:
                raise InputError(
                    f"metrics {origin[called]!r} and {name!r} both give a value {called!r}: rename one of them"
                )
            out[called], origin[called] = value, name
    return out


def scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are single numbers, texts or None as JSON values; arrays are left out."""
    plain = {
        k: v.item() if isinstance(v, np.generic | np.ndarray | Array) and v.ndim == 0 else v for k, v in values.items()
    }
    return {k: v for k, v in plain.items() if isinstance(v, bool | int | float | str | None)}


def rows(batch: Batch) -> int:
    """Count the rows of a batch, padding included."""
    return jax.tree.leaves(dict(batch))[0].shape[0]


def row_mask(batch: Batch) -> Array:
    """Weights of the rows: `[B]`, 1 for a row and 0 for padding."""
    return batch["row_mask"] if "row_mask" in batch else jnp.ones(rows(batch), jnp.float32)


def align(weights: Array, like: Array) -> Array:
    """Append axes of length 1 to `weights` until it broadcasts against `like`, row by row."""
    return weights.reshape(weights.shape + (1,) * (like.ndim - weights.ndim))


def named(tree: Tree) -> list[tuple[str, Any]]:
    """List the leaves of a tree with their dotted paths, such as `stem.conv.kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def check_whole(name: str, value: Any, least: int | None = None) -> None:
    """Raise `InputError` unless a value is a whole number, as in `is_integer`, and at least `least`."""
    wrong = [] if is_integer(value) else ["a whole number"]
    wrong += [f"at least {least}"] if least is not None and (wrong or value < least) else []
    if wrong:
        raise InputError(f"{name}={_shown(value)}: must be {', '.join(wrong)}")


def check_numbers(**values: Any) -> None:
    """Raise `InputError` unless all values are real numbers of Python, NumPy or JAX that are known; `True` is none."""
    for name, value in values.items():
        array = isinstance(value, np.ndarray | jax.Array)
        known = value.ndim == 0 and value.dtype.kind in "iuf" and not isinstance(value, Tracer) if array else None
        if not (known if array else isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)):
            raise InputError(f"{name}={_shown(value)}: must be a number")


def whole_numbers(name: str, value: Any, count: int, least: int = 1) -> tuple[int, ...]:
    """Return whole numbers, one for each of `count` axes: those that are given, or `count` times the one.

    Raises:
        InputError: other values, values below `least`, or another number of them.

    """
    given = tuple(value) if isinstance(value, Sequence) or np.ndim(value) == 1 else (value,) * count
    if len(given) != count or not all(map(is_integer, given)):
        several = f", or {count} of them" if count > 1 else ""
        raise InputError(f"{name}={_shown(value)}: must be a whole number, at least {least}{several}")
    if any(n < least for n in given):
        raise InputError(f"{name}={_shown(value)}: must be at least {least}")
    return tuple(map(int, given))


def is_integer(value: Any) -> TypeIs[int]:
    """Whether a value is an integer of Python, NumPy or JAX that is known; `True` and 2.0 are none."""
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim == 0 and value.dtype.kind in "iu" and not isinstance(value, Tracer)
    return isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)


def _shown(value: Any) -> str:
    """Return a value as a short line."""
    text = " ".join((str(value) if is_integer(value) else repr(value)).split())
    return text if len(text) <= 60 else text[:60] + "..."


def reason(error: BaseException, limit: int = 200) -> str:
    """Return an error's message as one line; libraries raise errors with several lines, or with none."""
    text = " ".join(str(error).split())
    return (text if len(text) <= limit else text[:limit] + "...") or type(error).__name__

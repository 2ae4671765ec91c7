"""Detection: boxes around the objects of an image, each with a class and a score."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn import metrics
from jaxcnn.core.types import Batch, InputError, MetricState, Task, align, is_integer, row_mask
from jaxcnn.tasks import boxes, pixels
from jaxcnn.tasks.model import from_model, prepare

Array = jax.Array
FOUND = ("boxes", "scores", "labels", "box_mask")
RAW = "raw"  # the outputs of the network, from which the loss is computed


class Parts(NamedTuple):
    """Sums of the parts of a loss by name, and of the rows."""

    totals: Any
    weight: Any

    def compute(self) -> dict[str, float]:
        """Return the mean of each part; NaN where there are no rows."""
        weight = float(self.weight)
        return {name: float(x) / weight if weight else float("nan") for name, x in self.totals.items()}


class Unmeasured(NamedTuple):
    """The state of a metric that was not measured."""

    def compute(self) -> dict[str, float]:
        """Return no value."""
        return {}


def detection(
    model: Any,
    *,
    weights: Mapping[str, float] | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    size: tuple[int, int] | None = None,
    interpolation: str = "bilinear",
) -> Task:
    """Make a task that finds objects.

    A batch holds `"boxes"` `[B, N, 4]`, yxyx as shares of the image, and `"box_label"` `[B, N]`, classes from 0 without
    one for the background. `"box_mask"` `[B, N]` is 0 for padding, and `"box_crowd"` `[B, N]` is 1 for regions that
    neither loss nor metrics count.

    Args:
        model: a detector, such as `models.fcos`: a Linen module with `num_classes`, `losses(outputs, batch)` to a dict
            of parts `[B]`, and `detections(outputs)`. Where its call accepts them, it also gets the true boxes in
            training, as `boxes`, `box_label`, `box_mask` and `box_crowd`.
        weights: weight of each part of the loss by its name, at least 0; those that are not named have 1.
        mean: mean of the training pixels, in 0..1: one number or one per channel. It is saved with the run.
        std: standard deviation of the training pixels, in the same form.
        size: height and width to which images are resized on the device; None keeps theirs. Boxes need no change.
        interpolation: `"bilinear"` or `"bicubic"`.

    Returns:
        A `Task` whose outputs are the detections `boxes` `[B, M, 4]`, `scores` `[B, M]` (best first), `labels` `[B, M]`
        and `box_mask` `[B, M]`, and under `raw` what the network computed; `detected` leaves that out. Metrics are
        `loss`, its parts by their names, `count`, and outside of training `ap` (average precision, mean over overlaps
        from 0.5 to 0.95), `ap50` and `ap75`. It monitors the highest `ap50`. It refuses invalid boxes and labels; in
        a compiled program these make the loss NaN, and images outside 0..1 give detections that are NaN.

    Raises:
        InputError: the model is not a detector, or a value is outside its range.

    """
    classes = _classes(model)
    factors = dict(weights or {})
    if bad := [name for name, x in factors.items() if not 0 <= x < float("inf")]:
        raise InputError(f"weights[{bad[0]!r}]={factors[bad[0]]}: must be at least 0")

    def criterion(outputs: Any, batch: Batch) -> tuple[Array, Array]:
        parts = _losses(model, outputs, batch)
        if unknown := [name for name in factors if name not in parts]:
            raise InputError(f"weights[{unknown[0]!r}]: no part of the loss; these are {', '.join(sorted(parts))}")
        values = sum(jnp.float32(factors.get(name, 1.0)) * value for name, value in sorted(parts.items()))
        return jnp.asarray(values), jnp.ones(row_mask(batch).shape)

    def inputs(batch: Batch) -> Array:
        return prepare(pixels.image_of(batch), mean, std, size, None, interpolation)

    def given(batch: Batch) -> dict[str, Array]:
        meant, _ = boxes.canonical(classes, batch)
        return {name: meant[name] for name in boxes.KEYS}

    measured = {"parts": functools.partial(_parts, model), "average_precision": _average_precision(classes)}
    meant, check = functools.partial(boxes.canonical, classes), functools.partial(_check_rows, classes)
    task = pixels.strict(from_model(model, criterion, measured, inputs, targets=meant, check=check, given=given))

    @functools.wraps(task.predict)
    def predict(variables: Any, batch: Batch) -> dict[str, Any]:
        return _with_detections(model, task.predict(variables, batch))

    return task._replace(predict=predict, headline=("loss", "ap50"), monitor=("ap50", "max"))


def detected(outputs: Mapping[str, Any]) -> dict[str, Array]:
    """Return the detections among the outputs of a detection task: `boxes`, `scores`, `labels` and `box_mask`."""
    return {name: outputs[name] for name in FOUND}


def _classes(model: Any) -> int:
    found: Any = getattr(model, "num_classes", None)
    if not is_integer(found) or found < 1:
        raise InputError(f"num_classes={found}: must be at least 1; the background needs no class")
    for name in ("losses", "detections"):
        if not callable(getattr(model, name, None)):
            raise InputError(f"model={type(model).__name__}: has no {name}(); use a detector, such as models.fcos")
    return int(found)


def _check_rows(classes: int, rows: Batch) -> None:
    pixels.check_image(rows)
    if "boxes" in rows or "box_label" in rows:
        boxes.check(classes, rows)


def _losses(model: Any, outputs: Any, batch: Batch) -> dict[str, Array]:
    """Return the parts of the loss, from outputs of training or of prediction."""
    return model.losses(outputs.get(RAW, outputs), batch)


def _parts(model: Any, outputs: Any, batch: Batch) -> Parts:
    sums = {name: metrics.mean(values, batch).total for name, values in _losses(model, outputs, batch).items()}
    return Parts(sums, row_mask(batch).sum())


def _average_precision(classes: int) -> Any:
    measure = metrics.average_precision(classes)

    def metric(outputs: Any, batch: Batch) -> MetricState:
        # in training nothing is suppressed, which takes time, and true boxes may be among the proposals
        return measure(detected(outputs), batch) if RAW in outputs else Unmeasured()

    return metric


def _with_detections(model: Any, raw: Any) -> dict[str, Any]:
    """Add detections to the outputs of a network; they are NaN where one of its numbers is not finite."""
    found = model.detections(raw)
    numbers = [x for x in jax.tree.leaves(raw) if jnp.issubdtype(x.dtype, jnp.floating)]
    sound = jnp.stack([jnp.isfinite(x).all(tuple(range(1, x.ndim))) for x in numbers]).all(0)
    marked = {
        "boxes": jnp.where(align(sound, found["boxes"]), found["boxes"], jnp.nan),
        "scores": jnp.where(align(sound, found["scores"]), found["scores"], jnp.nan),
        "box_mask": (found["box_mask"] > 0) | ~align(sound, found["box_mask"]),
    }
    return {**found, **marked, RAW: raw}

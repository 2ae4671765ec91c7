"""Regression: predict one or more numbers per image."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import losses, metrics
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import Batch, InputError, Task, row_mask
from jaxcnn.tasks import figures, pixels
from jaxcnn.tasks.fields import fields
from jaxcnn.tasks.model import from_model

Array = jax.Array
LOSSES = ("squared", "huber")
KEYS = ("target", "label")  # the first of these that a batch has holds the targets


def regression(
    model: Any,
    *,
    loss: str = "squared",
    delta: float = 1.0,
    center: float | Sequence[float] = 0.0,
    scale: float | Sequence[float] = 1.0,
    limits: tuple[float, float] | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    size: tuple[int, int] | None = None,
    resize: int | None = None,
    interpolation: str = "bilinear",
    dims: int = 2,
    field: str = "image",
    also: Sequence[str] = (),
) -> Task:
    """Make a task that predicts numbers from images.

    A batch holds its targets under `"target"`, or else under `"label"`: `[B]` or `[B, 1]` for a model with one output,
    `[B, K]` otherwise.

    Args:
        model: a Linen module from `[B, H, W, C]` to `[B, K]`, with `num_classes` K.
        loss: `"squared"` or `"huber"`, of errors in units of `scale`.
        delta: error above which Huber's loss is linear, in units of `scale`.
        center: target that an output of 0 stands for, usually the mean of the training targets: one number or one per
            column.
        scale: change of the target per unit of output, usually the standard deviation: positive, one number or one per
            column.
        limits: lowest and highest target of the figure of predictions by target; None draws no figure.
        mean: mean of the training pixels, in 0..1: one number or one per channel. It is saved with the run.
        std: standard deviation of the training pixels, in the same form.
        size: height and width to which images are resized on the device; None keeps theirs.
        resize: length of the shorter side before `size` is cropped from the centre; see `prepare`.
        interpolation: `"bilinear"` or `"bicubic"`.
        dims: number of spatial axes of the images.
        field: the entry of the batch that the model gets, see `classification`.
        also: further entries that the model gets as keyword arguments.

    Returns:
        A `Task` whose outputs `[B, K]` are in units of the targets, with the metrics `loss`, `count`, `mae`, `rmse` and
        `r2`. It refuses targets that have the wrong shape or are not finite; in a compiled program, these make the loss
        NaN.

    Raises:
        InputError: an unknown loss, or a value outside its range.

    """
    _check(loss, delta, center, scale, limits, model.num_classes)
    unit = np.asarray(scale, np.float32)
    meant = functools.partial(_canonical, model.num_classes)

    def criterion(outputs: Array, batch: Batch) -> tuple[Array, Array]:
        each = jnp.broadcast_to(unit, outputs.shape)
        found, wanted = outputs / each, batch["label"].reshape(outputs.shape) / each
        values = losses.huber(found, wanted, delta) if loss == "huber" else losses.squared_error(found, wanted)
        return values, jnp.ones_like(values)

    measured = {"mae": metrics.mae, "rmse": metrics.rmse, "r2": metrics.r2}
    pictures = {}
    if limits is not None:
        low, high = limits
        measured["agreement"] = metrics.agreement(low, high)
        pictures["predictions"] = functools.partial(figures.agreement, limits=(low, high))
    how = {"mean": mean, "std": std, "size": size, "resize": resize, "interpolation": interpolation, "dims": dims}
    given = fields(field, also, how)
    check = functools.partial(_check_rows, model.num_classes)
    scaled = _Scaled(model, np.asarray(center, np.float32), unit)
    task = from_model(scaled, criterion, measured, given.inputs, targets=meant, check=check, keywords=given.keywords)
    return given.strict(task._replace(headline=("loss", "mae"), figures=pictures))


class _Scaled:
    """A model whose outputs are in units of the targets."""

    def __init__(self, model: Any, center: np.ndarray, scale: np.ndarray):
        self.model, self.center, self.scale = model, center, scale

    def init(self, *arguments: Any, **options: Any) -> Any:
        return self.model.init(*arguments, **options)

    def apply(self, *arguments: Any, mutable: Any = False, **options: Any) -> Any:
        found = self.model.apply(*arguments, mutable=mutable, **options)
        outputs, changed = (found, None) if mutable is False else found
        outputs = promote_float32(outputs) * jnp.broadcast_to(self.scale, outputs.shape) + jnp.broadcast_to(
            self.center, outputs.shape
        )
        return outputs if mutable is False else (outputs, changed)


def _target(rows: Batch) -> tuple[str, Any]:
    for key in KEYS:
        if key in rows:
            return key, rows[key]
    raise InputError(
        f"the batch has neither 'target' nor 'label', only {', '.join(sorted(rows))}; name the targets 'target'"
    )


def _check_shape(outputs: int, key: str, target: Any) -> None:
    target = target if hasattr(target, "dtype") else np.asarray(target)
    shape = tuple(target.shape)
    if not (jnp.issubdtype(target.dtype, jnp.floating) or jnp.issubdtype(target.dtype, jnp.integer)):
        raise InputError(f"{key!r} has dtype {target.dtype}: targets must be whole numbers or floats")
    if shape[1:] != (outputs,) and not (outputs == 1 and len(shape) == 1):
        wanted = "[N] or [N, 1]" if outputs == 1 else f"[N, {outputs}]"
        raise InputError(f"{key!r} of shape {shape}: the model has num_classes={outputs}, so targets must be {wanted}")


def _canonical(outputs: int, batch: Batch) -> tuple[Batch, Array]:
    """Move the targets to `"label"`, float32 `[B]` or `[B, K]`; rows whose targets are not finite are invalid."""
    key, target = _target(batch)
    _check_shape(outputs, key, target)
    target = jnp.asarray(target).astype(jnp.float32)
    target = target[:, 0] if target.ndim == 2 and outputs == 1 else target
    good = jnp.isfinite(target).reshape(target.shape[0], -1).all(-1)
    known = row_mask(batch) > 0
    label = jnp.where(good if target.ndim == 1 else good[:, None], target, 0)
    return {**batch, "label": label, "row_mask": row_mask(batch) * good}, known & ~good


def _check_rows(outputs: int, rows: Batch) -> None:
    pixels.check_image(rows)
    key, target = _target(rows)
    if not pixels.concrete(target):
        return
    _check_shape(outputs, key, target)
    broken = ~np.isfinite(np.asarray(target, np.float32))
    if "row_mask" in rows and pixels.concrete(rows["row_mask"]):
        broken[np.asarray(rows["row_mask"]) == 0] = False  # padding may hold anything
    if broken.any():
        where = np.argwhere(broken)[0]
        value = np.asarray(target)[tuple(where)]
        raise InputError(f"{key!r} of row {where[0]} is {value}: targets must be finite numbers; leave such rows out")


def _check(loss: str, delta: float, center: Any, scale: Any, limits: Any, outputs: int) -> None:
    if loss not in LOSSES:
        raise InputError(f"loss={loss!r}: must be one of {', '.join(LOSSES)}")
    if not 0 < delta < float("inf"):
        raise InputError(f"delta={delta}: must be positive")
    for name, values in (("center", center), ("scale", scale)):
        given = np.asarray(values, np.float32)
        sound = given.shape in ((), (1,), (outputs,)) and np.isfinite(given).all()
        if not sound or name == "scale" and (given <= 0).any():
            above = "positive" if name == "scale" else "finite"
            raise InputError(f"{name}={values}: must be one {above} number, or one for each of the {outputs} outputs")
    if limits is not None and not (len(limits) == 2 and -float("inf") < limits[0] < limits[1] < float("inf")):
        raise InputError(f"limits={limits}: must be the lowest and the highest target, such as (0, 1)")

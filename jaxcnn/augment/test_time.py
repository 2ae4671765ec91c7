"""Test-time augmentation: average the outputs of a model over several views of each image."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcnn.augment.core import check_field, pixel_axes
from jaxcnn.core.types import Batch, InputError

Array = jax.Array
View = Callable[[Batch], Batch]
Over = Literal["logits", "softmax", "sigmoid"]
OVER = ("logits", "softmax", "sigmoid")


def test_time_augmentation(
    predict: Callable[[Any, Batch], Any],
    views: Sequence[View],
    *,
    over: Over = "logits",
    weights: Sequence[float] | None = None,
) -> Callable[[Any, Batch], Any]:
    """Average predictions over several views.

    Use it as `task._replace(predict=test_time_augmentation(task.predict, test_time_views(shift=1)))`. All views go
    through the model in one batch, which is `len(views)` times as large.

    Args:
        predict: `(variables, batch) -> outputs` with leaves `[B, ...]` that do not depend on position, as in `Task`.
        views: functions `batch -> batch` that keep all shapes.
        over: what to average: `"logits"`; probabilities after `"softmax"`, returned as their logarithms; or
            probabilities after `"sigmoid"`, returned as logits. So the task's metrics accept the outputs in each case.
        weights: weight per view; only ratios matter. None weights all views equally.

    Returns:
        `(variables, batch) -> outputs`, like `predict`.

    Raises:
        InputError: no views, an unknown `over`, or weights that are negative, all zero, or not one per view.

    """
    if not views:
        raise InputError("views=[]: needs at least one view")
    if over not in OVER:
        raise InputError(f"over={over!r}: must be one of {', '.join(OVER)}")
    weights = [1.0] * len(views) if weights is None else list(weights)
    if len(weights) != len(views) or min(weights) < 0 or not sum(weights) > 0:
        raise InputError(f"weights={weights}: must be {len(views)} numbers, one per view, none negative and not all 0")
    shares = jnp.array(weights) / sum(weights)

    def mean(outputs: Array) -> Array:
        rows = outputs.reshape(-1, len(views), *outputs.shape[1:])
        return _mean(rows, shares.reshape(1, -1, *[1] * (rows.ndim - 2)), over)

    def predict_mean(variables: Any, batch: Batch) -> Any:
        # interleave the views of a row, so that rows stay on the device that holds them
        seen = jax.tree.map(
            lambda *x: jnp.stack(x, 1).reshape(-1, *x[0].shape[1:]), *[dict(view(batch)) for view in views]
        )
        return jax.tree.map(mean, predict(variables, seen))

    return predict_mean


def test_time_views(*, flip: bool = True, shift: int = 0, field: str = "image") -> list[View]:
    """Return views to average over.

    Args:
        flip: add the mirrored image of every view.
        shift: if not 0, add the image moved by this many pixels up and left, and down and right.
        field: the entry of the batch that holds the pixels.

    Returns:
        One, two, three or six views.

    Raises:
        InputError: a negative shift.

    """
    if shift < 0:
        raise InputError(f"shift={shift}: must be at least 0")
    offsets = [0, -shift, shift] if shift else [0]
    places = [moved(offset, offset, field=field) for offset in offsets]
    return places + [lambda batch, place=place: place(mirrored(batch, field=field)) for place in places] * flip


def mirrored(batch: Batch, *, field: str = "image") -> Batch:
    """Return the batch with images `[B, H, W, C]` or `[B, D, H, W, C]` flipped left to right; targets do not follow."""
    check_field(batch, field)
    pixel_axes(batch[field])
    return {**batch, field: jnp.flip(batch[field], -2)}


def moved(down: int, right: int, *, field: str = "image") -> View:
    """Return a view that moves the image by whole pixels and fills with its mirrored border.

    Args:
        down: pixels along the height; negative moves up.
        right: pixels along the width; negative moves left.
        field: the entry of the batch that holds the pixels.

    Returns:
        A view of `image` `[B, H, W, C]`, or of a volume `[B, D, H, W, C]`, whose depth stays.

    """

    def view(batch: Batch) -> Batch:
        check_field(batch, field)
        deep, (h, w) = pixel_axes(batch[field]) - 2, batch[field].shape[-3:-1]
        pads = [(0, 0)] * (1 + deep) + [(max(down, 0), max(-down, 0)), (max(right, 0), max(-right, 0)), (0, 0)]
        padded = jnp.pad(batch[field], pads, "reflect")
        return {**batch, field: padded[..., max(-down, 0) :, max(-right, 0) :, :][..., :h, :w, :]}

    return view


def _mean(outputs: Array, shares: Array, over: Over) -> Array:
    """Return the weighted mean over the second axis."""
    if over == "logits":
        return (outputs * shares).sum(1)
    if over == "softmax":
        return jax.nn.logsumexp(jax.nn.log_softmax(outputs), 1, b=jnp.broadcast_to(shares, outputs.shape))

    def log(x):
        return jax.nn.logsumexp(jax.nn.log_sigmoid(x), 1, b=jnp.broadcast_to(shares, outputs.shape))

    return log(outputs) - log(-outputs)

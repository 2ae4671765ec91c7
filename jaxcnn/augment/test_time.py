"""Test-time augmentation: average the outputs of a model over several views of each image."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.augment.core import check_field, pixel_axes
from jaxcnn.core.types import Batch, InputError, check_whole

Array = jax.Array
View = Callable[[Batch], Batch]
Over = Literal["logits", "softmax", "sigmoid"]
OVER = ("logits", "softmax", "sigmoid")


class PixelView(NamedTuple):
    """A view that undoes itself, for outputs per pixel.

    Attributes:
        change: `batch -> batch`, which keeps all shapes.
        undo: brings outputs `[B, *spatial, K]` of the view back to the places of the image.
        field: the entry of the batch that holds the pixels.

    """

    change: View
    undo: Callable[[Array], Array]
    field: str = "image"

    def __call__(self, batch: Batch) -> Batch:
        """Return the view of a batch."""
        return self.change(batch)


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
        predict: `(variables, batch) -> outputs`, as in `Task`. With `pixel_views` its leaves are `[B, *spatial, K]`;
            with other views they do not depend on position.
        views: functions `batch -> batch` that keep all shapes; all of them `PixelView`, or none.
        over: what to average: `"logits"`; probabilities after `"softmax"`, returned as their logarithms; or
            probabilities after `"sigmoid"`, returned as logits. So the task's metrics accept the outputs in each case.
        weights: weight per view; only ratios matter. None weights all views equally.

    Returns:
        `(variables, batch) -> outputs`, like `predict`.

    Raises:
        InputError: no views, an unknown `over`, or weights that are negative, all zero, or not one per view; when
            called, outputs per pixel of views that do not undo themselves, or the other way round.

    """
    if not views:
        raise InputError("views=[]: needs at least one view")
    undo = [view.undo for view in views if isinstance(view, PixelView)]
    if undo and len(undo) < len(views):
        raise InputError(f"views: {len(undo)} of {len(views)} undo themselves; give pixel_views alone, or none of them")
    if over not in OVER:
        raise InputError(f"over={over!r}: must be one of {', '.join(OVER)}")
    weights = [1.0] * len(views) if weights is None else list(weights)
    if len(weights) != len(views) or min(weights) < 0 or not sum(weights) > 0:
        raise InputError(f"weights={weights}: must be {len(views)} numbers, one per view, none negative and not all 0")
    shares = jnp.array(weights) / sum(weights)

    def mean(outputs: Array) -> Array:
        rows = outputs.reshape(-1, len(views), *outputs.shape[1:])
        rows = jnp.stack([back(rows[:, i]) for i, back in enumerate(undo)], 1) if undo else rows
        return _mean(rows, shares.reshape(1, -1, *[1] * (rows.ndim - 2)), over)

    def predict_mean(variables: Any, batch: Batch) -> Any:
        # interleave the views of a row, so that rows stay on the device that holds them
        seen = jax.tree.map(
            lambda *x: jnp.stack(x, 1).reshape(-1, *x[0].shape[1:]), *[dict(view(batch)) for view in views]
        )
        outputs = predict(variables, seen)
        _check_outputs(outputs, views[0], batch)
        return jax.tree.map(mean, outputs)

    return predict_mean


def _check_outputs(outputs: Any, view: View, batch: Batch) -> None:
    """Refuse outputs per pixel that would be averaged where they are, and others that would be moved."""
    moves = isinstance(view, PixelView)
    field = view.field if moves else "image"
    if isinstance(outputs, Mapping) and "boxes" in outputs:
        raise InputError("outputs have boxes: those of a mirrored image lie elsewhere, and cannot be averaged")
    if field not in batch:
        return
    for leaf in jax.tree.leaves(outputs):
        if moves and leaf.ndim != batch[field].ndim:
            raise InputError(f"outputs of shape {leaf.shape}: are not per pixel; use test_time_views")
        if not moves and leaf.ndim >= batch[field].ndim:
            raise InputError(f"outputs of shape {leaf.shape}: are per pixel; use pixel_views, which undo themselves")


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
    check_whole("shift", shift)
    if shift < 0:
        raise InputError(f"shift={shift}: must be at least 0")
    offsets = [0, -shift, shift] if shift else [0]
    places = [moved(offset, offset, field=field) for offset in offsets]
    return places + [lambda batch, place=place: place(mirrored(batch, field=field)) for place in places] * flip


def pixel_views(*, flip: Sequence[int] = (-1,), rotate: bool = False, field: str = "image") -> list[PixelView]:
    """Return views to average over where the outputs have a value per pixel, such as those of a segmentation.

    Args:
        flip: spatial axes along which the image is also mirrored, in all combinations, counted from the last: -1 for
            the width, -2 for the height, -3 for the depth of a volume.
        rotate: add quarter turns in the plane of height and width, which must be the same.
        field: the entry of the batch that holds the pixels.

    Returns:
        Views of images `[B, H, W, C]` or volumes `[B, D, H, W, C]`, the first of which is the image itself: two for
        each axis, times four with `rotate`, without those that are the same.

    Raises:
        InputError: an axis that is not one of -1, -2 and -3, or that is given twice.

    """
    axes = tuple(flip)
    if len(set(axes)) < len(axes) or not set(axes) <= {-1, -2, -3}:
        raise InputError(f"flip={axes}: must be some of -1, -2 and -3, the axes counted from the last one")
    if rotate and {-1, -2} <= set(axes):  # both are half a turn
        axes = tuple(axis for axis in axes if axis != -2)
    several = itertools.chain.from_iterable(itertools.combinations(axes, n) for n in range(len(axes) + 1))
    turns = range(4) if rotate else range(1)
    return [_pixel_view(flipped, quarters, field) for flipped in several for quarters in turns]


def _pixel_view(flipped: Sequence[int], quarters: int, field: str) -> PixelView:
    """Make a view that is mirrored along spatial axes, then turned."""
    at = tuple(axis - 1 for axis in flipped)  # the channels come last

    def change(batch: Batch) -> Batch:
        check_field(batch, field)
        image = batch[field]
        if pixel_axes(image) < -min(flipped, default=-1):
            raise InputError(f"flip={tuple(flipped)}: image shape {tuple(image.shape)} has no such spatial axis")
        if quarters % 2 and image.shape[-3] != image.shape[-2]:
            raise InputError(f"rotate=True: image shape {tuple(image.shape)}: height and width must be the same")
        return {**batch, field: jnp.rot90(jnp.flip(image, at), quarters, (-3, -2))}

    def undo(outputs: Array) -> Array:
        return jnp.flip(jnp.rot90(outputs, -quarters, (-3, -2)), at)

    return PixelView(change, undo, field)


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

"""Test-time augmentation: what a model says of several views of an image, averaged."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcnn.augment.core import pixel_axes
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
    """Let a task predict from several views: `task._replace(predict=test_time_augmentation(task.predict, test_time_views(shift=1)))`.

    The views go through the model as one batch, which is as many times larger.

    Args:
        predict: `(variables, batch) -> outputs`, leaves `[B, ...]` that say nothing about places; as in `Task`.
        views: each `batch -> batch`, of the same shapes; a copy is made of every row for each of them.
        over: what is averaged: `"logits"`; probabilities after `"softmax"`, which come back as their logarithms; or after
            `"sigmoid"`, which come back as logits. So the outputs serve the task's metrics in each case.
        weights: of the views; None for equal ones. Only their ratios matter.

    Returns:
        `(variables, batch) -> outputs`, as `predict`.

    Raises:
        InputError: no views, an unknown `over`, or weights that are not one positive sum for the views.

    """
    if not views:
        raise InputError("views=[]: needs at least one view")
    if over not in OVER:
        raise InputError(f"over={over!r}: must be one of {', '.join(OVER)}")
    weights = [1.0] * len(views) if weights is None else list(weights)
    if len(weights) != len(views) or min(weights) < 0 or not sum(weights) > 0:
        raise InputError(
            f"weights={weights}: needs {len(views)} numbers that are not negative and not all zero, one a view"
        )
    shares = jnp.array(weights) / sum(weights)

    def mean(outputs: Array) -> Array:
        rows = outputs.reshape(-1, len(views), *outputs.shape[1:])
        return _mean(rows, shares.reshape(1, -1, *[1] * (rows.ndim - 2)), over)

    def predict_mean(variables: Any, batch: Batch) -> Any:
        # side by side on the second axis, so that rows stay on the device that holds them
        seen = jax.tree.map(
            lambda *x: jnp.stack(x, 1).reshape(-1, *x[0].shape[1:]), *[dict(view(batch)) for view in views]
        )
        return jax.tree.map(mean, predict(variables, seen))

    return predict_mean


def test_time_views(*, flip: bool = True, shift: int = 0) -> list[View]:
    """Views to average over: the image, moved up and left and down and right by `shift` pixels if not 0, and each mirrored if `flip`."""
    if shift < 0:
        raise InputError(f"shift={shift}: must be at least 0")
    places = [moved(0, 0)] + ([moved(-shift, -shift), moved(shift, shift)] if shift else [])
    return places + [lambda batch, place=place: place(mirrored(batch)) for place in places] if flip else places


def mirrored(batch: Batch) -> Batch:
    """The image mirrored left to right, `[B, H, W, C]` or `[B, D, H, W, C]`; nothing else follows, for models read no more."""
    pixel_axes(batch["image"])
    return {**batch, "image": jnp.flip(batch["image"], -2)}


def moved(down: int, right: int) -> View:
    """Return the view that moves the image by whole pixels along height and width, its border mirrored into what comes in.

    `image` `[B, H, W, C]`, or a volume `[B, D, H, W, C]`, whose depth stays.
    """

    def view(batch: Batch) -> Batch:
        deep, (h, w) = pixel_axes(batch["image"]) - 2, batch["image"].shape[-3:-1]
        pads = [(0, 0)] * (1 + deep) + [(max(down, 0), max(-down, 0)), (max(right, 0), max(-right, 0)), (0, 0)]
        padded = jnp.pad(batch["image"], pads, "reflect")
        return {**batch, "image": padded[..., max(-down, 0) :, max(-right, 0) :, :][..., :h, :w, :]}

    return view


def _mean(outputs: Array, shares: Array, over: Over) -> Array:
    """Weighted mean over the second axis."""
    if over == "logits":
        return (outputs * shares).sum(1)
    if over == "softmax":
        return jax.nn.logsumexp(jax.nn.log_softmax(outputs), 1, b=jnp.broadcast_to(shares, outputs.shape))

    def log(x):
        return jax.nn.logsumexp(jax.nn.log_sigmoid(x), 1, b=jnp.broadcast_to(shares, outputs.shape))

    return log(outputs) - log(-outputs)

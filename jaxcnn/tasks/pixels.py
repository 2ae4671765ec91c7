"""Images against what a task takes: their layout, their range, and the shape that a trained network has seen."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcnn.core.types import Batch, InputError, Task, accept, align

Array = jax.Array
CHANNELS = (1, 3, 4)  # what photographs have
ROUNDING = 1e-3  # by which floats may leave 0..1
MARGIN = (
    0.5  # likewise in a compiled program, where a caller may have added noise on purpose; another scale goes further
)


def check_layout(shape: Sequence[int], where: str = "") -> None:
    """Refuse images `[N, C, H, W]`, which read as images of `C` rows and `W` channels.

    Raises:
        InputError: there are 1, 3 or 4 rows of pixels, and more channels than that.

    """
    if len(shape) == 4 and shape[1] in CHANNELS and shape[3] > max(CHANNELS):
        raise InputError(
            f"{where}images of shape {tuple(shape)}: channels must come last, [N, H, W, C]; use image.transpose(0, 2, 3, 1)"
        )


def check_range(image: Any) -> None:
    """Refuse float images outside 0..1, on the host; integers have one range already.

    Raises:
        InputError: what is smallest or largest is outside, or a pixel is NaN.

    """
    if not (hasattr(image, "dtype") and jnp.issubdtype(image.dtype, jnp.floating) and np.size(image)):
        return
    if isinstance(image, jax.Array):
        low, high = float(image.min()), float(image.max())
    else:
        low, high = float(np.min(image)), float(np.max(image))
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        fix = (
            "divide by 255, or give uint8"
            if 1 < high <= 255 and low >= 0
            else "bring them there; mean= and std= of the task normalise"
        )
        raise InputError(f"float images from {low:g} to {high:g}: floats must be in 0..1 (uint8 in 0..255); {fix}")


def concrete(image: Any) -> bool:
    """Whether the values of an image are at hand: not in a traced function, nor spread over other processes."""
    if isinstance(image, jax.Array):
        return not isinstance(image, Tracer) and (image.is_fully_addressable or image.is_fully_replicated)
    return True


def blanked(outputs: Any, image: Array) -> Any:
    """Make the outputs of rows NaN whose float pixels are of another scale than 0..1; for traced images, which cannot be refused."""
    if not jnp.issubdtype(image.dtype, jnp.floating):
        return outputs
    axes = tuple(range(1, image.ndim))
    good = (image.min(axes) >= -MARGIN) & (image.max(axes) <= 1 + MARGIN)
    return jax.tree.map(lambda x: jnp.where(align(good, x), x, jnp.nan), outputs)


def strict(task: Task) -> Task:
    """Refuse images of another range where their values are at hand; where they are traced, predict NaN."""

    def loss(params: Any, model_state: Any, batch: Batch, key: Array) -> Any:
        if isinstance(
            image_of(batch), np.ndarray
        ):  # what a step has changed on the device may leave the range a little
            check_range(batch["image"])
        return task.loss(params, model_state, batch, key)

    def predict(variables: Any, batch: Batch) -> Any:
        image = image_of(batch)
        if concrete(image):
            check_image(batch)
            return task.predict(variables, batch)
        return blanked(task.predict(variables, batch), image)

    predict.check = check_image
    return task._replace(loss=loss, predict=predict)


def image_of(batch: Batch) -> Array:
    """Return the images of a batch.

    Raises:
        InputError: it has none.

    """
    if "image" not in batch:
        raise InputError(f"the batch has no 'image', only {', '.join(sorted(batch))}; name the images 'image'")
    return batch["image"]


def check_image(rows: Batch) -> None:
    """Refuse images of another layout or range, where their values are at hand.

    Raises:
        InputError: see `check_layout` and `check_range`.

    """
    if "image" in rows and concrete(rows["image"]):
        check_layout(np.shape(rows["image"]))
        check_range(rows["image"])


def expecting(task: Task, shape: Sequence[int], *, resizes: bool = False) -> Task:
    """Let a trained task refuse images of another shape than it was trained on, which many networks take without a word.

    Args:
        task: of images.
        shape: `(height, width, channels)` that it was trained on.
        resizes: the task brings images to its own size (`size=`), so that only the channels must be the same.

    """
    height, width, channels = shape

    def check_shape(image: Any) -> None:
        given = tuple(np.shape(image))[1:]
        if len(given) == 3 and (given[2] != channels or not (resizes or given == (height, width, channels))):
            fix = f"give {channels} channels" if given[2] != channels else f"resize them to {height} x {width}"
            raise InputError(f"images of shape {given}: the network was trained on {(height, width, channels)}; {fix}")

    def also(first: Callable[[Batch], None]) -> Callable[[Batch], None]:
        def check(rows: Batch) -> None:
            first(rows)
            if "image" in rows:
                check_shape(rows["image"])

        return check

    @functools.wraps(task.predict)
    def predict(variables: Any, batch: Batch) -> Any:
        check_shape(batch["image"])
        return task.predict(variables, batch)

    first = getattr(task.predict, "check", accept)
    predict.check = also(first)  # pyright: ignore[reportAttributeAccessIssue] (functions take attributes)
    return task._replace(predict=predict, check=also(task.check))

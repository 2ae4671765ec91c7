"""Checks of images: their layout, their range, and the shape that a trained network expects."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcnn.core.types import Batch, InputError, Task, accept, align

Array = jax.Array
CHANNELS = (1, 3, 4)  # of photographs
ROUNDING = 1e-3  # tolerance around 0..1
_any_range = jax.make_user_context(False)
MARGIN = 0.5  # wider in a compiled program: augmentation may add noise, while a wrong scale is further off


def check_layout(shape: Sequence[int], where: str = "") -> None:
    """Refuse images `[N, C, H, W]`, which would be read as images with `C` rows and `W` channels.

    Args:
        shape: shape of the array of images.
        where: prefix of the message.

    Raises:
        InputError: the second axis is 1, 3 or 4 and the last axis is larger than that.

    """
    if len(shape) == 4 and shape[1] in CHANNELS and shape[3] > max(CHANNELS):
        raise InputError(
            f"{where}images of shape {tuple(shape)}: channels must come last, [N, H, W, C]; "
            "use image.transpose(0, 2, 3, 1)"
        )


def check_range(image: Any) -> None:
    """Refuse float images outside 0..1, on the host. Integer images need no check.

    Raises:
        InputError: the smallest or largest pixel is out of range, or a pixel is NaN.

    """
    if not (hasattr(image, "dtype") and jnp.issubdtype(image.dtype, jnp.floating) and np.size(image)):
        return
    if isinstance(image, jax.Array):
        low, high = float(image.min()), float(image.max())
    else:
        low, high = float(np.min(image)), float(np.max(image))
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        fix = "rescale them; mean= and std= of the task normalise"
        if 1 < high <= 255 and low >= 0:
            fix = "divide by 255, or give uint8"
        raise InputError(f"float images from {low:g} to {high:g}: floats must be in 0..1 (uint8 in 0..255); {fix}")


def concrete(image: Any) -> bool:
    """Whether the values of an image can be read here: it is not traced, nor sharded over other processes."""
    if isinstance(image, jax.Array):
        return not isinstance(image, Tracer) and (image.is_fully_addressable or image.is_fully_replicated)
    return True


def blanked(outputs: Any, image: Array) -> Any:
    """Make floats among the outputs NaN for rows whose float pixels are far outside 0..1: a trace cannot refuse."""
    if not jnp.issubdtype(image.dtype, jnp.floating):
        return outputs
    axes = tuple(range(1, image.ndim))
    good = (image.min(axes) >= -MARGIN) & (image.max(axes) <= 1 + MARGIN)

    def marked(x: Array) -> Array:
        return jnp.where(align(good, x), x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(marked, outputs)


@contextlib.contextmanager
def any_range() -> Iterator[None]:
    """Trace predictions without the mark for pixels outside 0..1, for images that are normalised already."""
    with _any_range(True):
        yield


def strict(task: Task) -> Task:
    """Make a task refuse images that are out of range; where they are traced, it predicts NaN."""

    @functools.wraps(task.loss)  # and with its marks, see `methods.combined`
    def loss(params: Any, model_state: Any, batch: Batch, key: Array) -> Any:
        # a step may have augmented device arrays slightly out of range, so only host arrays are checked
        if isinstance(image_of(batch), np.ndarray):
            check_range(batch["image"])
        return task.loss(params, model_state, batch, key)

    def predict(variables: Any, batch: Batch) -> Any:
        image = image_of(batch)
        if concrete(image):
            check_image(batch)
            return task.predict(variables, batch)
        outputs = task.predict(variables, batch)
        return outputs if _any_range.value else blanked(outputs, image)

    predict.check = check_image
    return task._replace(loss=loss, predict=predict)


def image_of(batch: Batch) -> Array:
    """Return the images of a batch.

    Raises:
        InputError: the batch has none.

    """
    if "image" not in batch:
        raise InputError(f"the batch has no 'image', only {', '.join(sorted(batch))}; name the images 'image'")
    return batch["image"]


def check_image(rows: Batch) -> None:
    """Refuse images with the wrong layout or range, unless they are traced.

    Raises:
        InputError: see `check_layout` and `check_range`.

    """
    if "image" in rows and concrete(rows["image"]):
        check_layout(np.shape(rows["image"]))
        check_range(rows["image"])


def expecting(task: Task, shape: Sequence[int], *, any_size: bool = False) -> Task:
    """Make a trained task refuse images of a shape it was not trained on; many networks would accept them silently.

    Args:
        task: a task on images.
        shape: `(height, width, channels)` of the training images, or `(*sides, channels)`.
        any_size: only the channels must match, because the task resizes images (`size=`) or has outputs per pixel.

    """
    *sides, channels = shape

    def check_shape(image: Any) -> None:
        given = tuple(np.shape(image))[1:]
        if len(given) == len(shape) and (given[-1] != channels or not (any_size or given == tuple(shape))):
            size = " x ".join(map(str, sides))
            fix = f"give {channels} channels" if given[-1] != channels else f"resize them to {size}"
            raise InputError(f"images of shape {given}: the network was trained on {tuple(shape)}; {fix}")

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

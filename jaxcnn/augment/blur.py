"""Gaussian blur by torchvision's formula, with an individual strength per row."""

import jax
import jax.numpy as jnp

from jaxcnn.augment.core import Range, Transform, as_float, check_range, height_width, on_field, uniform
from jaxcnn.core.collectives import draw
from jaxcnn.core.types import Batch, InputError, is_integer

Array = jax.Array


def gaussian_blur(kernel_size: int = 3, sigma: Range = (0.1, 2.0), field: str = "image") -> Transform:
    """Blur each image with a Gaussian kernel of random width; the border is mirrored.

    Args:
        kernel_size: pixels of the kernel on a side, odd; SimCLR takes a tenth of the image's side.
        sigma: smallest and largest standard deviation in pixels, drawn uniformly for each image; above 0.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, H, W, C]`, uint8 0..255 or float 0..1, to float 0..1.

    Raises:
        InputError: an even kernel, an invalid range; or (when applied) an image of fewer pixels than half the kernel.

    """
    if not is_integer(kernel_size) or kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"kernel_size={kernel_size}: must be an odd integer of at least 1")
    check_range("sigma", sigma, 0)
    if not sigma[0] > 0:
        raise InputError(f"sigma={sigma}: must be above 0")
    half = kernel_size // 2

    def change(key: Array, batch: Batch) -> Batch:
        image = as_float(batch["image"])
        if min(height_width(image)) <= half:
            raise InputError(f"kernel_size={kernel_size}: too large for images of {tuple(image.shape[1:3])} pixels")
        width = sigma[0] + draw(uniform, key, image.shape[:1]) * (sigma[1] - sigma[0])
        taps = jnp.exp(-0.5 * (jnp.arange(-half, half + 1)[None] / width[:, None]) ** 2)
        taps = taps / taps.sum(1, keepdims=True)  # [B, kernel_size]
        return {**batch, "image": _along(_along(image, taps, 1), taps, 2)}

    return on_field(change, field)


def _along(image: Array, taps: Array, axis: int) -> Array:
    """Convolve `[B, H, W, C]` along one axis with the kernel of each row, `[B, K]`."""
    count, size = taps.shape[1], image.shape[axis]
    pad = [(count // 2, count // 2) if i == axis else (0, 0) for i in range(4)]
    wide, taps = jnp.pad(image, pad, "reflect"), taps.astype(image.dtype)
    parts = (jax.lax.slice_in_dim(wide, k, k + size, axis=axis) * taps[:, k, None, None, None] for k in range(count))
    return sum(parts, start=jnp.zeros_like(image))

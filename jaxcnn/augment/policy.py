"""TrivialAugment and RandAugment: operations drawn per image from a set of fourteen.

Operations and ranges are those of torchvision; results are not rounded to 8 bits. The five spatial operations are one
affine map.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.augment import resample
from jaxcnn.augment.color import blend, brighten, check_channels, contrast, planes, saturate
from jaxcnn.augment.core import Transform, as_float, compose, each_row, height_width, on_field, uniform
from jaxcnn.augment.spatial import FOLLOW, SpatialTargets, check, transform_spatial
from jaxcnn.core.collectives import draw
from jaxcnn.core.types import Batch, InputError, check_numbers, check_whole, is_integer

Array = jax.Array
OPS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast",
    "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
SHEAR_X, SHEAR_Y, MOVE_X, MOVE_Y, ROTATE = range(1, 6)
BLENDS, POSTERIZE, SOLARIZE = slice(6, 10), 10, 11
BINS = 31  # number of strengths per operation


def trivial_augment(*, follow: SpatialTargets = FOLLOW, field: str = "image") -> Transform:
    """Apply one random operation to each image, at a random strength (Mueller and Hutter, 2021, arXiv:2103.10158).

    The strength is random too, so there is nothing to tune. It uses the paper's wide space: movements by up to 32
    pixels at any image size, and rotations by up to 135 degrees. Spatial operations fill with black and take the
    nearest pixel.

    Args:
        follow: how masks and boxes follow.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, H, W, 1 or 3]`, uint8 0..255 or float 0..1, to float 0..1.

    Raises:
        InputError: the image does not have 1 or 3 channels.

    """
    check(follow)

    def change(key: Array, batch: Batch) -> Batch:
        h, w = height_width(batch["image"])
        op, strength, sign = _drawn(key, batch["image"].shape[0])
        table = _table(shear=0.99, move=(32.0, 32.0), degrees=135.0, blend=0.99, bits=6)
        return apply(batch, op, table[op, strength] * sign, follow)

    return on_field(change, field)


def rand_augment(
    ops: int = 2,
    magnitude: int | None = 9,
    *,
    probability: float = 1.0,
    follow: SpatialTargets = FOLLOW,
    field: str = "image",
) -> Transform:
    """Apply several random operations to each image (Cubuk et al., 2019, arXiv:1909.13719).

    Args:
        ops: number of operations per image.
        magnitude: the strength of all operations, 0..30; None draws one for each operation and image, as FixMatch does
            (Sohn et al., 2020, arXiv:2001.07685).
        probability: with which an operation is applied to an image at all, in [0, 1].
        follow: how masks and boxes follow.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, H, W, 1 or 3]`, uint8 0..255 or float 0..1, to float 0..1.

    Raises:
        InputError: a negative number of operations, a strength or probability out of range, or an image without 1 or 3
            channels.

    """
    check_whole("ops", ops, 0)
    if magnitude is not None and not (is_integer(magnitude) and 0 <= magnitude < BINS):
        raise InputError(f"magnitude={magnitude}: must be an integer in 0..{BINS - 1}, or None for random ones")
    check_numbers(probability=probability)
    if not 0 <= probability <= 1:
        raise InputError(f"probability={probability}: must be in 0..1")
    check(follow)

    def change(key: Array, batch: Batch) -> Batch:
        h, w = height_width(batch["image"])
        op, strength, sign = _drawn(key, batch["image"].shape[0])
        if probability < 1:
            op = jnp.where(draw(uniform, jax.random.fold_in(key, 3), op.shape) < probability, op, OPS.index("identity"))
        table = _table(shear=0.3, move=(150 / 331 * h, 150 / 331 * w), degrees=30.0, blend=0.9, bits=4)
        return apply(batch, op, table[op, strength if magnitude is None else magnitude] * sign, follow)

    several = compose(*[change] * ops)
    return on_field(lambda key, batch: several(key, {**batch, "image": as_float(batch["image"])}), field)


def apply(batch: Batch, op: Array, amount: Array, follow: SpatialTargets = FOLLOW) -> Batch:
    """Apply one operation to each row.

    Args:
        batch: with `image` `[B, H, W, 1 or 3]`.
        op: `[B]`, indices into `OPS`.
        amount: `[B]`, in the unit of the operation; may be negative.
        follow: how masks and boxes follow.

    """
    check_channels(batch["image"])
    h, w = height_width(batch["image"])
    matrix = _matrix(op, amount, h, w)
    return transform_spatial(
        batch,
        lambda image: each_row(_operate, image, op, amount, matrix),
        lambda mask: resample.nearest(mask, matrix, follow.fill),
        lambda boxes: resample.move_boxes(boxes, matrix, h, w),
        follow.visible,
    )


def _drawn(key: Array, b: int) -> tuple[Array, Array, Array]:
    """Draw the operation, the strength 0..30 and the sign of each row; some operations ignore the sign."""

    def whole(i, n):
        return draw(lambda k, s: jax.random.randint(k, s, 0, n), jax.random.fold_in(key, i), (b,))

    return whole(0, len(OPS)), whole(1, BINS), 1.0 - 2.0 * whole(2, 2)


def _table(*, shear: float, move: tuple[float, float], degrees: float, blend: float, bits: int) -> Array:
    """Return the amounts by operation and strength, `[14, 31]`."""
    steps = np.linspace(0, 1, BINS)
    table = np.zeros((len(OPS), BINS))
    table[[SHEAR_X, SHEAR_Y]] = shear * steps
    table[MOVE_Y], table[MOVE_X] = (np.floor(m * steps + 1e-6) for m in move)  # whole pixels
    table[ROTATE] = degrees * steps
    table[BLENDS] = blend * steps
    table[POSTERIZE] = np.round(8 - steps * bits)
    table[SOLARIZE] = 1 - steps
    return jnp.asarray(table, jnp.float32)


def _matrix(op: Array, amount: Array, h: int, w: int) -> Array:
    """Return affine maps `[B, 2, 3]` (see `resample.places`); the identity for operations that are not spatial."""

    def of(n):
        return jnp.where(op == n, amount, 0)

    angle = of(ROTATE) * math.pi / 180
    cos, sin, slant_y, slant_x = jnp.cos(angle), jnp.sin(angle), of(SHEAR_Y), of(SHEAR_X)
    from_y = jnp.stack([cos, sin + slant_y, slant_y * w / 2 - of(MOVE_Y)], -1)  # shears keep the upper left corner
    from_x = jnp.stack([slant_x - sin, cos, slant_x * h / 2 - of(MOVE_X)], -1)
    return jnp.stack([from_y, from_x], 1)


def _operate(image: Array, op: Array, amount: Array, matrix: Array) -> Array:
    """Apply one operation to one image `[H, W, C]`."""
    branches = [
        lambda x: x,
        lambda x: resample.nearest(x[None], matrix[None])[0],
        lambda x: brighten(x, 1 + amount),
        lambda x: planes(saturate, x, 1 + amount),
        lambda x: planes(contrast, x, 1 + amount),
        lambda x: blend(x, _blurred(x), 1 + amount),
        lambda x: _posterized(x, jnp.abs(amount)),
        lambda x: jnp.where(x >= jnp.abs(amount), 1 - x, x),
        _stretched,
        _equalized,
    ]
    return jax.lax.switch(jnp.where(op == 0, 0, jnp.maximum(op - ROTATE + 1, 1)), branches, as_float(image))


def _posterized(image: Array, bits: Array) -> Array:
    """Keep only the highest `bits` of 8 of each value of `[H, W, C]`."""
    step = jnp.exp2(8 - bits)
    return jnp.where(bits < 8, jnp.floor(jnp.round(image * 255) / step) * step / 255, image)


def _stretched(image: Array) -> Array:
    """Stretch the values of each channel of `[H, W, C]` over 0..1."""
    low, high = (reduce(image, (0, 1), keepdims=True) for reduce in (jnp.min, jnp.max))
    return jnp.where(high > low, (image - low) / jnp.where(high > low, high - low, 1), image)


def _blurred(image: Array) -> Array:
    """Smooth `[H, W, C]` with a 3x3 kernel of ones and a central 5, divided by 13; the border pixels stay."""
    if min(image.shape[:2]) < 3:
        return image
    rows = image[:-2] + image[1:-1] + image[2:]
    boxes = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return image.at[1:-1, 1:-1].set((boxes + 4 * image[1:-1, 1:-1]) / 13)


def _equalized(image: Array) -> Array:
    """Equalise the histogram of each channel of `[H, W, C]`, as Pillow does with 8 bits."""
    level = jnp.round(image * 255).astype(jnp.int32).reshape(-1, image.shape[-1]).T  # [C, H * W]
    counts = jax.vmap(lambda x: jnp.zeros(256, jnp.int32).at[x].add(1))(level)
    below = jnp.cumsum(counts, -1) - counts
    last = jnp.take_along_axis(counts, level.max(-1, keepdims=True), -1)  # pixels with the largest value present
    step = (level.shape[-1] - last) // 255
    table = jnp.where(step > 0, jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255), jnp.arange(256)[None])
    return jnp.take_along_axis(table, level, -1).T.reshape(image.shape).astype(image.dtype) / 255

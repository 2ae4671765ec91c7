"""What every change is made of: composition, pixels as floats, and rectangles drawn by area and aspect ratio."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcnn.core.types import Batch, InputError

Array = jax.Array
Transform = Callable[[Array, Batch], Batch]
Range = tuple[float, float]
ATTEMPTS = 10  # at a rectangle that fits, as in torchvision


def compose(*changes: Transform) -> Transform:
    """Apply several changes in turn, each with a key of its own."""

    def change(key: Array, batch: Batch) -> Batch:
        for i, one in enumerate(changes):
            batch = one(jax.random.fold_in(key, i), batch)
        return batch

    return change


def one_of(*changes: Transform) -> Transform:
    """Apply one of several changes, each as likely, to the whole batch: mixup or cutmix, say. The image becomes float 0..1."""
    if not changes:
        raise InputError("one_of(): needs at least one change")

    def change(key: Array, batch: Batch) -> Batch:
        def branch(one: Transform) -> Callable[[Array, Batch], Batch]:
            def run(key: Array, batch: Batch) -> Batch:
                out = one(key, batch)
                return {**out, "image": as_float(out["image"])}

            return run

        choose, use = jax.random.split(key)
        return jax.lax.switch(
            jax.random.randint(choose, (), 0, len(changes)), [branch(one) for one in changes], use, dict(batch)
        )

    return change


def as_float(image: Array) -> Array:
    """Pixels as floats in 0..1: uint8 as float32, floats as they are."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise InputError(f"image dtype {image.dtype}: must be uint8 0..255 or float 0..1")
    return image


def height_width(image: Array) -> tuple[int, int]:
    """Height and width of `[B, H, W, C]`; any other rank is refused."""
    if image.ndim != 4:
        hint = "; add the channels with x[..., None]" if image.ndim == 3 else ""
        raise InputError(f"image shape {tuple(image.shape)}: must have 4 axes, [batch, height, width, channels]{hint}")
    return image.shape[1], image.shape[2]


def pixel_axes(image: Array) -> int:
    """Number of spatial axes, two of an image `[B, H, W, C]` and three of a volume `[B, D, H, W, C]`; any other rank is refused."""
    if image.ndim not in (4, 5):
        hint = "; add the channels with x[..., None]" if image.ndim == 3 else ""
        raise InputError(
            f"image shape {tuple(image.shape)}: must be [batch, height, width, channels] or a volume with depth first{hint}"
        )
    return image.ndim - 2


def spatial_axes(image: Array) -> tuple[int, ...]:
    """Sizes of `[B, *spatial, C]`; what may be pixels without an axis of channels is refused.

    `[B, T, C]` is a series, of floats and with other steps than channels.
    """
    shape = tuple(image.shape)
    if image.ndim < 3 or image.ndim == 3 and (image.dtype == jnp.uint8 or shape[1] == shape[2]):
        raise InputError(
            f"image shape {shape}: must be [batch, *spatial, channels]; add the channels with x[..., None]"
        )
    return shape[1:-1]


def each_row(one: Callable[..., Array], *rows: Array) -> Array:
    """Apply `one` to every row, `[B, ...]` each: all at once, but in turn on a CPU, where a `lax.switch` then costs only its own branch."""

    def in_turn(*rows):
        return jax.lax.map(lambda row: one(*row), rows)

    return jax.lax.platform_dependent(*rows, cpu=in_turn, default=jax.vmap(one))


def uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Numbers in [0, 1), a sampler for `jaxcnn.core.collectives.draw`."""
    return jax.random.uniform(key, shape)


def to_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width from one number or two."""
    out = (size, size) if isinstance(size, int) else tuple(size)
    if len(out) != 2 or not all(isinstance(n, int) and n >= 1 for n in out):
        raise InputError(f"size={size}: must be a whole number of at least 1, or two of them, height and width")
    return out


def check_pixels(pixels: int) -> None:
    """Refuse what is no whole number of at least 0."""
    if not isinstance(pixels, int) or pixels < 0:
        raise InputError(f"pixels={pixels}: must be at least 0, a whole number")


def check_range(name: str, value: Range, low: float, high: float = math.inf) -> None:
    """Refuse what is not a (smallest, largest) within bounds."""
    try:
        smallest, largest = value
        good = low <= smallest <= largest <= high and largest < math.inf
    except (TypeError, ValueError):
        good = False
    if not good:
        bounds = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
        raise InputError(f"{name}={value}: must be (smallest, largest), numbers {bounds}")


def check_aspect(scale: Range, ratio: Range) -> None:
    """Refuse shares of the area outside 0..1 and aspect ratios that are not positive."""
    check_range("scale", scale, 0, 1)
    check_range("ratio", ratio, 0)
    if not ratio[0] > 0:
        raise InputError(f"ratio={ratio}: must be above 0")


def rectangles(
    drawn: Array, area: int, scale: Range, ratio: Range, fits: Callable[[Array, Array], Array]
) -> tuple[Array, Array, Array]:
    """Draw sizes of rectangles until one fits.

    Args:
        drawn: `[B, 2 * ATTEMPTS]` uniform numbers.
        area: of the image, in pixels.
        scale: smallest and largest share of the area.
        ratio: smallest and largest long side over short side, drawn evenly by its logarithm.
        fits: which sizes do: `([B, ATTEMPTS], [B, ATTEMPTS]) -> [B, ATTEMPTS]`.

    Returns:
        Whole numbers `a` and `b` as floats `[B]`, of which `a / b` is the ratio, and `[B]` whether any attempt fitted.

    """
    share, log = drawn[:, :ATTEMPTS], drawn[:, ATTEMPTS:]
    target = area * (scale[0] + share * (scale[1] - scale[0]))
    aspect = jnp.exp(math.log(ratio[0]) + log * (math.log(ratio[1]) - math.log(ratio[0])))
    a, b = jnp.round(jnp.sqrt(target * aspect)), jnp.round(jnp.sqrt(target / aspect))
    good = fits(a, b)
    first = jnp.argmax(good, 1)[:, None]

    def pick(values):
        return jnp.take_along_axis(values, first, 1)[:, 0]

    return pick(a), pick(b), pick(good)

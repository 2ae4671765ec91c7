"""Parts that all transforms share: composition, pixels as floats, and rectangles drawn by area and aspect ratio."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.core.collectives import draw
from jaxcnn.core.types import Batch, InputError, align, check_numbers, whole_numbers

Array = jax.Array
Transform = Callable[[Array, Batch], Batch]
Range = tuple[float, float]
ATTEMPTS = 10  # to draw a rectangle that fits, as in torchvision


def mixing(change: Transform, *parts: Transform) -> Transform:
    """Mark a transform in which a row depends on other rows, or that is made of `parts` of which one has the mark.

    `train.augmented` refuses it for private training.
    """
    change.mixes = not parts or any(getattr(one, "mixes", False) for one in parts)  # pyright: ignore[reportFunctionMemberAccess]
    return change


def compose(*changes: Transform) -> Transform:
    """Apply several transforms in turn, each with its own key."""

    def change(key: Array, batch: Batch) -> Batch:
        for i, one in enumerate(changes):
            batch = one(jax.random.fold_in(key, i), batch)
        return batch

    return mixing(change, *changes) if changes else change


def check_field(batch: Batch, field: str) -> None:
    """Refuse the name of an entry that the batch does not have."""
    if field not in batch:
        raise InputError(f"field={field!r}: must be an entry of the batch, which has {', '.join(batch)}")


def on_field(change: Transform, field: str) -> Transform:
    """Return a transform that treats the entry `field` of a batch as `change` treats `"image"`.

    Masks and boxes follow that entry. An entry `"image"` beside it stays as it is.

    Args:
        change: a transform of `"image"`.
        field: name of the entry.

    Raises:
        InputError: (when applied) the batch has no such entry.

    """
    if field == "image":
        return change

    def renamed(key: Array, batch: Batch) -> Batch:
        check_field(batch, field)
        rest = {name: x for name, x in batch.items() if name not in (field, "image")}
        out = dict(change(key, {**rest, "image": batch[field]}))
        out[field] = out.pop("image")
        return {**out, "image": batch["image"]} if "image" in batch else out

    return mixing(renamed, change)


def one_of(*changes: Transform, field: str = "image") -> Transform:
    """Apply one of several transforms, all equally likely, to the whole batch, such as mixup or cutmix.

    The image becomes float 0..1.

    Args:
        *changes: the transforms, of `"image"`.
        field: the entry of the batch that they get as `"image"`, see `on_field`.

    Raises:
        InputError: no transforms.

    """
    if not changes:
        raise InputError("one_of(): needs at least one transform")

    def change(key: Array, batch: Batch) -> Batch:
        def branch(one: Transform) -> Callable[[Array, Batch], Batch]:
            def run(key: Array, batch: Batch) -> Batch:
                out = one(key, batch)
                return {**out, "image": as_float(out["image"])}

            return run

        choose, use = jax.random.split(key)
        batch, branches = with_box_mask(batch), [branch(one) for one in changes]
        forms = [jax.eval_shape(run, use, batch) for run in branches]
        for name in sorted({name for form in forms for name in form}):
            kinds = {_form(form.get(name)) for form in forms}
            if len(kinds) > 1:
                line = f"one_of: {name!r} becomes {' or '.join(sorted(kinds))}, depending on the transform"
                raise InputError(f"{line}; all must return the same shapes and dtypes")
        return jax.lax.switch(jax.random.randint(choose, (), 0, len(changes)), branches, use, batch)

    return on_field(mixing(change, *changes), field)


def _form(value: Any) -> str:
    """Describe the shapes and dtypes of an entry; an absent one is `nothing`."""
    leaves = jax.tree.leaves(value)
    return ", ".join(f"{x.dtype}{list(x.shape)}" for x in leaves) or "nothing"


def with_box_mask(batch: Batch) -> dict[str, Any]:
    """Add `"box_mask"` to boxes without one, as transforms do for boxes that leave the image."""
    if "boxes" not in batch or "box_mask" in batch:
        return dict(batch)
    sides = batch["boxes"][..., 2:] - batch["boxes"][..., :2]
    return {**batch, "box_mask": (sides > 0).all(-1).astype(jnp.float32)}


def sometimes(change: Transform, probability: float, field: str = "image") -> Transform:
    """Apply a transform to each row with a probability; the other rows stay.

    Args:
        change: a transform that keeps the shapes of all entries.
        probability: in [0, 1].
        field: the entry of the batch that it gets as `"image"`, see `on_field`.

    Returns:
        A transform whose image is float 0..1.

    Raises:
        InputError: the probability is out of range; or (when applied) the transform changes a shape.

    """
    check_numbers(probability=probability)
    if not 0 <= probability <= 1:
        raise InputError(f"probability={probability}: must be in 0..1")

    def maybe(key: Array, batch: Batch) -> Batch:
        use, choose = jax.random.split(key)
        batch = with_box_mask({**batch, "image": as_float(batch["image"])})
        out = change(use, batch)
        chosen = draw(uniform, choose, batch["image"].shape[:1]) < probability

        def pick(name: str) -> Array:
            new, old = out[name], batch[name]
            if new.shape != old.shape:
                raise InputError(f"sometimes: the transform changes {name!r} from {old.shape} to {new.shape}")
            return jnp.where(align(chosen, old), new, old)

        return {**out, **{name: pick(name) for name in batch}}

    return on_field(mixing(maybe, change), field)


def as_float(image: Array) -> Array:
    """Return pixels as floats in 0..1: uint8 becomes float32, floats stay as they are."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise InputError(f"image dtype {image.dtype}: must be uint8 0..255 or float 0..1")
    return image


def height_width(image: Array) -> tuple[int, int]:
    """Return height and width of `[B, H, W, C]`; refuse any other rank."""
    if image.ndim != 4:
        hint = "; add the channels with x[..., None]" if image.ndim == 3 else ""
        raise InputError(f"image shape {tuple(image.shape)}: must have 4 axes, [batch, height, width, channels]{hint}")
    return image.shape[1], image.shape[2]


def pixel_axes(image: Array) -> int:
    """Return the number of spatial axes: two for `[B, H, W, C]`, three for `[B, D, H, W, C]`; refuse any other rank."""
    if image.ndim not in (4, 5):
        hint = "; add the channels with x[..., None]" if image.ndim == 3 else ""
        raise InputError(
            f"image shape {tuple(image.shape)}: must be [batch, height, width, channels], or a volume with depth first"
            f"{hint}"
        )
    return image.ndim - 2


def spatial_axes(image: Array) -> tuple[int, ...]:
    """Return the spatial sizes of `[B, *spatial, C]`; refuse arrays that may be pixels without a channel axis.

    `[B, T, C]` is a series: it must be float, and T must differ from C.
    """
    shape = tuple(image.shape)
    if image.ndim < 3 or image.ndim == 3 and (image.dtype == jnp.uint8 or shape[1] == shape[2]):
        raise InputError(
            f"image shape {shape}: must be [batch, *spatial, channels]; add the channels with x[..., None]"
        )
    return shape[1:-1]


def each_row(one: Callable[..., Array], *rows: Array) -> Array:
    """Apply `one` to every row of arrays `[B, ...]`.

    All rows run at once, except on a CPU, where they run in turn: there, `lax.switch` then costs only the branch it
    takes.

    Args:
        one: function of one row of each array.
        *rows: arrays `[B, ...]`.

    """

    def in_turn(*rows):
        return jax.lax.map(lambda row: one(*row), rows)

    return jax.lax.platform_dependent(*rows, cpu=in_turn, default=jax.vmap(one))


def uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Draw numbers in [0, 1); a sampler for `jaxcnn.core.collectives.draw`."""
    return jax.random.uniform(key, shape)


def to_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width, given one number or two."""
    height, width = whole_numbers("size", size, 2)
    return height, width


def check_range(name: str, value: Range, low: float, high: float = math.inf) -> None:
    """Refuse anything but (smallest, largest) within bounds."""
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
    """Draw rectangle sizes until one fits.

    Args:
        drawn: `[B, 2 * ATTEMPTS]` uniform numbers.
        area: area of the image in pixels.
        scale: smallest and largest share of the area.
        ratio: smallest and largest aspect ratio `a / b`, drawn uniformly in its logarithm.
        fits: whether sizes fit, `([B, ATTEMPTS], [B, ATTEMPTS]) -> [B, ATTEMPTS]`.

    Returns:
        Sides `a` and `b`, whole numbers as floats `[B]`, with the aspect ratio `a / b`; and `[B]`, whether any attempt
        fitted.

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

"""What attacks share: what they raise, how they move, and how restarts are joined."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.core.collectives import draw
from jaxcnn.core.types import InputError, align, check_numbers, check_whole
from jaxcnn.tasks.pixels import blanked, check_range, concrete

Array = jax.Array
LogitsOf = Callable[[Array], Array]  # images [B, H, W, C] in 0..1 -> logits [B, K]
Attack = Callable[[LogitsOf, Array, Array, Array], Array]  # (logits_of, images, labels, key) -> images
Norm = Literal["linf", "l2"]
Loss = Literal["ce", "dlr"]
Objective = Callable[[Array, Any], Array]  # (logits [B, K], labels) -> values [B], which an attack raises


class Seen(NamedTuple):
    """What an attack sees at its images: the objective's gradient and values `[B]`, and which rows it has won."""

    slope: Array
    value: Array
    won: Array


def check(eps: float, norm: str, **counts: int) -> None:
    """Raise `InputError` for a distance below 0, an unknown norm, or a count below 1."""
    check_numbers(eps=eps)
    if not 0 <= eps < math.inf:
        raise InputError(f"eps={eps}: must be a number of at least 0, for images in 0..1 (8/255, not 8)")
    if norm not in ("linf", "l2"):
        raise InputError(f"norm={norm!r}: must be 'linf' or 'l2'")
    if norm == "linf" and eps > 1:
        raise InputError(f"eps={eps}: images lie in 0..1, so no value changes by more than 1 (8/255, not 8)")
    for name, count in counts.items():
        check_whole(name, count, 1)


def checked(attack: Attack, labelled: bool = True) -> Attack:
    """Let an attack refuse images and labels that it would misread.

    A row with label -1 has no class, and its image is returned unchanged. A traced program cannot refuse: there, a
    label that is not a class, or a pixel outside 0..1, makes the row's image NaN. Images become float32.

    Args:
        attack: the attack.
        labelled: whether its labels are classes; False where only the caller's loss reads them.

    Raises:
        InputError: (when called) see `check_images` and `check_labels`.

    """

    @functools.wraps(attack)
    def run(logits_of: LogitsOf, images: Array, labels: Any, key: Array) -> Array:
        check_images(images)
        images = images.astype(jnp.float32)
        if not labelled:
            return blanked(attack(logits_of, images, labels, key), images)
        logits = jax.eval_shape(logits_of, images)
        if getattr(logits, "ndim", 0) != 2 or logits.shape[-1] < 2:
            line = f"logits of shape {getattr(logits, 'shape', type(logits).__name__)}: must be [B, K] with K >= 2"
            raise InputError(f"{line}; for one logit z, give [0, z]")
        classes = logits.shape[-1]
        check_labels(labels, len(images), classes)
        labels = jnp.asarray(labels).astype(jnp.int32)
        known = (labels >= 0) & (labels < classes)
        changed = attack(logits_of, images, jnp.where(known, labels, 0), key)
        unknown = jnp.where(align(labels == -1, images), images, jnp.nan)
        return blanked(jnp.where(align(known, images), changed, unknown), images)

    return run


def check_images(images: Any) -> None:
    """Raise `InputError` for images that are not floats `[B, ...]` in 0..1; of traced ones, the range is not known."""
    if not hasattr(images, "dtype"):
        raise InputError(f"images: are a {type(images).__name__}; give an array [B, H, W, C]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"images of {images.dtype}: attacks need floats in 0..1; divide uint8 by 255")
    if images.ndim < 2 or not len(images):
        raise InputError(f"images of shape {tuple(images.shape)}: must be [B, H, W, C], with at least one row")
    if concrete(images):
        check_range(images)


def check_labels(labels: Any, count: int, classes: int) -> None:
    """Raise `InputError` for labels that are not classes `[B]`, or -1; of traced ones, the values are not known."""
    dtype, shape = jnp.asarray(labels).dtype, jnp.shape(labels)
    if shape != (count,) or not jnp.issubdtype(dtype, jnp.integer):
        raise InputError(f"labels {dtype} of shape {shape}: must be integers [{count}], one class per image")
    outside = [x for x in np.asarray(labels).tolist() if not -1 <= x < classes] if concrete(labels) else []
    if outside:
        raise InputError(f"label {outside[0]}: must be from 0 to {classes - 1}, or -1 for none")


def objective(loss: Loss | Objective, targeted: bool = False) -> Objective:
    """Return what an attack raises: the cross-entropy, the difference of logits or a function; negative for targets."""
    if callable(loss):
        return loss
    if loss not in ("ce", "dlr"):
        raise InputError(f"loss={loss!r}: must be 'ce' or 'dlr'")
    chosen = cross_entropy if loss == "ce" else difference
    return (lambda logits, labels: -chosen(logits, labels)) if targeted else chosen


def look(logits_of: LogitsOf, labels: Any, raised: Objective, targeted: bool | None = False) -> Callable[[Array], Seen]:
    """Return the function from images to what an attack sees there; with `targeted=None`, no row is ever won."""

    def total(x: Array) -> tuple[Array, tuple[Array, Array]]:
        logits = logits_of(x)
        values = raised(logits, labels)
        won = jnp.zeros(len(x), bool) if targeted is None else (logits.argmax(-1) == labels) == targeted
        return values.sum(), (values, won)

    def seen(x: Array) -> Seen:
        slope, (value, won) = jax.grad(total, has_aux=True)(x)
        return Seen(slope, value, won)

    return seen


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return the cross-entropy of each row, `[B]`."""
    return -own(jax.nn.log_softmax(logits), labels)


def own(logits: Array, labels: Array) -> Array:
    """Return the logit of each row's label, `[B]`."""
    return jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]


def others(logits: Array, labels: Array) -> Array:
    """Return the logits with minus infinity at each row's label, `[B, K]`."""
    return jnp.where(jax.nn.one_hot(labels, logits.shape[-1], dtype=bool), -jnp.inf, logits)


def margin(logits: Array, labels: Array) -> Array:
    """Return by how much the best wrong class leads, `[B]`; above 0 where the label does not win."""
    return others(logits, labels).max(-1) - own(logits, labels)


def difference(logits: Array, labels: Array) -> Array:
    """Return the margin over the difference of the first and third logit, `[B]`."""
    if logits.shape[-1] < 3:
        raise InputError(f"loss='dlr': needs at least 3 classes, and there are {logits.shape[-1]}; use 'ce'")
    order = lax.top_k(logits, 3)[0]
    return margin(logits, labels) / jnp.maximum(order[:, 0] - order[:, 2], 1e-12)


def targeted_difference(logits: Array, labels: Array, goals: Array) -> Array:
    """Return by how much the classes `goals` `[B]` lead the labels, over the range of the first four logits, `[B]`."""
    order = lax.top_k(logits, 4)[0]
    return (own(logits, goals) - own(logits, labels)) / jnp.maximum(
        order[:, 0] - (order[:, 2] + order[:, 3]) / 2, 1e-12
    )


def direction(slope: Array, norm: str) -> Array:
    """Return the step of length 1 along which a linear function rises most: signs, or a vector of length 1."""
    if norm == "linf":
        return jnp.sign(slope)
    return slope / jnp.maximum(align(lengths(slope), slope), 1e-12)


def lengths(x: Array) -> Array:
    """Return the Euclidean length of each row, `[B]`."""
    flat = x.reshape(len(x), -1)
    top = jnp.maximum(jnp.abs(flat).max(-1), 1e-30)  # squares of small gradients vanish in float32
    return top * jnp.sqrt(((flat / top[:, None]) ** 2).sum(-1))


def project(x: Array, images: Array, eps: float, norm: str) -> Array:
    """Return the images in 0..1 within `eps` of `images` that are nearest to `x`, or for `"l2"` near it."""
    if norm == "linf":
        return x.clip(jnp.maximum(images - eps, 0), jnp.minimum(images + eps, 1))
    change = x - images
    size = align(lengths(change), change)
    return (images + change * jnp.minimum(1, eps / jnp.maximum(size, 1e-12))).clip(0, 1)


def start(key: Array, images: Array, eps: float, norm: str) -> Array:
    """Return a random place within `eps` of each image: uniform for `"linf"`, and in a random direction for `"l2"`."""
    if norm == "linf":
        noise = 2 * draw(jax.random.uniform, key, images.shape) - 1
        return project(images + eps * noise, images, eps, norm)
    ways, shares = jax.random.split(key)
    noise = direction(draw(jax.random.normal, ways, images.shape), norm)
    return project(
        images + eps * align(draw(jax.random.uniform, shares, images.shape[:1]), images) * noise, images, eps, norm
    )


def best_of(run: Callable[[Any], tuple[Array, Array]], several: Any, images: Array) -> tuple[Array, Array]:
    """Run an attack for each leading index of `several`, and keep the images of the highest score of each row.

    Args:
        run: `one -> (images, scores [B])`; infinite where the row is won.
        several: arrays with a leading axis, such as keys.
        images: `[B, H, W, C]`, where no score is above minus infinity.

    """

    def one(carry: Any, now: Any) -> tuple[Any, None]:
        x, score = carry
        new, here = run(now)
        better = here > score
        return (jnp.where(align(better, x), new, x), jnp.where(better, here, score)), None

    return lax.scan(one, (images, jnp.full(len(images), -jnp.inf)), several)[0]

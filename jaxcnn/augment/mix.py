"""Mixtures of two images and of their labels: mixup and cutmix.

A row's partner is its predecessor in the global batch, round the end (`jaxcnn.core.collectives.previous`): the order of rows is random
anyway, and so the partners are the same under jit, sharded and pmap, where one row moves between neighbouring devices. A row
that is padding, or whose partner is, stays as it is; so does one without a label, such as -1 or 255, which becomes a row of zeros
that `tasks.classification(ignore_label=...)` leaves out.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcnn.augment.core import Transform, as_float, height_width
from jaxcnn.augment.erase import inside
from jaxcnn.augment.spatial import maps
from jaxcnn.core.collectives import draw, previous
from jaxcnn.core.types import Batch, InputError, align, row_mask

Array = jax.Array


def mixup(alpha: float = 0.2, *, num_classes: int | None = None) -> Transform:
    """Blend each image with another, and their labels likewise (Zhang et al., 2017, arXiv:1710.09412).

    Args:
        alpha: the image's own share is drawn from Beta(alpha, alpha), for every row; 0 mixes nothing.
        num_classes: K, where labels are `[B]`; 2 for a single logit.

    Returns:
        A change of `image` `[B, ...]`, uint8 0..255 or float 0..1, to float 0..1, and of `label`, whole numbers `[B]` or numbers in 0..1
        `[B, K]`, to float32 `[B, K]`.

    Raises:
        InputError: a negative alpha, whole labels without `num_classes`, or a batch with boxes or masks.

    """
    _check(alpha, num_classes)

    def change(key: Array, batch: Batch) -> Batch:
        if maps(batch):
            raise InputError(
                f"mixup: cannot blend {' and '.join(maps(batch))}, which has a value for every pixel; use cutmix"
            )
        own, other, mixed = _pair({**batch, "image": as_float(batch["image"])}, num_classes, "mixup")
        share = jnp.where(mixed, _share(key, alpha, mixed), 1)

        def blend(a, b):
            return (align(share, a) * a + align(1 - share, b) * b).astype(a.dtype)

        return {**batch, **{name: blend(own[name], other[name]) for name in own}}

    return change


def cutmix(alpha: float = 1.0, *, num_classes: int | None = None) -> Transform:
    """Paste a rectangle of another image into each image (Yun et al., 2019, arXiv:1905.04899).

    The rectangle has the image's aspect ratio and its centre anywhere, and is cut at the border; the label's share is the area
    that is left after cutting, exactly. Masks and labels with a value for every pixel are pasted as the pixels are.

    Args:
        alpha: the image's own share before cutting is drawn from Beta(alpha, alpha), for every row; 0 mixes nothing.
        num_classes: K, where labels are `[B]`; 2 for a single logit.

    Returns:
        A change of `image` `[B, H, W, C]`, uint8 or float, which is kept, and of `label`, whole numbers `[B]` or numbers in 0..1
        `[B, K]`, to float32 `[B, K]`.

    Raises:
        InputError: a negative alpha, whole labels without `num_classes`, or a batch with boxes.

    """
    _check(alpha, num_classes)

    def change(key: Array, batch: Batch) -> Batch:
        h, w = height_width(batch["image"])
        follow = maps(batch)
        own, other, mixed = _pair(batch, num_classes, "cutmix")
        places, shares = jax.random.split(key)
        reach = 0.5 * jnp.sqrt(
            1 - _share(shares, alpha, mixed)
        )  # half a side of the rectangle, as a share of the image's
        centre = draw(jax.random.uniform, places, (*mixed.shape, 2))
        edges = [_interval(jnp.floor(centre[:, i] * n), jnp.floor(reach * n), n) for i, n in enumerate((h, w))]
        (top, high), (left, wide) = edges
        pasted = inside(top, left, high, wide, h, w) & mixed[:, None, None, None]

        def paste(a, b):
            return jnp.where(pasted if a.ndim == 4 else pasted[..., 0], b, a)

        out = {**batch, **{name: paste(own[name], other[name]) for name in ("image", *follow)}}
        if "label" not in follow and "label" in batch:
            share = jnp.where(mixed, 1 - high * wide / (h * w), 1)
            out["label"] = align(share, own["label"]) * own["label"] + align(1 - share, own["label"]) * other["label"]
        return out

    return change


def _check(alpha: float, num_classes: int | None) -> None:
    if not (0 <= alpha < math.inf):
        raise InputError(f"alpha={alpha}: must be a number of at least 0")
    if num_classes is not None and num_classes < 2:
        raise InputError(f"num_classes={num_classes}: must be at least 2, which is right for a single logit too")


def _pair(batch: Batch, num_classes: int | None, name: str) -> tuple[Batch, Batch, Array]:
    """Return the batch with probabilities for labels, that of the partners, and which rows may be mixed, `[B]`."""
    if "boxes" in batch:
        raise InputError(f"{name}: cannot mix boxes; leave it out for detection")
    own, present = {k: batch[k] for k in ("image", "mask", "label") if k in batch}, row_mask(batch) > 0
    if "label" in own and "label" not in maps(batch):
        single = jnp.shape(own["label"])[1:] in ((), (1,))
        own["label"] = probabilities(own["label"], num_classes, name)
        present &= (own["label"] != 0).any(-1) if single else True
    other, partner = previous((own, present.astype(jnp.float32)))
    mixed = present & (partner > 0)
    keep: Callable[[Array, Array], Array] = lambda a, b: jnp.where(align(mixed, a), b, a)  # noqa: E731 (0 x NaN of padding is NaN)
    return own, jax.tree.map(keep, own, other), mixed


def probabilities(label: Array, num_classes: int | None, name: str) -> Array:
    """Labels as float32 `[B, K]`: one per row, `[B]` or `[B, 1]`, as a row with a single 1; what is `[B, K]` already as it is.

    A label outside 0 to K - 1 becomes a row of zeros. With K = 2, a label between 0 and 1 is the probability of class 1.
    """
    label = jnp.asarray(label)
    floating = jnp.issubdtype(label.dtype, jnp.floating)
    if jnp.issubdtype(label.dtype, jnp.bool_) or label.dtype.itemsize < 4:  # K may be too large for int8
        label = label.astype(jnp.float32 if floating else jnp.int32)
    if not floating and not jnp.issubdtype(label.dtype, jnp.integer) or label.ndim not in (1, 2):
        raise InputError(
            f"{name}: label {label.dtype}{list(label.shape)}: must be whole numbers [B] or probabilities [B, K]"
        )
    if label.ndim == 2 and label.shape[1] > 1:
        if num_classes not in (None, label.shape[1]):
            raise InputError(
                f"{name}: label {label.dtype}{list(label.shape)}: must be [B], or [B, {num_classes}] with num_classes={num_classes}"
            )
        return label.astype(jnp.float32)
    if num_classes is None:
        raise InputError(
            f"num_classes=None: {name} needs it where labels are whole numbers, as here (2 for a single logit)"
        )
    label = label.reshape(len(label))
    if floating and num_classes == 2:
        return jnp.where(
            ((label >= 0) & (label <= 1))[:, None], jnp.stack([1 - label, label], -1).astype(jnp.float32), 0
        )
    return (label[:, None] == jnp.arange(num_classes, dtype=label.dtype)[None]).astype(jnp.float32)


def _share(key: Array, alpha: float, like: Array) -> Array:
    """Each row's share of its own image, `[B]`."""
    if alpha == 0:
        return jnp.ones(like.shape)
    if alpha == 1:  # Beta(1, 1), without the rejection sampling
        return draw(jax.random.uniform, key, like.shape)
    return draw(lambda k, s: jax.random.beta(k, alpha, alpha, s), key, like.shape)


def _interval(centre: Array, reach: Array, n: int) -> tuple[Array, Array]:
    """Start and length of what lies within `reach` of `centre` and in 0..n."""
    start = jnp.maximum(centre - reach, 0)
    return start, jnp.minimum(centre + reach, n) - start

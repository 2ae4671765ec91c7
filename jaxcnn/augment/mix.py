"""Transforms that mix two images and their labels: mixup and cutmix.

The partner of a row is the previous row of the global batch; the first row takes the last
(`jaxcnn.core.collectives.previous`). Rows are in random order anyway, so this gives the same partners under jit,
sharded and pmap, and only one row moves between neighbouring devices. A row stays unmixed if it or its partner is
padding or has no label, such as -1 or 255. A missing label becomes a row of zeros, which
`tasks.classification(ignore_label=...)` leaves out.
"""

import math

import jax
import jax.numpy as jnp

from jaxcnn.augment.core import Transform, as_float, height_width, mixing, on_field
from jaxcnn.augment.erase import inside
from jaxcnn.augment.spatial import check_target, maps
from jaxcnn.core.collectives import draw, previous
from jaxcnn.core.types import Batch, InputError, align, check_whole, row_mask

Array = jax.Array


def mixup(alpha: float = 0.2, *, num_classes: int | None = None, field: str = "image") -> Transform:
    """Blend each image and its label with another row (Zhang et al., 2017, arXiv:1710.09412).

    Args:
        alpha: the share of a row's own image is drawn from Beta(alpha, alpha) per row; 0 mixes nothing.
        num_classes: K, required for labels `[B]`; 2 for a single logit.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, ...]`, uint8 0..255 or float 0..1, to float 0..1, and of `label`, integers `[B]` or
        numbers in 0..1 `[B, K]`, to float32 `[B, K]`. Numbers to predict, `target` `[B]` or `[B, K]`, are blended too.

    Raises:
        InputError: a negative alpha, integer labels without `num_classes`, or a batch with boxes or masks.

    """
    _check(alpha, num_classes)

    def change(key: Array, batch: Batch) -> Batch:
        if maps(batch):
            raise InputError(f"mixup: cannot blend {' and '.join(maps(batch))}, with a value per pixel; use cutmix")
        own, other, mixed = _pair({**batch, "image": as_float(batch["image"])}, num_classes, "mixup")
        share = jnp.where(mixed, _share(key, alpha, mixed), 1)

        def blend(a, b):
            return (align(share, a) * a + align(1 - share, b) * b).astype(a.dtype)

        return {**batch, **{name: blend(own[name], other[name]) for name in own}}

    return on_field(mixing(change), field)


def cutmix(alpha: float = 1.0, *, num_classes: int | None = None, field: str = "image") -> Transform:
    """Paste a rectangle of another image into each image (Yun et al., 2019, arXiv:1905.04899).

    The rectangle has the aspect ratio of the image and a random centre, and is clipped at the border. The label's share
    is the area left after clipping. Masks, and labels with a value per pixel, are pasted like the pixels.

    Args:
        alpha: the share of a row's own image before clipping is drawn from Beta(alpha, alpha) per row; 0 mixes nothing.
        num_classes: K, required for labels `[B]`; 2 for a single logit.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, H, W, C]`, uint8 or float, which keeps its dtype, and of `label`, integers `[B]` or
        numbers in 0..1 `[B, K]`, to float32 `[B, K]`. Numbers to predict, `target` `[B]` or `[B, K]`, are blended too.

    Raises:
        InputError: a negative alpha, integer labels without `num_classes`, or a batch with boxes.

    """
    _check(alpha, num_classes)

    def change(key: Array, batch: Batch) -> Batch:
        h, w = height_width(batch["image"])
        check_target(batch)
        follow = maps(batch)
        own, other, mixed = _pair(batch, num_classes, "cutmix")
        places, shares = jax.random.split(key)
        reach = 0.5 * jnp.sqrt(1 - _share(shares, alpha, mixed))  # half the side, relative to the image
        centre = draw(jax.random.uniform, places, (*mixed.shape, 2))
        edges = [_interval(jnp.floor(centre[:, i] * n), jnp.floor(reach * n), n) for i, n in enumerate((h, w))]
        (top, high), (left, wide) = edges
        pasted = inside(top, left, high, wide, h, w) & mixed[:, None, None, None]

        def paste(a, b):
            return jnp.where(pasted if a.ndim == 4 else pasted[..., 0], b, a)

        out = {**batch, **{name: paste(own[name], other[name]) for name in ("image", *follow)}}
        share = jnp.where(mixed, 1 - high * wide / (h * w), 1)
        for name in {"label", "target"} & set(own) - set(follow):
            out[name] = align(share, own[name]) * own[name] + align(1 - share, own[name]) * other[name]
        return out

    return on_field(mixing(change), field)


def _check(alpha: float, num_classes: int | None) -> None:
    if not (0 <= alpha < math.inf):
        raise InputError(f"alpha={alpha}: must be a finite number of at least 0")
    if num_classes is not None:
        check_whole("num_classes", num_classes)
        if num_classes < 2:
            raise InputError(f"num_classes={num_classes}: must be at least 2; use 2 for a single logit")


def _pair(batch: Batch, num_classes: int | None, name: str) -> tuple[Batch, Batch, Array]:
    """Return the batch with labels as probabilities, the same of the partners, and which rows may be mixed, `[B]`."""
    if "boxes" in batch:
        raise InputError(f"{name}: cannot mix boxes; leave it out for detection")
    own, present = {k: batch[k] for k in ("image", "mask", "label") if k in batch}, row_mask(batch) > 0
    if "target" in batch and "target" not in maps(batch):  # numbers are blended as shares of classes are
        own["target"] = jnp.asarray(batch["target"], jnp.float32)
    if "label" in own and "label" not in maps(batch):
        single = jnp.shape(own["label"])[1:] in ((), (1,))
        own["label"] = probabilities(own["label"], num_classes, name)
        present &= (own["label"] != 0).any(-1) if single else True
    other, partner = previous((own, present.astype(jnp.float32)))
    mixed = present & (partner > 0)

    def keep(a: Array, b: Array) -> Array:
        return jnp.where(align(mixed, a), b, a)  # padding may be NaN, and 0 x NaN is NaN

    return own, jax.tree.map(keep, own, other), mixed


def probabilities(label: Array, num_classes: int | None, name: str) -> Array:
    """Return labels as float32 `[B, K]`: labels `[B]` or `[B, 1]` become one-hot, `[B, K]` stays.

    A label outside 0 to K - 1 becomes a row of zeros. With K = 2, a label between 0 and 1 is the probability of class
    1.

    Args:
        label: `[B]`, `[B, 1]` or `[B, K]`.
        num_classes: K; None for labels `[B, K]`.
        name: name of the transform, for messages.

    Raises:
        InputError: labels of the wrong shape or dtype, or no `num_classes` where it is needed.

    """
    label = jnp.asarray(label)
    floating = jnp.issubdtype(label.dtype, jnp.floating)
    if jnp.issubdtype(label.dtype, jnp.bool_) or label.dtype.itemsize < 4:  # int8 may not hold K
        label = label.astype(jnp.float32 if floating else jnp.int32)
    if not floating and not jnp.issubdtype(label.dtype, jnp.integer) or label.ndim not in (1, 2):
        raise InputError(
            f"{name}: label {label.dtype}{list(label.shape)}: must be whole numbers [B] or probabilities [B, K]"
        )
    if label.ndim == 2 and label.shape[1] > 1:
        if num_classes not in (None, label.shape[1]):
            raise InputError(
                f"{name}: label {label.dtype}{list(label.shape)}: must be [B], or [B, {num_classes}] with "
                f"num_classes={num_classes}"
            )
        return label.astype(jnp.float32)
    if num_classes is None:
        raise InputError(f"num_classes=None: {name} needs it for integer labels; use 2 for a single logit")
    label = label.reshape(len(label))
    if floating and num_classes == 2:
        both = jnp.stack([1 - label, label], -1).astype(jnp.float32)
        return jnp.where(((label >= 0) & (label <= 1))[:, None], both, 0)
    return (label[:, None] == jnp.arange(num_classes, dtype=label.dtype)[None]).astype(jnp.float32)


def _share(key: Array, alpha: float, like: Array) -> Array:
    """Draw each row's share of its own image, `[B]`."""
    if alpha == 0:
        return jnp.ones(like.shape)
    if alpha == 1:  # Beta(1, 1) is uniform and needs no rejection sampling
        return draw(jax.random.uniform, key, like.shape)
    return draw(lambda k, s: jax.random.beta(k, alpha, alpha, s), key, like.shape)


def _interval(centre: Array, reach: Array, n: int) -> tuple[Array, Array]:
    """Return start and length of the interval within `reach` of `centre`, clipped to 0..n."""
    start = jnp.maximum(centre - reach, 0)
    return start, jnp.minimum(centre + reach, n) - start

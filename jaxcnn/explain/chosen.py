"""One of many outputs: the logits of a pixel or of a box, which the explainers then explain like those of an image."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcnn.core.types import InputError, Tree
from jaxcnn.ops import boxes as box

Array = jax.Array


class Chosen:
    """A network of which only a part of the outputs is seen; see `at_pixel` and `at_box`."""

    def __init__(self, model: Any, pick: Callable[[Any], Array]) -> None:
        """Take a network, and a function from its outputs to logits `[B, K]`."""
        self.model, self.pick = model, pick

    def __getattr__(self, name: str) -> Any:
        """Return what the network has, such as `features` and `head`."""
        return getattr(self.__dict__["model"], name)

    def apply(self, variables: Tree, *given: Any, method: str = "__call__", **options: Any) -> Any:
        """Apply the network, and pick from its outputs; features stay as they are."""
        outputs = self.model.apply(variables, *given, method=method, **options)
        return outputs if method == "features" else self.pick(outputs)


def at_pixel(model: Any, pixel: Any) -> Chosen:
    """Return a network whose logits are those of one pixel, for all explainers.

    `grad_cam(at_pixel(model, (40, 60)), variables, image, layer=coarsest(model, variables, image))` is Seg-Grad-CAM
    (Vinogradova et al., 2020, arXiv:2002.11434) of one pixel.

    Args:
        model: a Linen module from `[B, H, W, C]` to logits `[B, H, W, K]`, or of a volume or a series.
        pixel: row and column, counted from 0, or as many numbers as there are spatial axes.

    Raises:
        InputError: when it is applied, the pixel is not one of the outputs'.

    """
    place = np.asarray(pixel)

    def pick(outputs: Any) -> Array:
        sides = outputs.shape[1:-1]
        inside = place.shape == (len(sides),) and place.dtype.kind in "iu" and (place >= 0).all()
        if not inside or (place >= sides).any():
            raise InputError(f"pixel={place.tolist()}: must be {len(sides)} integers within {tuple(sides)}")
        return outputs[(slice(None), *map(int, place))]

    return Chosen(model, pick)


def at_box(model: Any, boxes: Any, label: Any) -> Chosen:
    """Return a network whose logits are those of one box an image, for all explainers.

    Of all boxes before suppression, the one is taken that has most of the given box in common, times its score for the
    class; for a detection, this is the box that it was made from.

    Args:
        model: a detector, such as `models.fcos`.
        boxes: a box for each image, `[B, 4]`, yxyx in 0..1, such as the first one that was found.
        label: its class, `[B]`.

    Raises:
        InputError: the model is no detector, the shapes are others, or, unless traced, a box is not finite or a label
            is no class.

    """
    wanted, labels = jnp.asarray(boxes, jnp.float32), jnp.asarray(label, jnp.int32)
    if not hasattr(model, "scored"):
        raise InputError(f"model={type(model).__name__}: has no scored(); use a detector, such as models.fcos")
    if wanted.ndim != 2 or wanted.shape != (len(labels), 4):
        raise InputError(f"boxes of shape {wanted.shape}, label of shape {labels.shape}: must be [B, 4] and [B]")
    if not isinstance(labels, Tracer) and not bool(((labels >= 0) & (labels < model.num_classes)).all()):
        raise InputError(f"label={labels.tolist()}: must be classes from 0 to {model.num_classes - 1}")
    if not isinstance(wanted, Tracer) and not bool(jnp.isfinite(wanted).all()):
        raise InputError(f"boxes={wanted.tolist()}: must be finite, yxyx in 0..1")

    def pick(outputs: Any) -> Array:
        found, logits = model.scored(outputs)
        if found.ndim == 4:  # a box per class
            found = jnp.take_along_axis(found, labels[:, None, None, None], 2)[:, :, 0]
        common = box.iou(jax.lax.stop_gradient(found), wanted[:, None])[..., 0]
        score = jax.nn.sigmoid(jnp.take_along_axis(logits, labels[:, None, None], 2)[..., 0])
        return jnp.take_along_axis(logits, (common * score).argmax(1)[:, None, None], 1)[:, 0]

    return Chosen(model, pick)


def coarsest(model: Any, variables: Tree, image: Array) -> str:
    """Return the name of the feature with the fewest pixels, the last of them, for `grad_cam` of a pixel or a box.

    Args:
        model: a network with `features`; of a detector those of its backbone count, as the levels of its pyramid see
            boxes of one size each.
        variables: its variables.
        image: `[B, *spatial, C]`.

    Raises:
        InputError: the network has no features with height and width.

    """

    def names(module: Any, x: Array) -> dict[str, Array]:
        inside = getattr(module, "backbone", None)
        return module.features(x) if inside is None else inside.features(x)

    model = model.model if isinstance(model, Chosen) else model
    if not hasattr(model, "features"):
        raise InputError(f"{type(model).__name__}: has no features(x); give one of jaxcnn.models, or add them")
    shapes = jax.eval_shape(lambda variables, x: model.apply(variables, x, method=names), variables, image)
    spatial = {name: int(np.prod(x.shape[1:-1])) for name, x in shapes.items() if x.ndim == image.ndim}
    spatial = {name: pixels for name, pixels in spatial.items() if pixels > 1} or spatial
    if not spatial:
        raise InputError(f"{type(model).__name__}: has no features with height and width")
    least = min(spatial.values())
    return [name for name, pixels in spatial.items() if pixels == least][-1]

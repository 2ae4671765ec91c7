"""When a network hears or sees a class in a sound or a series: the fall of its logit when a span of time is covered."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import InputError, Tree
from jaxcnn.explain.cam import occlusion

Array = jax.Array
SPANS = 20  # spans that divide a row; they overlap by half


class _Timed:
    """A network for sounds `[B, T]` or series `[B, T, C]` whose input has an axis more, as explainers of images ask."""

    def __init__(self, model: Any, length: Array, flat: bool) -> None:
        self.model, self.length, self.flat = model, length, flat

    def apply(self, variables: Tree, given: Array, *, train: bool = False, **_: Any) -> Array:
        x = given[:, :, 0, 0] if self.flat else given[:, :, 0]
        return self.model.apply(variables, x, length=self.length, train=train)


def over_time(model: Any, variables: Tree, x: Any, length: Any = None, target: Any = None) -> np.ndarray:
    """Measure how much each step of sounds or series speaks for a class (Zeiler and Fergus, 2013, arXiv:1311.2901).

    Spans of a twentieth of the row are covered one after another: with silence in a sound, and with the mean of each
    channel in a series. It needs no more of a network than its outputs.

    Args:
        model: a network that is called with `length=`, such as `models.wave_cnn` or `models.inception_time`.
        variables: variables of the model.
        x: sounds `[B, T]` or series `[B, T, C]`, floats.
        length: steps of each row that are no padding, int `[B]`; None for all.
        target: class to explain, from 0: one for all rows, or one per row; by default the predicted one.

    Returns:
        float32 `[B, T]`: the mean fall of the logit over the spans that cover a step, positive where it speaks for the
        class; 0 in padding.

    Raises:
        InputError: `x` has another shape, or a length is impossible.

    """
    x = np.asarray(x, np.float32)
    if x.ndim not in (2, 3) or not x.size:
        raise InputError(f"x of shape {x.shape}: must be sounds [B, samples] or series [B, steps, channels]")
    steps = np.full(len(x), x.shape[1]) if length is None else np.asarray(length)
    if steps.shape != (len(x),) or steps.min() < 1 or steps.max() > x.shape[1]:
        raise InputError(f"length={length}: must be 1 to {x.shape[1]} for each of {len(x)} rows")
    if steps.dtype.kind not in "iu":
        raise InputError(f"length of dtype {steps.dtype}: must be integers")
    if target is not None and (np.asarray(target).dtype.kind not in "iu" or np.shape(target) not in ((), (len(x),))):
        raise InputError(f"target={target}: must be one integer, or one for each of {len(x)} rows")
    flat = x.ndim == 2
    chosen = [None] * len(x) if target is None else np.broadcast_to(np.asarray(target), len(x)).tolist()

    def fall(window: int, variables: Tree, row: Array, length: Array, fill: Array, target: Array | None) -> Array:
        timed = _Timed(model, length, flat)
        return occlusion(timed, variables, row, target, window=(window, 1), fill=fill)[0, :, 0]

    run, out = jax.jit(fall, static_argnums=0), np.zeros(x.shape[:2], np.float32)
    for i, (row, n, one) in enumerate(zip(x, steps.tolist(), chosen, strict=True)):
        fill = np.zeros(1, np.float32) if flat else row[:n].mean(0)
        label = None if one is None else jnp.full(1, one, jnp.int32)
        found = run(
            max(n // SPANS, 1), variables, row.reshape(1, len(row), 1, -1), jnp.full(1, n, jnp.int32), fill, label
        )
        out[i, :n] = np.asarray(found)[:n]
    return out

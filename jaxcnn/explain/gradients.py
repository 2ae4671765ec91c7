"""Explanations by gradients: of the input, of noisy copies, along a path, and guided by the rectifiers.

All functions take images in the form that the model takes: prepared floats `[B, H, W, C]`, which `prepared` makes from
uint8 images for a trained run. The functions are pure; compile those that you call often, as in `jax.jit(lambda
variables, image: input_gradient(model, variables, image))`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError, Tree, align, check_whole
from jaxcnn.explain.interpreter import Op, execute, trace
from jaxcnn.tasks.model import prepare

Array = jax.Array
Target = Array | int | None


def prepared(loaded: Any, images: Any) -> Array:
    """Prepare images as the model of a run takes them.

    Args:
        loaded: result of `jaxcnn.load_run`.
        images: `[B, H, W, C]`, uint8 0..255 or float 0..1.

    Raises:
        InputError: the run has a task of your own, whose preparation is unknown.

    """
    if loaded.config["build"] is None:
        raise InputError(
            "the run has a task of your own: prepare the images as it does, and give the explainers your model"
        )
    options = loaded.config["build"]["task"]["options"]
    known = ("mean", "std", "size", "resize", "interpolation")
    return prepare(jnp.asarray(images), **{k: options[k] for k in known if options.get(k) is not None})


def logits(model: Any, variables: Tree, image: Array) -> Array:
    """Return the outputs `[B, K]` of a model, at least float32."""
    return promote_float32(model.apply(variables, image, train=False))


def targets(outputs: Array, target: Target = None) -> Array:
    """Return the class to explain per row, int `[B]`.

    A single logit stands for class 1, and its negative for class 0, also for one `"multilabel"` label.

    Args:
        outputs: logits `[B, K]`.
        target: None for the predicted class, one class for all rows, or one per row.

    Raises:
        InputError: the wrong shape or dtype or, unless traced, a class outside 0 to K - 1.

    """
    rows, classes = outputs.shape[0], max(outputs.shape[-1], 2)
    if target is None:
        return outputs.argmax(-1) if outputs.shape[-1] > 1 else (outputs[:, 0] > 0).astype(jnp.int32)
    given = target if isinstance(target, jax.Array) else np.asarray(target)
    if given.shape not in ((), (rows,)) or not jnp.issubdtype(given.dtype, jnp.integer):
        raise InputError(
            f"target of shape {given.shape} and dtype {given.dtype}: must be one integer, or "
            f"one for each of {rows} images"
        )
    if not isinstance(given, Tracer):
        outside = np.asarray(given).ravel()[(np.asarray(given).ravel() < 0) | (np.asarray(given).ravel() >= classes)]
        if outside.size:
            raise InputError(f"target={outside[0]}: must be a class from 0 to {classes - 1}")
    return jnp.broadcast_to(jnp.asarray(given, jnp.int32), (rows,))


def seed(outputs: Array, target: Array) -> Array:
    """Return the gradient `[B, K]` of the target logit in the outputs: 1 for its own, -1 for class 0 of a single logit.

    A target that turns out at run time not to be a class gives NaN instead of a blank map.
    """
    if outputs.shape[-1] == 1:
        slope = jnp.where(target == 1, 1, -1)[:, None].astype(outputs.dtype)
    else:
        slope = jax.nn.one_hot(target, outputs.shape[-1], dtype=outputs.dtype)
    return jnp.where(((target >= 0) & (target < max(outputs.shape[-1], 2)))[:, None], slope, jnp.nan)


def chosen(outputs: Array, target: Array) -> Array:
    """Return the logits `[B]` of the targets `[B]`; see `targets`."""
    slope = seed(outputs, target)
    return jnp.where(slope == 0, 0, slope * outputs).sum(-1)


def heat(relevance: Array, absolute: bool = False) -> Array:
    """Reduce channels to one value per pixel, `[B, H, W]`: their sum, or with `absolute` the largest absolute value."""
    return jnp.abs(relevance).max(-1) if absolute else relevance.sum(-1)


def input_gradient(model: Any, variables: Tree, image: Array, target: Target = None) -> Array:
    """Gradient of a logit in the image, `[B, H, W, C]` (Simonyan et al., 2013, arXiv:1312.6034).

    Args:
        model: a Linen module from `[B, H, W, C]` to logits `[B, K]`.
        variables: variables of the model.
        image: `[B, H, W, C]` in the form that the model takes.
        target: class to explain; by default the predicted one. See `targets`.

    """

    def score(image, target):
        return chosen(logits(model, variables, image), target).sum()

    return jax.grad(score)(image, targets(logits(model, variables, image), target))


def smooth_grad(
    model: Any,
    variables: Tree,
    image: Array,
    target: Target = None,
    *,
    key: Array,
    samples: int = 32,
    noise: float = 0.15,
) -> Array:
    """Mean gradient over noisy copies of the image, `[B, H, W, C]` (Smilkov et al., 2017, arXiv:1706.03825).

    Args:
        model: a Linen module from `[B, H, W, C]` to logits `[B, K]`.
        variables: variables of the model.
        image: `[B, H, W, C]` in the form that the model takes.
        target: class to explain; by default the predicted one. See `targets`.
        key: random key of the noise.
        samples: number of noisy copies, computed one after the other.
        noise: standard deviation of the noise, as a share of each image's range.

    Raises:
        InputError: `samples` below 1.

    """
    check_whole("samples", samples)
    if samples < 1:
        raise InputError(f"samples={samples}: must be at least 1")
    target = targets(logits(model, variables, image), target)
    scale = align(noise * jnp.ptp(image.reshape(len(image), -1), 1), image)

    def step(total: Array, key: Array) -> tuple[Array, None]:
        noisy = image + scale * jax.random.normal(key, image.shape, image.dtype)
        return total + input_gradient(model, variables, noisy, target), None

    return lax.scan(step, jnp.zeros_like(image), jax.random.split(key, samples))[0] / samples


class Integrated(NamedTuple):
    """Integrated gradients, with a check that they add up.

    Attributes:
        relevance: `[B, H, W, C]`.
        difference: logit of the image minus that of the baseline, `[B]`.
        error: sum of the relevance minus the difference, `[B]`; more steps make it smaller.

    """

    relevance: Array
    difference: Array
    error: Array


def integrated_gradients(
    model: Any,
    variables: Tree,
    image: Array,
    target: Target = None,
    *,
    baseline: Array | float = 0.0,
    steps: int = 64,
    chunk: int = 1,
) -> Integrated:
    """Gradients along the line from a baseline, times its length (Sundararajan et al., 2017, arXiv:1703.01365).

    Args:
        model: a Linen module from `[B, H, W, C]` to logits `[B, K]`.
        variables: variables of the model.
        image: `[B, H, W, C]` in the form that the model takes.
        target: class to explain; by default the predicted one. See `targets`.
        baseline: start of the path, in the form that the model takes: a number (0 is the mean image if pixels are
            normalised) or an array.
        steps: number of points on the path, each in the middle of its part.
        chunk: number of points computed at once, a divisor of `steps`; more need more memory and fewer passes.

    Raises:
        InputError: `steps` below 1, or not a multiple of `chunk`.

    """
    for name, value in (("chunk", chunk), ("steps", steps)):
        check_whole(name, value)
    if steps < 1 or chunk < 1 or steps % chunk:
        raise InputError(f"steps={steps}, chunk={chunk}: steps must be at least 1 and a multiple of chunk")
    outputs = logits(model, variables, image)
    target, start = targets(outputs, target), jnp.broadcast_to(jnp.asarray(baseline, image.dtype), image.shape)
    rows = len(image)

    def step(total: Array, shares: Array) -> tuple[Array, None]:
        points = jnp.concatenate([start + share * (image - start) for share in shares])  # [chunk * B, H, W, C]
        gradient = input_gradient(model, variables, points, jnp.tile(target, chunk))
        return total + gradient.reshape(chunk, rows, *image.shape[1:]).sum(0), None

    shares = ((jnp.arange(steps) + 0.5) / steps).astype(image.dtype).reshape(-1, chunk)
    mean = lax.scan(step, jnp.zeros_like(image), shares)[0] / steps
    relevance = mean * (image - start)
    difference = chosen(outputs, target) - chosen(logits(model, variables, start), target)
    return Integrated(relevance, difference, relevance.sum(tuple(range(1, relevance.ndim))) - difference)


def guided_backprop(model: Any, variables: Tree, image: Array, target: Target = None) -> Array:
    """Gradient in the image that rectifiers pass only where it is positive, `[B, H, W, C]`.

    ReLU and ReLU6 are rectifiers; other activations keep their gradient. The maps are known to depend little on the
    upper layers (Adebayo et al., 2018, arXiv:1810.03292); see `checks.randomised`. Arguments are those of
    `input_gradient`.

    Reference: Springenberg et al., 2014, arXiv:1412.6806.
    """
    program = trace(model, variables, image)

    def rule(op: Op, values: list[Any], live: tuple[bool, ...]) -> dict[int, Array] | None:
        if op.name not in ("max", "clip") or sum(live) > 1:
            return None
        place = live.index(True)

        def rectify(x: Array) -> Array:
            return op(*(x if live[i] else v for i, v in enumerate(values)))[0]

        return {op.outputs[0]: _guided(rectify)(values[place])}

    with ops.native_lowering():
        outputs, back = jax.vjp(lambda image: execute(program, image, rule)[program.logits], image)
        return back(seed(outputs, targets(outputs, target)))[0]


def _guided(rectify: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Give a rectifier a backward pass that drops negative gradients: not a derivative, so no forward mode."""
    wrapped = jax.custom_vjp(rectify)
    wrapped.defvjp(lambda x: (rectify(x), x), lambda x, c: (jnp.where(c > 0, jax.vjp(rectify, x)[1](c)[0], 0),))
    return wrapped

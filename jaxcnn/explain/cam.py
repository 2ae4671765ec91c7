"""Where a network looks: class activation maps for any of its features, and occlusion of patches of the image."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn import ops
from jaxcnn.core.types import InputError, Tree, whole_numbers
from jaxcnn.explain.gradients import Target, chosen, logits, seed, targets
from jaxcnn.explain.interpreter import Program, execute, trace

Array = jax.Array


def spatial_features(program: Program) -> dict[str, int]:
    """Return the features `[B, h, w, C]` that have more than one position and that the logits depend on, by name."""
    shapes = {n: v.aval.shape for op in program.ops for n, v in zip(op.outputs, op.eqn.outvars, strict=True)}
    shapes |= {n: jnp.shape(x) for n, x in program.constants.items()}
    needed = {program.logits}
    for op in reversed(program.ops):
        if needed & set(op.outputs):
            needed |= set(op.inputs)
    at = {name: n for name, n in program.features.items() if n in needed and n in shapes}
    return {name: n for name, n in at.items() if len(shapes[n]) == 4 and max(shapes[n][1:3]) > 1}


def choose_layer(program: Program, model: Any, layer: str | None) -> int:
    """Return the number of a spatial feature in a program.

    Args:
        program: trace of the model.
        model: the model, for messages.
        layer: name of the feature; None for the last one.

    Raises:
        InputError: there is no spatial feature, or none with this name.

    """
    found, kind = spatial_features(program), type(model).__name__
    if not found:
        raise InputError(
            f"{kind} has no spatial features ({', '.join(program.features)} have no height and width): use a gradient "
            "method"
        )
    if layer is None:
        return list(found.values())[-1]
    if layer not in program.features:
        raise InputError(f"layer={layer!r}: {kind} has no such layer; it has {', '.join(found)}")
    if layer not in found:
        raise InputError(
            f"layer={layer!r}: is not spatial, or does not lead to the logits; use one of {', '.join(found)}"
        )
    return found[layer]


def _activation_and_gradient(
    model: Any, variables: Tree, image: Array, target: Target, layer: str | None
) -> tuple[Array, Array]:
    program = trace(model, variables, image)
    number = choose_layer(program, model, layer)

    def plain(*_):
        return None

    shape = next(v.aval for op in program.ops for n, v in zip(op.outputs, op.eqn.outvars, strict=True) if n == number)

    def moved(delta: Array) -> tuple[Array, Array]:
        values = execute(program, image, plain, {number: delta})
        return values[program.logits], values[number]

    with ops.native_lowering():
        outputs, back, activation = jax.vjp(moved, jnp.zeros(shape.shape, shape.dtype), has_aux=True)
        (gradient,) = back(seed(outputs, targets(outputs, target)))
    return activation.astype(jnp.float32), gradient.astype(jnp.float32)


def enlarged(maps: Array, shape: Sequence[int]) -> Array:
    """Resize maps `[B, h, w]` to the height and width of the image, bilinearly."""
    return jax.image.resize(maps, (len(maps), *shape), "bilinear")


def grad_cam(model: Any, variables: Tree, image: Array, target: Target = None, *, layer: str | None = None) -> Array:
    """Grad-CAM, `[B, H, W]`: the positive part of the sum of channels, each weighted by its mean gradient.

    Args:
        model: a Linen module with `features` and `head`.
        variables: variables of the model.
        image: `[B, H, W, C]` in the form that the model takes.
        target: class to explain; see `targets`.
        layer: name of a feature; by default the last spatial one.

    Raises:
        InputError: the layer does not exist or is not spatial; the message names those that are.

    Reference: Selvaraju et al., 2016, arXiv:1610.02391.

    """
    activation, gradient = _activation_and_gradient(model, variables, image, target, layer)
    weights = gradient.mean((1, 2), keepdims=True)
    return enlarged(jax.nn.relu((weights * activation).sum(-1)), image.shape[1:3])


def grad_cam_plus_plus(
    model: Any, variables: Tree, image: Array, target: Target = None, *, layer: str | None = None
) -> Array:
    """Grad-CAM++, `[B, H, W]`: Grad-CAM with weights that also account for several instances of a class.

    The score is the exponential of the logit, as in the closed form of the paper. Arguments are those of `grad_cam`.

    Reference: Chattopadhay et al., 2017, arXiv:1710.11063.
    """
    activation, gradient = _activation_and_gradient(model, variables, image, target, layer)
    total = activation.sum((1, 2), keepdims=True)
    below = 2 * gradient**2 + total * gradient**3
    share = jnp.where(below == 0, 0, gradient**2 / jnp.where(below == 0, 1, below))
    weights = (share * jax.nn.relu(gradient)).sum((1, 2), keepdims=True)
    return enlarged(jax.nn.relu((weights * activation).sum(-1)), image.shape[1:3])


def occlusion(
    model: Any,
    variables: Tree,
    image: Array,
    target: Target = None,
    *,
    window: int | Sequence[int] = 8,
    strides: int | Sequence[int] | None = None,
    fill: Array | float = 0.0,
) -> Array:
    """Fall of the logit when a patch is covered, `[B, H, W]`: per pixel the mean over the patches that cover it.

    Args:
        model: a Linen module from `[B, H, W, C]` to logits; it needs no features.
        variables: variables of the model.
        image: `[B, H, W, C]` in the form that the model takes.
        target: class to explain; see `targets`.
        window: height and width of the patch, in pixels.
        strides: pixels from one patch to the next; by default half the window. The last patch ends at the border.
        fill: value of covered pixels, in the form that the model takes: a number or `[C]`.

    Raises:
        InputError: a window larger than the image, or strides that would skip pixels.

    Reference: Zeiler and Fergus, 2013, arXiv:1311.2901.

    """
    size = whole_numbers("window", window, 2)
    steps = tuple(max(k // 2, 1) for k in size) if strides is None else whole_numbers("strides", strides, 2)
    if any(k > n for k, n in zip(size, image.shape[1:3], strict=True)):
        raise InputError(f"window={size}: larger than the image of {image.shape[1]}x{image.shape[2]} pixels")
    if any(s > k for s, k in zip(steps, size, strict=True)):
        raise InputError(f"strides={steps}: must be at most the window, {size}, or some pixels are never covered")
    outputs = logits(model, variables, image)
    target = targets(outputs, target)
    starts = [jnp.asarray([*range(0, n - k, s), n - k]) for n, k, s in zip(image.shape[1:3], size, steps, strict=True)]
    places = jnp.stack(jnp.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 2)
    cover = jnp.broadcast_to(jnp.asarray(fill, image.dtype), (*size, image.shape[-1]))
    rows, columns = jnp.arange(image.shape[1])[:, None], jnp.arange(image.shape[2])[None]
    filled = jnp.zeros(image.shape[1:], image.dtype)

    def step(carry: tuple[Array, Array], place: Array) -> tuple[tuple[Array, Array], None]:
        top, left = place
        inside = (rows >= top) & (rows < top + size[0]) & (columns >= left) & (columns < left + size[1])  # [H, W]
        patch = lax.dynamic_update_slice(filled, cover, (top, left, 0))
        covered = jnp.where(inside[None, :, :, None], patch[None], image)
        fall = chosen(outputs, target) - chosen(logits(model, variables, covered), target)
        total, count = carry
        return (total + fall[:, None, None] * inside[None], count + inside), None

    zeros = jnp.zeros((len(image), *image.shape[1:3]), outputs.dtype), jnp.zeros(image.shape[1:3], outputs.dtype)
    (total, count), _ = lax.scan(step, zeros, places)
    return total / count[None]

"""Checks of explanations: deletion and insertion of pixels, and randomisation of the network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn import ops
from jaxcnn.core import jaxprs
from jaxcnn.core.types import InputError, Tree, check_numbers
from jaxcnn.explain.gradients import Target, chosen, logits, targets

Array = jax.Array


class Curves(NamedTuple):
    """Probability of the target while pixels are removed or inserted, the most relevant first.

    Attributes:
        deletion: area under the curve while pixels are replaced by the baseline, `[B]`; smaller is better.
        insertion: area under the curve while pixels are inserted into the baseline, `[B]`; larger is better.
        deleted: curve of the deletion, `[steps + 1, B]`.
        inserted: curve of the insertion, `[steps + 1, B]`.

    """

    deletion: Array
    insertion: Array
    deleted: Array
    inserted: Array


def probability(outputs: Array, target: Array) -> Array:
    """Return the probability of the targets, `[B]`; a single logit stands for class 1, and its negative for class 0."""
    if outputs.shape[-1] == 1:
        return jax.nn.sigmoid(chosen(outputs, target))
    return jnp.take_along_axis(jax.nn.softmax(outputs, -1), target[:, None], 1)[:, 0]


def deletion_insertion(
    model: Any,
    variables: Tree,
    image: Array,
    maps: Array,
    target: Target = None,
    *,
    baseline: Array | float = 0.0,
    steps: int = 32,
) -> Curves:
    """Measure maps by what their most relevant pixels do to the output (RISE; Petsiuk et al., 2018, arXiv:1806.07421).

    Args:
        model: a Linen module from `[B, H, W, C]` to logits.
        variables: variables of the model.
        image: `[B, H, W, C]` in the form that the model takes.
        maps: one value per pixel, `[B, H, W]`; ties go in reading order.
        target: class to explain; by default the class predicted for the whole image.
        baseline: replacement for pixels: a number, or an array such as `blurred` returns. A number leaves hard edges,
            which may change the output more than the missing pixels; even a random order then deletes well.
        steps: number of equal parts in which pixels are replaced.

    Raises:
        InputError: maps of the wrong shape, or `steps` outside 1 to the number of pixels.

    """
    rows, height, width = image.shape[:3]
    if maps.shape != (rows, height, width):
        raise InputError(
            f"maps of shape {maps.shape}: must be {(rows, height, width)}, one value per pixel; explain.heat makes them"
        )
    if not 1 <= steps <= height * width:
        raise InputError(f"steps={steps}: must be from 1 to {height * width}, the number of pixels")
    target = targets(logits(model, variables, image), target)
    start = jnp.broadcast_to(jnp.asarray(baseline, image.dtype), image.shape)
    order = jnp.argsort(-maps.reshape(rows, -1), 1, stable=True)
    rank = jnp.argsort(order, 1, stable=True).reshape(rows, height, width, 1)

    def step(_: None, share: Array) -> tuple[None, tuple[Array, Array]]:
        first = rank < jnp.round(share * height * width)
        both = jnp.concatenate([jnp.where(first, start, image), jnp.where(first, image, start)])
        deleted, inserted = jnp.split(probability(logits(model, variables, both), jnp.tile(target, 2)), 2)
        return None, (deleted, inserted)

    shares = jnp.arange(steps + 1) / steps
    _, (deleted, inserted) = lax.scan(step, None, shares)

    def area(curve):
        return jax.scipy.integrate.trapezoid(curve, dx=1 / steps, axis=0)

    return Curves(area(deleted), area(inserted), deleted, inserted)


def blurred(image: Array, sigma: float) -> Array:
    """Blur images `[B, H, W, C]` with a Gaussian of `sigma` pixels; border pixels are repeated outside."""
    check_numbers(sigma=sigma)
    if not 0 < sigma < np.inf:
        raise InputError(f"sigma={sigma}: must be positive")
    reach = max(int(3 * sigma), 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (weights / weights.sum())[:, None, None, None]
    line = jnp.asarray(np.repeat(kernel, image.shape[-1], -1), image.dtype)  # [n, 1, 1, C]
    wide = jnp.pad(image, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    return ops.depthwise_conv(ops.depthwise_conv(wide, line, padding="VALID"), line.swapaxes(0, 1), padding="VALID")


def rank_correlation(a: Any, b: Any) -> np.ndarray:
    """Spearman's correlation of two sets of maps, per row, `[B]`; ties share a mean rank; NaN for a constant map."""
    a, b = (_ranks(np.asarray(x, np.float64).reshape(len(x), -1)) for x in (a, b))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    below = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), below, out=np.full(len(a), np.nan), where=below > 0)


def _ranks(rows: np.ndarray) -> np.ndarray:
    out = np.empty_like(rows)
    for i, row in enumerate(rows):
        _, place, count = np.unique(row, return_inverse=True, return_counts=True)
        last = np.cumsum(count)
        out[i] = (last - (count - 1) / 2)[place]
    return out


def layers_from_head(model: Any, variables: Tree, image: Array) -> list[str]:
    """Return the parts of a network that have parameters, named as in `variables["params"]`, last computed first.

    Args:
        model: a Linen module.
        variables: variables of the model.
        image: `[B, H, W, C]` in the form that the model takes.

    """
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    owner = [path[1].key for path, _ in leaves]

    def run(variables, image):
        return model.apply(variables, image, train=False)

    order: list[str] = []

    def rule(
        eqn: Any, into: list[frozenset[str] | None]
    ) -> list[frozenset[str] | None]:  # parts; None: depends on the image
        names = frozenset[str]().union(*(parts for parts in into if parts is not None))
        if None not in into:
            return [names] * len(eqn.outvars)
        order.extend(sorted(names - set(order)))
        return [None] * len(eqn.outvars)

    jaxprs.walk(
        jax.make_jaxpr(run)(variables, image),
        [*(frozenset({name}) for name in owner), None],
        rule,
        lambda constant: frozenset(),
    )
    return order[::-1]


def randomised(
    model: Any,
    variables: Tree,
    image: Array,
    explain: Callable[[Tree], Any],
    *,
    key: Array,
    layers: list[str] | None = None,
) -> dict[str, np.ndarray]:
    """Compare maps with those of networks that are randomised step by step, from the head down.

    Parameters and statistics of norms are replaced by those of a randomly initialised network: first in the head, then
    also in the part below it, and so on. A method whose maps stay the same does not explain what the network has
    learned.

    Reference: Adebayo et al., 2018, arXiv:1810.03292.

    Args:
        model: a Linen module.
        variables: variables of the model.
        image: `[B, H, W, C]` in the form that the model takes.
        explain: function from variables to maps `[B, ...]`, such as a jitted
            `lambda v: grad_cam(model, v, image, target)`. Fix the target; otherwise it changes with the network.
        key: random key of the new parameters.
        layers: parts in the order in which they are randomised; by default `layers_from_head`.

    Returns:
        Dict from the part that was randomised last to the rank correlation per image, `[B]`.

    Raises:
        InputError: a part that the network does not have.

    """
    known = layers_from_head(model, variables, image)
    for name in layers or []:
        if name not in known:
            raise InputError(f"layers: {type(model).__name__} has no part {name!r}; it has {', '.join(known)}")
    new = jax.jit(lambda key: model.init(key, image, train=False))(key)
    before, found = np.asarray(explain(variables)), {}
    current = {collection: dict(parts) for collection, parts in variables.items()}
    for name in layers or known:
        for collection, parts in current.items():
            if name in parts:
                parts[name] = new[collection][name]
        found[name] = rank_correlation(before, np.asarray(explain({k: dict(parts) for k, parts in current.items()})))
    return found

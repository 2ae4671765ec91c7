"""Whether an explanation says something: deletion and insertion, and what it becomes when the network forgets what it learned."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn import ops
from jaxcnn.core import jaxprs
from jaxcnn.core.types import InputError, Tree
from jaxcnn.explain.gradients import Target, chosen, logits, targets

Array = jax.Array


class Curves(NamedTuple):
    """What happens to the probability of the target while pixels go or come, the most relevant first.

    Attributes:
        deletion: area under the curve while they are replaced by the baseline, `[B]`; small is good.
        insertion: area while they are put into the baseline, `[B]`; large is good.
        deleted: the curve of the first, `[steps + 1, B]`.
        inserted: that of the second.

    """

    deletion: Array
    insertion: Array
    deleted: Array
    inserted: Array


def probability(outputs: Array, target: Array) -> Array:
    """Softmax probability of the targets, `[B]`; of a single logit the sigmoid, for class 0 that of its negative."""
    if outputs.shape[-1] == 1:
        return jax.nn.sigmoid(chosen(outputs, target))
    return jnp.take_along_axis(jax.nn.softmax(outputs, -1), target[:, None], 1)[:, 0]


def deletion_insertion(
    model: Any, variables: Tree, image: Array, maps: Array, target: Target = None, *, baseline: Array | float = 0.0, steps: int = 32
) -> Curves:
    """Measure a map by what its most relevant pixels do to the output (RISE; Petsiuk et al., 2018, arXiv:1806.07421).

    Args:
        model: a Linen module from `[B, H, W, C]` to logits.
        variables: its own.
        image: `[B, H, W, C]` as the model takes it.
        maps: a value a pixel, `[B, H, W]`; equal ones go from left to right, then down.
        target: which class, by default the one predicted for the whole image.
        baseline: what pixels are replaced by, a number or an array, such as `blurred` makes. A number leaves hard edges, which
            may do more to the output than what is missing: a random order then deletes well.
        steps: parts of equal size, all images of a part at once.

    Raises:
        InputError: maps of another size, or `steps` outside 1 to the number of pixels.

    """
    rows, height, width = image.shape[:3]
    if maps.shape != (rows, height, width):
        raise InputError(f"maps of shape {maps.shape}: must be {(rows, height, width)}, one value a pixel; explain.heat makes them")
    if not 1 <= steps <= height * width:
        raise InputError(f"steps={steps}: must be from 1 to the {height * width} pixels")
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
    area = lambda curve: jax.scipy.integrate.trapezoid(curve, dx=1 / steps, axis=0)  # noqa: E731
    return Curves(area(deleted), area(inserted), deleted, inserted)


def blurred(image: Array, sigma: float) -> Array:
    """Images `[B, H, W, C]` under a Gaussian of standard deviation `sigma` pixels; those outside are as those of the border."""
    reach = max(int(3 * sigma), 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    line = jnp.asarray(np.repeat((weights / weights.sum())[:, None, None, None], image.shape[-1], -1), image.dtype)  # [n, 1, 1, C]
    wide = jnp.pad(image, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    return ops.depthwise_conv(ops.depthwise_conv(wide, line, padding="VALID"), line.swapaxes(0, 1), padding="VALID")


def rank_correlation(a: Any, b: Any) -> np.ndarray:
    """Spearman's correlation of two sets of maps, row by row, `[B]`; equal values share their mean rank; NaN for a constant map."""
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
    """Names of the parts of a network that have parameters, as in `variables["params"]`, the last to be computed first."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    owner = [path[1].key for path, _ in leaves]
    run = lambda variables, image: model.apply(variables, image, train=False)  # noqa: E731
    order: list[str] = []

    def rule(eqn: Any, into: list[frozenset[str] | None]) -> list[frozenset[str] | None]:  # parts; None: depends on the image
        names = frozenset[str]().union(*(parts for parts in into if parts is not None))
        if None not in into:
            return [names] * len(eqn.outvars)
        order.extend(sorted(names - set(order)))
        return [None] * len(eqn.outvars)

    jaxprs.walk(jax.make_jaxpr(run)(variables, image), [*(frozenset({name}) for name in owner), None], rule, lambda constant: frozenset())
    return order[::-1]


def randomised(
    model: Any, variables: Tree, image: Array, explain: Callable[[Tree], Any], *, key: Array, layers: list[str] | None = None
) -> dict[str, np.ndarray]:
    """Rank correlation of maps with those of networks that forget, from the head down (Adebayo et al., 2018, arXiv:1810.03292).

    Parameters, and statistics of norms, become those of a new network: of the head first, then of the part below it as well,
    and so on. A method whose maps stay as they were does not explain what the network has learned.

    Args:
        model: a Linen module.
        variables: its own.
        image: `[B, H, W, C]` as the model takes it.
        explain: variables to maps `[B, ...]`, such as a jitted `lambda v: grad_cam(model, v, image, target)`; give it the target, which
            else changes with the network.
        key: of the new values.
        layers: parts in the order in which they are forgotten; by default `layers_from_head`.

    Returns:
        Name of the part that was forgotten last to the correlation of each image, `[B]`.

    Raises:
        InputError: a part that the network does not have.

    """
    known = layers_from_head(model, variables, image)
    for name in layers or []:
        if name not in known:
            raise InputError(f"layers: {type(model).__name__} has no part {name!r}; it has {', '.join(known)}")
    new, before, found = jax.jit(lambda key: model.init(key, image, train=False))(key), np.asarray(explain(variables)), {}
    current = {collection: dict(parts) for collection, parts in variables.items()}
    for name in layers or known:
        for collection, parts in current.items():
            if name in parts:
                parts[name] = new[collection][name]
        found[name] = rank_correlation(before, np.asarray(explain({k: dict(parts) for k, parts in current.items()})))
    return found

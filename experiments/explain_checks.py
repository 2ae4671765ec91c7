"""Measurements of how far explanations can be trusted: completeness, conservation, deletion and randomisation."""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import explain
from jaxcnn.explain.gradients import chosen

Method = Callable[[Any, jax.Array, jax.Array], jax.Array]  # (variables, images, targets) -> maps [B, H, W]


def check(loaded: Any, seed: int, found: dict[str, Method], image: jax.Array, target: jax.Array) -> dict[str, Any]:
    """Measure how far to trust the methods, over all images (randomisation: the first four).

    Args:
        loaded: the run.
        seed: seed of the random maps and of the randomised weights.
        found: the methods.
        image: images as the model takes them.
        target: class of each image, `[N]`.

    Returns:
        The measurements, which are also printed as JSON.

    """
    model, variables, key = loaded.model, loaded.variables, jax.random.key(seed)
    print(f"{len(image)} images, {len(found)} methods", flush=True)
    report: dict[str, Any] = {"images": len(image)}
    if "integrated_gradients" in found:
        for steps in (32, 256):
            report[f"completeness_{steps}_steps"] = completeness(model, variables, image, target, steps)
    for name, options in {"zero": {}, "epsilon": {"epsilon": 0.1}, "gamma": {"gamma": 0.25}}.items():
        if f"lrp_{name}" in found or name == "zero" and "lrp_epsilon" in found:
            divide = jax.jit(lambda v, x, t, options=options: _shares(explain.lrp(model, v, x, t, **options)))
            report[f"conservation_{name}"] = {
                k: float(jnp.abs(x).max()) for k, x in divide(variables, image, target).items()
            }
    report["areas"] = areas(model, variables, image, target, found, key)
    report["randomisation"] = {}
    some = image[:4], target[:4]
    for name, method in found.items():
        left = explain.randomised(model, variables, some[0], lambda v, method=method: method(v, *some), key=key)  # noqa: B023
        report["randomisation"][name] = {part: round(float(np.nanmean(x)), 3) for part, x in left.items()}
        print(json.dumps({name: report["randomisation"][name]}), flush=True)
    print(json.dumps(report), flush=True)
    return report


def completeness(model: Any, variables: Any, image: jax.Array, target: jax.Array, steps: int) -> dict[str, float]:
    """Measure the error of integrated gradients.

    Args:
        model: the network.
        variables: its variables.
        image: images as the model takes them.
        target: class of each image, `[N]`.
        steps: steps of the integral.

    Returns:
        The largest error over the logit, and the median error over the difference, which may be near 0 by chance.

    """

    @jax.jit
    def measure(variables: Any, image: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, difference, error = explain.integrated_gradients(model, variables, image, target, steps=steps)
        logit = chosen(model.apply(variables, image, train=False), target)
        return jnp.abs(error / logit).max(), jnp.median(jnp.abs(error / difference))

    largest, median = measure(variables, image, target)
    return {"largest_over_logit": float(largest), "median_over_difference": float(median)}


def areas(
    model: Any, variables: Any, image: jax.Array, target: jax.Array, found: dict[str, Method], key: jax.Array
) -> dict[str, dict[str, float]]:
    """Measure mean deletion and insertion areas, with pixels replaced by the mean or by a blurred image.

    Random maps are measured as well. They have one value per pixel, or one per patch of an eighth of the image, the
    right comparison for a coarse map.

    Args:
        model: the network.
        variables: its variables.
        image: images as the model takes them.
        target: class of each image, `[N]`.
        found: the methods.
        key: random key of the random maps.

    """

    def random(v: Any, x: jax.Array, t: jax.Array) -> jax.Array:
        return jax.random.uniform(key, x.shape[:3])

    def patches(v: Any, x: jax.Array, t: jax.Array) -> jax.Array:
        return jax.image.resize(jax.random.uniform(key, (len(x), 8, 8)), x.shape[:3], "bilinear")

    measure = jax.jit(lambda v, x, m, t, b: explain.deletion_insertion(model, v, x, m, t, baseline=b, steps=20)[:2])
    baselines = {"mean": jnp.zeros_like(image), "blurred": explain.blurred(image, min(image.shape[1:3]) / 8)}
    out: dict[str, dict[str, float]] = {}
    for name, method in {**found, "random": random, "random_patches": patches}.items():
        maps, out[name] = method(variables, image, target), {}
        for kind, baseline in baselines.items():
            deletion, insertion = measure(variables, image, maps, target, baseline)
            out[name] |= {
                f"deletion_{kind}": round(float(deletion.mean()), 4),
                f"insertion_{kind}": round(float(insertion.mean()), 4),
            }
        print(json.dumps({name: out[name]}), flush=True)
    return out


def _shares(found: explain.Relevance) -> dict[str, jax.Array]:
    """Return the residual, and the shares of biases and epsilon, over the logit."""
    return {
        "residual": found.residual / found.logit,
        "biases": found.biases / found.logit,
        "absorbed": found.absorbed / found.logit,
    }

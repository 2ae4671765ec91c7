"""Certified accuracy of a run by randomised smoothing (Cohen et al., 2019, arXiv:1902.02918), and training for it."""

import time
from typing import Any

import jax
import numpy as np

import jaxcnn as jc
from jaxcnn import runs
from jaxcnn.core.collectives import draw
from jaxcnn.methods import attacks, smoothing

SIGMA = 0.25


def noise(sigma: float) -> attacks.Attack:
    """Return Gaussian noise as an attack, so that validation measures what smoothing builds on."""

    def change(logits_of: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        del logits_of, labels
        return (images + sigma * draw(jax.random.normal, key, images.shape)).clip(0, 1)

    return change


def certified(config: Any, loaded: runs.TrainedRun, data: Any, trained_with: float) -> dict[str, Any]:
    """Certify rows, print a line, and return the certified accuracy at each radius.

    Args:
        config: flags with `certify`, `sigma`, `radii`, `certify_samples`, `alpha`, `eval_batch_size`, `seed`.
        loaded: the run.
        data: the test rows, of which `certify` are drawn.
        trained_with: standard deviation of the noise of training; 0 for none.

    """
    began = time.perf_counter()
    some = data if config.certify >= data.size else runs.limited(data, config.certify)
    _, rows = jc.collect(loaded.task.predict, loaded.variables, some, keep=("image", "label"))
    found = smoothing.certify(
        loaded.task.predict, loaded.variables, rows["image"], config.sigma, n=config.certify_samples,
        alpha=config.alpha, batch_size=config.eval_batch_size, seed=config.seed,
    )  # fmt: skip
    radii = sorted(config.radii)
    shares = smoothing.certified_accuracy(found, rows["label"], radii)
    abstained = sum(one.label == smoothing.ABSTAIN for one in found)
    values = {
        "sigma": config.sigma, "sigma_in_training": trained_with, "norm": "l2", "count": some.size,
        "of": data.size, "samples": config.certify_samples, "alpha": config.alpha, "abstained": abstained,
        "mean_radius": float(np.mean([one.radius for one in found])),
        "radii": [
            {"radius": radius, "accuracy": float(x), "interval": list(jc.metrics.wilson_interval(float(x), some.size))}
            for radius, x in zip(radii, shares, strict=True)
        ],
        "seconds": time.perf_counter() - began,
    }  # fmt: skip
    print(line(values), flush=True)
    return values


def line(values: dict[str, Any]) -> str:
    """Return what was certified, as a line."""
    at = ", ".join(f"{100 * one['accuracy']:.1f} % at {one['radius']:g}" for one in values["radii"])
    trained = values["sigma_in_training"]
    how = f"trained with {trained:g}" if trained else "trained without noise"
    return (
        f"certified, sigma {values['sigma']:g} ({how}), {values['count']:,} of {values['of']:,} images, Euclidean "
        f"radii: {at}; abstained from {values['abstained']} ({values['seconds']:.0f} s)"
    )

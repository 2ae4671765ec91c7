"""Measures an MLP, a CNN and a CNN with augmentation on shifted images: `python -m experiments.studies.shift`.

A convolution commutes with shifts; a network with pooling and a dense layer is only partly invariant to them.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

import jaxcnn as jc
from experiments import mnist
from experiments.studies.core import Variant, run

PIXELS = range(1, 7)
VARIANTS = {"MLP": Variant(model="mlp"), "CNN": Variant(), "CNN, augmentation": Variant(flags={"augment": True})}


def moved(loaded: jc.runs.TrainedRun, splits: jc.data.Splits, config: mnist.Config) -> Mapping[str, float]:
    """Return the accuracy on test images shifted by 1 to 6 pixels, the mean of four directions; borders become 0."""
    del config
    step, test = jc.compile_step(jc.make_eval_step(loaded.task)), splits.test
    found = {}
    for n in PIXELS:
        ways = [(n, 0), (-n, 0), (0, n), (0, -n)]
        images = [shift(test.arrays["image"], *way) for way in ways]
        parts = [dataclasses.replace(test, arrays={**test.arrays, "image": image}) for image in images]
        accuracies = [jc.evaluate(step, loaded.variables, part)["accuracy"] for part in parts]
        found[f"accuracy, {n} px"] = float(np.mean(accuracies))
    return found


def shift(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Shift images; zeros fill the border.

    Args:
        images: `[N, H, W, C]`.
        down: pixels downwards.
        right: pixels to the right.

    """
    out, (h, w) = np.zeros_like(images), images.shape[1:3]
    ys, xs = (slice(max(n, 0), size + min(n, 0)) for n, size in ((down, h), (right, w)))
    yf, xf = (slice(max(-n, 0), size + min(-n, 0)) for n, size in ((down, h), (right, w)))
    out[:, ys, xs] = np.asarray(images)[:, yf, xf]
    return out


if __name__ == "__main__":
    run("shift", VARIANTS, moved)

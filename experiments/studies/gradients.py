"""Compares gradients under ReLU, tanh and sigmoid, ten convolutions deep: `python -m experiments.studies.gradients`.

The norms are those of the kernels' gradients over a batch of 256 training images, before the first update. Each network
is initialised as suits its activation.
"""

from collections.abc import Mapping

import jax
import numpy as np
import optax

import jaxcnn as jc
from experiments import mnist
from experiments.studies.core import Variant, run

DEPTH, ROWS = 10, 256
VARIANTS = {name: Variant({"depth": DEPTH, "pools": 2, "activation": name}) for name in ("relu", "tanh", "sigmoid")}


def norms(loaded: jc.runs.TrainedRun, splits: jc.data.Splits, config: mnist.Config) -> Mapping[str, float]:
    """Return the initial gradient norms of the first and the last convolution, and their ratio."""
    batch = splits.train.chunk(min(ROWS, splits.train.size), 0, 1, 1).at(0)
    state = jc.init_state(loaded.task, optax.identity(), batch, config.seed)

    def loss(params):
        mean, _ = loaded.task.loss(params, state.model_state, batch, jax.random.key(0))
        return mean.total / mean.weight

    grads = jax.jit(jax.grad(loss))(state.params)
    first, last = (float(np.linalg.norm(grads[f"convs_{i}"]["kernel"])) for i in (0, DEPTH - 1))
    return {"first layer": first, "last layer": last, "last over first": last / first if first else np.inf}


if __name__ == "__main__":
    run("gradients", VARIANTS, norms)

"""The learning-rate range test (Smith, 2017, arXiv:1506.01186): raise the rate at each update, and watch the loss.

Unlike the paper, it watches the smoothed training loss instead of the accuracy, and raises the rate by a factor.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.core.types import InputError
from jaxcnn.parallel.compile import host
from jaxcnn.runs import Ready
from jaxcnn.tasks.figures import new_figure

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
SMOOTH, WORSE, MARGIN = 0.9, 4.0, 10.0


class Curve(NamedTuple):
    """Result of the test: the rates, the smoothed loss at each rate, and the rate to use."""

    rates: list[float]
    losses: list[float]
    suggested: float


def schedule(steps: int = STEPS) -> optax.Schedule:
    """Return learning rates that rise geometrically from `LOWEST` to `HIGHEST`."""
    return optax.exponential_decay(LOWEST, 1, (HIGHEST / LOWEST) ** (1 / max(steps - 1, 1)))


def find(ready: Ready, steps: int = STEPS) -> Curve:
    """Train with rising rates until the loss is far above its minimum; this uses up the state.

    Args:
        ready: a prepared run whose optimiser follows `schedule`.
        steps: largest number of updates.

    Returns:
        The rates, the losses, and the rate to use: a tenth of the rate with the lowest loss.

    Raises:
        InputError: the loss never fell.

    """
    run, data, plan = ready.run, ready.splits.train, ready.plan
    carry, rise = run.put(ready.state), schedule(steps)
    rates, losses, mean = [], [], 0.0
    for step in range(steps):
        chunk = data.chunk(plan.batch_size, step, 1, 1, run.parts)
        carry, sums = run.call(carry, run.shard(chunk))
        loss = float(host(sums)["loss"].compute())
        mean = SMOOTH * mean + (1 - SMOOTH) * loss
        smooth = mean / (1 - SMOOTH ** (step + 1))
        if not math.isfinite(loss) or losses and smooth > WORSE * min(losses):
            break
        rates.append(float(jnp.asarray(rise(step))))
        losses.append(smooth)
    if not losses or min(losses) >= losses[0] and len(losses) > 1:
        raise InputError("--lr-find: the loss never fell; give --learning-rate, or check the data with jaxcnn data")
    return Curve(rates, losses, float(f"{max(rates[int(np.argmin(losses))] / MARGIN, LOWEST):.2g}"))


def draw(curve: Curve) -> Any:
    """Draw the loss against the learning rate, and mark the suggested rate."""
    figure = new_figure(6, 4)
    panel = figure.subplots()
    panel.plot(curve.rates, curve.losses, color="#0072B2")
    panel.axvline(curve.suggested, color="#D55E00", linestyle="--", label=f"used: {curve.suggested:g}")
    panel.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    panel.grid(alpha=0.3)
    panel.legend()
    return figure

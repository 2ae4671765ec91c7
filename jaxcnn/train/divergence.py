"""Losses and parameters that are no longer finite are found before they are saved."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import InputError, State, compute
from jaxcnn.optim import learning_rate


class DivergedError(FloatingPointError):
    """The loss is no longer a finite number; the message names the steps, `first` to `last`, and the learning rate."""

    def __init__(self, message: str, first: int, last: int):
        super().__init__(message)
        self.first, self.last = first, last


def rate(state: State) -> dict[str, float]:
    """Return the learning rate in force; nothing where the optimiser does not tell."""
    try:
        return {"learning_rate": learning_rate(state.opt_state)}
    except InputError:
        return {}


def check_sums(sums: Mapping[str, Any], first: int, last: int, state: State) -> None:
    """Refuse to go on once the loss of steps `first` to `last` is not finite; where a step reports none, any of its metrics."""
    for name in ("loss",) if "loss" in sums else sums:
        if not all(np.isfinite(x).all() for x in sums[name]):
            where = f"step {last}" if last == first else f"one of steps {first} to {last}"
            shown = compute({name: sums[name]}).get(name, float("nan"))
            raise DivergedError(
                f"{'the loss' if name == 'loss' else name} is {shown} at {where}{_at_rate(state)}", first, last
            )


def check_params(state: State) -> None:
    """Refuse to save parameters that are not finite: the loss shows it only one step later."""
    if not _all_finite(state.params):
        at = int(state.step)
        raise DivergedError(f"the parameters are no longer finite after step {at}{_at_rate(state)}", at, at)


@jax.jit
def _all_finite(params: Any) -> Any:
    return jnp.all(jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(params)]))


def _at_rate(state: State) -> str:
    return "".join(f", learning rate {value:g}; try a lower one" for value in rate(state).values())

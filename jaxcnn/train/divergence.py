"""Checks that the loss and the parameters are finite, made before anything is saved."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import InputError, State, compute
from jaxcnn.optim import learning_rate

# compiled steps cannot refuse values, and return NaN for them
OUT_OF_RANGE = "; labels, groups, pixels or batches that the task does not allow have this effect, too"


class DivergedError(FloatingPointError):
    """The loss or the parameters are no longer finite. The message names the steps and the learning rate.

    Attributes:
        first: the first step that may have caused it.
        last: the last such step.

    """

    def __init__(self, message: str, first: int, last: int):
        super().__init__(message)
        self.first, self.last = first, last


def rate(state: State) -> dict[str, float]:
    """Return the learning rate in force as `{"learning_rate": value}`, or `{}` if the optimiser does not expose it."""
    try:
        return {"learning_rate": learning_rate(state.opt_state)}
    except InputError:
        return {}


def check_sums(sums: Mapping[str, Any], first: int, last: int, state: State) -> None:
    """Check that the loss is finite.

    Args:
        sums: metric states of the steps `first` to `last`. If `"loss"` is not among them, every metric is checked.
        first: the first step of the dispatch.
        last: the last step of the dispatch.
        state: the state after it; the message quotes its learning rate.

    Raises:
        DivergedError: a value is NaN or infinite.

    """
    for name in ("loss",) if "loss" in sums else sums:
        if not all(np.isfinite(x).all() for x in sums[name]):
            where = f"step {last}" if last == first else f"one of steps {first} to {last}"
            shown = compute({name: sums[name]}).get(name, float("nan"))
            line = f"{'the loss' if name == 'loss' else name} is {shown} at {where}{_at_rate(state)}"
            raise DivergedError(line + (OUT_OF_RANGE if np.isnan(shown).any() else ""), first, last)


def check_params(state: State) -> None:
    """Check that the parameters are finite: the loss would show the fault only one step later.

    Raises:
        DivergedError: a parameter is NaN or infinite.

    """
    if not _all_finite(state.params):
        at = int(state.step)
        raise DivergedError(f"the parameters are no longer finite after step {at}{_at_rate(state)}", at, at)


@jax.jit
def _all_finite(params: Any) -> Any:
    return jnp.all(jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(params)]))


def _at_rate(state: State) -> str:
    return "".join(f", learning rate {value:g}; try a lower one" for value in rate(state).values())

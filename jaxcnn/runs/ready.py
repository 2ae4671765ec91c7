"""`prepare` turns a plan into the initial state and compiled steps; `describe` gives the content of `config.json`."""

import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from jaxcnn.core.types import CompiledStep, State
from jaxcnn.data import Splits
from jaxcnn.parallel.compile import compile_step
from jaxcnn.runs import background
from jaxcnn.runs.plan import SETTINGS, Plan, check, settled
from jaxcnn.train import init_state, make_eval_step, make_train_step, skip_nonfinite, start_ema, with_ema
from jaxcnn.train.checkpoint import digest
from jaxcnn.version import __version__


class Ready(NamedTuple):
    """A plan that is ready to train; nothing is written yet.

    Attributes:
        plan: the plan with its final batch size and number of steps.
        splits: the data that training and evaluation read.
        state: the initial state.
        run: the compiled training step.
        ev: the compiled evaluation step.
        sha256: digest of the training rows; None if they are not in memory.
        notes: changes to the plan, one line each.

    """

    plan: Plan
    splits: Splits
    state: State
    run: CompiledStep
    ev: CompiledStep
    sha256: str | None
    notes: tuple[str, ...] = ()


def prepare(plan: Plan) -> Ready:
    """Complete a plan, initialise the state and compile the steps; nothing is written.

    Raises:
        InputError: A value is out of range, or the devices or the strategy are not available.

    """
    check(plan)
    background.return_memory()  # reading the data left free memory behind
    plan, notes = settled(plan)
    with ThreadPoolExecutor(1) as thread:
        hashing = thread.submit(data_digest, plan.data.train)
        splits = plan.prepare(plan.data)
        tx = plan.optimizer(max(cast(int, plan.steps), 1))
        step = plan.wrap(make_train_step(plan.task, tx, plan.grads))
        step = with_ema(step, plan.ema) if plan.ema else step
        step = skip_nonfinite(step) if plan.on_nan == "skip" else step

        def begin(batch: Any, variables: Any) -> State:
            state = plan.begin(init_state(plan.task, tx, batch, plan.seed, variables))
            return start_ema(state) if plan.ema else state

        state = jax.jit(begin, compiler_options=_once())(splits.train.example(), plan.variables)
        how = {"model_devices": plan.model_devices, "rule": plan.rule}
        run = compile_step(step, plan.strategy, plan.devices, **how)
        ev = compile_step(make_eval_step(plan.task), plan.strategy, plan.devices, **how)
    return Ready(plan, splits, state, run, ev, hashing.result(), notes)


def describe(plan: Plan, splits: Splits, sha256: str | None) -> dict[str, Any]:
    """Return the content of `config.json`.

    Args:
        plan: the plan with its final batch size and number of steps.
        splits: the data that training and evaluation read.
        sha256: digest of the training rows; None if they are not in memory.

    """
    versions = {package: metadata.version(package) for package in ("jax", "flax", "optax", "orbax-checkpoint", "numpy")}
    own: dict[str, Any] = {"ema": plan.ema} if plan.ema or not plan.build else {}
    if not plan.build:
        own["inputs"] = inputs(splits.train.example())
    if words := getattr(splits.train, "words", ()):
        own["words"] = " ".join(words)
    return {
        "experiment": plan.name,
        "settings": {name: getattr(plan, name) for name in SETTINGS},
        "versions": versions | {"jaxcnn": __version__, "python": platform.python_version()},
        "classes": list(splits.train.classes),
        "data": {"name": plan.dataset, "rows": [part.size for part in splits], "sha256": sha256},
        "source": plan.source,
        "build": plan.build,
        "task": {"headline": list(plan.shown), "monitor": list(plan.watched), "figures": list(plan.drawn)},
    } | own


def inputs(example: Mapping[str, Any]) -> dict[str, Any]:
    """Describe one row as a dict from the name of an array to its shape and dtype."""
    return {name: {"shape": list(np.shape(x)[1:]), "dtype": str(np.asarray(x).dtype)} for name, x in example.items()}


def data_digest(data: Any) -> str | None:
    """SHA-256 of the rows in memory; None for data that are read as needed."""
    return digest(getattr(data, "every_array", data.arrays)) if hasattr(data, "arrays") else None


def _once() -> dict[str, Any] | None:
    """Compiler options for a program that runs once: on a CPU, full optimisation costs 1 to 2 s more than it saves."""
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None

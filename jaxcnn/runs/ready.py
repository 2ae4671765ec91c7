"""From a plan to what training starts from: the first state, the compiled steps, and the content of `config.json`."""

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
    """A plan, settled and compiled; nothing is written yet.

    Attributes:
        plan: with the batch size and the number of steps that it comes to.
        splits: what training and evaluation read.
        state: before the first step.
        run: the training step.
        ev: the evaluation step.
        sha256: of the training rows, if they are in memory.
        notes: what was changed, a line each.

    """

    plan: Plan
    splits: Splits
    state: State
    run: CompiledStep
    ev: CompiledStep
    sha256: str | None
    notes: tuple[str, ...] = ()


def prepare(plan: Plan) -> Ready:
    """Settle a plan, make the first state, and compile its steps; nothing is written.

    Raises:
        InputError: a value out of range, or devices or a strategy that cannot be had.

    """
    check(plan)
    background.return_memory()  # what reading the data took
    plan, notes = settled(plan)
    with ThreadPoolExecutor(1) as thread:
        hashing = thread.submit(data_digest, plan.data.train)
        splits = plan.prepare(plan.data)
        tx = plan.optimizer(max(cast(int, plan.steps), 1))
        step = plan.wrap(make_train_step(plan.task, tx, plan.grads))
        step = with_ema(step, plan.ema) if plan.ema else step
        step = skip_nonfinite(step) if plan.on_nan == "skip" else step

        def begin(batch: Any, variables: Any) -> State:
            state = init_state(plan.task, tx, batch, plan.seed, variables)
            return start_ema(state) if plan.ema else state

        state = jax.jit(begin, compiler_options=_once())(splits.train.example(), plan.variables)
        how = {"model_devices": plan.model_devices, "rule": plan.rule}
        run = compile_step(step, plan.strategy, plan.devices, **how)
        ev = compile_step(make_eval_step(plan.task), plan.strategy, plan.devices, donate=False, **how)
    return Ready(plan, splits, state, run, ev, hashing.result(), notes)


def describe(plan: Plan, splits: Splits, sha256: str | None) -> dict[str, Any]:
    """Return the content of `config.json`."""
    versions = {package: metadata.version(package) for package in ("jax", "flax", "optax", "orbax-checkpoint", "numpy")}
    own = {} if plan.build else {"ema": plan.ema, "inputs": inputs(splits.train.example())}
    return {
        "experiment": plan.name, "settings": {name: getattr(plan, name) for name in SETTINGS},
        "versions": versions | {"jaxcnn": __version__, "python": platform.python_version()}, "classes": list(splits.train.classes),
        "data": {"name": plan.dataset, "rows": [part.size for part in splits], "sha256": sha256}, "source": plan.source,
        "build": plan.build, "task": {"headline": list(plan.shown), "monitor": list(plan.watched), "figures": list(plan.drawn)},
    } | own  # fmt: skip


def inputs(example: Mapping[str, Any]) -> dict[str, Any]:
    """Describe one row: name to its shape and dtype."""
    return {name: {"shape": list(np.shape(x)[1:]), "dtype": str(np.asarray(x).dtype)} for name, x in example.items()}


def data_digest(data: Any) -> str | None:
    """SHA-256 of rows in memory; streamed ones are known by their number alone."""
    return digest(data.arrays) if hasattr(data, "arrays") else None


def _once() -> dict[str, Any] | None:
    """Options for a program that runs once: on a CPU, optimising it takes a second or two longer than running it."""
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None

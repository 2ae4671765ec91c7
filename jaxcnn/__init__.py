"""Functional convolutional networks in JAX: pure steps, compiled loops, exact resume."""

from jaxcnn import augment, data, explain, layers, losses, methods, metrics, models, ops, optim, runs, tasks
from jaxcnn.core import types
from jaxcnn.core.types import (
    Batch,
    CompiledStep,
    Count,
    InputError,
    Interrupted,
    Mean,
    Metric,
    MetricState,
    State,
    Step,
    Task,
)
from jaxcnn.deploy.exporting import export
from jaxcnn.explain import summary
from jaxcnn.methods import transfer
from jaxcnn.parallel import compile_step
from jaxcnn.runs import Plan, load_run, protocol, save_run, train_run
from jaxcnn.train import (
    DivergedError,
    Fit,
    StoppedError,
    Update,
    accumulate,
    augmented,
    collect,
    evaluate,
    fit,
    init_state,
    make_eval_step,
    make_train_step,
    plain,
    skip_nonfinite,
    start_ema,
    stream,
    timed_evaluate,
    updates,
    with_ema,
    with_norm,
)
from jaxcnn.version import __version__
from jaxcnn.weights import load_weights, save_weights

__all__ = [
    "Batch", "Count", "DivergedError", "Fit", "InputError", "Interrupted", "Mean", "Metric", "Plan", "CompiledStep",
    "State", "Step", "StoppedError", "MetricState", "Task", "Update", "__version__", "accumulate", "augment",
    "augmented", "collect", "compile_step", "data", "evaluate", "explain", "export", "fit", "init_state", "layers",
    "load_run", "load_weights", "losses", "make_eval_step", "make_train_step", "methods", "metrics", "models",
    "ops", "optim", "plain", "protocol", "runs", "save_run", "save_weights", "skip_nonfinite", "start_ema",
    "stream", "summary", "tasks", "timed_evaluate", "train_run", "transfer", "types", "updates", "with_ema",
    "with_norm",
]  # fmt: skip

"""Functional convolutional networks in JAX: pure steps, compiled loops, exact resume."""

from jaxcnn import augment, data, explain, layers, losses, metrics, models, ops, optim, protocol, tasks, transfer
from jaxcnn.evaluation import collect, evaluate, timed_evaluate
from jaxcnn.loop import DivergedError, Fit, StoppedError, fit
from jaxcnn.parallel import compile_step
from jaxcnn.runs import load_run
from jaxcnn.train import (
    accumulate,
    augmented,
    init_state,
    make_eval_step,
    make_train_step,
    plain,
    skip_nonfinite,
    start_ema,
    stream,
    with_ema,
    with_norm,
)
from jaxcnn.types import Batch, Count, InputError, Interrupted, Mean, Metric, Run, State, Step, Sum, Task
from jaxcnn.version import __version__
from jaxcnn.weights import load_weights, save_weights

__all__ = [
    "Batch", "Count", "DivergedError", "Fit", "InputError", "Interrupted", "Mean", "Metric", "Run", "State", "Step", "StoppedError",
    "Sum", "Task", "__version__", "accumulate", "augment", "augmented", "collect", "compile_step", "data", "evaluate", "explain", "fit",
    "init_state", "layers", "load_run", "load_weights", "losses", "make_eval_step", "make_train_step", "metrics", "models", "ops",
    "optim", "plain", "protocol", "save_weights", "skip_nonfinite", "start_ema", "stream", "tasks", "timed_evaluate", "transfer",
    "with_ema", "with_norm",
]  # fmt: skip

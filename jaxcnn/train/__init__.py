"""Training: the pure steps, the compiled loop, evaluation, and checkpoints."""

from jaxcnn.train.divergence import DivergedError
from jaxcnn.train.evaluation import collect, evaluate, timed_evaluate
from jaxcnn.train.loop import Fit, StoppedError, fit
from jaxcnn.train.step import (
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
from jaxcnn.train.updates import Update, updates

__all__ = [
    "DivergedError", "Fit", "StoppedError", "Update", "accumulate", "augmented", "collect", "evaluate", "fit",
    "init_state", "make_eval_step", "make_train_step", "plain", "skip_nonfinite", "start_ema", "stream",
    "timed_evaluate", "updates", "with_ema", "with_norm",
]  # fmt: skip

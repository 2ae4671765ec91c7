"""`Plan` describes a training run for any task; `check` validates it and `settled` completes it before training."""

import dataclasses
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

from jaxcnn.core import files
from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.core.types import Figure, InputError, State, Step, Task, Tree
from jaxcnn.data import Splits
from jaxcnn.parallel.compile import choose_devices, resolve
from jaxcnn.parallel.mesh import Device, Rule
from jaxcnn.runs.results import Skipped
from jaxcnn.runs.schema import PICTURE, Build, check_build
from jaxcnn.train.step import Estimator, plain

MOST_STEPS = 2**31 - 1  # the step counter is an int32
ON_NAN = ("stop", "skip", "rollback")
NAME = re.compile(r"[A-Za-z_][\w.]{0,99}", re.ASCII)
# fields of a plan that config.json keeps as its settings
SETTINGS = ("batch_size", "steps", "epochs", "seed", "ema", "on_nan", "patience", "best", "validations")


def unchanged(value: Any) -> Any:
    """Return the argument."""
    return value


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training run for `train_run`; change one with `dataclasses.replace`.

    Attributes:
        task: the task to learn.
        data: rows to train on, to validate on, and to test on once at the end.
        optimizer: function from the number of steps to an optax transform.
        batch_size: rows per update over all devices; lowered to the number of training rows if that is smaller.
        steps: number of updates; by default computed from `epochs`.
        epochs: passes over the training rows; ignored if `steps` is given.
        seed: seed of the parameters, the order of the rows, dropout and augmentation.
        wrap: function that wraps the training step.
        begin: function that completes the first state, if `wrap` needs it, such as `methods.scaffold.start_controls`.
        grads: estimator of the gradients, such as `train.accumulate(4)`.
        ema: decay of the moving average of the weights, in [0, 1); the average is validated and tested. 0 disables it.
        on_nan: action when the loss is not finite: `"stop"`, `"skip"` (skip the batch), or `"rollback"` (return to the
            last checkpoint).
        variables: initial variables; None to initialise them randomly.
        monitor: validation metric that decides which weights are the best; by default the task's.
        mode: whether the lowest (`"min"`) or the highest (`"max"`) value is best; by default the task's. Required if
            `monitor` is not the task's own metric.
        patience: stop after this many validations without an improvement, and take the best weights; None to train to
            the end.
        best: whether to test the best weights by `monitor`, not the last ones.
        validations: most validations (each with a save) in the run; 0 to validate once per epoch.
        every: updates from one validation to the next, instead of an epoch; 0 for an epoch.
        keep_best: number of best checkpoints to keep, besides the newest two.
        save_seconds: save every N seconds; None to save only at validations.
        eval_batch_size: rows per batch in evaluation; it affects speed, not the result.
        strategy: how steps are compiled, see `compile_step`.
        devices: number of devices, or a sequence of devices; None for all.
        model_devices: number of devices that share each row.
        rule: how parameters are divided among the devices, see `compile_step`.
        headline: metrics that the screen and the result line show; by default the task's.
        figures: figures to draw from the metrics of the test rows; by default the task's.
        build: description from which `runs.build` rebuilds the model and the task; None if either is your own, in which
            case `load_run` needs the task.
        source: description of how the data were read, from `runs.source`; None if the data cannot be read again
            without the user's help.
        name: name of the run.
        dataset: name of the data.
        unit: name of the rows in the plural, such as `"images"`.
        prepare: function that replaces the data before training and evaluation, for example with features that are
            computed once.
        skipped: counter of the examples that could not be read.

    """

    task: Task
    data: Splits
    optimizer: Callable[[int], optax.GradientTransformation]
    batch_size: int = 128
    steps: int | None = None
    epochs: float = 10
    seed: int = 0
    wrap: Callable[[Step], Step] = unchanged
    begin: Callable[[State], State] = unchanged
    grads: Estimator = plain
    ema: float = 0.0
    on_nan: str = "stop"
    variables: Tree | None = None
    monitor: str | None = None
    mode: str | None = None
    patience: int | None = None
    best: bool = True
    validations: int = 0
    every: int = 0
    keep_best: int = 1
    save_seconds: float | None = 300.0
    eval_batch_size: int = 256
    strategy: str = "auto"
    devices: int | Sequence[Device] | None = None
    model_devices: int = 1
    rule: Rule | None = None
    headline: tuple[str, ...] | None = None
    figures: Mapping[str, Figure] | None = None
    build: dict[str, Any] | None = None
    source: dict[str, Any] | None = None
    name: str = "run"
    dataset: str = "data"
    unit: str = "rows"
    prepare: Callable[[Splits], Splits] = unchanged
    skipped: Skipped = dataclasses.field(default_factory=Skipped)

    @property
    def shown(self) -> tuple[str, ...]:
        """Metrics to show, in this order."""
        return self.task.headline if self.headline is None else tuple(self.headline)

    @property
    def drawn(self) -> Mapping[str, Figure]:
        """Figures to draw from the metrics of the test rows."""
        return self.task.figures if self.figures is None else self.figures

    @property
    def watched(self) -> tuple[str, str]:
        """The metric that decides which weights are best, and its mode, `"min"` or `"max"`."""
        name, mode = self.task.monitor
        return (name if self.monitor is None else self.monitor), (mode if self.mode is None else self.mode)


def named_classes(data: Any) -> tuple[str, ...]:
    """Return the names of the classes of a data set; empty if it has none."""
    names = getattr(data, "classes", None)
    return () if names is None else tuple(map(str, names))


def check(plan: Plan) -> None:
    """Refuse a plan that cannot be trained, before anything is compiled.

    Raises:
        InputError: A value is out of range.

    """
    if plan.batch_size < 1:
        raise InputError(f"batch_size={plan.batch_size}: must be at least 1")
    for name in ("every", "validations"):
        if not 0 <= getattr(plan, name) < math.inf:
            raise InputError(f"{name}={getattr(plan, name)}: must be at least 0")
    if not isinstance(plan.epochs, numbers.Real) or not 0 <= plan.epochs < math.inf:
        raise InputError(f"epochs={plan.epochs!r}: must be a number, at least 0")
    if not 0 <= plan.ema < 1:
        raise InputError(f"ema={plan.ema}: must be at least 0 and below 1")
    if plan.on_nan not in ON_NAN:
        raise InputError(f"on_nan={plan.on_nan!r}: must be one of {', '.join(ON_NAN)}")
    if not NAME.fullmatch(plan.name):
        raise InputError(f"name={plan.name!r}: must begin with a letter and contain only letters, digits, '.' and '_'")
    for name in plan.drawn:
        if not PICTURE.fullmatch(name):
            raise InputError(f"figures: {name!r} is also a file name; use only letters, digits, '_' and '-'")
    if not (isinstance(plan.data, tuple) and len(plan.data) == 3):
        raise InputError("data: must be jc.data.Splits(train, valid, test)")
    watched = plan.task.monitor
    if not (isinstance(watched, tuple) and len(watched) == 2 and all(isinstance(part, str) for part in watched)):
        raise InputError(f'monitor={watched!r} of the task: must be a metric and its mode, such as ("loss", "min")')
    if plan.mode is None and plan.monitor not in (None, watched[0]):
        line = f"monitor={plan.monitor!r}: is not the task's own metric"
        raise InputError(f"{line}; also give mode='max' or mode='min'")
    train, *others = map(named_classes, plan.data)
    for name, classes in zip(("valid", "test"), others, strict=True):
        if train and classes and classes != train:
            ours, theirs = (visible(", ".join(one[:10])) for one in (train, classes))
            line = f"data: train has the classes {ours}, and {name} has {theirs}"
            raise InputError(f"{line}; they must be the same, in the same order")
    if plan.build is not None:
        check_build(fitted(Build, files.plain(plan.build), "Plan.build"), "Plan")


def layout(plan: Plan) -> tuple[int, int]:
    """Return the batch size that the rows allow, and the number of parts that a batch is divided into.

    Raises:
        InputError: The devices or the strategy are not available.

    """
    chosen = choose_devices(plan.devices, plan.strategy)
    resolve(plan.strategy, chosen, plan.rule is not None or plan.model_devices > 1)
    return min(plan.batch_size, plan.data.train.size), max(len(chosen) // plan.model_devices, 1)


def settled(plan: Plan) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan with its final batch size and number of steps, and one line per change.

    Raises:
        InputError: The devices or the strategy are not available, or there are too many steps.

    """
    (batch, parts), notes = layout(plan), []
    if batch < plan.batch_size:
        notes.append(f"batch_size={plan.batch_size}: lowered to the {batch} training rows")
    if batch % parts:
        notes.append(
            f"batch_size={batch}: padded to {-(-batch // parts) * parts} rows for {parts} devices; "
            "the padding is ignored"
        )
    steps = math.ceil(plan.epochs * plan.data.train.size / batch) if plan.steps is None else plan.steps
    if not 0 <= steps <= MOST_STEPS:
        raise InputError(f"steps={steps:,}: must be from 0 to {MOST_STEPS:,}; give fewer epochs")
    return dataclasses.replace(plan, batch_size=batch, steps=steps), tuple(notes)

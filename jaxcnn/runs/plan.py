"""A plan: all that training into a folder needs to know, for any task; and what is settled before the first step."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

from jaxcnn.core.types import Figure, InputError, Step, Task, Tree
from jaxcnn.data import Splits
from jaxcnn.parallel.compile import choose_devices, resolve
from jaxcnn.parallel.mesh import Device, Rule
from jaxcnn.runs.results import Skipped
from jaxcnn.runs.schema import PICTURE
from jaxcnn.train.step import Estimator, plain

MOST_STEPS = 2**31 - 1  # a step is an int32
ON_NAN = ("stop", "skip", "rollback")
NAME = re.compile(r"[A-Za-z_][\w.]{0,99}", re.ASCII)
# what config.json keeps of a plan as its settings
SETTINGS = (
    "batch_size", "steps", "epochs", "seed", "ema", "on_nan", "patience", "best", "validations",
)  # fmt: skip


def unchanged(value: Any) -> Any:
    """Return what is given."""
    return value


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to train and how, for `train_run`; change one with `dataclasses.replace`.

    Attributes:
        task: what to learn.
        data: rows to learn from, to choose on, and to test on once.
        optimizer: number of steps to an optax transform.
        batch_size: rows in an update over all devices; lowered where there are fewer rows.
        steps: updates; by default what `epochs` makes.
        epochs: passes over the training rows, where `steps` is None.
        seed: of the parameters, the order of the rows, dropout and augmentation.
        wrap: what to put around the training step.
        grads: how gradients are estimated.
        ema: decay of the average of the weights that is validated and tested; 0 for the weights themselves.
        on_nan: what to do when the loss is not finite: `"stop"`, `"skip"` such batches, or `"rollback"` to the last
            checkpoint.
        variables: where to begin; None for randomly initialised ones.
        monitor: the validation metric that decides which weights are the best; by default the task's.
        mode: `"min"` or `"max"`; by default the task's.
        patience: stop after this many validations without a better one.
        best: test the best weights by `monitor`, not the last ones.
        validations: how often to validate and save at most; 0 for once an epoch, however short.
        keep_best: how many of the best checkpoints to keep, beside the newest two.
        save_seconds: save also when this many seconds have passed since the last time; None for only at validations.
        eval_batch_size: rows at a time in evaluation; changes speed, never the result.
        strategy: how steps are compiled, as in `compile_step`.
        devices: how many, or which; None for all.
        model_devices: how many devices share a row.
        rule: how parameters are divided among the devices, as in `compile_step`.
        headline: metrics that the screen and the result line show; by default the task's.
        figures: what is drawn of the test rows' metrics; by default the task's.
        build: what `runs.build` makes model and task from again; None for a model or task of your own, which
            `load_run` is then given.
        source: how the data were read, as `runs.source` describes it; None where whoever reads them again is told.
        name: of the run.
        dataset: name of the data.
        unit: what a row is called, in the plural.
        prepare: what training and evaluation read instead of the data, such as features that are computed once.
        skipped: examples that could not be read.

    """

    task: Task
    data: Splits
    optimizer: Callable[[int], optax.GradientTransformation]
    batch_size: int = 128
    steps: int | None = None
    epochs: float = 10
    seed: int = 0
    wrap: Callable[[Step], Step] = unchanged
    grads: Estimator = plain
    ema: float = 0.0
    on_nan: str = "stop"
    variables: Tree | None = None
    monitor: str | None = None
    mode: str | None = None
    patience: int | None = None
    best: bool = True
    validations: int = 0
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
        """Metrics to show, in order."""
        return self.task.headline if self.headline is None else tuple(self.headline)

    @property
    def drawn(self) -> Mapping[str, Figure]:
        """Figures of the test rows."""
        return self.task.figures if self.figures is None else self.figures

    @property
    def watched(self) -> tuple[str, str]:
        """The metric that decides, and whether the lowest or the highest is best."""
        name, mode = self.task.monitor
        return (name if self.monitor is None else self.monitor), (mode if self.mode is None else self.mode)


def check(plan: Plan) -> None:
    """Refuse a plan that cannot be trained, before anything is compiled.

    Raises:
        InputError: a value out of range.

    """
    if plan.batch_size < 1:
        raise InputError(f"batch_size={plan.batch_size}: must be at least 1")
    if plan.on_nan not in ON_NAN:
        raise InputError(f"on_nan={plan.on_nan!r}: must be one of {', '.join(ON_NAN)}")
    if not NAME.fullmatch(plan.name):
        raise InputError(f"name={plan.name!r}: must begin with a letter and have letters, digits, '.' and '_' alone")
    for name in plan.drawn:
        if not PICTURE.fullmatch(name):
            raise InputError(f"figures: {name!r} names a picture; use letters, digits, '_' and '-' alone")
    if not (isinstance(plan.data, tuple) and len(plan.data) == 3):
        raise InputError("data: must be jc.data.Splits(train, valid, test)")


def layout(plan: Plan) -> tuple[int, int]:
    """Return the batch size that the rows allow, and in how many parts a batch is divided.

    Raises:
        InputError: devices or a strategy that cannot be had.

    """
    chosen = choose_devices(plan.devices, plan.strategy)
    resolve(plan.strategy, chosen, plan.rule is not None or plan.model_devices > 1)
    return min(plan.batch_size, plan.data.train.size), max(len(chosen) // plan.model_devices, 1)


def settled(plan: Plan) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan with the batch size and steps that it comes to, and a line for what was changed.

    Raises:
        InputError: devices or a strategy that cannot be had, or too many steps.

    """
    (batch, parts), notes = layout(plan), []
    if batch < plan.batch_size:
        notes.append(f"batch_size={plan.batch_size}: lowered to the {batch} training rows")
    if batch % parts:
        notes.append(
            f"batch_size={batch}: padded to {-(-batch // parts) * parts} rows for {parts} devices; padding counts nowhere"
        )
    steps = math.ceil(plan.epochs * plan.data.train.size / batch) if plan.steps is None else plan.steps
    if not 0 <= steps <= MOST_STEPS:
        raise InputError(f"steps={steps:,}: must be from 0 to {MOST_STEPS:,}; give fewer epochs")
    return dataclasses.replace(plan, batch_size=batch, steps=steps), tuple(notes)

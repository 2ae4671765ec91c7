"""Learns ten classes as five tasks, one after another: `python -m experiments.continual mnist DATA --method ewc`.

Split-MNIST and Split-CIFAR have two classes per task, in their order. The scenarios are those of van de Ven and Tolias
(2019, arXiv:1904.07734): `task` (which task a row belongs to is known), `domain` (first or second class of its task,
which is not known) and `class` (which of the ten classes). The methods are `naive` (train on one task after another),
`joint` (train on the rows of all tasks so far), `ewc`, `si`, `lwf`, `replay` and `derpp`; see `jaxcnn.methods`. All ten
logits take part in the loss of every task of `class`, and the optimiser's state is kept from task to task. In batches
with kept rows, every task so far has as many rows as the new one.

After each task, the accuracy is measured on the test rows of every task, with the last weights. The bytes of memory are
those that a method keeps when the last task is over. `--resume` goes on at the task that was broken off.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import tyro

import jaxcnn as jc
from experiments import archives, cli, common, folders, mnist, settings
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.methods import consolidation, continual, replay
from jaxcnn.runs.signals import Signals

METHODS = ("naive", "joint", "ewc", "si", "lwf", "replay", "derpp")
NETWORKS = {"mnist": ("mlp", {"widths": [400, 400]}), "cifar10": ("plain", {"width": 64, "pools": 3})}
# about the best on validation rows of MNIST, seed 0, of 1e2 to 1e5 (ewc), 0.1 to 100 (si) and 0.3 to 3 (lwf)
STRENGTHS = {
    "ewc": {"task": 1e4, "domain": 1e5, "class": 1e4}, "si": {"task": 100.0, "domain": 10.0, "class": 10.0},
    "lwf": {"task": 1.0, "domain": 1.0, "class": 1.0},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Learn a sequence of tasks with one method."""

    kind: tyro.conf.Positional[str] = ""
    """mnist or cifar10: chooses the network."""
    data: tyro.conf.Positional[str] = ""
    """The archive of CIFAR-10 as images; else what --dataset of experiments.mnist takes, like a folder of IDX files."""
    unpacked: str = ""
    """Folder into which an archive is unpacked; by default checkpoints/data/continual."""
    scenario: str = "class"
    """task, domain or class."""
    method: str = "naive"
    """naive, joint, ewc, si, lwf, replay or derpp."""
    model: str = ""
    """By default an MLP for mnist (two layers of 400, as in the paper) and plain for cifar10; another network without
    options, such as lenet5."""
    steps: int = 300
    """Updates in each task."""
    learning_rate: float = 1e-3
    """Learning rate of Adam, which is constant."""
    per_task: int = 2
    """Classes in a task; divides their number."""
    strength: float | None = None
    """Weight of what ewc, si and lwf hold on to; by default chosen on validation rows of MNIST: 1e4 for ewc (1e5 in
    domain), 10 for si (100 in task), 1 for lwf."""
    temperature: float = 2.0
    """Temperature of lwf."""
    fisher_rows: int = 500
    """Rows of a task from which ewc computes the Fisher information."""
    per_class: int = 100
    """Rows of each class that replay and derpp keep."""
    alpha: float = 0.5
    """Weight of the outputs of kept rows in derpp."""
    beta: float = 1.0
    """Weight of the labels of kept rows in derpp."""
    shift: int = 0
    """Move training images by up to this number of pixels."""
    measure_test: bool = True
    """Measure on the test rows; if not, on those of validation, to choose among settings."""
    epochs: int = 10
    """Not used; see --steps."""
    max_steps: int = 0
    """Not used; see --steps."""
    early_stopping: int = 0
    """Not used; see --steps."""
    gradient_norm: bool = False
    """Log the global norm of the gradient, at the cost of one more pass over it."""


# flags that some methods alone read
READ_BY = {
    "strength": ("ewc", "si", "lwf"), "temperature": ("lwf",), "fisher_rows": ("ewc",),
    "per_class": ("replay", "derpp"), "alpha": ("derpp",), "beta": ("derpp",),
}  # fmt: skip
PRESETS = {"smoke": {"steps": 2, "batch_size": 8, "limit_examples": 120, "fisher_rows": 8, "per_class": 2}}


class Setup(NamedTuple):
    """What all tasks share.

    Attributes:
        config: the flags.
        plan: the plan of all rows, for its settings.
        task: the task with the method's wrapper.
        tx: the optimiser.
        train: training rows of all tasks.
        kinds: their classes before the scenario changed them, `[N]`.
        tests: the rows to measure on, one data set per task.
        table: which classes belong to which task, `[T, K]`.
        classes: number of logits.

    """

    config: Config
    plan: runs.Plan
    task: jc.types.Task
    tx: Any
    train: Any
    kinds: np.ndarray
    tests: Sequence[Any]
    table: np.ndarray
    classes: int


def check(config: Config) -> None:
    """Refuse flags that do not fit."""
    if config.evaluate or config.predict:
        raise jc.InputError("--evaluate and --predict: a sequence of tasks has no single run; train it again")
    settings.one_of("KIND", config.kind, NETWORKS)
    settings.one_of("--scenario", config.scenario, continual.SCENARIOS)
    settings.one_of("--method", config.method, METHODS)
    settings.unused(config, "epochs", "max_steps", "early_stopping", instead="use --steps, the updates in each task")
    for name, methods in READ_BY.items():
        if config.method not in methods:
            instead = f"--method {', '.join(methods)} reads it"
            settings.unused(config, name, instead=instead, saved=PRESETS["smoke"])
    if config.strength is not None and not 0 <= config.strength < float("inf"):
        raise jc.InputError(f"--strength {config.strength}: must be at least 0")
    if config.method == "lwf" and config.per_task < 2:
        raise jc.InputError(f"--per-task {config.per_task}: lwf compares the classes of a task; give at least 2")
    counts = {"--steps": config.steps, "--fisher-rows": config.fisher_rows, "--per-class": config.per_class}
    for flag, value in counts.items():
        if value < 1:
            raise jc.InputError(f"{flag} {value}: must be at least 1")
    if not config.data:
        raise jc.InputError(f"DATA: give the data, as in python -m experiments.continual {config.kind} DATA")


def load(config: Config) -> tuple[str, jc.data.Splits, dict[str, Any]]:
    """Read the rows, from an archive of CIFAR-10 where one is given."""
    place = config.data
    if config.kind == "cifar10" and files.expanded(place).is_file():
        place = str(
            archives.folder_of("continual", config, lambda name: (found := archives.photo(name)) and found.place)
        )
    chosen = mnist.Config(dataset=place, validation_fraction=config.validation_fraction)
    name, splits, source = mnist.load(chosen)
    if not all(hasattr(part, "arrays") for part in splits):
        raise jc.InputError(f"{visible(place)}: is read in parts; needs rows that fit in memory")
    return name, splits, source


def plan(config: Config) -> runs.Plan:
    """Make the plan of all rows, for `config.json` and the settings."""
    jc.optim.check_rate(config.learning_rate)
    name, splits, source = load(config)
    groups = continual.divided(len(splits.train.classes), config.per_task)
    classes = config.per_task if config.scenario == "domain" else len(splits.train.classes)
    network, options = (config.model, {}) if config.model else NETWORKS[config.kind]
    image = splits.train.example()["image"]
    build = {
        "model": common.model(network, config, num_classes=classes, **options),
        "task": {"name": "classification", "options": common.pixel_statistics(splits.train)},
        "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }
    made = runs.Plan(
        runs.build(build)[1], splits, lambda steps: jc.optim.adam(config.learning_rate), build=build, dataset=name,
        source=source,
    )  # fmt: skip
    made = common.planned("continual", config, made)
    return dataclasses.replace(made, steps=config.steps * len(groups))


def setup(config: Config, made: runs.Plan) -> Setup:
    """Divide the rows into tasks, and wrap the task and the optimiser as the method asks."""
    groups = continual.divided(len(made.data.train.classes), config.per_task)
    parts = made.data if config.measure_test else made.data._replace(test=made.data.valid)
    scenario = cast(continual.Scenario, config.scenario)
    train, test = (continual.sequence(part, groups, scenario) for part in (parts.train, parts.test))
    train, table = dataclasses.replace(train, seed=config.seed), continual.head_table(groups)
    tests = [test.take(continual.rows_of(test, t)) for t in range(len(groups))]
    strength = (
        STRENGTHS.get(config.method, {}).get(config.scenario, 0.0) if config.strength is None else config.strength
    )
    task, tx = made.task, made.optimizer(config.steps)
    task = continual.heads(task, table) if config.scenario == "task" else task
    if config.method == "ewc":
        task = consolidation.ewc(task, strength)
    elif config.method == "si":
        tx = consolidation.synaptic(tx, strength)
    elif config.method == "lwf":
        count = len(groups) if config.scenario == "task" else 1
        task = consolidation.lwf(task, heads=count, strength=strength, temperature=config.temperature)
    elif config.method == "derpp":
        task = replay.derpp(task, config.alpha, config.beta)
    return Setup(config, made, task, tx, train, made.data.train.label, tests, table, len(train.classes))


class Kept(NamedTuple):
    """Rows that are kept, and for `derpp` the outputs of the network for them."""

    rows: np.ndarray
    outputs: np.ndarray | None


def learn(own: Setup, folder: pathlib.Path, signals: Signals) -> dict[str, Any]:
    """Train on one task after another, and return the accuracies; each task has checkpoints of its own."""
    config, rows = own.config, own.train
    compiled = functools.partial(common.compiled, config=config)
    step = jc.make_train_step(own.task, own.tx, own.plan.grads)
    step = jc.augmented(step, jc.augment.shift(config.shift)) if config.shift else step
    run = compiled(jc.skip_nonfinite(step) if config.on_nan == "skip" else step)
    ev = compiled(jc.make_eval_step(own.task))
    state, tasks = jc.init_state(own.task, own.tx, rows.example(), config.seed), len(own.table)
    kept = Kept(np.empty(0, np.int64), np.zeros((0, own.classes), np.float32) if config.method == "derpp" else None)

    def measured(state: Any) -> list[float]:
        size = config.eval_batch_size
        return [float(jc.evaluate(ev, state.variables, test, batch_size=size)["accuracy"]) for test in own.tests]

    start, matrix = measured(state), []
    for t in range(tasks):
        now = np.concatenate([continual.rows_of(rows, k) for k in range(0 if config.method == "joint" else t, t + 1)])
        share = t / (t + 1) if t else 0.5  # every task has as many rows in a batch
        data = replay.replay(rows, now, kept.rows, share=share, outputs=kept.outputs)
        with signals.while_training():
            fitted = jc.fit(
                run, state, data, batch_size=min(config.batch_size, len(now)), steps=config.steps * (t + 1),
                every=config.steps, workdir=folder / f"task-{t + 1}", save_seconds=own.plan.save_seconds, log=None,
                stop=signals.stop, on_nan="rollback" if config.on_nan == "rollback" else "stop",
            )  # fmt: skip
        matrix.append(measured(fitted.state))
        print(f"after task {t + 1}: " + " ".join(f"{value:.4f}" for value in matrix[-1]), flush=True)
        state, kept = remember(own, fitted.state, kept, t)
    return results(own, matrix, start, memory(own, state, kept))


def remember(own: Setup, state: Any, kept: Kept, t: int) -> tuple[Any, Kept]:
    """Return the state to begin the next task with, and the kept rows, at the end of task `t`."""
    config, rows = own.config, continual.rows_of(own.train, t)
    if config.method == "ewc":
        some = own.train.take(np.random.default_rng([config.seed, t]).permutation(rows)[: config.fisher_rows])
        found = consolidation.fisher(own.task, state.variables, some, seed=config.seed, **_where(config))
        return consolidation.ewc_after_task(state, found), kept
    if config.method == "si":
        return consolidation.si_after_task(state), kept
    if config.method == "lwf":
        tasks = np.arange(len(own.table))
        heads = {
            "task": own.table * (tasks <= t)[:, None],
            "domain": np.ones((1, config.per_task)),
            "class": own.table[: t + 1].max(0, keepdims=True),
        }
        return consolidation.lwf_after_task(state, heads[config.scenario]), kept
    if config.method in ("replay", "derpp"):
        chosen = replay.per_class(own.kinds, config.per_class, rows=rows, seed=config.seed)
        outputs = kept.outputs
        if outputs is not None:
            outputs_of = own.task.outputs or own.task.predict
            outputs = np.concatenate([outputs, jc.collect(outputs_of, state.variables, own.train.take(chosen))[0]])
        return state, Kept(np.concatenate([kept.rows, chosen]), outputs)
    return state, kept


def _where(config: Config) -> dict[str, Any]:
    return {"strategy": config.strategy, "devices": config.devices or None}


def memory(own: Setup, state: Any, kept: Kept) -> int:
    """Return the bytes that the method keeps of the tasks so far."""
    arrays = own.train.arrays
    each = sum(continual.bytes_of(arrays[name][:1]) for name in ("image", "label", "task"))
    method = own.config.method
    if method == "joint":
        return each * own.train.size
    if method in ("ewc", "lwf"):
        return continual.bytes_of(state.model_state[method])
    if method == "si":
        return continual.bytes_of(state.opt_state[1:])
    return each * len(kept.rows) + continual.bytes_of(kept.outputs)


def results(own: Setup, matrix: list[list[float]], start: list[float], size: int) -> dict[str, Any]:
    """Return the figures of a sequence."""
    found = continual.scores(matrix, start)._asdict()
    about = {name: getattr(own.config, name) for name in ("kind", "scenario", "method", "seed", "steps")}
    rows = sum(test.size for test in own.tests)
    return about | found | {"memory_bytes": size, "rows": rows, "matrix": matrix, "start": start}


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> dict[str, Any]:
    """Learn the sequence, and print its figures and write them to the run's folder."""
    check(config)
    made = plan(config)
    own = setup(config, made)
    folder = folders.open_folder("continual", config, made, made.data, common.data_digest(made.data.train))
    opened.append(folder)
    found = learn(own, folder, signals)
    files.write_json(folder / "summary.json", found)
    print(files.to_json({name: value for name, value in found.items() if name not in ("matrix", "start")}), flush=True)
    return found


if __name__ == "__main__":
    cli.run(main, Config, "continual", PRESETS)

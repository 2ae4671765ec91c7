"""Functions for all studies: one run per point, which a resumed study does not repeat, and a table over seeds."""

import contextlib
import dataclasses
import io
import logging
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TextIO

import numpy as np
from typing_extensions import TypedDict

import jaxcnn as jc
from experiments import cli, common, folders, mnist, settings
from jaxcnn import runs
from jaxcnn.cli import terminal
from jaxcnn.core import files
from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.runs.signals import Signals

SMOKE = {"epochs": 1, "max_steps": 4, "seeds": 2, "batch_size": 16, "train_images": 64, "limit_examples": 64}
PERCENT, PLAIN = "{:.2%}", "{:.3g}"
log = logging.getLogger("jaxcnn")


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Answer one question with several networks and seeds."""

    dataset: str = "auto"
    """auto (MNIST if available, otherwise digits), mnist, digits, any TFDS name, or a path: an image folder, an .npz
    file, or a folder of IDX files."""
    data_dir: str = ""
    """Folder of prepared TFDS sets; by default TFDS_DATA_DIR, otherwise the default folder of TFDS."""
    seeds: int = 5
    """Number of seeds; a seed draws parameters, order, dropout and augmentation, but not the images."""
    train_images: int = 10_000
    """Use at most this number of training images; 0 for all. The test set is always complete."""
    epochs: int = 5
    """Passes over the training rows."""
    learning_rate: float = 2e-3
    """Highest value of the one-cycle schedule of AdamW."""


class Variant(NamedTuple):
    """One row of a table.

    Attributes:
        options: options of the network besides its number of classes.
        model: name of the network.
        flags: flags of `experiments.mnist` besides those of the study.
        change: changes the plan of `experiments.mnist` where there is no flag.

    """

    options: Mapping[str, Any] = {}
    model: str = "plain"
    flags: Mapping[str, Any] = {}
    change: Callable[[runs.Plan], runs.Plan] = lambda plan: plan


# (a finished run, the data it was trained and tested on, its flags) -> column to value
Measure = Callable[[jc.runs.TrainedRun, jc.data.Splits, mnist.Config], Mapping[str, float]]


def compare(
    name: str, variants: Mapping[str, Variant], config: Config, signals: Signals, opened: list[pathlib.Path],
    measure: Measure | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train every variant with every seed, print the table, and write it to the folder of the study.

    Args:
        name: name of the study, `experiments.studies.NAME`.
        variants: dict from label to variant.
        config: the flags.
        signals: checked between dispatches.
        opened: receives the folder of the study.
        measure: measures a run in addition to its accuracy on the whole test set.

    Returns:
        `{"table": [{"variant", "parameters", "columns", "runs"}, ...]}`.

    """
    check(config)
    shared = {f.name for f in dataclasses.fields(config)} & {f.name for f in dataclasses.fields(mnist.Config)}
    chosen = {name: getattr(config, name) for name in shared}
    base = mnist.Config(**chosen | {"ema": 0.0, "augment": False, "resume": False})
    plans = {}
    for label, variant in variants.items():
        plans[label] = planned(label, dataclasses.replace(base, **variant.flags), variant, config)
    plans = same_updates(plans)
    first = next(iter(plans.values()))[1]
    folder = folders.open_folder(f"studies.{name}", config, first, first.data, common.data_digest(first.data.train))
    opened.append(folder)

    def point(label: str, flags: mnist.Config, plan: runs.Plan) -> dict[str, Any]:
        def train(workdir):
            return common.train("mnist", dataclasses.replace(flags, workdir=workdir), plan, signals, [])

        summary = trained(folder / f"{label.replace(' ', '-')}-{flags.seed}", train)
        values = {"test accuracy": summary["test"]["accuracy"]}
        values |= measure(jc.load_run(summary["checkpoint"]), plan.data, flags) if measure else {}
        print(f"{label}, seed {flags.seed}: test accuracy {values['test accuracy']:.4f}", flush=True)
        return values | {"seed": flags.seed} | {name: summary[name] for name in ("checkpoint", "parameters")}

    rows = []
    for label, (flags, plan) in plans.items():
        seeds = range(config.seed, config.seed + config.seeds)
        found = [point(label, dataclasses.replace(flags, seed=seed), plan) for seed in seeds]
        columns = [column for column in found[0] if column not in ("seed", "checkpoint", "parameters")]
        spreads = {column: spread([one[column] for one in found]) for column in columns}
        rows.append({"variant": label, "parameters": found[0]["parameters"], "columns": spreads, "runs": found})
    text = markdown(rows)
    print(f"{text}\nmean and 95 % interval of the mean over {config.seeds} seeds; {visible(folder)}", flush=True)
    files.write_text(folder / "table.md", text + "\n")
    files.write_json(folder / "summary.json", {"table": rows})
    return {"table": rows}


def check(config: Config) -> None:
    """Refuse flags that studies do not take."""
    if config.evaluate or config.predict:
        raise jc.InputError("--evaluate and --predict: give one of the runs in the folder to experiments.mnist")
    if config.seeds < 1:
        raise jc.InputError(f"--seeds {config.seeds}: must be at least 1")
    if config.train_images < 0:
        raise jc.InputError(f"--train-images {config.train_images}: must be at least 0")


def planned(label: str, config: mnist.Config, variant: Variant, study: Config) -> tuple[mnist.Config, runs.Plan]:
    """Return the flags and the plan of a variant; all variants see the same images.

    Args:
        label: label of the variant.
        config: flags of `experiments.mnist`.
        variant: the variant.
        study: flags of the study.

    """
    config = dataclasses.replace(config, model=variant.model)
    plan = mnist.plan(config)
    train = plan.data.train
    if study.train_images:
        train = train.take(np.random.default_rng(0).permutation(train.size)[: study.train_images])
    model = plan.build["model"]
    build = plan.build | {"model": model | {"options": model["options"] | dict(variant.options)}, "variant": label}
    return config, variant.change(
        dataclasses.replace(plan, task=runs.build(build)[1], data=plan.data._replace(train=train), build=build)
    )


def same_updates(plans: dict[str, tuple[mnist.Config, runs.Plan]]) -> dict[str, tuple[mnist.Config, runs.Plan]]:
    """Give variants with more rows than the first one, such as rows that come again, its number of updates."""
    flags, plan = next(iter(plans.values()))
    size = min(plan.data.train.size, flags.limit_examples or plan.data.train.size)
    most = math.ceil(flags.epochs * size / min(flags.batch_size, size))
    most = min(most, flags.max_steps) if flags.max_steps else most
    return {
        label: (dataclasses.replace(own, max_steps=most) if more.data.train.size > plan.data.train.size else own, more)
        for label, (own, more) in plans.items()
    }


def drawn_equally(plan: runs.Plan, group: np.ndarray) -> runs.Plan:
    """Let the training rows of each group come equally often: none is left out, and those of smaller groups come again.

    Args:
        plan: of a training.
        group: int `[N]`, the group of each training row.

    """
    draws, parts = np.random.default_rng(0), [np.flatnonzero(group == k) for k in np.unique(group)]
    most = max(map(len, parts))
    rows = [np.concatenate([draws.permutation(part) for _ in range(-(-most // len(part)))])[:most] for part in parts]
    return dataclasses.replace(plan, data=plan.data._replace(train=plan.data.train.take(np.concatenate(rows))))


def trained(folder: pathlib.Path, train: Callable[[str], dict[str, Any]], form: Any = None) -> dict[str, Any]:
    """Return the summary of the run in a folder; if there is none, `train(workdir)` makes it and prints to a file.

    Args:
        folder: folder that holds the run, or receives it.
        train: `workdir -> summary`.
        form: type of the summary; by default `Summary`.

    Raises:
        InputError: the summary in the folder is damaged or not that of a run.

    """
    for path in folder.glob("*/summary.json"):
        summary = fitted(form or Summary, files.read_json(path), str(path))
        return summary | {"checkpoint": str(path.parent)}  # the folder may have moved
    folder.mkdir(exist_ok=True)
    with files.appending(folder / "log.txt") as file:
        screen = terminal.steady(io.TextIOWrapper(file, "utf-8"), "log.txt")
        try:
            with contextlib.redirect_stdout(screen), _logging_to(screen):
                return train(str(folder))
        finally:
            screen.flush()


class Validation(TypedDict):
    """The part of a run's validation that a study reads."""

    __pydantic_config__ = {"extra": "allow"}
    loss: NotRequired[float | None]


class Test(TypedDict):
    """The part of a run's test metrics that a study reads."""

    __pydantic_config__ = {"extra": "allow"}
    accuracy: float


class Summary(TypedDict):
    """The part of a run's `summary.json` that a study reads."""

    __pydantic_config__ = {"extra": "allow"}
    validation: NotRequired[Validation]
    test: Test
    parameters: int
    steps: int
    train_seconds: float


@contextlib.contextmanager
def _logging_to(screen: TextIO) -> Iterator[None]:
    handler = logging.StreamHandler(screen)
    handler.setFormatter(terminal.Line())
    handlers, log.handlers = log.handlers, [handler]
    try:
        yield
    finally:
        log.handlers = handlers


def accuracy(loaded: jc.runs.TrainedRun, data: Any) -> float:
    """Return the accuracy of a finished run."""
    step = jc.compile_step(jc.make_eval_step(loaded.task))
    return jc.evaluate(step, loaded.variables, data)["accuracy"]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean, deviation and half the 95 % interval of the mean (Student, 1908), which is 0 for one seed."""
    from scipy.stats import t

    n, deviation = len(values), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    half = float(t.ppf(0.975, n - 1)) * deviation / n**0.5 if n > 1 else 0.0
    return {"mean": float(np.mean(values)), "deviation": deviation, "interval": half}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table; columns whose name contains "accuracy" are in percent."""
    columns = list(rows[0]["columns"])

    def form(column):
        return PERCENT if "accuracy" in column else PLAIN

    def cell(column, one):
        return f"{form(column).format(one['mean'])} ± {form(column).format(one['interval'])}"

    body: Iterable[list[str]] = (
        [row["variant"], f"{row['parameters']:,}", *(cell(column, row["columns"][column]) for column in columns)]
        for row in rows
    )
    lines = [["", "parameters", *columns], ["---"] * (2 + len(columns)), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run(name: str, variants: Mapping[str, Variant], measure: Measure | None = None, config: type = Config) -> None:
    """Run the command line of a study.

    Args:
        name: name of the study.
        variants: dict from label to variant.
        measure: measures a run in addition to its accuracy.
        config: dataclass of the flags, with the defaults of the study.

    """

    def main(config, signals, opened):
        return compare(name, variants, config, signals, opened, measure)

    cli.run(main, config, f"studies.{name}", {"smoke": SMOKE})

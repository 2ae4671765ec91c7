"""`jaxcnn train DATA`: train a network on photos, arrays or numbers, with defaults that suit a first attempt."""

import dataclasses
import pathlib
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import tyro

from jaxcnn import runs
from jaxcnn.cli import command, flags, folders, inputs, layouts, options, planning, rate, recipe, terminal, weights
from jaxcnn.core.ranges import Choice
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import Splits
from jaxcnn.parallel import mesh
from jaxcnn.runs import background, plots, results
from jaxcnn.runs.described import entries_of
from jaxcnn.runs.ready import describe
from jaxcnn.runs.signals import Signals

NAME, FOLDER = "train", "runs"
SHOWN = (
    "data", "task", "model", "weights", "epochs", "batch_size", "image_size", "resize", "augment", "learning_rate",
    "lr_find", "class_weights", "seed", "on_bad_example", "workdir", "resume", "smoke",
)  # fmt: skip
SMOKE = {"epochs": 1, "max_steps": 8, "batch_size": 16, "limit_examples": 64}


@dataclasses.dataclass(frozen=True)
class Train(
    flags.Saving, flags.Processes, flags.Machine, flags.Layout, flags.Update, flags.Augmentation, flags.Optimisation,
    flags.Network, flags.Images, flags.Texts, flags.Sounds, flags.Rows, flags.Length,
):  # fmt: skip
    """Train a network; the content of DATA chooses the task."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")] = ""
    """A folder of classes (images, sounds or texts) or of images/ and masks/ (or of train/, val/, test/ with these),
    a .csv of file and label, of text and label, or of a series in each row, an .npz, IDX files, or a TFDS name."""
    task: str = ""
    """classification, multilabel, regression, segmentation or detection, if two layouts fit DATA."""
    epochs: int | None = None
    """Passes over the training rows; by default 10, or more for 300 updates (boxes: 1,500)."""
    batch_size: Annotated[int | None, Choice((32, 64, 128))] = None
    """Rows in one update; by default 32 (8 with masks or boxes), or four times that from 10,000 rows on."""
    workdir: str = FOLDER
    """Parent folder of the runs."""
    resume: str = ""
    """Resume this interrupted run, with its settings."""
    smoke: bool = False
    """A run of a few seconds: few rows, few steps."""


def main(arguments: Sequence[str]) -> int:
    """Train, and return the exit code."""
    program = command.Program(
        f"jaxcnn {NAME}", f"jaxcnn {NAME} --resume", command.end, lambda code: None, options.WIDTH
    )
    began = time.perf_counter()

    def trained(config: Train, signals: Signals, opened: list[pathlib.Path]) -> Any:
        return train(config, signals, opened, arguments, began)

    return command.run_training(program, lambda: _parse(arguments), trained)


def _parse(arguments: Sequence[str]) -> Train:
    """Return the flags, or those of the run to resume."""

    def parse(default: Train) -> Train:
        return options.parse(Train, NAME, arguments, default, SHOWN)

    smoke: dict[str, Any] = SMOKE if "--smoke" in arguments else {}
    config = parse(Train(**smoke))
    if not config.resume:
        folders.check_path("--workdir", config.workdir)
        return config
    folder = folders.find_unfinished(pathlib.Path(config.resume))
    before = runs.read_config(folder)
    if before["experiment"] != NAME:
        raise InputError(
            f"--resume {visible(folder)}: not a run of jaxcnn {NAME}; resume it with the command that started it"
        )
    return folders.resumed(folder, Train, parse, resume=str(folder), workdir=str(folder))


def train(
    config: Train,
    signals: Signals,
    opened: list[pathlib.Path],
    arguments: Sequence[str],
    began: float,
    begun: Callable[[pathlib.Path], None] = lambda folder: None,
) -> dict[str, Any]:
    """Train into a new folder, or resume a run.

    Args:
        config: the flags.
        signals: the signal handler.
        opened: receives the folder of the run.
        arguments: the command line, saved with the run.
        began: start time by `time.perf_counter()`.
        begun: called with the folder of the run before the first update.

    Returns:
        The content of `summary.json`.

    """
    recipe.check(config)
    with folders.named("--profile"):
        profile = background.Profile(config.profile)
    chief = mesh.process_shard()[0] == 0
    rows = read(config, chief)
    name = runs.read_config(config.workdir)["data"]["name"] if config.resume else config.data
    config, plan = planned(_absolute(config), rows)
    plan = dataclasses.replace(plan, dataset=name)
    curve = None
    if config.lr_find:
        curve = _lr_find(config, plan, chief)
        config = dataclasses.replace(config, learning_rate=curve.suggested, lr_find=False)
        plan = dataclasses.replace(plan, optimizer=recipe.adamw(config))
    ready = runs.prepare(planning.planned(NAME, config, plan))
    place = str(_folder(config, ready, arguments)) if chief else ""
    folder = pathlib.Path(mesh.broadcast_text(place))
    opened.append(folder)
    begun(folder)
    if chief and curve:
        plots.draw(folder / "learning_rates.png", rate.draw, curve)
    for line in header(ready, rows.found, folder) if chief else ():
        say(line)
    summary = runs.train_prepared(
        ready, folder, signals=signals, profile=profile, began=began, tell=False, columns=options.WIDTH
    )
    if chief:
        _finish(ready, folder, summary)
    return summary


class Given(NamedTuple):
    """The data that a command names, and the weights that it begins with."""

    found: layouts.Found
    splits: Splits
    source: dict[str, Any]
    skipped: results.Skipped
    begin: Any


def read(config: Train, chief: bool = True) -> Given:
    """Find and read the data that the flags name; the chief says what they are."""
    columns = (config.text_column, config.label_column, config.table)
    found = layouts.look(config.data, config.task, config.data_dir, *columns)
    say(f"{visible(config.data)}: {found.line}", chief)
    skipped, begin = results.Skipped(), weights.origin(config)
    return Given(found, *layouts.read(found, config, skipped, begin.size if begin else None), skipped, begin)


def planned(config: Train, given: Given) -> tuple[Any, runs.Plan]:
    """Return the flags with the defaults that suit the data, and the plan."""
    if given.found.kind in inputs.KINDS:
        return inputs.plan(config, *given[:4])
    return recipe.plan(config, *given)


def _absolute(config: Train) -> Train:
    """Return the flags with absolute paths, so that the run can be resumed from any folder."""
    changes = {}
    for name in ("data", "weights", "vectors"):
        value = getattr(config, name)
        if value and pathlib.Path(value).expanduser().exists() and value != "digits":
            changes[name] = str(pathlib.Path(value).expanduser().absolute())
    return dataclasses.replace(config, **changes)


def _lr_find(config: Train, plan: runs.Plan, chief: bool) -> rate.Curve:
    """Run the learning-rate range test on the plan, and print the result."""
    steps = 20 if config.smoke else rate.STEPS
    rising = dataclasses.replace(config, learning_rate=rate.HIGHEST)

    def adamw(_):
        return recipe.optim.adamw(rate.schedule(steps), b1=config.momentum, weight_decay=config.weight_decay)

    curve = rate.find(runs.prepare(planning.planned(NAME, rising, dataclasses.replace(plan, optimizer=adamw))), steps)
    found = f"learning rate {curve.suggested:g}: a tenth of the rate where the loss is lowest"
    say(f"{found} (learning_rates.png in the run's folder)", chief)
    return curve


def _folder(config: Train, ready: runs.Ready, arguments: Sequence[str]) -> pathlib.Path:
    """Make the run's folder, or lock the one to resume."""
    own = {"experiment": NAME, "settings": dataclasses.asdict(config)}
    own["command"] = shlex.join(["jaxcnn", NAME, *arguments])
    content = describe(ready.plan, ready.splits, ready.sha256) | own
    return folders.open_folder(content, config.workdir, bool(config.resume))


def header(ready: runs.Ready, found: layouts.Found, folder: pathlib.Path) -> list[str]:
    """Return the lines that describe the data, the model and the training."""
    plan, classes, build, steps = ready.plan, ready.splits.train.classes, ready.plan.build or {}, ready.plan.steps or 0
    uses = ("to train on", "to validate on", "to test on")
    sizes = [f"{part.size:,} {use}" for part, use in zip(plan.data, uses, strict=True)]
    names = ", ".join(visible(c)[:20] for c in classes[:6]) + (", ..." if len(classes) > 6 else "")
    parameters = sum(x.size for x in jax.tree.leaves(ready.state.params))
    epochs = steps * plan.batch_size / plan.data.train.size
    rows = {
        "data": plan.dataset,
        "task": found.task,
        "classes": f"{len(classes)}: {names}" if classes else "",
        "rows": ", ".join(sizes),
        **{f"{name}s" if name == "image" else name: _shape(one) for name, one in entries_of(build).items()},
        "model": f"{build['model']['name']}, {parameters:,} parameters",
        "devices": f"{ready.run.devices} x {jax.devices()[0].platform} ({ready.run.strategy})",
        "training": f"{epochs:.4g} epochs, {steps:,} updates of {plan.batch_size} rows",
        "run": str(folder),
    }
    return [
        *(f"{name:<9}{visible(value)}" for name, value in rows.items() if value),
        *(f"note     {note}" for note in ready.notes),
    ]


def _shape(entry: dict[str, Any]) -> str:
    """Describe one row of an array."""
    return f"{' x '.join(map(str, entry['shape'])) or 'one number,'} {entry['dtype']}"


def _finish(ready: runs.Ready, folder: pathlib.Path, summary: dict[str, Any]) -> None:
    """Print the result and the next commands."""
    say(results.line(summary["test"], folder, ready.plan.shown, ready.plan.unit))
    run = command.quoted(folder)
    print(f"next: jaxcnn report {run}\n      jaxcnn predict {run} FILES", flush=True)


def say(line: str, chief: bool = True) -> None:
    """Print a line, wrapped at 80 columns without splitting words, if this process is the chief."""
    if chief:
        print(terminal.wrapped(line, options.WIDTH), flush=True)

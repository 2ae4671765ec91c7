"""Measures the gain from pretraining when labels are few: `python -m experiments.transfer_curve FOLDER --seeds 5`.

It pretrains on the first half of the classes of a folder, then learns the others from 10, 50 and 500 images per class:
from scratch, with all but the head frozen, and fine-tuned. With `--weights RUN` it starts from this run and learns all
classes. Every point is a run of `experiments.transfer`, measured on the whole test set. `--resume` trains only the
unfinished points.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import tyro

import jaxcnn as jc
from experiments import cli, common, folders, settings, transfer
from experiments.studies import core
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.data.folder import class_names
from jaxcnn.runs import plots
from jaxcnn.runs.signals import Signals

MODES = {
    "scratch": ("from scratch", "#000000", "o"),
    "head": ("head alone", "#0072B2", "s"),
    "all": ("fine-tuned", "#D55E00", "^"),
}
RATES = {"scratch": 3e-3, "head": 1e-2, "all": 1e-3}


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Compare training from scratch with two kinds of transfer learning."""

    folder: tyro.conf.Positional[str] = ""
    """Folder with <class>/<image>, or with train/<class>/<image> beside test/ or val/."""
    classes: tuple[str, ...] = ()
    """Names of the class folders to use; by default all."""
    weights: str = ""
    """Run to start from; by default a network is pretrained on the first half of the classes."""
    model: str = "cnn"
    """Network to pretrain: cnn or another of jaxcnn.models.MODELS."""
    cifar_stem: bool = False
    """Use the network's variant for images of about 32x32, if it has one."""
    image_size: int = 0
    """Side that images are resized to; by default that of --weights, otherwise as stored."""
    per_class: tuple[int, ...] = (10, 50, 500)
    """Numbers of labelled images per class, validation included."""
    seeds: int = 5
    """Number of seeds; a seed draws the images, initial parameters, order and augmentation."""
    epochs: int = 12
    """Epochs of pretraining; experiments.transfer chooses those of the other runs."""
    batch_size: int = 32
    """Rows in one update; pretraining uses four times this number."""


PRESETS = {"smoke": {"epochs": 1, "max_steps": 4, "seeds": 2, "per_class": (4, 8), "batch_size": 8}}


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> dict[str, Any]:
    """Train the unfinished points, and write the figures and their curve to the folder."""
    check(config)
    own = {"folder", "classes", "model", "cifar_stem", "image_size", "weights"}
    shared = {f.name for f in dataclasses.fields(settings.Settings)} | own
    base = transfer.Config(**{name: getattr(config, name) for name in shared} | {"epochs": None, "resume": False})
    begin, classes = base, config.classes or class_names(config.folder)
    if not config.weights:
        half = len(classes) // 2
        begin = dataclasses.replace(
            base, classes=classes[:half], epochs=config.epochs, batch_size=4 * config.batch_size, learning_rate=4e-3
        )
        base = dataclasses.replace(base, classes=classes[half:], model="", cifar_stem=False)
    plan = transfer.plan(begin)
    folder = folders.open_folder("transfer_curve", config, plan, plan.data, common.data_digest(plan.data.train))
    opened.append(folder)
    weights = config.weights or trained(begin, plan.data, folder / "pretrained", signals)["checkpoint"]
    base = dataclasses.replace(base, weights=weights)
    splits = plan.data if config.weights else transfer.load(base, base.image_size or transfer.origin(base).size)
    points = measured(config, base, splits, folder, signals)
    return report(folder, points)


def check(config: Any) -> None:
    """Refuse flags that a curve has no use for."""
    if config.evaluate or config.predict:
        raise jc.InputError("--evaluate and --predict: give one of the runs in the folder to experiments.transfer")
    if len(set(config.per_class)) < len(config.per_class):
        raise jc.InputError(f"--per-class {' '.join(map(str, config.per_class))}: has a number twice; give each once")
    if config.seeds < 1 or not config.per_class:
        raise jc.InputError(
            f"--seeds {config.seeds}, {len(config.per_class)} numbers for --per-class: needs at least one of each"
        )
    if min(config.per_class) < 2:
        raise jc.InputError(
            f"--per-class {min(config.per_class)}: must be at least 2, because one row is for validation"
        )


def measured(
    config: Any, base: transfer.Config, splits: jc.data.Splits, folder: pathlib.Path, signals: Signals,
    change: Callable[[runs.Plan], runs.Plan] = lambda plan: plan,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train every point, in each mode with the same rows, and return their accuracies on the test rows.

    Args:
        config: flags with `per_class` and `seeds`.
        base: flags of the runs, with `weights`.
        splits: their data.
        folder: receives a folder for each point.
        signals: checked between dispatches.
        change: changes the plan of a point where there is no flag.

    """
    points: list[dict[str, Any]] = []
    for n in config.per_class:
        seeds = range(config.seed, config.seed + config.seeds)
        few = [transfer.few(splits, dataclasses.replace(base, per_class=n, seed=seed)) for seed in seeds]
        for mode in MODES:
            for seed, part in zip(seeds, few, strict=True):
                run = dataclasses.replace(base, per_class=n, seed=seed, train=mode, learning_rate=RATES[mode])
                found = trained(run, part, folder / f"{mode}-{n}-{seed}", signals, change)
                row = {"train": mode, "per_class": n, "seed": seed, "accuracy": found["test"]["accuracy"]}
                points.append(row | {name: found[name] for name in ("steps", "train_seconds", "checkpoint")})
                where = f"{MODES[mode][0]}, {n} per class, seed {seed}"
                print(f"{where}: test accuracy {row['accuracy']:.4f}", flush=True)
    return points


def trained(
    config: transfer.Config, splits: jc.data.Splits, folder: pathlib.Path, signals: Signals,
    change: Callable[[runs.Plan], runs.Plan] = lambda plan: plan,
) -> dict[str, Any]:  # fmt: skip
    """Return the summary of a run; train it if there is none.

    Args:
        config: the flags of the run.
        splits: its data.
        folder: folder that holds the run, or receives it.
        signals: checked between dispatches.
        change: changes the plan where there is no flag.

    """

    def train(workdir: str) -> dict[str, Any]:
        here = dataclasses.replace(config, workdir=workdir)
        return transfer.train(here, change(transfer.plan(here, splits)), signals, [])

    return core.trained(folder, train)


def report(folder: pathlib.Path, points: list[dict[str, Any]], unit: str = "images") -> dict[str, Any]:
    """Print a table, and write the table, the points and a plot; `unit` names the rows."""
    sizes, rows = list(dict.fromkeys(p["per_class"] for p in points)), []
    for mode, (name, *_) in MODES.items():
        cells = [[p["accuracy"] for p in points if (p["train"], p["per_class"]) == (mode, n)] for n in sizes]
        found = [core.spread(cell) for cell in cells]
        rows.append(
            {"train": mode, "per_class": sizes} | {key: [one[key] for one in found] for key in ("mean", "deviation")}
        )
        print(f"{name:<14}" + "".join(f"{one['mean']:>10.4f} +- {one['deviation']:.4f}" for one in found), flush=True)
    found = {"points": points, "table": rows}
    files.write_json(folder / "summary.json", found)
    print(
        f"{unit} per class: {' '.join(map(str, sizes))}; mean and deviation over seeds; {visible(folder)}", flush=True
    )
    plots.draw(folder / "curve.png", plot, rows, unit)
    return found


def plot(rows: list[dict[str, Any]], unit: str) -> Any:
    """Plot test accuracy against labelled rows per class, one line per way of training, readable without colour."""
    figure = plots.new_figure(6, 4)
    panel = figure.subplots()
    for row in rows:
        name, colour, marker = MODES[row["train"]]
        panel.errorbar(
            row["per_class"], row["mean"], row["deviation"], color=colour, marker=marker, capsize=3, label=name
        )
    panel.set(xscale="log", xlabel=f"labelled {unit} per class", ylabel="test accuracy")
    panel.set_xticks(rows[0]["per_class"], rows[0]["per_class"])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    panel.legend()
    return figure


if __name__ == "__main__":
    cli.run(main, Config, "transfer_curve", PRESETS)

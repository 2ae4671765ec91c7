"""Learns with few labels: `python -m experiments.few_labels cifar10_jpeg.tar.gz --labels 10 25 100 --seeds 3`.

10,000 training images of CIFAR-10 are there, of which 10, 25 or 100 per class have a label. A small network learns from
these alone (from scratch; also as long as FixMatch, with its strong changes), with the others (SimCLR and then a linear
probe or fine-tuning; FixMatch), or with as many labels that are chosen otherwise: at random from all images, or by what
the network is least sure of (active learning). Each point is a training of its own, tested once on the whole test set
at the end of a fixed schedule; nothing is chosen by validation, for which a user with so few labels has no rows. The
table has the minutes of training, pretraining and earlier rounds included. `--resume` trains the unfinished points.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tyro
from typing_extensions import TypedDict

import jaxcnn as jc
from experiments import archives, cli, common, folders, settings
from experiments import few_labels_plans as plans
from experiments.studies import core
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.methods import active
from jaxcnn.runs import plots
from jaxcnn.runs.signals import Signals

METHODS = {
    "scratch": ("from scratch", "#000000", "o"),
    "strong": ("from scratch, strong changes", "#CC79A7", "P"),
    "probe": ("SimCLR, linear probe", "#0072B2", "s"),
    "finetune": ("SimCLR, fine-tuned", "#56B4E9", "D"),
    "fixmatch": ("FixMatch", "#D55E00", "^"),
    "random": ("random labels", "#8A8A8A", "x"),
    "active": ("active labels", "#009E73", "v"),
}
SCORES = {"margin": active.margin, "entropy": active.entropy, "confidence": active.least_confidence}


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Compare ways to learn from few labels."""

    data: tyro.conf.Positional[str] = ""
    """The archive of CIFAR-10 as images, or a folder with train/<class>/* and test/<class>/*."""
    unpacked: str = ""
    """Folder into which an archive is unpacked; by default checkpoints/data/few_labels."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Of scratch, strong, probe, finetune, fixmatch, random and active."""
    photos: int = 1000
    """Most training images of each class, with and without a label."""
    labels: tuple[int, ...] = (10, 25, 100)
    """Numbers of labels per class."""
    seeds: int = 3
    """Number of seeds; a seed draws the labelled images, initial parameters, order and augmentation."""
    model: str = "cnn"
    """cnn or another of jaxcnn.models.MODELS."""
    updates: int = 1500
    """Updates of a training from labelled images alone."""
    pretraining_updates: int = 2500
    """Updates of SimCLR."""
    pretraining_batch_size: int = 256
    """Images in one update of SimCLR."""
    fixmatch_updates: int = 4000
    """Updates of FixMatch."""
    fixmatch_batch_size: int = 16
    """Labelled images in one update of FixMatch."""
    ratio: int = 7
    """Images without a label for each labelled one of FixMatch."""
    threshold: float = 0.95
    """Least probability of a class that FixMatch learns."""
    rounds: int = 3
    """Trainings of active learning: the first with half of the labels, the last with all."""
    acquisition: str = "margin"
    """What active learning asks for: margin, entropy, confidence or coreset."""
    epochs: int = 1
    """Not used; see the numbers of updates."""
    batch_size: int = 64
    """Rows in one update of a training from labelled images alone."""


PRESETS = {
    "smoke": {
        "max_steps": 2, "seeds": 1, "labels": (2,), "batch_size": 8, "photos": 8, "pretraining_batch_size": 8,
        "fixmatch_batch_size": 4, "ratio": 2, "rounds": 2, "limit_examples": 64,
    }
}  # fmt: skip


class Pretrained(TypedDict):
    """The part of the `summary.json` of a pretraining that is read."""

    __pydantic_config__ = {"extra": "allow"}
    steps: int
    train_seconds: float


def read(config: Config) -> tuple[jc.data.Resident, jc.data.Resident]:
    """Return the images to learn from, with all labels, and the test images."""

    def place(name: str) -> str | None:
        found = archives.photo(name)
        return found.place if found and (found.part == "test" or int(found.number) < config.photos) else None

    top = pathlib.Path(config.unpacked or "checkpoints/data/few_labels") / f"cifar10-{config.photos}"
    path = archives.folder_of("few_labels", dataclasses.replace(config, unpacked=str(top)), place)
    splits = jc.data.folder(path, resident_bytes=2**40, validation_fraction=0.5)
    parts = splits.train.arrays, splits.valid.arrays  # a reader always cuts validation rows off
    pool = {name: np.concatenate([part[name] for part in parts]) for name in ("image", "label")}
    rows = [np.flatnonzero(pool["label"] == k)[: config.photos] for k in range(len(splits.train.classes))]
    return jc.data.Resident(pool, splits.train.classes).take(np.sort(np.concatenate(rows))), splits.test


Train = Callable[..., dict[str, Any]]


def measured(
    config: Config, about: dict[str, Any], pool: jc.data.Resident, test: jc.data.Resident, folder: pathlib.Path,
    signals: Signals,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train every point, and return its accuracy on the test rows and its minutes."""
    points: list[dict[str, Any]] = []
    for seed in range(config.seed, config.seed + config.seeds):
        train = functools.partial(_trained, dataclasses.replace(config, seed=seed), folder, signals)
        learned, before = None, 0.0
        if {"probe", "finetune"} & set(config.methods):
            size = (config.pretraining_updates, min(config.pretraining_batch_size, pool.size))
            found = train(plans.pretraining(config, about, pool), f"simclr-{seed}", *size, form=Pretrained)
            learned = jc.load_run(found["checkpoint"], task=plans.simclr(config, pool, about)).variables
            before = found["train_seconds"]
        for n in config.labels:
            few = jc.transfer.few_shot_subset(pool, n, seed)
            plan = plans.supervised(config, about, few, test)
            for method in config.methods:
                size, name = (config.updates, config.batch_size), f"{method}-{n}-{seed}"
                if method == "active":
                    row, seconds = _active(config, about, pool, test, train, n, seed)
                else:
                    chosen, more = plan, 0.0
                    if method == "random":
                        rows = active.at_random(pool.size, n * len(pool.classes), seed=seed)
                        chosen = plans.supervised(config, about, pool.take(np.sort(rows)), test)
                    elif method == "strong":  # as long as FixMatch, and with its changes of images
                        chosen = plans.supervised(config, about, few, test, plans.strong)
                        size = (config.fixmatch_updates, config.batch_size)
                    elif method == "fixmatch":
                        chosen = plans.semi_supervised(config, plan, pool)
                        size = (config.fixmatch_updates, config.fixmatch_batch_size)
                    elif method != "scratch":
                        chosen, more = plans.begun(plan, learned, method == "probe", seed), before
                    row = train(chosen, name, *size)
                    seconds = row["train_seconds"] + more
                point = {"method": method, "per_class": n, "seed": seed, "accuracy": row["test"]["accuracy"]}
                points.append(point | {"minutes": seconds / 60, "checkpoint": row["checkpoint"]})
                line = f"{METHODS[method][0]}, {n} per class, seed {seed}: test accuracy {point['accuracy']:.4f}"
                print(f"{line}, {seconds / 60:.1f} minutes", flush=True)
    return points


def _active(
    config: Config, about: dict[str, Any], pool: jc.data.Resident, test: jc.data.Resident, train: Train, n: int,
    seed: int,
) -> tuple[dict[str, Any], float]:  # fmt: skip
    """Train round after round, each with labels that the network before asked for; return the last and all seconds."""
    total = n * len(pool.classes)
    first = total / 2 if config.rounds > 1 else total
    sizes = np.unique(np.linspace(first, total, config.rounds).round().astype(int))

    def learn(rows: np.ndarray) -> dict[str, Any]:
        name = f"active-{n}-{seed}-{len(rows)}"
        plan = plans.supervised(config, about, pool.take(rows), test)
        return train(plan, name, config.updates, min(config.batch_size, len(rows)))

    def choose(found: dict[str, Any], rows: np.ndarray) -> np.ndarray:
        more, run = int(sizes[sizes > len(rows)][0]) - len(rows), jc.load_run(found["checkpoint"])
        if config.acquisition == "coreset":

            def pooled(variables, batch):
                x = jc.tasks.prepare(batch["image"], **about["task"]["options"])
                last = list(run.model.apply(variables, x, train=False, method="features").values())[-1]
                return last.reshape(len(last), -1, last.shape[-1]).mean(1)

            return active.k_centre(jc.collect(pooled, run.variables, pool)[0], more, taken=rows)
        logits, _ = jc.collect(run.task.predict, run.variables, pool)
        scores = SCORES[config.acquisition](np.asarray(jc.tasks.probabilities(logits)))
        return active.highest(scores, more, taken=rows)

    begun = active.at_random(pool.size, int(sizes[0]), seed=seed)
    found = [one.result for one in active.rounds(learn, choose, begun, len(sizes))]
    return found[-1], sum(one["train_seconds"] for one in found)


def _trained(
    config: Config, folder: pathlib.Path, signals: Signals, plan: runs.Plan, name: str, steps: int, batch_size: int,
    form: Any = core.Summary,
) -> dict[str, Any]:  # fmt: skip
    """Return the summary of a finished run; if there is none, train for this number of updates."""
    steps = min(steps, config.max_steps) if config.max_steps else steps
    batch_size = min(batch_size, plan.data.train.size)
    epochs = -(-steps * batch_size // plan.data.train.size)
    config = dataclasses.replace(config, resume=False, batch_size=batch_size, max_steps=steps, epochs=epochs)

    def train(workdir: str) -> dict[str, Any]:
        return common.train("few_labels", dataclasses.replace(config, workdir=workdir), plan, signals, [])

    return core.trained(folder / name, train, form)


def report(folder: pathlib.Path, config: Config, points: list[dict[str, Any]]) -> dict[str, Any]:
    """Print a table, and write the table, the points and a plot."""
    rows = []
    for method in config.methods:
        row: dict[str, Any] = {"method": method, "per_class": list(config.labels)}
        for n in config.labels:
            cell = [p for p in points if (p["method"], p["per_class"]) == (method, n)]
            found = core.spread([p["accuracy"] for p in cell]) | {"minutes": max(p["minutes"] for p in cell)}
            for key in ("mean", "deviation", "minutes"):
                row.setdefault(key, []).append(found[key])
        cells = zip(row["mean"], row["deviation"], row["minutes"], strict=True)
        line = "".join(f"{mean:>9.4f} +- {deviation:.4f} ({minutes:.1f})" for mean, deviation, minutes in cells)
        print(f"{METHODS[method][0]:<30}{line}", flush=True)
        rows.append(row)
    found = {"points": points, "table": rows}
    files.write_json(folder / "summary.json", found)
    about = f"{' '.join(map(str, config.labels))} labels per class; mean and deviation over {config.seeds} seeds"
    print(f"{about} (most minutes of a seed); {visible(folder)}", flush=True)
    plots.draw(folder / "curve.png", plot, rows)
    return found


def plot(rows: list[dict[str, Any]]) -> Any:
    """Plot test accuracy against labels per class, one line per method, readable without colour."""
    figure = plots.new_figure(6, 4)
    panel = figure.subplots()
    for row in rows:
        name, colour, marker = METHODS[row["method"]]
        panel.errorbar(
            row["per_class"], row["mean"], row["deviation"], color=colour, marker=marker, capsize=3, label=name
        )
    panel.set(xscale="log", xlabel="labels per class", ylabel="test accuracy")
    panel.set_xticks(rows[0]["per_class"], rows[0]["per_class"])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    panel.legend()
    return figure


def check(config: Config) -> None:
    """Refuse bad values before anything is read."""
    if config.evaluate or config.predict:
        raise jc.InputError(
            "--evaluate and --predict: give one of the runs in the folder to jaxcnn evaluate or predict"
        )
    settings.unused(config, "epochs", instead="use the numbers of updates")
    settings.unused(config, "validation_fraction", instead="no validation rows are used")
    for name in config.methods:
        settings.one_of("--methods", name, METHODS)
    settings.one_of("--acquisition", config.acquisition, (*SCORES, "coreset"))
    for flag, values in (("--methods", config.methods), ("--labels", config.labels)):
        if len(set(values)) < len(values):
            raise jc.InputError(f"{flag} {' '.join(map(str, values))}: has a value twice; give each once")
    if not 0 < config.threshold <= 1:
        raise jc.InputError(f"--threshold {config.threshold}: must be above 0 and at most 1")
    names = (
        "seeds", "rounds", "updates", "pretraining_updates", "fixmatch_updates", "batch_size",
        "pretraining_batch_size", "fixmatch_batch_size", "photos", "ratio",
    )  # fmt: skip
    counted = {name: getattr(config, name) for name in names}
    counted |= {"labels": min(config.labels, default=0), "methods": len(config.methods)}
    for name, value in counted.items():
        if value < 1:
            raise jc.InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> dict[str, Any]:
    """Train the unfinished points, and write the figures and their curve to the folder."""
    check(config)
    pool, test = read(config)
    about = plans.build(config, pool)
    most = jc.transfer.few_shot_subset(pool, max(config.labels), config.seed)  # refused before anything is trained
    plan = plans.supervised(config, about, most, test)
    folder = folders.open_folder("few_labels", config, plan, plan.data, common.data_digest(pool))
    opened.append(folder)
    return report(folder, config, measured(config, about, pool, test, folder, signals))


if __name__ == "__main__":
    cli.run(main, Config, "few_labels", PRESETS)

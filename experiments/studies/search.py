"""Asks whether a search learns from its trials: `python -m experiments.studies.search cifar10_jpeg.tar.gz`.

On a subset of CIFAR-10, settings of a small network are searched twice with the same number of updates: at random, and
with TPE (Bergstra et al., 2011), which ends trials early that others beat (Hyperband: Li et al., 2016,
arXiv:1603.06560) and so affords more of them. The best settings of each are trained once more and tested on the whole
test set. Every repetition has its own subset, which both searches share, so their results are compared in pairs.
`--resume` goes on where the study was stopped, also in the middle of a search.
"""

import dataclasses
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import tyro

import jaxcnn as jc
from experiments import cli, common, few_labels, folders, settings
from experiments.few_labels_plans import build, weak
from experiments.studies import core
from jaxcnn import runs, tune
from jaxcnn.cli.planning import planned
from jaxcnn.core import files
from jaxcnn.core.ranges import Choice, Range
from jaxcnn.core.text import visible
from jaxcnn.runs.signals import Signals
from jaxcnn.tune.space import derived

NAME = "studies.search"
HOW = {"random": ("random", "none"), "tpe": ("tpe", "hyperband")}  # sampler and pruner of each search
MOST = 20  # trials of a search that ends them early, for each one of the other
MEASURED = ("validation accuracy", "test accuracy")


@dataclasses.dataclass(frozen=True)
class Values:
    """The settings that are searched, with their ranges; nothing in here is known to be good."""

    learning_rate: Annotated[float, Range(1e-4, 1e-1)] = 1e-3
    weight_decay: Annotated[float, Range(1e-4, 1.0)] = 1e-2
    momentum: Annotated[float, Range(0.8, 0.98)] = 0.9
    dropout: Annotated[float, Range(0.0, 0.6)] = 0.0
    label_smoothing: Annotated[float, Range(0.0, 0.2)] = 0.0
    batch_size: Annotated[int, Choice((32, 64, 128))] = 64
    augment: bool = False


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Compare a search that learns from its trials with one at random, at the same number of updates."""

    data: tyro.conf.Positional[str] = ""
    """The archive of CIFAR-10 as images, or a folder with train/<class>/* and test/<class>/*."""
    unpacked: str = ""
    """Folder into which an archive is unpacked; by default checkpoints/data/few_labels."""
    photos: int = 1000
    """Most training images of each class that are read; every repetition draws from them."""
    rows: int = 2000
    """Images to train on."""
    valid_rows: int = 1000
    """Images to choose the settings by."""
    trials: int = 16
    """Trials of the search at random, all to the end; the other search has as many updates."""
    updates: int = 300
    """Updates of a whole trial."""
    validations: int = 9
    """Times that a trial is measured, after which it may end."""
    seeds: int = 5
    """Number of repetitions; a seed draws the subset, the settings that are tried, and all of the training."""
    model: str = "cnn"
    """cnn or another of jaxcnn.models.MODELS that takes dropout."""
    epochs: int = 1
    """Not used; see the number of updates."""


SMOKE = {
    "max_steps": 2, "seeds": 2, "photos": 8, "rows": 40, "valid_rows": 20, "trials": 2, "updates": 2, "validations": 2,
    "limit_examples": 64,
}  # fmt: skip


def plan_of(config: Config, data: jc.data.Splits, about: dict[str, Any], values: Mapping[str, Any]) -> runs.Plan:
    """Return the plan of a training with these settings."""
    given = Values(**values)
    model, task = about["model"], about["task"]
    described = about | {
        "ema": 0,
        "model": model | {"options": model["options"] | {"dropout": given.dropout}},
        "task": task | {"options": task["options"] | {"label_smoothing": given.label_smoothing}},
    }

    def optimizer(steps: int) -> Any:
        # a short rise: what is measured first is not the rise alone
        rate = jc.optim.one_cycle(given.learning_rate, steps=steps, warmup=steps // 10)
        return jc.optim.adamw(rate, b1=given.momentum, weight_decay=given.weight_decay)

    plan = runs.Plan(
        runs.build(described)[1], data, optimizer, build=described, dataset="cifar10", unit="images", best=False,
        wrap=(lambda step: jc.augmented(step, weak())) if given.augment else (lambda step: step),
        every=math.ceil(config.updates / config.validations), monitor="accuracy", mode="max",
    )  # fmt: skip
    return planned(NAME, flags_of(config, data, given.batch_size), plan)


def flags_of(config: Config, data: jc.data.Splits, batch_size: int) -> Config:
    """Return the flags of one training: its batch size, and the epochs that its updates need."""
    batch = min(batch_size, data.train.size)
    epochs = math.ceil(config.updates * batch / data.train.size)
    return dataclasses.replace(config, resume=False, batch_size=batch, max_steps=config.updates, epochs=epochs)


def subset(config: Config, pool: jc.data.Resident, test: jc.data.Resident, seed: int) -> jc.data.Splits:
    """Draw the rows of a repetition; the test set stays whole."""
    drawn = np.random.default_rng([7, seed]).permutation(pool.size)
    train, valid = drawn[: config.rows], drawn[config.rows : config.rows + config.valid_rows]
    return jc.data.Splits(pool.take(np.sort(train)), pool.take(np.sort(valid)), test)


def searched(
    config: Config, name: str, data: jc.data.Splits, about: dict[str, Any], folder: pathlib.Path, signals: Signals
) -> dict[str, Any]:
    """Search, train with the best settings, and return what that gave; what is there already is not done again."""
    sampler, pruner = HOW[name]
    place, began = folder / f"{name}-{config.seed}", time.perf_counter()
    # a trial begins if a whole one is left, so that nobody has more updates than the other
    left = (config.trials - 1) * config.updates + 1
    with signals.while_training():
        found = tune.search(
            lambda values: plan_of(config, data, about, values), derived(Values), place / "study",
            trials=config.trials * (1 if pruner == "none" else MOST), updates=left, sampler=sampler, pruner=pruner,
            seed=config.seed, stop=signals.stop,
        )  # fmt: skip

    def train(workdir: str) -> dict[str, Any]:
        flags = dataclasses.replace(flags_of(config, data, found.best["batch_size"]), workdir=workdir)
        return common.train(NAME, flags, plan_of(config, data, about, found.best), signals, [])

    summary = core.trained(place / "final", train)
    row = {
        "method": name, "seed": config.seed, "validation accuracy": found.value,
        "test accuracy": summary["test"]["accuracy"], "trials": len(found.rows), "updates": found.updates,
        "best": found.best, "checkpoint": summary["checkpoint"],
    }  # fmt: skip
    print(
        f"{name}, seed {config.seed}: validation {found.value:.4f}, test {row['test accuracy']:.4f} after "
        f"{row['trials']} trials and {found.updates:,} updates ({(time.perf_counter() - began) / 60:.1f} minutes)",
        flush=True,
    )
    return row


def paired(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the differences of TPE to the search at random, paired by repetition: mean, deviation and interval."""
    found, out = {(row["method"], row["seed"]): row for row in rows}, []
    seeds = sorted({row["seed"] for row in rows})
    for column in MEASURED:
        gaps = [found["tpe", seed][column] - found["random", seed][column] for seed in seeds]
        out.append({"column": column, "differences": gaps, **core.spread(gaps), "above": sum(gap > 0 for gap in gaps)})
    return out


def report(folder: pathlib.Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the means and the paired differences, and write them."""
    for name in HOW:
        mine = [row for row in rows if row["method"] == name]
        spreads = {column: core.spread([row[column] for row in mine]) for column in MEASURED}
        cells = ", ".join(f"{column} {x['mean']:.4f} +- {x['deviation']:.4f}" for column, x in spreads.items())
        print(f"{name:<8}{cells}, {np.mean([row['trials'] for row in mine]):.1f} trials", flush=True)
    found = {"repetitions": rows, "paired": paired(rows)}
    for one in found["paired"]:
        line = (
            f"tpe - random, {one['column']}: {one['mean']:+.4f} +- {one['deviation']:.4f} (deviation), 95 % interval "
        )
        line += f"{one['mean'] - one['interval']:+.4f} to {one['mean'] + one['interval']:+.4f}"
        print(f"{line}, above in {one['above']} of {len(one['differences'])}", flush=True)
    print(visible(folder), flush=True)
    files.write_json(folder / "summary.json", found)
    return found


def check(config: Config) -> None:
    """Refuse bad values before anything is read."""
    if config.evaluate or config.predict:
        raise jc.InputError("--evaluate and --predict: give a run in the folder to jaxcnn evaluate or predict")
    settings.unused(config, "epochs", "batch_size", instead="use --updates; the search chooses the batch size")
    settings.unused(config, "max_steps", instead="use --updates", saved={"max_steps": SMOKE["max_steps"]})
    settings.unused(config, "validation_fraction", instead="use --valid-rows")
    for name in ("rows", "valid_rows", "trials", "updates", "validations", "seeds", "photos"):
        if getattr(config, name) < 1:
            raise jc.InputError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be at least 1")
    settings.one_of("--model", config.model, jc.models.MODELS)


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> dict[str, Any]:
    """Search with both methods in every repetition, and compare."""
    check(config)
    pool, test = few_labels.read(few_labels.Config(data=config.data, unpacked=config.unpacked, photos=config.photos))
    if config.rows + config.valid_rows > pool.size:
        asked = f"--rows {config.rows}, --valid-rows {config.valid_rows}"
        raise jc.InputError(f"{asked}: must be {pool.size} together at most; give fewer, or more --photos")
    about = build(config, pool)
    first = subset(config, pool, test, config.seed)
    plan = plan_of(config, first, about, {})
    folder = folders.open_folder(NAME, config, plan, plan.data, common.data_digest(pool))
    opened.append(folder)
    rows = []
    for seed in range(config.seed, config.seed + config.seeds):
        own, data = dataclasses.replace(config, seed=seed), subset(config, pool, test, seed)
        rows += [searched(own, name, data, about, folder, signals) for name in HOW]
    return report(folder, rows)


if __name__ == "__main__":
    cli.run(main, Config, NAME, {"smoke": SMOKE})

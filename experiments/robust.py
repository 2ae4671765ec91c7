"""Trains networks that resist attacks, and attacks them: `python -m experiments.robust mnist DATA`.

Data: MNIST's IDX files with changes of up to 0.3 in the maximum norm, or the photos of CIFAR-10 in an archive or a
folder, with 8/255 and the speed network. The network for MNIST has two convolutions with strides, like that of Wong and
Kolter (2017, arXiv:1711.00851). It needs a tenth of the work of the network of Madry et al. (2017, arXiv:1706.06083),
which reached 88.8 to 89.6 % under the attacks of that year and 88.4 % under AutoAttack. `--method` chooses PGD
training, TRADES (Zhang et al., 2019, arXiv:1901.08573), fast training (Wong et al., 2020, arXiv:2001.03994), N-FGSM (de
Jorge et al., 2022, arXiv:2202.01181), which is as fast but rarely collapses, MART, Gaussian noise (for `--certify`) or
usual training. The weights are those of the best validation under a short attack, or under the noise.

Measured is the accuracy under each of six attacks and under the worst of them per image (`experiments.attacking`), on
all test images of MNIST and on 1,000 of CIFAR-10, beside checks for gradients that mislead attacks. `--certify N` adds
the certified accuracy of randomised smoothing on N test images (`experiments.certifying`).
"""

import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import optax
import tyro

import jaxcnn as jc
from experiments import archives, attacking, certifying, cli, common, inference, settings
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.methods import attacks, smoothing
from jaxcnn.runs.signals import Signals

METHODS = ("pgd", "trades", "fast", "nfgsm", "mart", "noise", "none")
HEADLINES = {"none": ("loss", "accuracy"), "noise": ("accuracy", "noisy")}
RECIPES: dict[str, dict[str, Any]] = {
    "mnist": {
        "epsilon": 0.3, "epochs": 15, "learning_rate": 2e-3, "rows": 10_000, "train_steps": 10, "beta": 1.0,
        "widths": (16, 32), "hidden": 256,
    },
    "cifar10": {
        "epsilon": 8 / 255, "epochs": 12, "learning_rate": 4e-3, "rows": 1000, "train_steps": 7, "beta": 6.0,
        "widths": (32, 64, 128),
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, attack or use a network that resists attacks."""

    name: tyro.conf.Positional[str] = "mnist"
    """mnist or cifar10."""
    data: tyro.conf.Positional[str] = ""
    """Folder of MNIST's IDX files; or the archive of CIFAR-10, or a folder with train/<class>/* and test/<class>/*."""
    unpacked: str = ""
    """Folder into which the archive is unpacked; by default checkpoints/data/cifar10."""
    method: str = "pgd"
    """How to train: pgd, trades, fast, nfgsm, mart, noise (Gaussian, of --sigma) or none."""
    epsilon: float = 0.0
    """Largest change of a pixel, in 0..1; by default 0.3 for mnist and 8/255 for cifar10."""
    epochs: int = 0
    """Passes over the training rows; by default 15 for mnist and 12 for cifar10."""
    learning_rate: float = 0.0
    """Highest value of the one-cycle schedule of AdamW; by default 2e-3 for mnist and 4e-3 for cifar10."""
    weight_decay: float = 1e-2
    """Weight decay of kernels; biases and norm scales have none."""
    train_steps: int = 0
    """Steps of the attack in training, but one for fast and nfgsm; by default 10 for mnist and 7 for cifar10."""
    ramp: float = 0.2
    """Share of the updates after which the attacks of training are whole, in 0..1."""
    beta: float | None = None
    """Weight of the divergence of trades and mart; by default 1 for mnist and 6 for cifar10."""
    widths: tuple[int, ...] = ()
    """Channels of the convolutions for mnist, by default 16 32, or of the stages for cifar10, by default 32 64 128."""
    hidden: int = 0
    """Units of the dense layer before the last one, for mnist; by default 256."""
    ema: float = 0.99
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""
    validation_fraction: float = 0.05
    """Share of the training rows that is held out for validation."""
    rows: int = 0
    """Test images to attack; by default all of mnist and 1,000 of cifar10."""
    steps: int = 40
    """Steps of PGD in the measurement."""
    restarts: int = 1
    """Starts of PGD in the measurement."""
    auto_steps: int = 100
    """Steps of Auto-PGD in the measurement."""
    targets: int = 3
    """Wrong classes that targeted Auto-PGD aims at in the measurement, the likeliest first; AutoAttack has 9."""
    square_steps: int = 1000
    """Squares that the Square Attack tries in the measurement; AutoAttack has 5,000."""
    checked: int = 500
    """Attacked images on which the checks are made; 0 for no checks."""
    attack: bool = True
    """Measure under attacks; without, only the certificates of --certify are made."""
    certify: int = 0
    """Certify N test images, drawn at random, by randomised smoothing; 0 for none."""
    sigma: float = 0.0
    """Standard deviation of the noise of --method noise and of --certify, for pixels in 0..1; by default that of the
    run's training, or 0.25."""
    radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Euclidean distances at which the certified accuracy is given."""
    certify_samples: int = 10_000
    """Noisy versions of each image that bound its certificate."""
    alpha: float = 1e-3
    """Chance that a certificate is wrong."""


PRESETS = {
    "smoke": {
        "epochs": 1, "max_steps": 2, "batch_size": 8, "limit_examples": 16, "ema": 0.0, "widths": (4, 4),
        "train_steps": 1, "steps": 2, "auto_steps": 2, "targets": 2, "square_steps": 4, "checked": 8,
        "certify": 2, "certify_samples": 16,
    }
}  # fmt: skip


def settled(config: Config) -> Config:
    """Return the flags with the values of the recipe where none is given."""
    settings.one_of("NAME", config.name, RECIPES)
    settings.one_of("--method", config.method, METHODS)
    given = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != f.default}
    usual = {key: value for key, value in RECIPES[config.name].items() if key not in given}
    config = dataclasses.replace(config, **usual)
    if min(config.widths) < 1:
        raise jc.InputError(f"--widths {' '.join(map(str, config.widths))}: must be at least 1")
    if config.name == "cifar10" and config.hidden:
        raise jc.InputError(f"--hidden {config.hidden}: only the network for mnist has a hidden layer; leave it out")
    if config.hidden < 0:
        raise jc.InputError(f"--hidden {config.hidden}: must be at least 1")
    if not config.data:
        raise jc.InputError(
            f"DATA: give the place of the images, as in python -m experiments.robust {config.name} DATA"
        )
    if not 0 < config.epsilon <= 1:
        raise jc.InputError(f"--epsilon {config.epsilon}: must be above 0 and at most 1, for pixels in 0..1")
    if not 0 <= config.ramp <= 1:
        raise jc.InputError(f"--ramp {config.ramp}: must be in 0..1")
    if not 0 <= config.sigma < math.inf:
        raise jc.InputError(f"--sigma {config.sigma}: must be above 0, for pixels in 0..1, or 0 for the default")
    if config.sigma and config.method != "noise" and not config.certify:
        raise jc.InputError(f"--sigma {config.sigma}: is read by --method noise and by --certify N; leave it out")
    if config.checked < 0:
        raise jc.InputError(f"--checked {config.checked}: must be at least 1, or 0 for no checks")
    if config.certify < 0:
        raise jc.InputError(f"--certify {config.certify}: must be at least 1, or 0 for no certificates")
    if not config.attack and not config.certify:
        raise jc.InputError("--no-attack: leaves nothing to measure; give --certify N too")
    if not config.radii or not all(0 <= radius < math.inf for radius in config.radii):
        raise jc.InputError(f"--radii {' '.join(map(str, config.radii))}: give at least one, each at least 0")
    if not 0 < config.alpha < 1:
        raise jc.InputError(f"--alpha {config.alpha}: must be above 0 and below 1")
    config = dataclasses.replace(config, sigma=config.sigma or certifying.SIGMA)
    for key in ("rows", "steps", "restarts", "auto_steps", "targets", "square_steps", "train_steps", "certify_samples"):
        if getattr(config, key) < 1:
            raise jc.InputError(f"--{key.replace('_', '-')} {getattr(config, key)}: must be at least 1")
    return config


def place(name: str) -> str | None:
    """Return where a file of the archive of CIFAR-10 goes: `train/cat/0042.jpg`."""
    found = archives.photo(name)
    return found.place if found else None


def load(config: Config) -> tuple[jc.data.Splits, dict[str, Any]]:
    """Read the data, and return how they were read."""
    splits, source = read(config)
    if config.attack and config.targets >= len(splits.train.classes):  # refused now, not when the training is over
        raise jc.InputError(f"--targets {config.targets}: must be less than the {len(splits.train.classes)} classes")
    return splits, source


def read(config: Config) -> tuple[jc.data.Splits, dict[str, Any]]:
    """Read the data of the name."""
    held: dict[str, Any] = {"validation_fraction": config.validation_fraction}
    if config.name == "mnist":
        how: dict[str, Any] = {"path": str(files.expanded(config.data))} | held
        return jc.data.idx(**how), runs.source("idx", how)
    how = {"path": str(archives.folder_of("cifar10", config, place)), "channels": 3} | held
    return jc.data.folder(**how), runs.source("folder", how)


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    rate, decay = jc.optim.check_rate(config.learning_rate), config.weight_decay
    attacking.attacks_of(config)  # refuse bad values before data are read
    splits, source = load(config)
    image, classes = splits.train.example()["image"], len(splits.train.classes)
    pixels: dict[str, Any] = {}
    if config.name == "mnist":
        shape = {"widths": list(config.widths), "kernel_size": 4, "stride": 2, "pools": 0, "hidden": config.hidden}
        model = common.model("plain", config, num_classes=classes, **shape)
    else:
        pixels = common.pixel_statistics(splits.train)
        model = common.model("speednet", config, num_classes=classes, widths=list(config.widths))
        some = splits.train.chunk(min(1000, splits.train.size), 0, 1, 1).at(0)["image"]
        model["options"]["whitening"] = jc.models.whitening(jc.tasks.prepare(some, **pixels))
    build = {
        "model": model, "task": {"name": "classification", "options": pixels}, "ema": config.ema,
        "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }  # fmt: skip
    task, total = runs.build(build)[1], steps_of(config, splits.train.size)

    def optimizer(steps: int) -> optax.GradientTransformation:
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    return runs.Plan(
        METHOD_OF[config.method](task, config), splits, optimizer, wrap=wrap_of(config, total), ema=config.ema,
        build=build, dataset=config.name, source=source,
        headline=HEADLINES.get(config.method, ("accuracy", "fgsm", "pgd")),
    )  # fmt: skip


def steps_of(config: Config, size: int) -> int:
    """Return the number of updates of a run."""
    size = min(size, config.limit_examples or size)
    total = -(-config.epochs * size // min(config.batch_size, size))
    return min(total, config.max_steps) if config.max_steps else total


def measured(task: jc.Task, config: Config) -> jc.Task:
    """Let validation measure a task under one step and under twenty, so that fast training that collapses is seen."""
    short = {"fgsm": attacks.fgsm(config.epsilon), "pgd": attacks.pgd(config.epsilon, steps=20)}
    return jc.methods.attacked(task, short)


def trained_on(task: jc.Task, config: Config, steps: int) -> attacks.Attack:
    """Return the attack of training; a single step is longer than the distance, as in fast training."""
    size = 1.25 * config.epsilon if steps == 1 else None
    return attacks.pgd(config.epsilon, steps=steps, step_size=size, early_stop=False)


METHOD_OF: dict[str, Callable[[jc.Task, Config], jc.Task]] = {
    "none": lambda task, config: task,
    "noise": lambda task, config: jc.methods.attacked(task, {"noisy": certifying.noise(config.sigma)}),
    "pgd": lambda task, config: measured(
        jc.methods.adversarial(task, trained_on(task, config, config.train_steps)), config
    ),
    "fast": lambda task, config: measured(jc.methods.adversarial(task, trained_on(task, config, 1)), config),
    "nfgsm": lambda task, config: measured(jc.methods.adversarial(task, attacks.noisy_fgsm(config.epsilon)), config),
    "trades": lambda task, config: measured(
        jc.methods.trades(task, config.epsilon, beta=config.beta, steps=config.train_steps), config
    ),
    "mart": lambda task, config: measured(
        jc.methods.mart(task, trained_on(task, config, config.train_steps), beta=config.beta), config
    ),
}


def wrap_of(config: Config, steps: int) -> Callable[[jc.Step], jc.Step]:
    """Return what wraps the training step: growing attacks, noise, and for photos mirrored and shifted images."""
    ramp = round(config.ramp * steps)
    photos = [] if config.name == "mnist" else [jc.augment.flip, jc.augment.pad_crop(4)]
    noise = [smoothing.gaussian_noise(config.sigma)] if config.method == "noise" else []

    def wrap(step: jc.Step) -> jc.Step:
        step = jc.methods.ramped(step, ramp)
        return jc.augmented(step, jc.augment.compose(*photos, *noise)) if photos or noise else step

    return wrap


def overfitting(folder: pathlib.Path) -> dict[str, Any]:
    """Return whether validations show catastrophic overfitting: a network that resists its one step alone.

    Then the accuracy under twenty steps falls from one validation to a later one, or it ends far below that under one
    step. At first it may lie far below, while the attacks of training still grow.
    """
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["split"] == "validation" and "fgsm" in line]
    if not lines:
        return {}
    pgd = [line["pgd"] for line in lines]
    fall = max(best - now for best, now in zip(itertools.accumulate(pgd, max), pgd, strict=True))
    gap = lines[-1]["fgsm"] - pgd[-1]
    return {"largest_fall": fall, "last_gap": gap, "collapsed": fall > 0.2 or gap > 0.3}


def measured_on(config: Config, loaded: runs.TrainedRun, data: Any) -> dict[str, Any]:
    """Return the accuracies under attacks on as many of the rows as the flags say."""
    if not config.attack:
        return {}
    rows = min(config.rows, config.limit_examples or config.rows)
    return attacking.measure(config, loaded, data if rows >= data.size else runs.limited(data, rows))


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Train, or only attack `--checkpoint`, as the flags say; the accuracies of a new run go into robust.json."""
    if config.predict:
        return inference.predict(config)
    if config.evaluate:
        folder, loaded = pathlib.Path(config.checkpoint), jc.load_run(config.checkpoint)
        if loaded.config["experiment"] != "robust":
            raise jc.InputError(f"--checkpoint {visible(config.checkpoint)}: a run of {loaded.config['experiment']}")
        saved = loaded.config["settings"]
        same = {key: saved[key] for key in ("name", "method", "unpacked")}
        same |= {"data": config.data or saved["data"], "epsilon": config.epsilon or saved["epsilon"]}
        same["sigma"] = config.sigma or (saved["sigma"] if saved["method"] == "noise" else 0.0)
        config = settled(dataclasses.replace(config, **same))
        data = load(config)[0].test
    else:
        config = settled(config)
        made = plan(config)
        if not common.train("robust", config, made, signals, opened):  # another process has the results
            return None
        folder, data = opened[-1], made.data.test
        loaded = jc.load_run(folder)
    values = {"name": config.name, "method": config.method, "epsilon": config.epsilon}
    values |= measured_on(config, loaded, data)
    values["overfitting"] = overfitting(folder)
    if config.certify:
        saved = loaded.config["settings"]
        trained = saved["sigma"] if config.method == "noise" else 0.0
        values["certified"] = certifying.certified(config, loaded, data, trained)
        files.write_json(folder / "certified.json", values["certified"])
    if not config.evaluate:
        files.write_json(folder / "robust.json", values)
    print(files.to_json(values), flush=True)
    return values


if __name__ == "__main__":
    cli.run(main, Config, "robust", PRESETS)

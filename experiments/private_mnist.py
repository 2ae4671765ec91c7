"""Learns handwritten digits without revealing any row: `python -m experiments.private_mnist DATA --epsilon 3`.

Data: MNIST's IDX files. DP-SGD (Abadi et al., 2016, arXiv:1607.00133) trains a small network with tanh, which suits it
(Papernot et al., 2020, arXiv:2007.14191), with Poisson sampling, large batches and an average of the weights (De et
al., 2022, arXiv:2204.13650). The noise follows from `--epsilon`, `--delta` and the number of updates; what has been
spent is printed each epoch, and with the result.

The guarantee covers the training rows and the parameters. It holds against everyone who does not know the seed, which
decides batches and noise: a run whose `--seed` is published is a measurement, not a private model. The report leaves
the seed out; the folder of the run has it. The validation rows
choose the weights and are not covered, nor are metrics of the training rows.
"""

import dataclasses
import functools
import math
import pathlib
import sys
from typing import Any, cast

import optax
import tyro

import jaxcnn as jc
from experiments import cli, common, inference, settings
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.methods import private
from jaxcnn.runs.signals import Signals


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a classifier of digits that hides its training rows."""

    data: tyro.conf.Positional[str] = ""
    """Folder of MNIST's IDX files."""
    epsilon: float = 3.0
    """Largest epsilon to spend. It holds while --seed is secret."""
    delta: float = 1e-5
    """Chance with which the guarantee may fail; below one over the number of rows."""
    accountant: str = "pld"
    """How epsilon is computed: pld (the distribution of privacy loss) or rdp (Renyi), which gives larger values."""
    clip: float = 0.1
    """Largest length of a row's gradient."""
    epochs: int = 15
    """Expected passes over the training rows."""
    batch_size: int = 2048
    """Expected rows in one update, over all devices."""
    learning_rate: float = 8.0
    """First learning rate of SGD, which falls along a cosine."""
    momentum: float = 0.9
    """Momentum of SGD, in [0, 1)."""
    widths: tuple[int, ...] = (16, 32)
    """Channels of each convolution."""
    hidden: int = 32
    """Units of the dense layer before the last one."""
    ema: float = 0.95
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""
    validation_fraction: float = 0.05
    """Share of the training rows that is held out for validation."""
    parts: int = 16
    """Gradients of rows are computed in this many parts of a batch, to save memory; the last is filled up."""


GUESSED = 2**16  # seeds below it are tried first
CAN_BE_GUESSED = (
    "can be guessed, so epsilon describes a measurement; a private model needs a random seed, as of "
    'python -c "import secrets; print(secrets.randbits(31))", which you keep for --resume and do not publish'
)

PRESETS = {
    "smoke": {
        "epochs": 1, "max_steps": 4, "batch_size": 16, "limit_examples": 64, "ema": 0.0, "widths": (4,), "hidden": 4,
        "parts": 2, "accountant": "rdp", "delta": 1e-3, "validation_fraction": 0.2,
    }
}  # fmt: skip


def spending(config: Config, size: int) -> dict[str, Any]:
    """Return the noise for `--epsilon`, and what it was computed from.

    Args:
        config: the flags.
        size: number of training rows.

    """
    if not 0 < config.delta < 1 / size:
        raise jc.InputError(f"--delta {config.delta}: must be above 0 and below 1 / {size} training rows")
    if not 1 <= config.batch_size <= size:
        raise jc.InputError(f"--batch-size {config.batch_size}: must be from 1 to the {size} training rows")
    if not 0 < config.epsilon < math.inf:
        raise jc.InputError(f"--epsilon {config.epsilon}: must be above 0")
    rate = config.batch_size / size
    steps = math.ceil(config.epochs * size / config.batch_size)
    steps = min(steps, config.max_steps) if config.max_steps else steps
    noise = private.noise_for(config.epsilon, rate, steps, config.delta, cast(private.Accountant, config.accountant))
    return {"noise": noise, "rate": rate, "steps": steps, "delta": config.delta, "accountant": config.accountant}


def plan(config: Config) -> tuple[runs.Plan, dict[str, Any]]:
    """Make the plan from the flags, and return it with the result of `spending`."""
    if not config.data:
        raise jc.InputError("DATA: give the folder of the IDX files, as in python -m experiments.private_mnist DATA")
    rate = jc.optim.check_rate(config.learning_rate)
    sgd = functools.partial(jc.optim.sgd, momentum=config.momentum)
    hidden = functools.partial(private.private, config.clip, batch_size=config.batch_size, parts=config.parts)
    for make, value in ((sgd, rate), (hidden, 0.0)):
        make(value)  # refuse bad values before data are read
    read: dict[str, Any] = {"path": str(files.expanded(config.data))}
    read |= {"validation_fraction": config.validation_fraction}
    splits = jc.data.idx(**read)
    splits = splits._replace(train=private.Poisson(splits.train.arrays, splits.train.classes))
    size = min(splits.train.size, config.limit_examples or splits.train.size)
    budget = spending(config, size)
    image = splits.train.example()["image"]
    build = {
        "model": common.model(
            "plain", config, num_classes=len(splits.train.classes), widths=list(config.widths), kernel_size=5, pools=2,
            hidden=config.hidden, activation="tanh",
        ),
        "task": {"name": "classification", "options": {}}, "ema": config.ema,
        "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }  # fmt: skip
    spent = functools.partial(spent_after, budget)

    def optimizer(steps: int) -> optax.GradientTransformation:
        return sgd(jc.optim.cosine(rate, steps=steps))

    made = runs.Plan(
        runs.build(build)[1], splits, optimizer, wrap=lambda step: private.with_epsilon(step, spent), ema=config.ema,
        grads=hidden(budget["noise"]), build=build, dataset="mnist", source=runs.source("idx", read),
        headline=("loss", "accuracy", "epsilon"),
    )  # fmt: skip
    return made, budget


def spent_after(budget: dict[str, Any], steps: int) -> float:
    """Return the epsilon that the first updates have spent."""
    return private.epsilon(budget["noise"], budget["rate"], steps, budget["delta"], budget["accountant"])


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say; accuracy and epsilon go into private_mnist.json."""
    if config.evaluate:
        return inference.evaluate_run("private_mnist", config, config.data and str(files.expanded(config.data)))
    if config.predict:
        return inference.predict(config)
    made, budget = plan(config)
    if config.seed < GUESSED:
        print(f"private_mnist: --seed {config.seed} {CAN_BE_GUESSED}", file=sys.stderr, flush=True)
    summary = common.train("private_mnist", config, made, signals, opened)
    if not summary:  # another process has the results
        return None
    values = {name: summary["test"][name] for name in ("accuracy", "accuracy_interval", "count")}
    values |= budget | {"epsilon": spent_after(budget, summary["steps"]), "clip": config.clip}
    files.write_json(opened[-1] / "private_mnist.json", values)
    print(files.to_json(values), flush=True)
    return values


if __name__ == "__main__":
    cli.run(main, Config, "private_mnist", PRESETS)

"""Compares attention with plain convolutions: `python -m experiments.studies.attention --dataset FOLDER`.

The networks are ResNet-20, the same with squeeze and excitation or CBAM in every block, and a compact transformer after
a convolution. Every point is a run of `experiments.cifar10` with the recipe of ResNet-20, except that it predicts from
one view per image, and that `--epochs` and `--validation-fraction` have other defaults: 10 and a tenth. The learning
rate of each network is the best of `--rates` on validation data with the first seed. `--resume` trains only the
unfinished points.
"""

import dataclasses
import math
import pathlib
from typing import Any

import jaxcnn as jc
from experiments import cifar10, cli, common, folders, settings
from experiments.studies import core
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.runs.signals import Signals

NETWORKS = {
    "plain": {"model": "resnet20"},
    "squeeze and excitation": {"model": "seresnet20"},
    "CBAM": {"model": "cbam_resnet20"},
    "hybrid": {"model": "cct_2_3x2_32"},
}


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Compare attention with plain convolutions of about the same number of parameters."""

    dataset: str = "cifar10"
    """Any TFDS name, or a path to an image folder or an .npz file, with colour images of 32x32."""
    data_dir: str = ""
    """Folder of prepared TFDS sets; by default TFDS_DATA_DIR, otherwise the default folder of TFDS."""
    seeds: int = 3
    """Number of seeds; a seed draws initial parameters, order and augmentation."""
    rates: tuple[float, ...] = (0.2, 0.05, 0.0125)
    """Candidates for the highest learning rate; the first seed decides."""


PRESETS = {"smoke": {"epochs": 1, "max_steps": 4, "seeds": 2, "batch_size": 8, "limit_examples": 64}}


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> dict[str, Any]:
    """Train the unfinished points, and write the figures to the folder of the study."""
    if config.evaluate or config.predict:
        raise jc.InputError("--evaluate and --predict: give one of the runs in the folder to experiments.cifar10")
    if config.seeds < 1 or not config.rates:
        raise jc.InputError(
            f"--seeds {config.seeds}, {len(config.rates)} numbers for --rates: needs at least one of each"
        )
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in ("seeds", "rates")}
    base = cifar10.Config(**cifar10.RESNET20 | shared | {"views": False, "resume": False})
    for rate in config.rates:
        jc.optim.check_rate(rate)
    plan = cifar10.plan(base)
    folder = folders.open_folder("studies.attention", config, plan, plan.data, common.data_digest(plan.data.train))
    opened.append(folder)

    def run(name: str, rate: float, seed: int) -> dict[str, Any]:
        point = dataclasses.replace(base, **NETWORKS[name], learning_rate=rate, seed=seed)

        def train(workdir):
            here = dataclasses.replace(point, workdir=workdir)
            return common.train("cifar10", here, cifar10.plan(point), signals, [])

        return core.trained(folder / f"{point.model}-{rate}-{seed}", train)

    rows = []
    for name in NETWORKS:
        losses = {rate: run(name, rate, config.seed).get("validation", {}).get("loss") for rate in config.rates}
        tried = {rate: math.inf if loss is None else loss for rate, loss in losses.items()}
        rate = min(tried, key=tried.get)
        found = [run(name, rate, config.seed + i) for i in range(config.seeds)]
        rows.append(row(name, rate, tried, found))
        print(describe(rows[-1]), flush=True)
    files.write_json(folder / "summary.json", {"table": rows})
    print(f"test accuracy, mean and deviation over {config.seeds} seeds; {visible(folder)}", flush=True)
    return {"table": rows}


def row(name: str, rate: float, tried: dict[float, float], found: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the runs of one network.

    Args:
        name: name of the network.
        rate: chosen learning rate.
        tried: dict from learning rate to validation loss.
        found: summary of each seed's run.

    """
    seconds = core.spread([one["train_seconds"] for one in found])["mean"]
    accuracies = [one["test"]["accuracy"] for one in found]
    return {
        "network": name, "parameters": found[0]["parameters"], "learning_rate": rate, "validation_losses": tried,
        "accuracies": accuracies, **core.spread(accuracies), "train_seconds": seconds,
    }  # fmt: skip


def describe(row: dict[str, Any]) -> str:
    """Return a row as one line of text."""
    return (
        f"{row['network']:<24}{row['parameters']:>9,} parameters   {row['mean']:.4f} +- {row['deviation']:.4f}   "
        f"learning rate {row['learning_rate']:g}   {row['train_seconds']:.0f} s"
    )


if __name__ == "__main__":
    cli.run(main, Config, "studies.attention", PRESETS)

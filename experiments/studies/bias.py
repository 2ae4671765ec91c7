"""Plants a bias in digits, finds and reduces it: `python -m experiments.studies.bias --dataset mnist`.

Nearly all training images of a digit have the same colour, while test images have any colour, so that a network that
learns the colour fails on them (coloured MNIST as in Nam et al., 2020, arXiv:2007.02561). Colour images, such as those
of CIFAR-10, are seen through a filter of that colour. Reweighting and group DRO
(Sagawa et al., 2020, arXiv:1911.08731) know for each training image whether its colour is the usual one. No network
gets this information for test images.
"""

import colorsys
import dataclasses
import io
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

import jaxcnn as jc
from experiments import cli, common, mnist
from experiments.studies import core
from experiments.studies.core import Variant
from jaxcnn import report, runs
from jaxcnn.core import files
from jaxcnn.runs.signals import Signals

COLUMNS = ("usual", "colour", "coin")  # whether the colour is the usual one; the colour; an independent coin toss


def weighed(plan: runs.Plan) -> runs.Plan:
    """Weight the training images so that both groups count equally."""
    train = plan.data.train
    if not 0 < train.arrays["usual"].mean() < 1:
        raise jc.InputError(
            f"--usual, --train-images: all {train.size} training images have the usual colour; "
            "give a lower share, or more images"
        )
    weight = jc.protocol.class_weights(train.arrays["usual"], 2)[train.arrays["usual"]].astype(np.float32)
    changed = dataclasses.replace(train, arrays={**train.arrays, "sample_weight": weight})
    return dataclasses.replace(plan, data=plan.data._replace(train=changed), best=False)


def robust(plan: runs.Plan) -> runs.Plan:
    """Minimise the loss of the worst group."""
    return dataclasses.replace(plan, task=jc.methods.group_dro(plan.task, 2, column="usual"), best=False)


def robust_in_turn(plan: runs.Plan) -> runs.Plan:
    """Minimise the loss of the worst group, and draw both groups equally often, as in algorithm 1 of the paper."""
    return robust(core.drawn_equally(plan, plan.data.train.arrays["usual"]))


VARIANTS = {
    "as it is": Variant(change=lambda plan: dataclasses.replace(plan, best=False)),
    "reweighted": Variant(change=weighed),
    "group DRO": Variant(change=robust),
    "group DRO, groups drawn equally": Variant(change=robust_in_turn),
}


@dataclasses.dataclass(frozen=True)
class Config(core.Config):
    """Plant a bias, find it and reduce it."""

    usual: float = 0.99
    """Share of the training images that have the colour of their class: above chance and below 1."""


def coloured(splits: jc.data.Splits, usual: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Colour images, with a bias in the training images and without one in the test images.

    Args:
        splits: gray images `[N, H, W, 1]` of K classes, uint8, or colour images `[N, H, W, 3]`, which are seen through
            a filter of that colour; validation rows are left out.
        usual: share of the training images that have the colour of their class; the others have a different colour.
        seed: seed of the colours.

    Returns:
        The arrays of an `.npz` file for `data.npz`.

    """
    rng, found = np.random.default_rng(seed), {}
    for part, data, share in (("train", splits.train, usual), ("test", splits.test, 1 / len(splits.train.classes))):
        image, label = np.asarray(data.arrays["image"]), np.asarray(data.arrays["label"])
        k, n = len(data.classes), len(label)
        hues = np.array([colorsys.hsv_to_rgb(i / k, 1.0, 1.0) for i in range(k)])
        alike = rng.random(n) < share
        colour = np.where(alike, label, (label + rng.integers(1, k, n)) % k)
        tinted = np.rint(image * hues[colour][:, None, None]).astype(np.uint8)
        columns = alike.astype(np.int32), colour.astype(np.int32), rng.integers(0, 2, n)
        found |= {f"x_{part}": tinted, f"y_{part}": label}
        found |= {f"{name}_{part}": column for name, column in zip(COLUMNS, columns, strict=True)}
    return found


def groups(loaded: jc.runs.TrainedRun, splits: jc.data.Splits, config: mnist.Config) -> Mapping[str, float]:
    """Return what the report of a run finds about its groups of test images, and whether they differ significantly."""
    del config
    tested = report.predict(loaded, splits.test)
    rows, columns = (tested.logits.argmax(-1), tested.label), tested.columns
    found = {name: report.by_group(*rows, columns[name], splits.test.classes, name) for name in COLUMNS}
    accuracy = {group["group"]: group["accuracy"] for group in found["usual"]["groups"]}
    return {
        "accuracy, usual colour": accuracy["1"], "accuracy, other colours": accuracy["0"],
        "gaps by colour of digit with p < 0.05": float(found["usual"]["gap_p"] < 0.05),
        "by coin": float(found["coin"]["gap_p"] < 0.05),
        "demographic parity difference, colour": found["colour"]["demographic_parity"]["difference"],
        "coin": found["coin"]["demographic_parity"]["difference"],
    }  # fmt: skip


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> dict[str, Any]:
    """Colour the images, then train each variant with each seed."""
    core.check(config)
    path = planted(config)
    return core.compare(
        "bias", VARIANTS, dataclasses.replace(config, dataset=str(path), data_dir=""), signals, opened, groups
    )


def planted(config: Config) -> str | pathlib.Path:
    """Write the coloured images beside the runs, and return their path; data that have the columns are kept."""
    name, splits, _ = mnist.load(mnist.Config(dataset=config.dataset, data_dir=config.data_dir))
    example = splits.train.example()
    if set(COLUMNS) <= set(example):
        share = float(np.mean(splits.train.arrays["usual"]))
        if abs(share - config.usual) > 0.02:
            raise jc.InputError(f"--usual {config.usual}: {share:.3g} of these images have the usual colour; give that")
        return config.dataset
    if example["image"].dtype != np.uint8 or not hasattr(splits.train, "arrays"):
        raise jc.InputError(
            f"--dataset {config.dataset}: needs images that are uint8 and held in memory, to colour them"
        )
    if not 1 / len(splits.train.classes) < config.usual < 1:
        least = f"{1 / len(splits.train.classes):.3g}, which is no bias"
        raise jc.InputError(
            f"--usual {config.usual}: must be above {least}, and below 1, which leaves nothing else to learn from"
        )
    if config.train_images:
        rows = np.random.default_rng(0).permutation(splits.train.size)[: config.train_images]
        splits = splits._replace(train=splits.train.take(rows))
    digest = common.data_digest(splits.train)[:8]
    path = pathlib.Path(config.workdir) / f"coloured-{pathlib.Path(name).stem}-{digest}-{config.usual}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez_compressed(packed, **coloured(splits, config.usual))
    files.write_bytes(path, packed.getvalue())
    return path


if __name__ == "__main__":
    cli.run(main, Config, "studies.bias", {"smoke": core.SMOKE})

"""Finds a rare digit, one training image in a hundred: `python -m experiments.studies.imbalance --dataset mnist`.

Training and validation images show the rare digit (`--rare`) once for every hundred of the other digits; the test set
is complete, with a tenth of it rare. Row weights, the focal loss (Lin et al., 2017, arXiv:1708.02002), drawing both
classes equally often, and logit adjustment (Menon et al., 2020, arXiv:2007.07314) are compared with the usual loss at
the same number of updates, over the same seeds. Every network is measured twice: with its own decision, and with the
threshold that has the best F1 on the validation images, of which one in a hundred is rare, unlike in the test set.
"""

import dataclasses
import io
import pathlib
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

import jaxcnn as jc
from experiments import cli, common, mnist
from experiments.studies import core
from experiments.studies.core import Variant
from jaxcnn import metrics, runs
from jaxcnn.core import files
from jaxcnn.runs.signals import Signals

PLAIN = "as it is"
AREA = "PR area"
COMPARED = (AREA, "recall", "F1 at the threshold")


def option(**options: Any) -> Any:
    """Return the change of a plan to other options of its task; functions get the training labels."""

    def change(plan: runs.Plan) -> runs.Plan:
        label = plan.data.train.label
        given = {name: value(label) if callable(value) else value for name, value in options.items()}
        before = cast(dict[str, Any], plan.build)
        task = before["task"]
        build = before | {"task": task | {"options": task["options"] | given}}
        return dataclasses.replace(plan, build=build, task=runs.build(build)[1], best=False)

    return change


def weights(label: np.ndarray) -> list[float]:
    """Return weights that make both classes count equally."""
    return jc.protocol.class_weights(label, 2).tolist()


def adjustment(label: np.ndarray) -> list[float]:
    """Return the logarithms of the shares of both classes."""
    return jc.protocol.logit_adjustment(label, 2).tolist()


def sampled(plan: runs.Plan) -> runs.Plan:
    """Let both classes come equally often."""
    return dataclasses.replace(core.drawn_equally(plan, plan.data.train.label), best=False)


VARIANTS = {
    PLAIN: Variant(change=option()),
    "weights": Variant(change=option(class_weights=weights)),
    "focal": Variant(change=option(focal=2.0)),
    "sampling": Variant(change=sampled),
    "logit adjustment": Variant(change=option(logit_adjustment=adjustment)),
}


@dataclasses.dataclass(frozen=True)
class Config(core.Config):
    """Find a rare digit, with the usual loss and with what is meant to help."""

    rare: int = 9
    """The rare class; all others together are the frequent one."""
    ratio: int = 100
    """Training images of the other classes for each rare one."""
    train_images: int = 0
    """Use at most this number of training images; 0 for all."""
    epochs: int = 4
    """Passes over the training rows, at most --max-steps updates."""
    max_steps: int = 850
    """Updates of every network: two passes over all training images in batches of 128."""


def imbalanced(splits: jc.data.Splits, rare: int, ratio: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Leave out images of a class from the training and validation images, and label it 1 and all others 0.

    Args:
        splits: images in memory.
        rare: the class.
        ratio: training images of other classes for each one of this class, at least 1.
        seed: seed of the choice.

    Returns:
        The arrays of an `.npz` file for `data.npz`; the test images are all there.

    Raises:
        InputError: there is no such class, or it has too few images.

    """
    image, label = (
        np.concatenate([np.asarray(part.arrays[name]) for part in (splits.train, splits.valid)])
        for name in ("image", "label")
    )
    if not 0 <= rare < len(splits.train.classes):
        raise jc.InputError(f"--rare {rare}: must be one of the classes 0 to {len(splits.train.classes) - 1}")
    others, own = np.flatnonzero(label != rare), np.flatnonzero(label == rare)
    count = len(others) // ratio if ratio >= 1 else 0
    if not 2 <= count <= len(own):
        raise jc.InputError(f"--ratio {ratio}: gives {count} rare images; must be from 2 to the {len(own)} there are")
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.concatenate([others, rng.permutation(own)[:count]]))
    return {
        "x_train": image[rows], "y_train": (label[rows] == rare).astype(np.int32),
        "x_test": np.asarray(splits.test.arrays["image"]), "y_test": (splits.test.label == rare).astype(np.int32),
    }  # fmt: skip


def measure(loaded: jc.runs.TrainedRun, splits: jc.data.Splits, config: mnist.Config) -> Mapping[str, float]:
    """Return the area under the precision-recall curve, and recall and precision with both decisions."""
    del config

    def scored(data: Any) -> tuple[np.ndarray, np.ndarray]:
        logits, _ = jc.collect(loaded.task.predict, loaded.variables, data)
        return np.asarray(logits[:, 1] - logits[:, 0], np.float64), data.label

    (score, label), chosen = scored(splits.test), jc.protocol.best_threshold(*scored(splits.valid)).threshold
    found = {AREA: float(metrics.pr_auc(score, label))}
    for threshold, end in ((0.0, ""), (chosen, " at the threshold")):
        called = score >= threshold
        hits = float((called & (label == 1)).sum())
        found |= {
            f"recall{end}": hits / float((label == 1).sum()), f"precision{end}": hits / max(float(called.sum()), 1.0),
            f"F1{end}": 2 * hits / float(called.sum() + (label == 1).sum()),
        }  # fmt: skip
    return found


def gains(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the differences to the usual loss, paired by seed."""
    plain, *others = (row["runs"] for row in table)
    names, out = [row["variant"] for row in table[1:]], []
    for name, found in zip(names, others, strict=True):
        for column in COMPARED:
            gap = [one[column] - two[column] for one, two in zip(found, plain, strict=True)]
            out.append({"variant": name, "column": column, **core.spread(gap), "above": sum(x > 0 for x in gap)})
    return out


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> dict[str, Any]:
    """Make the images rare, then train each variant with each seed."""
    core.check(config)
    chosen = dataclasses.replace(config, dataset=str(thinned(config)), data_dir="")
    found = core.compare("imbalance", VARIANTS, chosen, signals, opened, measure)
    found |= {"paired": gains(found["table"])}
    for row in found["paired"]:
        shown = f"{row['mean']:+.4f} ± {row['interval']:.4f}"
        line = f"{row['variant']}, {row['column']}: {shown} to the usual loss"
        print(f"{line}, above in {row['above']} of {config.seeds}", flush=True)
    files.write_json(opened[-1] / "summary.json", found)
    return found


def thinned(config: Config) -> pathlib.Path:
    """Write the images beside the runs, and return their path; what this study wrote before is kept."""
    given = pathlib.Path(config.dataset)
    if config.resume and given.suffix == ".npz":
        return given
    name, splits, _ = mnist.load(mnist.Config(dataset=config.dataset, data_dir=config.data_dir))
    if not all(hasattr(part, "arrays") for part in splits):
        raise jc.InputError(f"--dataset {config.dataset}: needs images that are held in memory")
    arrays = imbalanced(splits, config.rare, config.ratio)
    digest = common.data_digest(splits.train)[:8]
    path = pathlib.Path(config.workdir) / f"rare-{pathlib.Path(name).stem}-{digest}-{config.rare}-{config.ratio}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez_compressed(packed, **cast(dict[str, Any], arrays))
    files.write_bytes(path, packed.getvalue())
    return path


if __name__ == "__main__":
    cli.run(main, Config, "studies.imbalance", {"smoke": core.SMOKE})

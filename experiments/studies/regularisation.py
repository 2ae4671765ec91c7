"""Compares ways to close the gap between training and test: `python -m experiments.studies.regularisation`."""

import dataclasses
from collections.abc import Mapping

import jaxcnn as jc
from experiments import mnist
from experiments.studies import core
from experiments.studies.core import Variant, accuracy, run

NONE = {"weight_decay": 0.0}
VARIANTS = {
    "nothing": Variant(flags=NONE),
    "dropout 0.5": Variant(flags=NONE | {"dropout": 0.5}),
    "batch norm": Variant({"batch_norm": True}, flags=NONE),
    "weight decay 0.1": Variant(flags={"weight_decay": 0.1}),
    "augmentation": Variant(flags=NONE | {"augment": True}),
    "all of them": Variant({"batch_norm": True}, flags={"weight_decay": 0.1, "dropout": 0.5, "augment": True}),
}


@dataclasses.dataclass(frozen=True)
class Config(core.Config):
    """Compare regularisation methods."""

    train_images: int = 1000
    """Use at most this number of training images; 0 for all. The test set is always complete."""
    epochs: int = 40
    """Passes over the training rows."""


def gap(loaded: jc.runs.TrainedRun, splits: jc.data.Splits, config: mnist.Config) -> Mapping[str, float]:
    """Return the accuracy on the training images, without augmentation, and its difference from the test accuracy."""
    del config
    seen, new = (accuracy(loaded, part) for part in (splits.train, splits.test))
    return {"training accuracy": seen, "gap in accuracy": seen - new}


if __name__ == "__main__":
    run("regularisation", VARIANTS, gap, Config)

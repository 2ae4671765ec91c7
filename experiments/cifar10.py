"""Classifies small colour images: `python -m experiments.cifar10`.

It trains `models.speednet` on CIFAR-10 through TFDS, or on a folder of images (`--dataset FOLDER`, with train/<class>/*
beside test/). `--resnet20` and `--small` are recipes for other networks. The recipe has Nesterov momentum, a one-cycle
schedule, label smoothing and an average of the weights. Predictions are the mean over mirrored and shifted views.
"""

import dataclasses
import math
import pathlib
from typing import Any

import jax
import optax

import jaxcnn as jc
from experiments import cli, common, inference, mnist, settings
from jaxcnn import runs
from jaxcnn.runs.signals import Signals

RESNET20 = {
    "model": "resnet20", "epochs": 30, "batch_size": 128, "learning_rate": 0.2, "momentum": 0.9, "weight_decay": 5e-4,
    "bias_rate": 1.0, "muon": 0.0, "label_smoothing": 0.1, "ema": 0.995,
}  # fmt: skip
SMALL = RESNET20 | {"model": "tutorial", "epochs": 10, "learning_rate": 0.05}
SMOKE = {"epochs": 1, "max_steps": 8, "batch_size": 16, "limit_examples": 64}
PRESETS = {"resnet20": RESNET20, "small": SMALL, "smoke": SMOKE}
ROWS = 1000  # training images from which the whitening is computed


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a classifier of small colour images."""

    epochs: int = 8
    """Passes over the training rows."""
    batch_size: int = 256
    """Rows in one update, over all devices."""
    validation_fraction: float = 0.02
    """Share of the training rows that is held out for validation."""
    dataset: str = ""
    """Any TFDS name, or a path to an image folder or an .npz file; by default cifar10. With --evaluate: other data to
    measure --checkpoint on."""
    data_dir: str = ""
    """Folder of prepared TFDS sets; by default TFDS_DATA_DIR, otherwise the default folder of TFDS."""
    image_size: int = 0
    """Side that images are resized to; by default as stored."""
    model: str = "speednet"
    """speednet, resnet20, tutorial or another of jaxcnn.models.MODELS."""
    widths: tuple[int, ...] = ()
    """Channels of each stage of speednet, or the single `width` of a different network; by default its own."""
    learning_rate: float = 0.375
    """Highest value of the one-cycle schedule of SGD; the default suits the default batch size."""
    momentum: float = 0.85
    """Nesterov momentum of SGD, in [0, 1)."""
    muon: float = 0.085
    """Initial learning rate of Muon, which falls linearly; Muon trains convolution kernels in place of SGD; 0 for SGD
    only."""
    weight_decay: float = 1.33e-3
    """Weight decay of kernels, added to the gradient; biases and norm scales have none."""
    bias_rate: float = 64.0
    """Factor of the learning rate for the biases of norms."""
    label_smoothing: float = 0.2
    """Share of the label spread over all classes, in [0, 1)."""
    ema: float = 0.98
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""
    flip: bool = True
    """Mirror half of the training images."""
    shift: int = 2
    """Shift training images by up to this number of pixels; mirrored pixels fill the border."""
    views: bool = True
    """Average predictions over six views: unchanged, shifted by one pixel in two directions, and their mirror images
    (if --flip)."""
    resnet20: bool = False
    """Use the defaults of the ResNet-20 recipe; other flags override them."""
    small: bool = False
    """Use the defaults of the tutorial network (conv32-pool-dense128); other flags override them."""


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    config = dataclasses.replace(config, dataset=config.dataset or "cifar10")
    if config.dataset == "auto":
        raise jc.InputError("--dataset 'auto': give the name of a TFDS set, or a folder of images")
    model = common.model(config.model, config, **widths(config))
    optimizer(config, 1), jc.augment.pad_crop(config.shift)  # refuse bad values before data are read
    skipped = settings.Skipped()
    name, splits, source = mnist.load(config, skipped)
    pixels, image = common.pixel_statistics(splits.train), splits.train.example()["image"]
    if config.image_size not in (0, image.shape[1]):
        raise jc.InputError(f"--image-size {config.image_size}: these images are not resized; leave it out")
    if config.shift >= min(image.shape[1:3]):
        raise jc.InputError(
            f"--shift {config.shift}: must be below the images' {min(image.shape[1:3])} pixels, which it mirrors"
        )
    model["options"]["num_classes"] = len(splits.train.classes)
    if config.model == "speednet":
        some = splits.train.chunk(min(ROWS, splits.train.size), 0, 1, 1).at(0)["image"]
        model["options"]["whitening"] = jc.models.whitening(jc.tasks.prepare(some, **pixels))
    build = {
        "model": model, "ema": config.ema,
        "task": {"name": "classification", "options": pixels | {"label_smoothing": config.label_smoothing}},
        "views": {"flip": config.flip, "shift": 1} if config.views else None,
        "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }  # fmt: skip
    moved = jc.augment.pad_crop(config.shift, "reflect")
    change = jc.augment.compose(jc.augment.flip, moved) if config.flip else moved

    def wrap(step):
        return jc.augmented(step, change)

    return runs.Plan(
        runs.build(build)[1], splits, lambda steps: optimizer(config, steps), wrap=wrap, ema=config.ema, build=build,
        dataset=name, skipped=skipped, source=source,
    )  # fmt: skip


def widths(config: Config) -> dict[str, Any]:
    """Return the network's option for --widths, if it is given."""
    settings.one_of("--model", config.model, jc.models.MODELS)
    if config.model == "speednet" or not config.widths:
        return {"widths": list(config.widths)} if config.widths else {}
    takes, given = hasattr(jc.models.MODELS[config.model](), "width"), " ".join(map(str, config.widths))
    if not takes or len(config.widths) > 1:
        raise jc.InputError(f"--widths {given}: --model {config.model} takes {'a single one' if takes else 'none'}")
    return {"width": config.widths[0]}


def optimizer(config: Config, steps: int) -> optax.GradientTransformation:
    """Make the optimiser for a run of `steps` updates."""
    if not (math.isfinite(config.bias_rate) and config.bias_rate > 0):
        raise jc.InputError(f"--bias-rate {config.bias_rate}: must be a positive number")
    rate = jc.optim.one_cycle(config.learning_rate, steps=steps, warmup=steps * 23 // 100, start=0.2, end=0.07)
    sgd = jc.optim.sgd(rate, momentum=config.momentum, nesterov=True, weight_decay=config.weight_decay)
    sgd = optax.chain(sgd, optax.masked(optax.scale(config.bias_rate), norm_biases))
    if not config.muon:
        return sgd
    return jc.optim.muon(optax.linear_schedule(jc.optim.check_rate(config.muon), 0.0, steps), sgd, momentum=0.8)


def norm_biases(params: Any) -> Any:
    """Return a pytree that is True for the biases of norms."""

    def names(path):
        return [key.key for key in path]

    return jax.tree_util.tree_map_with_path(
        lambda path, _: names(path)[-1] == "bias" and "norm" in names(path)[-2], params
    )


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say."""
    if config.evaluate:
        return inference.evaluate_run("cifar10", config, config.dataset, config.data_dir)
    if config.predict:
        return inference.predict(config)
    config = dataclasses.replace(config, dataset=config.dataset or "cifar10")
    return common.train("cifar10", config, plan(config), signals, opened)


if __name__ == "__main__":
    cli.run(main, Config, "cifar10", PRESETS)

"""Classifies the photos of ImageNet: `python -m experiments.imagenet`.

It trains ResNet-50 for 90 epochs as in Goyal et al. (2017, arXiv:1706.02677): SGD with Nesterov momentum, a rate in
proportion to the batch, five epochs of warmup, and steps at 30, 60 and 80 epochs. `--a3` is recipe A3 of "ResNet
strikes back" (Wightman et al., 2021, arXiv:2110.00476): LAMB, binary cross-entropy, mixup, cutmix and RandAugment, 100
epochs at 160 pixels, tested at 224. The data are TFDS's `imagenet2012`, or a folder with `train/<class>/*` and
`val/<class>/*`; the validation images of ImageNet are the test part, and `--validation-fraction` of the training images
is held out for validation.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import optax

import jaxcnn as jc
from experiments import cli, common, inference, settings
from jaxcnn import runs
from jaxcnn.runs.signals import Signals

PIXELS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # those of torchvision's and timm's weights
A3 = {
    "epochs": 100, "batch_size": 2048, "optimizer": "lamb", "schedule": "cosine", "learning_rate": 8e-3,
    "weight_decay": 0.02, "loss": "binary_cross_entropy", "mixup": 0.1, "cutmix": 1.0, "rand_augment": 18,
    "train_size": 160, "crop_ratio": 0.95,
}  # fmt: skip
SMOKE = {
    "epochs": 1, "warmup_epochs": 0, "max_steps": 4, "batch_size": 8, "limit_examples": 32, "image_size": 64,
    "model": "resnet18", "validation_fraction": 0.1,
}  # fmt: skip
PRESETS = {"a3": A3, "smoke": SMOKE}
OPTIMIZERS, SCHEDULES, LOSSES = ("sgd", "lamb"), ("step", "cosine"), ("cross_entropy", "binary_cross_entropy")
SYNTHETIC = (1_281_167, 50_000, 1000, 256)  # rows to train and test on, classes, and different images
STEPS = {30 / 90: 0.1, 60 / 90: 0.1, 80 / 90: 0.1}  # shares of the training after which the rate falls, and factors


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a classifier of photos."""

    epochs: int = 90
    """Passes over the training rows."""
    batch_size: int = 256
    """Rows in one update, over all devices and processes."""
    validation_fraction: float = 0.01
    """Share of the training rows that is held out for validation."""
    dataset: str = "imagenet2012"
    """A TFDS name or an image folder; synthetic for invented photos, which need no reading. With --evaluate: other data
    to measure --checkpoint on."""
    data_dir: str = ""
    """Folder of prepared TFDS sets; by default TFDS_DATA_DIR, otherwise the default folder of TFDS."""
    model: str = "resnet50"
    """A network of jaxcnn.models.MODELS that takes images of any size."""
    image_size: int = 224
    """Side of the images in evaluation."""
    train_size: int = 0
    """Side of the random crops in training; by default the side in evaluation."""
    crop_ratio: float = 0.875
    """Share of the shorter side that an image shows in evaluation."""
    crop_scale: float = 0.08
    """Smallest share of an image's area that a random crop shows."""
    optimizer: str = "sgd"
    """sgd (with Nesterov momentum 0.9) or lamb."""
    schedule: str = "step"
    """Schedule of the learning rate: step (a tenth after 30/90, 60/90 and 80/90 of the training) or cosine."""
    learning_rate: float = 0.0
    """Highest learning rate; by default 0.1 for each 256 rows of a batch, for sgd."""
    warmup_epochs: int = 5
    """Epochs in which the learning rate rises."""
    weight_decay: float = 1e-4
    """Weight decay of kernels; biases and norm scales have none."""
    loss: str = "cross_entropy"
    """cross_entropy or binary_cross_entropy."""
    label_smoothing: float = 0.0
    """Share of the label spread over all classes, in [0, 1)."""
    mixup: float = 0.0
    """Alpha of mixup; 0 for none. With cutmix too, each batch gets one of them."""
    cutmix: float = 0.0
    """Alpha of cutmix; 0 for none."""
    rand_augment: int = 0
    """Strength of RandAugment's two operations, 0..30, each applied to half of the images; 0 for none."""
    a3: bool = False
    """Use the defaults of recipe A3; other flags override them."""


def load(config: Config, skipped: settings.Skipped) -> tuple[jc.data.Splits, dict[str, Any] | None]:
    """Read the data of `--dataset`; return the splits, and how they were read."""
    if config.dataset == "synthetic":
        return synthetic(config.image_size, config.train_size or config.image_size, config.validation_fraction), None
    try:
        source, options = runs.find(config.dataset, config.data_dir or None)
    except jc.InputError as error:
        raise jc.InputError(f"--dataset {error}") from error
    if source not in ("folder", "tfds"):
        raise jc.InputError(f"--dataset {config.dataset!r}: must be a TFDS name or an image folder")
    options |= {
        "size": config.image_size, "train_size": config.train_size or config.image_size, "resize": "crop",
        "crop_ratio": config.crop_ratio, "random_crop": [config.crop_scale, 1.0],
        "validation_fraction": config.validation_fraction,
    }  # fmt: skip
    options |= {"channels": 3} if source == "folder" else {}
    on_bad = skipped if config.on_bad_example == "skip" else None
    return jc.data.SOURCES[source](**options, on_bad=on_bad), runs.source(source, options)


def synthetic(size: int, train_size: int, validation_fraction: float) -> jc.data.Splits:
    """Return invented photos, as many as ImageNet has, of a few hundred different noises that are kept in memory."""
    train, test, classes, different = SYNTHETIC
    rng = np.random.default_rng(0)

    def read(side: int) -> Any:
        images = rng.integers(0, 256, (different, side, side, 3), dtype=np.uint8)
        return lambda rows: {"image": images[rows % different], "label": (rows % classes).astype(np.int32)}

    whole, crops, names = read(size), read(train_size), tuple(f"class{i}" for i in range(classes))
    valid = int(train * validation_fraction)
    parts = [jc.data.Indexed(whole, n, names) for n in (train - valid, valid, test)]
    parts[0] = dataclasses.replace(parts[0], read_train=lambda rows, seeds: crops(rows))
    return jc.data.Splits(*parts)


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    check(config)
    skipped = settings.Skipped()
    model = common.model(config.model, config)
    if hasattr(jc.models.MODELS[config.model](), "zero_init_residual"):
        model["options"]["zero_init_residual"] = True  # as in both papers
    splits, source = load(config, skipped)
    classes = model["options"]["num_classes"] = len(splits.train.classes)
    task = PIXELS | {"label_smoothing": config.label_smoothing, "loss": config.loss}
    if config.loss == "binary_cross_entropy":
        task["target_threshold"] = 0.2
    shape = [config.image_size, config.image_size, 3]
    build = {
        "model": model, "task": {"name": "classification", "options": task}, "ema": 0.0,
        "image": {"shape": shape, "dtype": "uint8"},
    }  # fmt: skip
    change = augmentation(config, classes)
    return runs.Plan(
        runs.build(build)[1], splits, lambda steps: optimizer(config, steps), best=False, build=build,
        wrap=lambda step: jc.augmented(step, change), dataset=config.dataset, skipped=skipped, source=source,
    )  # fmt: skip


def check(config: Config) -> None:
    """Refuse bad values before data are read."""
    settings.one_of("--optimizer", config.optimizer, OPTIMIZERS)
    settings.one_of("--schedule", config.schedule, SCHEDULES)
    settings.one_of("--loss", config.loss, LOSSES)
    for name, least in (("image_size", 1), ("train_size", 0), ("warmup_epochs", 0), ("mixup", 0), ("cutmix", 0)):
        if getattr(config, name) < least:
            raise jc.InputError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be at least {least}")
    if config.rand_augment not in range(31):
        raise jc.InputError(f"--rand-augment {config.rand_augment}: must be from 0 to 30")
    for name in ("crop_ratio", "crop_scale"):
        if not 0 < getattr(config, name) <= 1:
            raise jc.InputError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be above 0 and at most 1")
    most = config.epochs // 3 if config.schedule == "step" else config.epochs
    if config.warmup_epochs > most:
        raise jc.InputError(f"--warmup-epochs {config.warmup_epochs}: at most {most} for these --epochs and --schedule")
    if config.optimizer == "lamb" and not config.learning_rate:
        raise jc.InputError("--optimizer lamb: give --learning-rate, such as 8e-3; the default rate is for sgd")
    if config.learning_rate:
        jc.optim.check_rate(config.learning_rate)


def augmentation(config: Config, classes: int) -> Any:
    """Return the augmentation of training images, after their random crops."""
    changes = [jc.augment.flip]
    if config.rand_augment:
        changes.append(jc.augment.rand_augment(2, config.rand_augment, probability=0.5))
    mixing = [jc.augment.mixup(config.mixup, num_classes=classes)] if config.mixup else []
    mixing += [jc.augment.cutmix(config.cutmix, num_classes=classes)] if config.cutmix else []
    return jc.augment.compose(*changes, *([jc.augment.one_of(*mixing)] if mixing else []))


def optimizer(config: Config, steps: int) -> optax.GradientTransformation:
    """Make the optimiser for a run of `steps` updates."""
    peak = config.learning_rate or 0.1 * config.batch_size / 256
    warmup = steps * config.warmup_epochs // max(config.epochs, 1)
    if config.schedule == "step":
        falls = {max(round(steps * share), warmup): factor for share, factor in STEPS.items()}
        rate = jc.optim.step(peak, boundaries=falls, warmup=warmup)
    else:
        rate = jc.optim.cosine(peak, steps=steps, warmup=warmup, end=min(1e-6, peak))
    if config.optimizer == "lamb":
        return jc.optim.lamb(rate, weight_decay=config.weight_decay, clip=1.0)
    return jc.optim.sgd(rate, momentum=0.9, nesterov=True, weight_decay=config.weight_decay)


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say."""
    if config.evaluate:
        place = "" if config.dataset == "imagenet2012" else config.dataset
        return inference.evaluate_run("imagenet", config, place, config.data_dir)
    if config.predict:
        return inference.predict(config)
    return common.train("imagenet", config, plan(config), signals, opened)


if __name__ == "__main__":
    cli.run(main, Config, "imagenet", PRESETS)

"""Classifies images in a folder, starting from given weights: `python -m experiments.transfer FOLDER --weights FILE`.

`--train head` is a linear probe on features that are computed once, `all` is fine-tuning, and `gradual` unfreezes the
network from the head down (Howard and Ruder, 2018, arXiv:1801.06146). Without `--weights`, the same network is randomly
initialised.
"""

import dataclasses
import functools
import math
import os
import pathlib
from typing import Any

import jax
import optax
import tyro

import jaxcnn as jc
from experiments import cli, common, inference, settings
from jaxcnn import runs
from jaxcnn.cli.weights import form_of, origin
from jaxcnn.data.splitting import cut
from jaxcnn.runs.signals import Signals


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train an image classifier from given weights, evaluate it or use it."""

    folder: tyro.conf.Positional[str] = ""
    """Folder with <class>/<image>, or with train/<class>/<image> beside test/ or val/. With --evaluate: other data to
    measure --checkpoint on."""
    classes: tuple[str, ...] = ()
    """Names of the class folders to use; by default all."""
    model: str = ""
    """resnet18 or another of jaxcnn.models.MODELS; by default that of the run in --weights, otherwise resnet18."""
    cifar_stem: bool = False
    """Use the network's variant for images of about 32x32, if it has one."""
    weights: str = ""
    """Initial weights: the folder of a run, or a file (.safetensors); random weights if not given."""
    train: str = "all"
    """What to train: head (on features that are computed once), all, gradual (the head first, then the other parts from
    top to bottom), or scratch (the network of --weights, randomly initialised)."""
    freeze: tuple[str, ...] = ()
    """Patterns of further parameters to freeze: stem, 'stages_[01]_.*', '.*norm'."""
    keep_stats: bool = False
    """Keep the BatchNorm statistics of --weights; always so with --train head."""
    layer_decay: float = 1.0
    """Factor between the learning rate of each part of the network and that of the part above it, in (0, 1]."""
    cache: bool = True
    """With --train head, compute features once instead of in each update, without augmentation."""
    augment: bool = True
    """Mirror the training images, and shift them by up to an eighth of their side."""
    pixel_dropout: float = 0.0
    """Largest share of the pixels of a training image that the mean replaces, in half of the images. Such a network can
    be explained by deleting pixels."""
    image_size: int = 0
    """Side that images are resized to; by default that of --weights, otherwise as stored."""
    per_class: int = 0
    """Number of training images per class, validation included, drawn by --seed; 0 for all."""
    epochs: int | None = None
    """Passes over the training rows; by default 10, or more to reach 300 updates."""
    batch_size: int = 32
    """Rows in one update, over all devices."""
    learning_rate: float = 1e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 5e-2
    """Weight decay of kernels; biases and norm scales have none."""
    dropout: float = 0.0
    """Share of units dropped before the last layer, in [0, 1)."""
    best: bool = False
    """Test the weights with the lowest validation loss instead of those at the end of the schedule."""


PRESETS = {"smoke": {"epochs": 1, "max_steps": 4, "batch_size": 16, "limit_examples": 64}}
TRAIN = ("all", "gradual", "head", "scratch")
MOST_BYTES = 2**32  # limit for the cached features of a split
UPDATES, VALIDATIONS = 300, 20


def load(config: Config, size: Any, skipped: settings.Skipped | None = None) -> jc.data.Splits:
    """Read the images.

    Args:
        config: the flags.
        size: `(height, width)` or side that images are resized to; None for as stored.
        skipped: counts unreadable images, if these are allowed.

    Raises:
        InputError: there is no folder, or it cannot be read.

    """
    if not config.folder:
        raise jc.InputError(
            "FOLDER: give a folder of images, as in python -m experiments.transfer FOLDER --weights FILE"
        )
    splits = jc.data.folder(
        **source(config, size), on_bad=(skipped or settings.Skipped()) if config.on_bad_example == "skip" else None
    )
    return few(splits, config) if config.per_class else splits


def source(config: Config, size: Any) -> dict[str, Any]:
    """Return the arguments of `jc.data.folder`."""
    return {
        "path": config.folder, "classes": config.classes or None, "size": size,
        "validation_fraction": config.validation_fraction,
    }  # fmt: skip


def few(splits: jc.data.Splits, config: Config) -> jc.data.Splits:
    """Draw `--per-class` rows from the training rows, and take the validation rows from these."""
    drawn = jc.transfer.few_shot_subset(splits.train, config.per_class, config.seed)
    train, valid, _ = cut(drawn, drawn.label, config.validation_fraction, config.seed, "--validation-fraction")
    return jc.data.Splits(train, valid, splits.test)


def plan(config: Config, splits: jc.data.Splits | None = None) -> runs.Plan:
    """Make the plan from the flags; `splits` are images that were already read."""
    _check(config)
    begin, skipped = origin(config), settings.Skipped()
    size = config.image_size or (begin.size if begin else None)
    splits = load(config, size, skipped) if splits is None else splits
    image = splits.train.example()["image"]
    if begin and image.shape[-1] != 3 and not os.path.isdir(config.weights):
        begin = origin(config, image.shape[-1])
    adopted = begin is not None and config.train != "scratch"
    pixels = (begin.pixels if begin else {}) | ({} if adopted else common.pixel_statistics(splits.train))
    if config.image_size:
        pixels.pop("size", None)
    name = begin.model if begin else config.model or "resnet18"
    options = begin.options if begin else form_of(config, name)
    options = options | ({"dropout": config.dropout} if config.dropout else {})
    build = {
        "model": common.model(name, config, num_classes=len(splits.train.classes), **options),
        "task": {"name": "classification", "options": pixels}, "ema": 0,
        "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }  # fmt: skip
    model, task = runs.build(build)
    variables = jc.init_state(task, optax.identity(), splits.train.example(), config.seed).variables
    if adopted:
        try:
            variables = jc.transfer.load_pretrained(variables, begin.variables)
        except jc.InputError as error:
            raise jc.InputError(f"--weights {config.weights}: {error}") from error
    changes = [jc.augment.flip, jc.augment.shift(max(image.shape[1:3]) // 8)]
    if config.pixel_dropout:
        changes.append(jc.augment.pixel_dropout(share=(0, config.pixel_dropout), value=pixels["mean"]))

    def wrap(step):
        return jc.augmented(step, jc.augment.compose(*changes))

    read = runs.source("folder", source(config, size))
    plan = runs.Plan(
        task, splits, None, wrap=wrap, build=build, dataset=config.folder, skipped=skipped, variables=variables,
        source=read,
    )  # fmt: skip
    return _with_freezing(config, plan, model)


def _with_freezing(config: Config, plan: runs.Plan, model: Any) -> runs.Plan:
    """Add to a plan which parts are frozen and how the others are trained."""
    pixels, shape = plan.build["task"]["options"], plan.build["image"]["shape"]
    shape = (*(pixels.get("size") or shape[:2]), shape[-1])
    parts, probe = jc.transfer.groups(model, shape), config.train == "head"
    below = [pattern for part, patterns in parts.items() if part != "head" for pattern in patterns]
    frozen, once = (*config.freeze, *(below if probe else ())), probe and config.cache
    _print_sizes(plan.variables["params"], frozen)
    task = jc.transfer.head_task(model, plan.task, shape) if once else plan.task
    loss = jc.transfer.keep_stats(task.loss) if probe or config.keep_stats else task.loss
    task = task._replace(loss=jc.transfer.stop_gradient_on(loss, frozen) if frozen else loss)

    def cached(splits: jc.data.Splits) -> jc.data.Splits:
        def inputs(batch):
            return jc.tasks.prepare(batch["image"], **pixels)

        def features(part):
            return jc.transfer.cached(model, plan.variables, part, inputs, most_bytes=MOST_BYTES)

        try:
            return jc.data.Splits(*map(features, splits))
        except jc.InputError as error:
            raise jc.InputError(f"{error}; with --no-cache they are computed in each update") from error

    return dataclasses.replace(
        plan, optimizer=functools.partial(optimizer, config, parts, frozen), task=task, validations=VALIDATIONS,
        best=config.best, prepare=cached if once else plan.prepare,
        wrap=plan.wrap if config.augment and not once else lambda step: step,
    )  # fmt: skip


def _print_sizes(params: Any, frozen: tuple[str, ...]) -> None:
    """Print how many parameters are trained."""
    chosen = jax.tree.leaves(jc.optim.which(params, [frozen]))
    sizes = [(x.size, k < 0) for x, k in zip(jax.tree.leaves(params), chosen, strict=True)]
    trained = sum(n for n, free in sizes if free)
    print(f"training {trained:,} of {sum(n for n, _ in sizes):,} parameters", flush=True)


def optimizer(
    config: Config, parts: dict[str, tuple[str, ...]], frozen: tuple[str, ...], steps: int
) -> optax.GradientTransformation:
    """Make the optimiser; `gradual` trains the whole network after half of the steps.

    Args:
        config: the flags.
        parts: dict from each part of the network, the head first, to the patterns of its parameters.
        frozen: patterns of frozen parameters.
        steps: number of updates of the run.

    """
    tx = jc.optim.adamw(jc.optim.one_cycle(config.learning_rate, steps=steps), weight_decay=config.weight_decay)
    tx, patterns = jc.optim.freeze(tx, frozen) if frozen else tx, list(parts.values())
    if config.layer_decay != 1:
        tx = jc.optim.layerwise_lr_decay(tx, patterns, config.layer_decay)
    if config.train == "gradual":
        tx = jc.optim.gradual_unfreezing(tx, patterns, [steps * k // (2 * len(patterns)) for k in range(len(patterns))])
    return tx


def _check(config: Config) -> None:
    """Refuse bad values before reading any data."""
    settings.one_of("--train", config.train, TRAIN)
    if config.train in ("head", "scratch") and not config.weights:
        raise jc.InputError(
            f"--train {config.train}: needs --weights FILE or RUN; leave both out to train from random weights"
        )
    if config.keep_stats and (not config.weights or config.train == "scratch"):
        raise jc.InputError("--keep-stats: new networks have no statistics to keep; give --weights, or leave it out")
    if not 0 <= config.pixel_dropout <= 1:
        raise jc.InputError(f"--pixel-dropout {config.pixel_dropout}: must be in 0..1")
    if config.pixel_dropout and (not config.augment or config.train == "head" and config.cache):
        flag = "--no-cache with --train head" if config.augment else "it without --no-augment"
        raise jc.InputError(f"--pixel-dropout {config.pixel_dropout}: nothing is augmented; give {flag}")
    if config.per_class < 0:
        raise jc.InputError(f"--per-class {config.per_class}: must be at least 0")
    jc.optim.check_rate(config.learning_rate), jc.layers.check_dropout(config.dropout)
    jc.optim.layerwise_lr_decay(jc.optim.adamw(1.0, weight_decay=config.weight_decay), [], config.layer_decay)


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say."""
    if config.evaluate:
        return inference.evaluate_run("transfer", config, config.folder)
    if config.predict:
        return inference.predict(config)
    return train(config, plan(config), signals, opened)


def train(config: Config, chosen: runs.Plan, signals: Signals, opened: list[pathlib.Path]) -> dict[str, Any]:
    """Train the plan, by default for at least `UPDATES` updates.

    Args:
        config: the flags.
        chosen: the plan.
        signals: checked between dispatches.
        opened: receives the run's folder.

    Returns:
        The content of `summary.json`.

    """
    rows, epochs = chosen.data.train.size, config.epochs
    if epochs is None:
        epochs = max(10, math.ceil(UPDATES * min(config.batch_size, rows) / rows))
    return common.train("transfer", dataclasses.replace(config, epochs=epochs), chosen, signals, opened)


if __name__ == "__main__":
    cli.run(main, Config, "transfer", PRESETS)

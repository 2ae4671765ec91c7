"""How each method of `experiments.few_labels` trains: the plans of its runs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import optax

import jaxcnn as jc
from experiments import common
from jaxcnn import runs

WIDTH = 256  # of the hidden layer of SimCLR's projection
EMA = 0.99  # of the weights, in every training but SimCLR's


def build(config: Any, pool: jc.data.Resident) -> dict[str, Any]:
    """Return the description of the network and its task."""
    image = pool.arrays["image"]
    return {
        "model": common.model(config.model, config, num_classes=len(pool.classes)),
        "task": {"name": "classification", "options": common.pixel_statistics(pool)},
        "ema": EMA, "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }  # fmt: skip


def adamw(rate: float, steps: int) -> optax.GradientTransformation:
    """Return the optimiser of all trainings."""
    return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=5e-2)


def weak() -> jc.augment.Transform:
    """Return the usual changes: mirrored, and moved by up to four pixels."""
    return jc.augment.compose(jc.augment.flip, jc.augment.pad_crop(4, "reflect"))


def strong() -> jc.augment.Transform:
    """Return the strong changes of FixMatch: two operations of any strength, and a square that is gray."""
    return jc.augment.compose(weak(), jc.augment.rand_augment(2, None), jc.augment.cutout(16, value=0.5))


def supervised(
    config: Any, about: dict[str, Any], rows: jc.data.Resident, test: jc.data.Resident,
    changes: Callable[[], jc.augment.Transform] = weak,
) -> runs.Plan:  # fmt: skip
    """Return the plan of a training from labelled rows alone; like all others, it tests an average of the weights."""

    def wrap(step):
        return jc.augmented(step, changes())

    return runs.Plan(
        runs.build(about)[1], jc.data.Splits(rows, rows, test), functools.partial(adamw, 3e-3), wrap=wrap, build=about,
        dataset="cifar10", validations=4, best=False, unit="images", ema=EMA,
    )  # fmt: skip


def simclr(config: Any, pool: jc.data.Resident, about: dict[str, Any]) -> jc.Task:
    """Return the task of the pretraining."""
    options = about["model"]["options"] | {"num_classes": WIDTH}
    model = jc.models.MODELS[config.model](**options)
    view = jc.methods.standard_views(tuple(pool.arrays["image"].shape[1:3]))
    return jc.methods.simclr(model, view, **about["task"]["options"])


def pretraining(config: Any, about: dict[str, Any], pool: jc.data.Resident) -> runs.Plan:
    """Return the plan of SimCLR on all images."""
    some = pool.take(np.arange(min(512, pool.size)))
    return runs.Plan(
        simclr(config, pool, about), jc.data.Splits(pool, some, some), functools.partial(adamw, 3e-3),
        dataset="cifar10", validations=4, best=False, unit="images",
    )  # fmt: skip


def begun(plan: runs.Plan, learned: Any, probe: bool, seed: int) -> runs.Plan:
    """Let a plan begin with a pretrained encoder, of which a probe trains the last layer alone.

    Args:
        plan: of the training.
        learned: variables of SimCLR.
        probe: whether the rest stays as it is.
        seed: of the last layer.

    """
    model, task = runs.build(plan.build)
    shape = tuple(plan.build["image"]["shape"])
    start = jc.init_state(task, optax.identity(), plan.data.train.example(), seed).variables
    variables = jc.transfer.load_pretrained(start, jc.methods.encoder(learned))
    if not probe:
        return dataclasses.replace(plan, variables=variables, optimizer=functools.partial(adamw, 1e-3))
    parts = jc.transfer.groups(model, shape)
    frozen = [pattern for part, patterns in parts.items() if part != "head" for pattern in patterns]
    head = jc.transfer.head_task(model, task, shape)
    head = head._replace(loss=jc.transfer.stop_gradient_on(jc.transfer.keep_stats(head.loss), frozen))

    def inputs(batch):
        return jc.tasks.prepare(batch["image"], **plan.build["task"]["options"])

    def cached(splits: jc.data.Splits) -> jc.data.Splits:
        return jc.data.Splits(*(jc.transfer.cached(model, variables, part, inputs) for part in splits))

    return dataclasses.replace(
        plan, task=head, variables=variables, prepare=cached, wrap=lambda step: step,
        optimizer=lambda steps: jc.optim.freeze(adamw(1e-2, steps), frozen),
    )  # fmt: skip


def semi_supervised(config: Any, plan: runs.Plan, pool: jc.data.Resident) -> runs.Plan:
    """Turn a plan into one of FixMatch, with all images beside the labelled ones."""
    task = jc.methods.fixmatch(plan.task, weak(), strong(), threshold=config.threshold)
    data = jc.methods.semi_supervised(plan.data.train, pool, ratio=config.ratio)
    return dataclasses.replace(plan, task=task, data=plan.data._replace(train=data))

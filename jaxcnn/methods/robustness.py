"""Accuracy under attack, and training that resists attacks."""

import functools
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.augment.core import as_float
from jaxcnn.core.collectives import all_sum
from jaxcnn.core.types import (
    Batch,
    InputError,
    Mean,
    Metric,
    MetricState,
    State,
    Step,
    Task,
    Tree,
    align,
    check_numbers,
    check_whole,
    row_mask,
    rows,
)
from jaxcnn.layers.norm import grown
from jaxcnn.methods import attack_parts as parts
from jaxcnn.methods.attacks import pgd
from jaxcnn.methods.combined import adds, changes, check_plain_loss, check_unchanged
from jaxcnn.tasks.classification import check_one_label

Array = jax.Array


def attacked(task: Task, attacks: Mapping[str, parts.Attack], *, seed: int = 0) -> Task:
    """Wrap a task so that evaluation also measures accuracy under attacks: `evaluate(attacked(task, ...), ...)`.

    Args:
        task: a classification task, with one label per row, whose input is `"image"`.
        attacks: from names of metrics to attacks; see `methods.attacks`.
        seed: seed of the attacks' random draws. Every batch gets the same draws, and every row of a batch its own.

    Returns:
        The task with a metric for each attack, the accuracy on its images, and `"robust_accuracy"`, the share of rows
        that are right without and under every attack. It monitors the highest `"robust_accuracy"`. Training and
        predictions are unchanged.

    Raises:
        InputError: there are no attacks, one is targeted or goes beyond its `eps`, a name is that of another metric, or
            the task has several labels per row.

    """
    if not isinstance(attacks, Mapping) or not all(map(callable, attacks.values())):
        raise InputError("attacks: must be a dictionary from names to attacks, such as {'pgd': attacks.pgd(8 / 255)}")
    if not attacks:
        raise InputError("attacks: is empty; give at least one, such as {'pgd': attacks.pgd(8 / 255)}")
    check_image_classes(task, "attacked")
    if "robust_accuracy" in task.metrics:
        raise InputError("attacked: the task measures attacks already; give all of them at once, in one dictionary")
    for name, attack in attacks.items():
        check_untargeted(attack)
        if getattr(attack, "beyond", False):
            line = f"attacks: {name!r} changes pixels by more than its eps, so it is for training only"
            raise InputError(f"{line}; measure with pgd")
    if taken := sorted({*task.metrics, "robust_accuracy", "clean"} & set(attacks)):
        raise InputError(f"attacks: {taken[0]!r} is the name of another metric; use another one")

    def outputs(variables: Tree, batch: Batch) -> dict[str, Any]:
        images, logits_of = pixels(batch), classifier(task, variables, batch)
        worst = task.predict(variables, batch)
        labels = _classes_of(batch, two(worst).shape[-1])
        out = {"clean": (task.outputs or task.predict)(variables, batch)}
        for name, attack in attacks.items():
            key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
            changed = attack(logits_of, images, labels, key)
            out[name] = task.predict(variables, {**batch, "image": changed})
            worst = jnp.where((two(worst).argmax(-1) == labels)[:, None], out[name], worst)
        return out | {"robust_accuracy": worst}

    def of(metric: Metric, name: str) -> Metric:
        def measured(found: Any, batch: Batch) -> Any:  # in training, what the loss gives: there is no attack then
            return metric(found[name] if isinstance(found, dict) else found, batch)

        return measured

    names = (*attacks, "robust_accuracy")
    measured = {name: of(metric, "clean") for name, metric in task.metrics.items()}
    return task._replace(
        outputs=outputs,
        metrics=measured | {name: of(task.metrics["accuracy"], name) for name in names},
        monitor=("robust_accuracy", "max"),
        shares=(*task.shares, *names),
    )


def adversarial(task: Task, attack: parts.Attack) -> Task:
    """Wrap a task so that it trains on attacked images instead of the given ones.

    The attack sees the network as it predicts: norms use running statistics, and dropout is off. With
    `attacks.pgd(eps, steps=1, step_size=1.25 * eps, early_stop=False)`, this is fast training, which can collapse
    within an epoch to a network that resists its one step alone: validate with
    `attacked(task, {"fgsm": ..., "pgd": ...})`, which keeps the weights from before, and compare both accuracies.
    With `attacks.noisy_fgsm(eps)`, which costs the same, that rarely happens.

    Args:
        task: a classification task, with one label per row, whose input is `"image"`.
        attack: such as `attacks.pgd(8 / 255, steps=10, early_stop=False)`.

    Returns:
        The task; in training, its metrics are those of the attacked images.

    Raises:
        InputError: the attack is targeted, or the task has several labels per row.

    Reference: Madry et al., 2017, arXiv:1706.06083; Wong et al., 2020, arXiv:2001.03994 (fast training).

    """
    check_untargeted(attack)
    check_image_classes(task, "adversarial")
    check_unchanged(task, "adversarial", "adversarial")

    @functools.wraps(task.loss)
    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Tree]]:
        own, inner = jax.random.split(key)
        changed = _changed(task, attack, params, model_state, batch, own)
        return task.loss(params, model_state, {**batch, "image": changed}, inner)

    return task._replace(loss=changes("adversarial", loss))


def trades(
    task: Task,
    eps: float,
    *,
    beta: float = 6.0,
    norm: parts.Norm = "linf",
    steps: int = 10,
    step_size: float | None = None,
) -> Task:
    """Wrap a task so that it also learns to predict the same near an image as at the image: TRADES.

    The loss is that of the given images plus `beta` times the Kullback-Leibler divergence of the prediction at the
    nearby image where it differs most.

    Args:
        task: a classification task, with one label per row, whose input is `"image"`.
        eps: largest distance from the image, as in `attacks.pgd`.
        beta: weight of the divergence, at least 0.
        norm: `"linf"` or `"l2"`.
        steps: number of steps to the nearby image, at least 1.
        step_size: length of a step; None is `2.5 * eps / steps`.

    Returns:
        The task; in training, its metrics are those of the given images.

    Raises:
        InputError: a value is outside its range, or the task has several labels per row.

    Reference: Zhang et al., 2019, arXiv:1901.08573.

    """
    check_numbers(beta=beta)
    if not 0 <= beta < float("inf"):
        raise InputError(f"beta={beta}: must be at least 0")
    check_image_classes(task, "trades")
    check_unchanged(task, "trades", "adversarial")
    nearby = pgd(eps, norm=norm, steps=steps, step_size=step_size, loss=_against, early_stop=False)

    @adds("trades", task)
    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Tree]]:
        own, inner = jax.random.split(key)
        frozen = jax.lax.stop_gradient({"params": params, **grown(model_state)})
        logits_of, images = classifier(task, frozen, batch), pixels(batch)
        changed = nearby(logits_of, images, jax.nn.log_softmax(logits_of(images)), own)
        changed = jax.lax.stop_gradient(_shortened(images, changed, batch))
        mean, (outputs, state) = task.loss(params, model_state, batch, inner)
        _, (near, state) = task.loss(params, state, {**batch, "image": changed}, inner)
        values = divergence(jax.nn.log_softmax(two(outputs)), jax.nn.log_softmax(two(near)))
        values = jnp.where(_weights(batch) > 0, values, 0)  # padding may hold anything
        weight, count = all_sum((mean.weight, _weights(batch).sum()))
        share = beta * weight / jnp.maximum(count, 1e-9)  # the task may weight its rows, or leave some out
        return Mean(mean.total + share * (values * _weights(batch)).sum(), mean.weight), (outputs, state)

    return task._replace(loss=loss)


def mart(task: Task, attack: parts.Attack, *, beta: float = 5.0) -> Task:
    """Wrap a task so that attacked images count more where the network is unsure of the given one: MART.

    Args:
        task: a classification task with at least two logits and one label per row, whose input is `"image"`.
        attack: as in `adversarial`.
        beta: weight of the divergence between both predictions, at least 0.

    Returns:
        The task; its loss takes the place of the task's, so class weights and smoothing of labels do not apply, and a
        mixed label is read as its largest class. In training, its metrics are those of the attacked images.

    Raises:
        InputError: `beta` is below 0, the attack is targeted, or the task has several labels per row.

    Reference: Wang et al., Improving Adversarial Robustness Requires Revisiting Misclassified Examples, 2020.

    """
    check_numbers(beta=beta)
    if not 0 <= beta < float("inf"):
        raise InputError(f"beta={beta}: must be at least 0")
    check_untargeted(attack)
    check_image_classes(task, "mart")
    check_plain_loss(task, "mart")
    check_unchanged(task, "mart", "adversarial")

    @adds("mart", task)
    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Tree]]:
        own, inner = jax.random.split(key)
        changed = _changed(task, attack, params, model_state, batch, own)
        mean, (clean, state) = task.loss(params, model_state, batch, inner)
        _, (outputs, state) = task.loss(params, state, {**batch, "image": changed}, inner)
        before, after = jax.nn.log_softmax(two(clean)), jax.nn.log_softmax(two(outputs))
        labels = _classes_of(batch, after.shape[-1])
        rival = jnp.exp(parts.others(after, labels).max(-1))
        boosted = -parts.own(after, labels) - jnp.log1p(-jnp.minimum(rival, 1 - 1e-6))
        unsure = 1 - jnp.exp(parts.own(before, labels))
        values = boosted + beta * divergence(before, after) * unsure
        weights = _weights(batch) * (labels >= 0)
        # a label that is no class makes the task's own loss NaN, and this one with it; padding may hold anything
        total = jnp.where(weights > 0, values * weights, 0).sum()
        return Mean(total + 0 * mean.total, weights.sum()), (outputs, state)

    return task._replace(loss=loss)


def check_image_classes(task: Task, method: str) -> None:
    """Raise `InputError` unless a task has one label per row and reads the images that are attacked."""
    check_one_label(task, method)
    if (field := getattr(task.metrics["loss"], "field", "image")) != "image":
        raise InputError(f"{method}: changes the entry 'image', and the task reads {field!r}; use field='image'")


def check_untargeted(attack: parts.Attack) -> None:
    """Raise `InputError` for a targeted attack: given the true labels, it would help the network."""
    if getattr(attack, "targeted", False):
        fix = "make it with targeted=False, or call it yourself with the classes to reach"
        raise InputError(f"attack: is targeted, and would be given the true labels to reach; {fix}")


def _changed(task: Task, attack: parts.Attack, params: Tree, model_state: Tree, batch: Batch, key: Array) -> Array:
    """Return the attacked images of a training batch; no gradient flows through the attack."""
    frozen = jax.lax.stop_gradient({"params": params, **grown(model_state)})
    images, logits_of = pixels(batch), classifier(task, frozen, batch)
    classes = jax.eval_shape(logits_of, images).shape[-1]
    changed = attack(logits_of, images, _classes_of(batch, classes), key)
    return jax.lax.stop_gradient(_shortened(images, changed, batch))


def ramped(step: Step, steps: int) -> Step:
    """Let the attacks of training grow in the first updates: in update t, changes are `t / steps` as long.

    Networks that begin with the whole change of a large distance, such as 0.3 on MNIST, may not begin to learn.

    Args:
        step: a training step of a task of `adversarial`, `trades` or `mart`.
        steps: number of updates after which attacks are whole, at least 0; 0 changes nothing.

    Returns:
        The step, whose batches have the entry `"strength"` `[B]`, in 0..1, by which changes are multiplied.

    Raises:
        InputError: `steps` is below 0.

    """
    check_whole("steps", steps, 0)
    if not steps:
        return step

    @functools.wraps(step)
    def grown_to(state: State, batch: Batch) -> tuple[State, dict[str, MetricState]]:
        share = jnp.minimum(1.0, state.step.astype(jnp.float32) / steps)
        return step(state, {**batch, "strength": jnp.full(rows(batch), share)})

    return grown_to


def _shortened(images: Array, changed: Array, batch: Batch) -> Array:
    if "strength" not in batch:
        return changed
    return images + align(batch["strength"], images) * (changed - images)


def divergence(log_p: Array, log_q: Array) -> Array:
    """Return the Kullback-Leibler divergence of `q` from `p`, given logarithms `[B, K]`, as `[B]`."""
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def _against(logits: Array, log_p: Array) -> Array:
    return divergence(log_p, jax.nn.log_softmax(logits))


def classifier(task: Task, variables: Tree, batch: Batch) -> parts.LogitsOf:
    """Return the function from images in 0..1 to a task's logits `[B, K]`; a single logit gives two, 0 and itself."""

    def logits_of(images: Array) -> Array:
        return two(task.predict(variables, {**batch, "image": images}))

    return logits_of


def two(logits: Array) -> Array:
    """Return logits `[B, K]` with K at least 2."""
    if logits.ndim != 2:
        raise InputError(f"attacks need logits [B, K], and the task gives {list(logits.shape)}")
    return jnp.concatenate([jnp.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits


def pixels(batch: Batch) -> Array:
    """Return the images of a batch, float32 in 0..1; refuse integers that are not uint8."""
    if "image" not in batch:
        raise InputError(f"the batch has no 'image', only {', '.join(sorted(batch))}; attacks change images")
    return as_float(jnp.asarray(batch["image"])).astype(jnp.float32)


def true_labels(batch: Batch) -> Array:
    """Return the label of each row as an index, int32 `[B]`, whichever form it has; -1 where there is none."""
    label = jnp.asarray(batch["label"])
    label = label[:, 0] if label.ndim == 2 and label.shape[1] == 1 else label
    if label.ndim == 1:
        return (
            jnp.round(label).astype(jnp.int32) if jnp.issubdtype(label.dtype, jnp.floating) else label.astype(jnp.int32)
        )
    if label.ndim != 2:
        raise InputError(f"attacks need one label per row, and the labels have the shape {list(label.shape)}")
    return jnp.where(label.max(-1) <= 0, -1, label.argmax(-1).astype(jnp.int32))


def _classes_of(batch: Batch, classes: int) -> Array:
    """Return labels `[B]` as attacks read them: -1 in rows that the task leaves out, such as those with label 255."""
    labels = true_labels(batch)
    return jnp.where((labels >= 0) & (labels < classes), labels, -1)


def _weights(batch: Batch) -> Array:
    return row_mask(batch) * batch.get("sample_weight", 1.0)

"""Transfer learning: start from pretrained weights, keep part of the network fixed and train the rest.

`optim` decides which parameters the optimiser updates and how fast, see `optim.freeze`, `optim.layerwise_lr_decay` and
`optim.gradual_unfreezing`.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core import jaxprs
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import Batch, FrozenState, InputError, Task, Tree, check_whole, named
from jaxcnn.data import Resident
from jaxcnn.data.checking import checked
from jaxcnn.methods.combined import check_plain_loss, check_unchanged
from jaxcnn.optim import first_match, which
from jaxcnn.tasks import pixels
from jaxcnn.tasks.model import training_pass
from jaxcnn.train.evaluation import collect

Array = jax.Array
LAST_LAYER = (r"(.*\.)?logits",)


def load_pretrained(variables: Tree, pretrained: Tree, head: Sequence[str] = LAST_LAYER) -> Tree:
    """Copy the variables of a pretrained network, except its head, which may be for different classes.

    Args:
        variables: `{"params": ..., "batch_stats": ...}` of the new network.
        pretrained: the variables of the pretrained network, in the same form.
        head: patterns of the parameters that are not copied, see `optim.which`; by default layers named `logits`.

    Returns:
        The variables of the new network, with the pretrained ones outside the head, in the new network's dtypes.

    Raises:
        InputError: The networks differ outside the head; the message names the first difference.

    """
    new, old = dict(named(variables)), dict(named(pretrained))

    def within(path: str) -> str:  # patterns do not contain the name of the collection
        return path.split(".", 1)[1]

    paths, wrong = sorted({*new, *old}), []
    matches = first_match([within(path) for path in paths], [head])
    stays = {path for path, k in zip(paths, matches, strict=True) if k >= 0}
    for path in (path for path in paths if path not in stays):
        if path not in new or path not in old:
            wrong.append(f"{within(path)}, which the {'pretrained' if path in new else 'new'} one lacks")
        elif new[path].shape != old[path].shape:
            shapes = f"{list(new[path].shape)} in the new one and {list(old[path].shape)} in the pretrained one"
            wrong.append(f"{within(path)}, {shapes}")
    if wrong:
        raise InputError(
            f"the networks differ in {len(wrong)} of {len(paths)} arrays, first {wrong[0]}: "
            "give weights of the same network"
        )
    taken = [x if path in stays else jnp.asarray(old[path], x.dtype) for path, x in new.items()]
    return jax.tree.unflatten(jax.tree.structure(variables), taken)


def groups(model: Any, shape: Sequence[int]) -> dict[str, tuple[str, ...]]:
    """Group the parameters of a network by its parts, from the head down to the stem.

    A parameter belongs to the first array of `features` that depends on it, or to the head if there is none.

    Args:
        model: a Linen module with a method `features`.
        shape: shape of an image, `(H, W, C)`.

    Returns:
        Dict from part to patterns of its parameters, such as `{"head": ("logits",), ..., "stem": ("stem",)}`.

    """
    _, parts, params = _trace(model, shape)
    paths, out, seen = [path for path, _ in named(params)], {}, set()
    for name, needs in sorted(parts.items(), key=lambda part: len(part[1])):
        out[name] = _names([path for i, path in enumerate(paths) if i in needs - seen], paths)
        seen |= needs
    out["head"] = _names([path for i, path in enumerate(paths) if i not in seen], paths)
    return {name: patterns for name, patterns in reversed(out.items()) if patterns}


def _trace(model: Any, shape: Sequence[int]) -> tuple[str, dict[str, set[int]], Tree]:
    """Return the name of the last feature, a dict from feature to the indices of its parameters, and the parameters."""
    image, names = jax.ShapeDtypeStruct((1, *shape), jnp.float32), []
    state = dict(jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), image))
    params = state.pop("params")

    def run(params: Tree, state: Tree, image: Array) -> list[Array]:
        features = model.apply({"params": params, **state}, image, train=False, method="features")
        names.extend(features)
        return list(features.values())

    traced, none = jax.make_jaxpr(run)(params, state, image), frozenset[int]()
    count = len(jax.tree.leaves(params))
    inputs = [frozenset({i}) if i < count else none for i in range(len(traced.in_avals))]
    needs = jaxprs.walk(traced, inputs, lambda eqn, into: [none.union(*into)] * len(eqn.outvars), lambda constant: none)
    return names[-1], {name: set(needed) for name, needed in zip(names, needs, strict=True)}, params


def _names(mine: Sequence[str], paths: Sequence[str]) -> tuple[str, ...]:
    """Return patterns for some of the paths: their shortest prefixes that no other path has."""
    others, out = set(paths) - set(mine), []
    for path in mine:
        parts = path.split(".")
        beginnings = [".".join(parts[: i + 1]) for i in range(len(parts))]
        out.append(re.escape(next(b for b in beginnings if not any(f"{o}.".startswith(f"{b}.") for o in others))))
    return tuple(dict.fromkeys(out))


def stop_gradient_on(loss: Callable[..., Any], frozen: Sequence[str]) -> Callable[..., Any]:
    """Wrap a loss so that frozen parameters have zero gradients, which cost no time and do not count in the norm.

    Args:
        loss: the loss of a `Task`.
        frozen: patterns of the frozen parameters, see `optim.which`. Also use `optim.freeze`, so that weight decay and
            momentum do not change them.

    Returns:
        The wrapped loss.

    """

    @functools.wraps(loss)
    def held(params: Tree, model_state: Tree, batch: Batch, key: Array) -> Any:
        params = jax.tree.map(lambda p, k: p if k < 0 else jax.lax.stop_gradient(p), params, which(params, [frozen]))
        return loss(params, model_state, batch, key)

    return held


def keep_stats(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a loss so that norms use their running statistics and do not update them; dropout stays active.

    Args:
        loss: the loss of a `Task` from `tasks.from_model`, or any loss that passes its model state to
            `tasks.training_pass`.

    Returns:
        The wrapped loss.

    """

    @functools.wraps(loss)
    def kept(params: Tree, model_state: Tree, batch: Batch, key: Array) -> Any:
        mean, (outputs, _) = loss(params, FrozenState(model_state), batch, key)
        return mean, (outputs, model_state)

    return kept


def cached(
    model: Any,
    variables: Tree,
    data: Any,
    inputs: Callable[[Batch], Array],
    *,
    keep: Sequence[str] = ("label",),
    batch_size: int = 256,
    most_bytes: int = 2**32,
) -> Resident:
    """Compute the input of a network's head for every row, once.

    Args:
        model: a Linen module with a method `features`.
        variables: variables of the module.
        data: a data set.
        inputs: function from a batch to the model's input, for example
            `lambda batch: tasks.prepare(batch["image"], mean, std)`.
        keep: names of the arrays to keep in addition to the new array `"features"` `[N, ...]`; `"sample_weight"` is
            always kept.
        batch_size: rows per batch.
        most_bytes: most bytes of the result.

    Returns:
        A data set with the rows in the same order and with the same seed, for a task from `head_task`.

    Raises:
        InputError: The result would be larger, an image is not in 0..255 or 0..1, or there are several processes.

    """

    def features(variables: Tree, batch: Batch) -> Array:
        return promote_float32(list(model.apply(variables, inputs(batch), train=False, method="features").values())[-1])

    row = jax.eval_shape(features, variables, data.example())
    if data.size * row.size * row.dtype.itemsize > most_bytes:
        size = data.size * row.size * row.dtype.itemsize >> 20
        raise InputError(
            f"the features of {data.size} rows take {size} MiB, above {most_bytes >> 20}; raise most_bytes="
        )
    weighted = [name for name in ("sample_weight",) if name in data.example() and name not in keep]
    rows = checked(data, lambda rows: pixels.check_image(rows) if "image" in rows else None)
    found, kept = collect(features, variables, rows, keep=(*keep, *weighted), batch_size=batch_size)
    return Resident({"features": found, **kept}, data.classes, data.seed)


def head_task(model: Any, task: Task, shape: Sequence[int]) -> Task:
    """Return a task for `cached` rows that keeps the variables of the whole network but uses only the head.

    It gives the same result as training `task` with `keep_stats` and everything except the head frozen, in a fraction
    of the time. Freeze the rest anyway, so that weight decay does not change it. The variables come from `task.init` or
    a pretrained network.

    Args:
        model: a Linen module with methods `features` and `head`.
        task: task of the whole model, with the metric `"loss"`.
        shape: shape of an image, `(H, W, C)`.

    """
    check_plain_loss(task, "head_task")
    check_unchanged(task, "head_task", "adversarial", "quantised")
    last, *_ = _trace(model, shape)

    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> Any:
        outputs, model_state = training_pass(model, params, model_state, key, {last: batch["features"]}, method="head")
        return task.metrics["loss"](outputs, batch), (outputs, model_state)

    def predict(variables: Tree, batch: Batch) -> Any:
        return promote_float32(model.apply(variables, {last: batch["features"]}, train=False, method="head"))

    return task._replace(loss=loss, predict=predict)


def few_shot_subset(data: Any, per_class: int, seed: int = 0) -> Any:
    """Draw the same number of rows from each class.

    Args:
        data: a data set with labels int `[N]` and names of classes.
        per_class: number of rows per class, at least 1.
        seed: seed of the choice.

    Returns:
        The chosen rows, in their original order.

    Raises:
        InputError: a number is out of range, a class has fewer rows, or the labels are not one class per row.

    """
    check_whole("per_class", per_class, 1)
    check_whole("seed", seed, 0)
    if not data.classes:
        raise InputError("few_shot_subset: the data have no classes; it draws from each of them")
    label = np.asarray(data.label)
    if label.ndim != 1 or label.dtype.kind not in "iu":
        raise InputError(f"labels {label.dtype} of shape {label.shape}: must be integers [N], one class per row")
    rng, chosen = np.random.default_rng(seed), []
    for k, name in enumerate(data.classes):
        rows = np.flatnonzero(label == k)
        if len(rows) < per_class:
            raise InputError(
                f"per_class={per_class}: class {name!r} has only {len(rows)} training rows; give at most {len(rows)}"
            )
        chosen.append(rng.permutation(rows)[:per_class])
    return data.take(np.sort(np.concatenate(chosen)))

"""Transfer learning: begin with the weights of another network, keep a part of it as it is, train the rest.

Which parameters an optimiser leaves alone, or moves less, is a matter of `optim`: `freeze`, `layerwise_lr_decay`, `gradual_unfreezing`.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core import jaxprs
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import Batch, FrozenState, InputError, Task, Tree, named
from jaxcnn.data import Resident
from jaxcnn.optim import first_match, which
from jaxcnn.tasks.model import training_pass
from jaxcnn.train.evaluation import collect

Array = jax.Array
LAST_LAYER = (r"(.*\.)?logits",)


def load_pretrained(variables: Tree, pretrained: Tree, head: Sequence[str] = LAST_LAYER) -> Tree:
    """Take everything from a pretrained network but its head, which may be for other classes.

    Args:
        variables: `{"params": ..., "batch_stats": ...}` of the new network, whose head stays.
        pretrained: those of the other.
        head: patterns of the parameters that stay new, see `optim.which`; by default the layers called `logits`.

    Raises:
        InputError: the networks differ elsewhere than in the head; the message names the first difference.

    """
    new, old = dict(named(variables)), dict(named(pretrained))
    within = lambda path: path.split(".", 1)[1]  # noqa: E731 (the collection's name is no part of a pattern)
    paths, wrong = sorted({*new, *old}), []
    stays = {
        path for path, k in zip(paths, first_match([within(path) for path in paths], [head]), strict=True) if k >= 0
    }
    for path in (path for path in paths if path not in stays):
        if path not in new or path not in old:
            wrong.append(f"{within(path)}, which the {'pretrained' if path in new else 'new'} one lacks")
        elif new[path].shape != old[path].shape:
            wrong.append(
                f"{within(path)}, {list(new[path].shape)} in the new one and {list(old[path].shape)} in the pretrained one"
            )
    if wrong:
        raise InputError(
            f"the networks differ in {len(wrong)} of {len(paths)} arrays, first {wrong[0]}: give weights of the same network"
        )
    taken = [x if path in stays else jnp.asarray(old[path], x.dtype) for path, x in new.items()]
    return jax.tree.unflatten(jax.tree.structure(variables), taken)


def groups(model: Any, shape: Sequence[int]) -> dict[str, tuple[str, ...]]:
    """Which parameters each part of a network has, as patterns, from the head down: `{"head": ("logits",), ..., "stem": ("stem",)}`.

    A parameter belongs to the first array of `features` that depends on it, and to the head where none does.

    Args:
        model: a Linen module with `features`.
        shape: of an image, `(H, W, C)`.

    """
    _, parts, params = _trace(model, shape)
    paths, out, seen = [path for path, _ in named(params)], {}, set()
    for name, needs in sorted(parts.items(), key=lambda part: len(part[1])):
        out[name] = _names([path for i, path in enumerate(paths) if i in needs - seen], paths)
        seen |= needs
    out["head"] = _names([path for i, path in enumerate(paths) if i not in seen], paths)
    return {name: patterns for name, patterns in reversed(out.items()) if patterns}


def _trace(model: Any, shape: Sequence[int]) -> tuple[str, dict[str, set[int]], Tree]:
    """Return the name of the last feature, for each feature the numbers of the parameters it depends on, and the parameters."""
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
    """Patterns for some of the paths: the shortest beginnings that no other path has."""
    others, out = set(paths) - set(mine), []
    for path in mine:
        parts = path.split(".")
        beginnings = [".".join(parts[: i + 1]) for i in range(len(parts))]
        out.append(re.escape(next(b for b in beginnings if not any(f"{o}.".startswith(f"{b}.") for o in others))))
    return tuple(dict.fromkeys(out))


def stop_gradient_on(loss: Callable[..., Any], frozen: Sequence[str]) -> Callable[..., Any]:
    """Wrap a loss so that some parameters have no gradient, which then takes no time, nor a part in its logged norm.

    Args:
        loss: as in `Task`.
        frozen: patterns, see `optim.which`; `optim.freeze` keeps the optimiser from moving them in other ways.

    """

    def held(params: Tree, model_state: Tree, batch: Batch, key: Array) -> Any:
        params = jax.tree.map(lambda p, k: p if k < 0 else jax.lax.stop_gradient(p), params, which(params, [frozen]))
        return loss(params, model_state, batch, key)

    return held


def keep_stats(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a loss so that norms use their running statistics and leave them as they are; dropout goes on.

    Args:
        loss: as in `Task`, from `tasks.from_model` or any that hands its model state to `tasks.training_pass`.

    """

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
    """Compute once what the head of a network reads, for every row.

    Args:
        model: a Linen module with `features`.
        variables: its own.
        data: a data set.
        inputs: a batch to what the model takes, such as `lambda batch: tasks.prepare(batch["image"], mean, std)`.
        keep: keys of the batch to keep beside the new one, `"features"` `[B, ...]`.
        batch_size: rows at a time.
        most_bytes: how much memory the result may take.

    Returns:
        The rows, in the same order and with the same seed, for a task of `head_task`.

    Raises:
        InputError: it would take more, or there are several processes.

    """

    def features(variables: Tree, batch: Batch) -> Array:
        return promote_float32(list(model.apply(variables, inputs(batch), train=False, method="features").values())[-1])

    row = jax.eval_shape(features, variables, data.example())
    if data.size * row.size * row.dtype.itemsize > most_bytes:
        raise InputError(
            f"the features of {data.size} rows take {data.size * row.size * row.dtype.itemsize >> 20} MiB, above {most_bytes >> 20}"
        )
    found, kept = collect(features, variables, data, keep=keep, batch_size=batch_size)
    return Resident({"features": found, **kept}, data.classes, data.seed)


def head_task(model: Any, task: Task, shape: Sequence[int]) -> Task:
    """Return a task for `cached` rows: the parameters of the whole network, of which only the head's are used and change.

    It learns what `task` would learn with everything but the head frozen and `keep_stats`, in a fraction of the time;
    freeze the rest all the same, so that no decay touches it. Variables come from `task.init` or a pretrained network.

    Args:
        model: a Linen module with `features` and `head`.
        task: of the whole model, with the metric `"loss"`.
        shape: of an image, `(H, W, C)`.

    """
    last, *_ = _trace(model, shape)

    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> Any:
        outputs, model_state = training_pass(model, params, model_state, key, {last: batch["features"]}, method="head")
        return task.metrics["loss"](outputs, batch), (outputs, model_state)

    def predict(variables: Tree, batch: Batch) -> Any:
        return promote_float32(model.apply(variables, {last: batch["features"]}, train=False, method="head"))

    return task._replace(loss=loss, predict=predict)


def few_shot_subset(data: Any, per_class: int, seed: int = 0) -> Any:
    """Draw the same number of rows from each class.

    Raises:
        InputError: `per_class` below 1, or a class has fewer.

    """
    if per_class < 1:
        raise InputError(f"per_class={per_class}: must be at least 1")
    rng, chosen = np.random.default_rng(seed), []
    for k, name in enumerate(data.classes):
        rows = np.flatnonzero(data.label == k)
        if len(rows) < per_class:
            raise InputError(
                f"per_class={per_class}: class {name!r} has only {len(rows)} training rows; give at most so many"
            )
        chosen.append(rng.permutation(rows)[:per_class])
    return data.take(np.sort(np.concatenate(chosen)))

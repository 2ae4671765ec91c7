"""Distillation: a small network, the student, also learns from the outputs and features of a trained one, the teacher.

References: Hinton et al., 2015, arXiv:1503.02531 (soft targets); Zagoruyko and Komodakis, 2016, arXiv:1612.03928
(attention maps of features).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.core.collectives import all_sum
from jaxcnn.core.types import Batch, InputError, Mean, Task, Tree, check_numbers, row_mask
from jaxcnn.layers.calls import Call, changed_calls
from jaxcnn.methods.combined import adds
from jaxcnn.methods.robustness import divergence, two
from jaxcnn.tasks.classification import check_one_label

Array = jax.Array
TEACHER = "teacher"


def distilled(
    task: Task,
    teacher: Task,
    variables: Tree,
    *,
    temperature: float = 4.0,
    weight: float = 0.9,
    features: float = 0.0,
    names: Sequence[str] = (),
) -> Task:
    """Wrap a student's task so that it also learns from a teacher, which sees the same batch, augmentation included.

    The loss is `(1 - weight)` times the task's plus `weight * temperature**2` times the Kullback-Leibler divergence of
    the student's softened prediction from the teacher's. With `features`, the distance of attention maps is added: the
    mean square over the channels of a feature, as a vector of length 1 per row, in which networks of different widths
    are comparable.

    The teacher's variables are part of the model state, under `"teacher"`: they are arguments of the compiled step,
    and the checkpoints of a run hold them. `load_run` leaves them out.

    Args:
        task: the student's classification task, with one label per row.
        teacher: the teacher's task; its `predict` gives logits of the same classes.
        variables: the teacher's variables.
        temperature: by which logits are divided before the softmax, above 0.
        weight: share of the soft targets, in [0, 1].
        features: weight of the attention maps, at least 0; 0 leaves them out. The paper's is 1000 divided by the number
            of positions and by that of rows, here per row.
        names: entries of `features` that are compared, of networks that have them (`layers.Network`); by default all
            that both have with the same height and width.

    Raises:
        InputError: a value is out of range, or a task is no classification with one label per row; or when called, the
            variables have no teacher, the logits differ in number, or no feature can be compared.

    """
    _check(temperature, weight, features, names)
    for one in (task, teacher):
        check_one_label(one, "distilled")

    def init(key: Array, batch: Batch) -> Tree:
        return {**task.init(key, batch), TEACHER: jax.tree.map(jnp.asarray, dict(variables))}

    @adds("distilled", task)
    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Tree]]:
        if TEACHER not in model_state:
            raise InputError("distilled: the variables have no teacher; begin with {**variables, 'teacher': ...}")
        fixed, kept = model_state[TEACHER], type(model_state)
        theirs: dict[str, Array] = {}
        ours: dict[str, Array] = {}
        with changed_calls(_catching(theirs)):
            soft = two(teacher.predict(jax.lax.stop_gradient(fixed), batch))
        with changed_calls(_catching(ours)):
            own = kept({name: tree for name, tree in model_state.items() if name != TEACHER})
            mean, (outputs, changed) = task.loss(params, own, batch, key)
        logits = two(outputs)
        if soft.shape != logits.shape:
            shapes = f"{list(soft.shape)} and {list(logits.shape)}"
            raise InputError(
                f"distilled: the logits of teacher and student are {shapes}; give a teacher of its classes"
            )
        softened = (jax.nn.log_softmax(x / temperature) for x in (jax.lax.stop_gradient(soft), logits))
        weights = row_mask(batch) * batch.get("sample_weight", 1.0)
        values = weight * temperature**2 * divergence(*softened)
        if features:
            values = values + features * _distance(ours, jax.lax.stop_gradient(theirs), names)
        added = jnp.where(weights == 0, 0, values * weights).sum()  # padding may hold anything
        total, count = all_sum(jax.lax.stop_gradient((mean.weight, weights.sum())))  # the task may weight its rows
        added = added * total / jnp.where(count > 0, count, 1)
        value = Mean((1 - weight) * mean.total + added, mean.weight)
        return value, (outputs, kept({**changed, TEACHER: fixed}))

    return task._replace(init=init, loss=loss)


def _check(temperature: float, weight: float, features: float, names: Sequence[str]) -> None:
    check_numbers(temperature=temperature, weight=weight, features=features)
    if isinstance(names, str):
        raise InputError(f"names={names!r}: must be several names of features; give ({names!r},)")
    if not 0 < temperature < float("inf"):
        raise InputError(f"temperature={temperature}: must be above 0")
    if not 0 <= weight <= 1:
        raise InputError(f"weight={weight}: must be from 0 to 1")
    if not 0 <= features < float("inf"):
        raise InputError(f"features={features}: must be at least 0")
    if names and not features:
        raise InputError(f"names={tuple(names)}: are those of features, whose weight is 0; give features=")


def _catching(found: dict[str, Array]) -> Any:
    """Return a change of calls that keeps what `features` of the network returns."""

    def kept(call: Call) -> Any:
        y = call.run(*call.arguments, **call.keywords)
        if call.method == "features" and call.path == () and isinstance(y, Mapping):
            found.update(y)
        return y

    return kept


def _distance(ours: Mapping[str, Array], theirs: Mapping[str, Array], names: Sequence[str]) -> Array:
    """Return the mean distance of attention maps, `[B]`."""
    common = [name for name in ours if name in theirs and ours[name].shape[:-1] == theirs[name].shape[:-1]]
    common = [name for name in common if ours[name].ndim > 2]
    if lacking := [name for name in names if name not in common]:
        raise InputError(f"names: {lacking[0]!r} is not a feature of both with the same size; have {', '.join(common)}")
    if not common:
        raise InputError("features: the networks have no feature of the same name and size; use features=0")
    chosen = list(names or common)
    return jnp.stack([_apart(ours[name], theirs[name]) for name in chosen]).mean(0)


def _apart(ours: Array, theirs: Array) -> Array:
    return jnp.square(_attention(ours) - _attention(theirs)).sum(-1)


def _attention(x: Array) -> Array:
    """Return the mean square over channels, `[B, places]`, each row of length 1."""
    each = jnp.square(x.astype(jnp.float32)).mean(-1).reshape(x.shape[0], -1)
    return each * jax.lax.rsqrt(jnp.maximum(jnp.square(each).sum(-1, keepdims=True), 1e-12))

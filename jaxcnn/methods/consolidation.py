"""Continual learning by holding on to parameters or outputs: EWC, synaptic intelligence, learning without forgetting.

Each method wraps the task or the optimiser, and has a function for the end of a task that returns the state to begin
the next one with. What it knows of earlier tasks is part of the state, so that one compiled step serves all tasks. In
the first task there is nothing to hold on to, and the methods change nothing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.core.collectives import all_sum
from jaxcnn.core.types import Batch, InputError, Mean, State, Task, Tree, check_numbers, check_whole, row_mask
from jaxcnn.methods.combined import adds
from jaxcnn.methods.continual import ABSENT
from jaxcnn.methods.fisher_information import COLLECTIONS
from jaxcnn.methods.fisher_information import fisher as fisher
from jaxcnn.methods.robustness import divergence
from jaxcnn.tasks.classification import check_one_label

Array = jax.Array
EWC, LWF = COLLECTIONS


def ewc(task: Task, strength: float) -> Task:
    """Wrap a task so that parameters that mattered in earlier tasks stay near their old values: EWC.

    The penalty is `strength / 2 * sum(importance * (params - anchor) ** 2)`. Anchor and importance are part of the
    model state, and `ewc_after_task` sets them.

    Args:
        task: the task. Prediction and metrics are unchanged; the training loss includes the penalty.
        strength: lambda, at least 0.

    Raises:
        InputError: the strength is not a number of at least 0; or (when traced) the variables come from another task.

    Reference:
        Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, 2017, arXiv:1612.00796.

    """
    _check_strength(strength)

    def init(key: Array, batch: Batch) -> Tree:
        variables = task.init(key, batch)
        return {**variables, EWC: {name: _zeros(variables["params"]) for name in ("anchor", "importance")}}

    @adds("ewc", task)
    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Tree]]:
        own, others = _taken(model_state, EWC)
        mean, (outputs, changed) = task.loss(params, others, batch, key)
        far = jax.tree.map(lambda f, p, a: (f * (p - a) ** 2).sum(), own["importance"], params, own["anchor"])
        penalty = strength / 2 * sum(jax.tree.leaves(far))
        return Mean(mean.total + penalty * mean.weight, mean.weight), (outputs, _joined(changed, EWC, own))

    return task._replace(init=init, loss=loss)


def ewc_after_task(state: State, importance: Tree) -> State:
    """Return the state to begin the next task with, which remembers this one.

    The sum of the penalties of all tasks so far has one anchor and one importance, so memory does not grow.

    Args:
        state: the state after a task of `ewc`.
        importance: of the parameters in this task, at least 0, see `fisher`.

    Raises:
        InputError: the state is not that of `ewc`, or the importance has another form, is negative or not finite.

    """
    own, others = _taken(state.model_state, EWC)
    if jax.tree.map(np.shape, importance) != jax.tree.map(np.shape, state.params):
        raise InputError("importance: has not the form of the parameters; compute it with fisher and the same task")
    if not all(bool(((jnp.asarray(x) >= 0) & jnp.isfinite(x)).all()) for x in jax.tree.leaves(importance)):
        raise InputError("importance: has values that are negative or not finite; must be at least 0")
    total = jax.tree.map(lambda f, g: f + jnp.asarray(g, f.dtype), own["importance"], importance)

    def between(old: Array, f: Array, new: Array, g: Array, both: Array) -> Array:
        return jnp.where(both > 0, (f * old + g * new) / jnp.where(both > 0, both, 1), new)

    anchor = jax.tree.map(between, own["anchor"], own["importance"], state.params, importance, total)
    return state.replace(model_state=_joined(others, EWC, {"anchor": anchor, "importance": total}))


class SynapticState(NamedTuple):
    """The state of `synaptic`.

    Attributes:
        inner: the state of the optimiser.
        path: how much each parameter has lowered the loss in this task: the path integral.
        anchor: the parameters at the beginning of this task.
        importance: of the parameters in earlier tasks.

    """

    inner: Any
    path: Any
    anchor: Any
    importance: Any


def synaptic(tx: optax.GradientTransformation, strength: float) -> optax.GradientTransformation:
    """Wrap an optimiser so that parameters that lowered the loss in earlier tasks stay near their old values: SI.

    It adds the gradient of `strength * sum(importance * (params - anchor) ** 2)`, which is not part of the reported
    loss, and adds up what each parameter contributes. `si_after_task` sets anchor and importance.

    Args:
        tx: the optimiser. It must be the outermost transform.
        strength: c, at least 0.

    Raises:
        InputError: the strength is not a number of at least 0.

    Reference:
        Zenke et al., Continual Learning Through Synaptic Intelligence, 2017, arXiv:1703.04200.

    """
    _check_strength(strength)

    def init(params: Tree) -> SynapticState:
        return SynapticState(tx.init(params), _zeros(params), jax.tree.map(jnp.copy, params), _zeros(params))

    def update(updates: Tree, state: Any, params: Tree = None) -> tuple[Tree, SynapticState]:
        if params is None:
            raise InputError("synaptic: update needs the parameters, update(updates, state, params)")
        pull = jax.tree.map(
            lambda g, f, p, a: g + 2 * strength * f * (p - a), updates, state.importance, params, state.anchor
        )
        changes, inner = tx.update(pull, state.inner, params)
        path = jax.tree.map(lambda w, g, c: w - g * c, state.path, updates, changes)
        return changes, state._replace(inner=inner, path=path)

    return optax.GradientTransformation(init, update)


def si_after_task(state: State, *, damping: float = 0.1) -> State:
    """Return the state to begin the next task with, which remembers this one.

    Args:
        state: the state after a task with `synaptic`.
        damping: xi, positive, which bounds the importance of parameters that hardly moved.

    Returns:
        The state. The importance of a parameter whose changes raised the loss in total is 0 in this task, because
        negative ones would push parameters away.

    Raises:
        InputError: the damping is not positive, or the optimiser is not wrapped by `synaptic`.

    """
    check_numbers(damping=damping)
    if not 0 < damping < float("inf"):
        raise InputError(f"damping={damping}: must be a positive number")
    own = state.opt_state
    if not isinstance(own, SynapticState):
        raise InputError(f"si_after_task: the optimiser has the state {type(own).__name__}; wrap it with synaptic")

    def grown(f: Array, w: Array, p: Array, a: Array) -> Array:
        return f + jnp.maximum(w, 0) / ((p - a) ** 2 + damping)

    importance = jax.tree.map(grown, own.importance, own.path, state.params, own.anchor)
    return state.replace(
        opt_state=SynapticState(own.inner, _zeros(own.path), jax.tree.map(jnp.copy, state.params), importance)
    )


def lwf(task: Task, *, heads: int = 1, strength: float = 1.0, temperature: float = 2.0) -> Task:
    """Wrap a task so that new rows get the outputs that the network of earlier tasks gives them: LwF.

    For each head of earlier tasks, the Kullback-Leibler divergence of the softened predictions, times `temperature`
    squared, is added to the loss. The earlier network is part of the model state, and `lwf_after_task` sets it.

    Args:
        task: a classification task with K >= 2 logits, with `continual.heads` where there are several heads.
        heads: number of sets of classes over which predictions are compared, the rows of `lwf_after_task`.
        strength: weight of the divergence, at least 0.
        temperature: divides the logits of both, positive.

    Raises:
        InputError: a value is outside its range; or (when traced) there is one logit, or the variables come from
            another task.

    Reference:
        Li and Hoiem, Learning without Forgetting, 2016, arXiv:1606.09282.

    """
    _check_strength(strength)
    check_whole("heads", heads, 1)
    check_numbers(temperature=temperature)
    check_one_label(task, "lwf")
    if not 0 < temperature < float("inf"):
        raise InputError(f"temperature={temperature}: must be positive")
    outputs_of = task.outputs or task.predict

    def init(key: Array, batch: Batch) -> Tree:
        variables = task.init(key, batch)
        classes = jax.eval_shape(outputs_of, variables, dict(batch)).shape[-1]
        if classes < 2:
            raise InputError("lwf: the task has one logit; use two classes with a softmax")
        return {**variables, LWF: {"teacher": _zeros(variables), "heads": jnp.zeros((heads, classes))}}

    @adds("lwf", task)
    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Tree]]:
        own, others = _taken(model_state, LWF)
        mean, (outputs, changed) = task.loss(params, others, batch, key)
        held = jax.lax.stop_gradient(own)
        target = jax.lax.stop_gradient(outputs_of(held["teacher"], batch))

        def far(members: Array) -> Array:
            soft, old = (
                jax.nn.log_softmax(jnp.where(members[None] > 0, x / temperature, ABSENT)) for x in (outputs, target)
            )
            return (members.max() > 0) * divergence(old, soft)

        own_weight = row_mask(batch) * batch.get("sample_weight", 1.0)
        each = jax.vmap(far)(held["heads"]).sum(0)  # [B]
        each = jnp.where(own_weight > 0, each * own_weight, 0)  # padding may hold anything
        weight, count = all_sum((mean.weight, own_weight.sum()))
        share = strength * temperature**2 * weight / jnp.where(count > 0, count, 1)  # the task may weight its rows
        return Mean(mean.total + share * each.sum(), mean.weight), (outputs, _joined(changed, LWF, own))

    return task._replace(init=init, loss=loss)


def lwf_after_task(state: State, heads: Any) -> State:
    """Return the state to begin the next task with, which remembers the network of this one.

    Args:
        state: the state after a task of `lwf`.
        heads: `[H, K]`, 1 for the classes of each head that was learnt so far, and rows of zeros for others: one row
            for all known classes, or the rows of `continual.head_table` of the tasks so far.

    Raises:
        InputError: the state is not that of `lwf`, or the heads have another shape or only one class.

    """
    own, others = _taken(state.model_state, LWF)
    heads = np.asarray(heads, np.float32)
    if heads.shape != own["heads"].shape:
        raise InputError(f"heads of shape {heads.shape}: must be {own['heads'].shape}, as the task was made")
    if not np.isin(heads, (0, 1)).all() or (heads.sum(1) == 1).any():
        raise InputError("heads: must be 0 or 1, with none or at least two classes in each row")
    teacher = jax.tree.map(jnp.copy, {"params": state.params, **others})
    return state.replace(model_state=_joined(others, LWF, {"teacher": teacher, "heads": jnp.asarray(heads)}))


def _check_strength(strength: float) -> None:
    check_numbers(strength=strength)
    if not 0 <= strength < float("inf"):
        raise InputError(f"strength={strength}: must be a number of at least 0")


def _zeros(tree: Tree) -> Tree:
    return jax.tree.map(jnp.zeros_like, tree)


def _taken(model_state: Tree, name: str) -> tuple[Tree, Tree]:
    """Return what a method keeps in the model state, and the rest in the same kind of dict."""
    if name not in model_state:
        fix = "begin with the variables of its init"
        raise InputError(f"{name}: the model state has only {', '.join(sorted(model_state)) or 'nothing'}; {fix}")
    return model_state[name], type(model_state)({k: v for k, v in model_state.items() if k != name})


def _joined(model_state: Tree, name: str, own: Tree) -> Tree:
    return type(model_state)({**model_state, name: own})

"""The pure training and evaluation steps, the gradient estimators, and the functions that wrap a step."""

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.core.collectives import all_mean, all_sum, leader
from jaxcnn.core.types import (
    Batch,
    Count,
    InputError,
    Mean,
    MetricState,
    State,
    Step,
    Task,
    Tree,
    accept,
    add,
    check_numbers,
    check_whole,
    rows,
)
from jaxcnn.layers.norm import grown, young

Array = jax.Array

# objective: (params, model_state, batch, key) -> (total, (model_state, weight, sums))
# estimator: objective -> gradient
# gradient: (params, model_state, batch, key) -> (grads, model_state, sums)
# An estimator sees sums only, so that it can add over parts of a batch and over devices.
Objective = Callable[[Tree, Tree, Batch, Array], tuple[Array, tuple[Tree, Array, dict[str, MetricState]]]]
Gradient = Callable[[Tree, Tree, Batch, Array], tuple[Tree, Tree, dict[str, MetricState]]]
Estimator = Callable[[Objective], Gradient]
RUNNING = 9.0  # mean age in steps of the values in a running statistic of momentum 0.9


def init_state(
    task: Task, tx: optax.GradientTransformation, batch: Batch, seed: int = 0, variables: Tree | None = None
) -> State:
    """Create the state before the first step.

    Args:
        task: the task to learn.
        tx: the optimiser.
        batch: an example batch. Only shapes and dtypes matter, so one row suffices.
        seed: seed of the initial parameters and of all randomness in training.
        variables: initial variables `{"params": ..., ...}`; None initialises them randomly.

    Returns:
        The state, with step 0.

    """
    init_key, rng = jax.random.split(jax.random.key(seed))
    variables = dict(jax.jit(task.init)(init_key, dict(batch)) if variables is None else variables)
    params = variables.pop("params")
    return State(jnp.zeros((), jnp.int32), params, variables, tx.init(params), rng)


def stream(state: State, name: str) -> Array:
    """Return the random key for one named purpose in this step. It differs between names and steps.

    A resumed run gets the same keys.
    """
    return jax.random.fold_in(jax.random.fold_in(state.rng, state.step), zlib.crc32(name.encode()))


def plain(objective: Objective) -> Gradient:
    """Estimate the gradient of the mean loss over the batch: differentiate the total, add over devices, divide once."""

    def gradient(
        params: Tree, model_state: Tree, batch: Batch, key: Array
    ) -> tuple[Tree, Tree, dict[str, MetricState]]:
        grads, (model_state, weight, sums) = jax.grad(objective, has_aux=True)(params, model_state, batch, key)
        return _divide(all_sum(grads), all_sum(weight)), all_mean(model_state), sums

    return gradient


def accumulate(k: int) -> Estimator:
    """Estimate the same gradient as `plain` from `k` parts of the batch in turn, for batches that do not fit in memory.

    BatchNorm then normalises each part with that part's own statistics. `k=1` is exactly `plain`.

    Args:
        k: number of parts, at least 1. It must divide the rows per device.

    Returns:
        An estimator for `make_train_step`.

    Raises:
        InputError: `k` is below 1, or, when the step is traced, does not divide the rows per device.

    """
    check_whole("accumulate", k, 1)

    def estimator(objective: Objective) -> Gradient:
        if k == 1:
            return plain(objective)

        def gradient(
            params: Tree, model_state: Tree, batch: Batch, key: Array
        ) -> tuple[Tree, Tree, dict[str, MetricState]]:
            if rows(batch) % k:
                raise InputError(f"accumulate={k}: must divide the {rows(batch)} rows per device")
            # part i takes every k-th row, so rows stay on their device
            parts = jax.tree.map(lambda x: x.reshape(x.shape[0] // k, k, *x.shape[1:]).swapaxes(0, 1), dict(batch))

            def body(carry: Any, part: Any) -> tuple[Any, dict[str, MetricState]]:
                (grads, weight, model_state), (i, batch) = carry, part
                more, (model_state, w, sums) = jax.grad(objective, has_aux=True)(
                    params, model_state, batch, jax.random.fold_in(key, i)
                )
                return (add(grads, more), weight + w, model_state), sums

            zero = (jax.tree.map(jnp.zeros_like, params), jnp.zeros(()), model_state)
            (grads, weight, model_state), sums = jax.lax.scan(body, zero, (jnp.arange(k), parts))
            return (
                _divide(all_sum(grads), all_sum(weight)),
                all_mean(model_state),
                jax.tree.map(lambda x: x.sum(0), sums),
            )

        return gradient

    return estimator


def with_norm(estimator: Estimator) -> Estimator:
    """Add the metric `"gradient_norm"`: the global norm of the gradient, averaged over steps."""

    @functools.wraps(estimator)  # whatever the step is to know of the estimator
    def measured(objective: Objective) -> Gradient:
        inner = estimator(objective)

        def gradient(
            params: Tree, model_state: Tree, batch: Batch, key: Array
        ) -> tuple[Tree, Tree, dict[str, MetricState]]:
            grads, model_state, sums = inner(params, model_state, batch, key)
            # on a CPU a dot product takes a tenth of the time of sum(g ** 2)
            norm = jnp.sqrt(sum(jnp.vdot(g, g).astype(jnp.float32) for g in jax.tree.leaves(grads)))
            return grads, model_state, sums | {"gradient_norm": Mean(norm, jnp.ones(()))}

        return gradient

    return measured


def make_train_step(task: Task, tx: optax.GradientTransformation, grads: Estimator = plain) -> Step:
    """Return the training step `(State, batch) -> (State, sums)`: one update, and the task's metrics on its batch.

    In the first updates, running statistics of normalisation layers average over few batches: see `layers.norm.young`.

    Args:
        task: the task to learn. Its metrics are computed from the outputs that the loss used.
        tx: the optimiser. Its transforms may depend on all parameters (clipping, trust ratios).
        grads: the gradient estimator, such as `plain` or `accumulate(k)`.

    Returns:
        A step for `compile_step`.

    """
    if getattr(grads, "by_row", False) and getattr(task.loss, "compares", False):
        line = "private: the loss compares rows with each other, so that a row's own gradient is 0"
        raise InputError(f"{line}; use a loss of single rows, such as arcface")

    def objective(done: Array, params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Array, Any]:
        loss, (outputs, model_state) = task.loss(params, young(model_state, done), batch, key)
        sums = {name: metric(outputs, batch) for name, metric in task.metrics.items()} | {"loss": loss}
        return loss.total, jax.lax.stop_gradient((grown(model_state), loss.weight, sums))

    def step(state: State, batch: Batch) -> tuple[State, dict[str, MetricState]]:
        gradient = grads(functools.partial(objective, state.step))
        slope, model_state, sums = gradient(state.params, state.model_state, batch, stream(state, "loss"))
        updates, opt_state = tx.update(slope, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, model_state=model_state, opt_state=opt_state), sums

    # wrappers that would void a privacy guarantee ask for this
    step.private = getattr(grads, "private", False)  # pyright: ignore[reportFunctionMemberAccess]
    return _checked_by(task, step, getattr(grads, "check", accept))


def make_eval_step(task: Task) -> Step:
    """Return the evaluation step `(variables, batch) -> (variables, sums)`: the task's metrics, without padding.

    `compile_step` does not donate its variables, so that they can be used again.
    """

    def step(variables: Tree, batch: Batch) -> tuple[Tree, dict[str, MetricState]]:
        outputs = (task.outputs or task.predict)(variables, batch)
        return variables, {name: metric(outputs, batch) for name, metric in task.metrics.items()}

    step.evaluates = True
    return _checked_by(task, step)


def _checked_by(task: Task, step: Step, also: Callable[[Batch], None] = accept) -> Step:
    """Attach the task's `check`, and what the estimator asks of the rows; `functools.wraps` copies it to wrappers."""

    def check(rows: Batch) -> None:
        task.check(rows)
        also(rows)

    step.check = check  # pyright: ignore[reportFunctionMemberAccess] (functions take attributes)
    return step


def augmented(step: Step, change: Callable[[Array, Batch], Batch]) -> Step:
    """Augment each batch before a training step. The training metrics see the augmented batch too.

    Args:
        step: a training step.
        change: `(key, batch) -> batch`. The key differs in every step.

    Returns:
        The step with augmentation.

    Raises:
        InputError: the step is differentially private (`methods.private`), and the transform mixes rows.

    """
    if getattr(step, "private", False) and getattr(change, "mixes", False):
        raise InputError("augmented: the transform mixes rows, which voids the privacy guarantee; leave it out")

    @functools.wraps(step)
    def changed(state: State, batch: Batch) -> tuple[State, dict[str, MetricState]]:
        return step(state, change(stream(state, "augment"), batch))

    return changed


def skip_nonfinite(step: Step) -> Step:
    """Skip each update that would make the loss or the parameters NaN or infinite. Only the step counter changes.

    The metric `"skipped"` counts these batches; no other metric includes them.

    Raises:
        InputError: the step is differentially private (`methods.private`): skipping depends on the rows.

    """
    if getattr(step, "private", False):
        raise InputError("on_nan='skip': depends on the rows, which voids the privacy guarantee; use 'stop'")

    @functools.wraps(step)
    def guarded(state: State, batch: Batch) -> tuple[State, dict[str, MetricState]]:
        new, sums = step(state, batch)
        finite = [jnp.isfinite(x).all() for x in jax.tree.leaves((new.params, new.model_state, all_sum(sums)))]
        good = jnp.all(jnp.array(finite))
        kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state).replace(step=new.step)
        return kept, jax.tree.map(lambda x: jnp.where(good, x, 0), sums) | {"skipped": Count((1 - good) * leader())}

    return guarded


def start_ema(state: State) -> State:
    """Add a copy of the variables to `state.extras`, where `with_ema` averages them."""
    return state.replace(extras=state.extras | {"ema": jax.tree.map(jnp.copy, state.variables)})


def with_ema(step: Step, decay: float = 0.999) -> Step:
    """Keep an exponential moving average of the variables in `state.extras["ema"]` (Polyak and Juditsky, 1992).

    The decay in step t is `min(decay, (1 + t) / (10 + t))`, so that the first steps average over fewer values.

    `"batch_stats"` already average about ten batches. They get a smaller decay, so that both averages together reach
    back as far as the average of the weights: the statistics then fit the weights. If the average of the weights
    reaches back ten steps or fewer, the running statistics are copied.

    Args:
        step: a training step.
        decay: weight of the old average, in [0, 1).

    Returns:
        The step with averaging. Call `start_ema` on the state before the first step.

    Raises:
        InputError: `decay` is outside [0, 1), or, when the step is traced, the state has no average.

    """
    check_numbers(decay=decay)
    if not 0 <= decay < 1:
        raise InputError(f"decay={decay}: must be at least 0 and below 1")

    @functools.wraps(step)
    def averaged(state: State, batch: Batch) -> tuple[State, dict[str, MetricState]]:
        if "ema" not in state.extras:
            raise InputError("with_ema: the state has no average yet; call start_ema(state) first")
        state, sums = step(state, batch)
        t = state.step.astype(jnp.float32)
        keep = jnp.minimum(decay, (1 + t) / (10 + t))
        steps = jnp.maximum(keep / (1 - keep) - RUNNING, 0)  # mean age for the average of running statistics
        keeps = {name: steps / (1 + steps) if name == "batch_stats" else keep for name in state.variables}

        def mix(keep, old, new):
            return jax.tree.map(lambda e, v: (keep * e + (1 - keep) * v).astype(e.dtype), old, new)

        ema = {name: mix(keeps[name], old, state.variables[name]) for name, old in state.extras["ema"].items()}
        return state.replace(extras=state.extras | {"ema": ema}), sums

    return averaged


def _divide(grads: Tree, weight: Array) -> Tree:
    return jax.tree.map(lambda g: g / jnp.maximum(weight, 1e-9).astype(g.dtype), grads)

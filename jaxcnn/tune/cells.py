"""Search for the operations of a cell with one training, whose weights all candidates share.

Single path one-shot (Guo et al., 2019, arXiv:1904.00420): every update trains one path through the network of all
operations, drawn uniformly. Candidates are then measured on the validation rows with the weights they have there, and
norms use the statistics of each batch, as in training. The order of candidates is all that this tells; the best one is
trained from scratch by the caller.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import filelock
import jax
import jax.numpy as jnp

from jaxcnn import runs
from jaxcnn.core.types import Batch, InputError, Interrupted, Task
from jaxcnn.models.cell import EDGES, OPERATIONS, PATH, check_operations
from jaxcnn.train import StoppedError, fit, timed_evaluate
from jaxcnn.tune import journal
from jaxcnn.tune.study import WAIT, Report, check_settings, extend, identity_of, library
from jaxcnn.tune.trials import Trials

TIMES = 4  # length of the shared training, in trainings of one network
FOLDER = "shared"  # of its checkpoints, in the folder of the study
DRAW = 20_190_401  # tells the draw of a path from other uses of a key


def space() -> dict[str, Any]:
    """Return Optuna's distributions of the operations on the edges of a cell."""
    choice = library().distributions.CategoricalDistribution
    return {_name(edge): choice(OPERATIONS) for edge in EDGES}


def operations_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the operations that the values of a trial name, in the order that `models.cell` takes them."""
    return tuple(values[_name(edge)] for edge in EDGES)


def _name(edge: tuple[int, int]) -> str:
    return f"edge {edge[0]}-{edge[1]}"


def shared(task: Task) -> Task:
    """Return the task of a network of all operations: it trains a path, and measures the one in its variables.

    Args:
        task: of a network `models.cell(mixed=True)` without dropout.

    """

    def loss(params: Any, model_state: Any, batch: Batch, key: jax.Array) -> Any:
        numbers = jax.random.randint(jax.random.fold_in(key, DRAW), (len(EDGES),), 0, len(OPERATIONS), jnp.int32)
        return task.loss(params, {**model_state, PATH: {"numbers": numbers}}, batch, key)

    def outputs(variables: Any, batch: Batch) -> Any:
        params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}
        return task.loss(params, rest, batch, jax.random.key(0))[1][0]  # the norms have the statistics of the batch

    return task._replace(loss=loss, outputs=outputs)


def shared_plan(plan: runs.Plan) -> runs.Plan:
    """Return the plan that trains all operations, from the plan of one network of cells.

    Raises:
        InputError: the plan is of another network.

    """
    build = plan.build
    if not build or build["model"]["name"] != "cell":
        raise InputError(f"model={build['model']['name'] if build else 'your own'}: must be cell to search for cells")
    steps = TIMES * (runs.settled(plan)[0].steps or 0)
    options = {k: v for k, v in build["model"]["options"].items() if k not in ("operations", "dropout")}
    build = {**build, "model": {"name": "cell", "options": options | {"mixed": True}}, "ema": 0}
    task = shared(runs.build(build)[1])
    return dataclasses.replace(plan, task=task, build=build, steps=steps, ema=0.0, patience=None)


def search(
    plan: runs.Plan,
    folder: str | pathlib.Path,
    *,
    trials: int,
    seconds: float | None = None,
    sampler: str = "tpe",
    seed: int = 0,
    identity: Any = None,
    log: Callable[[str], None] = lambda line: None,
    stop: Callable[[], bool] | None = None,
) -> Trials:
    """Search for the cell with the best validation result under shared weights. Test rows are never read.

    The shared training is saved in the folder of the study and resumed there; several processes wait for it.

    Args:
        plan: of one network of cells; the shared training is `TIMES` times as long.
        folder: folder of the study, created if absent.
        trials: number of candidates.
        seconds: no candidate is measured after this time in this process, the shared training not counted.
        sampler: how candidates are chosen, as in `tune.search`.
        seed: of the sampler.
        identity: what else belongs to the study; None for the digests of the rows in memory and the length.
        log: receives a line for each candidate.
        stop: called between dispatches; the study stops when it returns True.

    Returns:
        The candidates; `operations_of(found.best)` are the operations of the best one.

    Raises:
        InputError: as in `tune.search`, or the plan is of another network.
        StoppedError: `stop` returned True.

    """
    check_settings(trials, seconds, None, sampler, "none", seed)  # before the shared training
    identity = identity_of(plan) if identity is None else identity
    folder, choices, metric, plan = pathlib.Path(folder), space(), plan.watched, shared_plan(plan)
    folder.mkdir(parents=True, exist_ok=True)
    journal.described(folder, choices, metric, identity, library())
    ready = runs.prepare(plan)
    plan, splits, steps = ready.plan, ready.splits, ready.plan.steps or 0
    if dataclasses.is_dataclass(ready.splits.train):
        splits = splits._replace(train=dataclasses.replace(splits.train, seed=plan.seed))
    log(f"all operations together: {steps:,} updates, each of one path")
    with _held(folder / f"{FOLDER}.lock", stop):
        fitted = fit(
            ready.run, ready.state, splits.train, batch_size=plan.batch_size, steps=steps,
            workdir=folder / FOLDER, save_seconds=plan.save_seconds, log=None, stop=stop,
        )  # fmt: skip
    variables = fitted.state.variables

    def measure(values: dict[str, Any], report: Report, ended: Callable[[], bool]) -> None:
        numbers = [OPERATIONS.index(name) for name in check_operations(operations_of(values))]
        path = {PATH: {"numbers": jnp.asarray(numbers, jnp.int32)}}
        try:
            size = plan.eval_batch_size
            found, _ = timed_evaluate(ready.ev, {**variables, **path}, splits.valid, batch_size=size, stop=ended)
        except Interrupted:
            raise StoppedError(0) from None
        report({f"validation/{k}": v for k, v in found.items()} | {"step": 0})

    found = extend(
        measure, metric, choices, folder, trials=trials, seconds=seconds, sampler=sampler, seed=seed,
        identity=identity, log=log, stop=stop,
    )  # fmt: skip
    spent = sum(row["seconds"] for row in fitted.history)
    return found._replace(updates=found.updates + steps, seconds=found.seconds + spent)


@contextlib.contextmanager
def _held(path: pathlib.Path, stop: Callable[[], bool] | None) -> Iterator[None]:
    """Hold a lock, for which another process may have to end its training first."""
    lock = filelock.FileLock(path)
    while True:
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=WAIT)
            break
        if stop and stop():
            raise StoppedError(0)
    try:
        yield
    finally:
        lock.release()

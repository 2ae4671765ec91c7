"""A study: a folder with a journal of trials, which any number of processes extend and a kill does not damage."""

import contextlib
import dataclasses
import math
import pathlib
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import filelock
import numpy as np

from jaxcnn import runs
from jaxcnn.core import memory
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, Interrupted, State, check_numbers, check_whole, reason
from jaxcnn.runs.ready import data_digest
from jaxcnn.train import DivergedError, StoppedError, fit, timed_evaluate
from jaxcnn.tune import journal
from jaxcnn.tune.trials import TAKEN, Trials, found, shown, spent

SAMPLERS, PRUNERS = ("tpe", "random", "qmc"), tuple(journal.PRUNERS)
WAIT = 0.5  # seconds between looks at the last trials of other processes
# called with the log row of each validation, which has `validation/METRIC` and `step`
Report = Callable[[dict[str, Any]], None]
# (values, report, stop) -> None: runs one trial; raises `StoppedError` if `stop` returned True
Measure = Callable[[dict[str, Any], Report, Callable[[], bool]], None]


def search(
    plan_of: Callable[[dict[str, Any]], runs.Plan],
    space: Mapping[str, Any],
    folder: str | pathlib.Path,
    *,
    trials: int = 20,
    seconds: float | None = None,
    updates: int | None = None,
    sampler: str = "tpe",
    pruner: str = "hyperband",
    seed: int = 0,
    identity: Any = None,
    log: Callable[[str], None] = lambda line: None,
    stop: Callable[[], bool] | None = None,
) -> Trials:
    """Search for the settings with the best validation results. Test rows are never read, and no weights are kept.

    A trial trains a plan and is measured at each of its validations; where others were better at the same step, it is
    ended early. Its result is that of the weights which the plan would keep: the best validation with `best` or
    `patience`, else the last one.

    A study that was stopped or killed goes on where it was: a trial that did not finish is tried again with the same
    values, once. A trial that cannot be trained, or needs more memory than there is, fails alone. Several processes may
    extend one study at the same time, and end when its last trial ends.

    Args:
        plan_of: function from the values of a trial, a dict with the names of `space`, to its plan. Each call must use
            the same data.
        space: from names to Optuna's distributions, such as
            `{"rate": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)}`; `space.derived` makes them from
            the types of a dataclass.
        folder: folder of the study, created if absent.
        trials: number of trials of the whole study, those that ended early or failed included.
        seconds: no trial begins after this time in this process, which then waits for trials of other processes; None
            for no limit.
        updates: no trial begins once all trials together had this number of updates; None for no limit.
        sampler: how values are chosen: `"tpe"` (Bergstra et al., 2011), `"random"` or `"qmc"` (a Sobol sequence).
        pruner: which trials end early: `"hyperband"` (Li et al., 2016, arXiv:1603.06560), `"halving"` (asynchronous
            successive halving, Li et al., 2018, arXiv:1810.05934) or `"none"`.
        seed: of the sampler.
        identity: what else belongs to the study, as JSON values; a folder whose study has another space, metric or
            identity is refused. None for the digests of the rows in memory and the length of a training.
        log: receives a line for each trial.
        stop: called between dispatches; the study stops when it returns True.

    Returns:
        The trials of the whole study.

    Raises:
        InputError: Optuna is not installed, the space is empty, the folder has another study, or no trial succeeded.
        StoppedError: `stop` returned True.

    """
    _check_space(space)

    def measure(values: dict[str, Any], report: Report, ended: Callable[[], bool]) -> None:
        train(plan_of(values), report, ended)

    usual = plan_of(some_values(space))
    identity = identity_of(usual) if identity is None else identity
    return extend(
        measure, usual.watched, space, folder, trials=trials, seconds=seconds, updates=updates, sampler=sampler,
        pruner=pruner, best=usual.best or usual.patience is not None, seed=seed, identity=identity, log=log, stop=stop,
    )  # fmt: skip


def identity_of(plan: runs.Plan) -> dict[str, Any]:
    """Return what the trials of a study have in common: digests of the rows in memory and the length of a training."""
    digests = [data_digest(part) for part in (plan.data.train, plan.data.valid)]
    return {"sha256": digests, "steps": plan.steps, "epochs": plan.epochs}


def extend(
    measure: Measure,
    metric: tuple[str, str],
    space: Mapping[str, Any],
    folder: str | pathlib.Path,
    *,
    trials: int,
    seconds: float | None = None,
    updates: int | None = None,
    sampler: str = "tpe",
    pruner: str = "none",
    best: bool = True,
    seed: int = 0,
    identity: Any = None,
    log: Callable[[str], None] = lambda line: None,
    stop: Callable[[], bool] | None = None,
) -> Trials:
    """Extend a study whose trials are measured by any function.

    Args:
        measure: `(values, report, stop) -> None`; runs a trial, and reports its validations.
        metric: name of the metric that is reported, and `"min"` or `"max"`.
        space: as in `search`, and so are the others.
        folder: folder of the study.
        trials: number of trials of the whole study.
        seconds: no trial begins after this time in this process.
        updates: no trial begins once all trials together had this number of updates.
        sampler: how values are chosen.
        pruner: which trials end early.
        best: whether the result of a trial is its best validation, and not its last one.
        seed: of the sampler.
        identity: what else belongs to the study.
        log: receives a line for each trial.
        stop: the study stops when it returns True.

    Returns:
        The trials of the whole study.

    Raises:
        InputError: as in `search`.
        StoppedError: `stop` returned True.

    """
    optuna = library()
    _check_space(space)
    check_settings(trials, seconds, updates, sampler, pruner, seed)
    if metric[1] not in ("min", "max"):
        raise InputError(f"metric={metric!r}: must be a name, and min or max")
    folder = pathlib.Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{visible(folder)}: is a file, not the folder of a study; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    journal.described(folder, space, metric, identity, optuna)
    study = journal.opened(optuna, folder, space, metric, pruner, log)
    began, last = time.perf_counter(), None
    while True:
        late = seconds is not None and time.perf_counter() - began >= seconds
        with filelock.FileLock(folder / "next.lock"):
            if last is not None:  # under the lock: no other process sees a moment between two trials of this one
                study.tell(last.trial, last.value, last.state)
                last.held.release()
            journal.retry_dead(optuna, study, folder, log)
            every = study.get_trials(deepcopy=False)
            more = not late and sum(journal.counts(one) for one in every) < trials
            more = more and (updates is None or spent(every)[0] < updates)
            if more:
                study.sampler = _sampler(optuna, sampler, seed, len(every))
                trial = study.ask(dict(space))
                held = journal.lock_of(folder, trial.number)
                held.acquire()
        if last is not None:
            log(last.line)
        last = None
        if more:
            with contextlib.ExitStack() as stack:
                stack.callback(held.release)
                last = Ended(trial, held, *_run(optuna, trial, measure, metric, best, stop))
                stack.pop_all()  # it is released once the study knows the result
        elif any(one.state.name == "RUNNING" for one in every):  # elsewhere; the last trials may be the best
            if stop and stop():
                raise StoppedError(0)
            time.sleep(WAIT)
        else:
            break
    return found(study, metric, optuna)


def check_settings(
    trials: int, seconds: float | None, updates: int | None, sampler: str, pruner: str, seed: int
) -> None:
    """Refuse settings of a study that are out of range."""
    check_whole("trials", trials, 1)
    check_whole("seed", seed, 0)
    if updates is not None:
        check_whole("updates", updates, 1)
    if seconds is not None:
        check_numbers(seconds=seconds)
    if seconds is not None and not seconds > 0:
        raise InputError(f"seconds={seconds}: must be positive, or None for no limit")
    for name, value, known in (("sampler", sampler, SAMPLERS), ("pruner", pruner, PRUNERS)):
        if value not in known:
            raise InputError(f"{name}={value!r}: must be one of {', '.join(known)}")


def _check_space(space: Mapping[str, Any]) -> None:
    if not isinstance(space, Mapping) or not space:
        raise InputError(f"space={space!r}: give at least one setting to search for, {{name: distribution}}")
    for name, values in space.items():
        if not isinstance(values, library().distributions.BaseDistribution):
            raise InputError(f"space: {name}={values!r}: must be one of optuna.distributions")
        if name in TAKEN:
            raise InputError(f"space: {name}: is a column of the results; rename the setting")
        for value in getattr(values, "choices", ()):
            if not isinstance(value, str | int | float | bool | None):
                line = f"space: {name}: the choice {value!r} must be text, a number, True, False or None"
                raise InputError(f"{line}; use names, and look their values up in the program")


class Ended(NamedTuple):
    """Optuna's trial that has ended, before the study is told: its lock, result, state, and a line about it."""

    trial: Any
    held: Any
    value: float | None
    state: Any
    line: str


def _run(
    optuna: Any, trial: Any, measure: Measure, metric: tuple[str, str], best: bool, stop: Any
) -> tuple[float | None, Any, str]:
    """Run one trial, and return its result, its state and a line about it."""
    pruned, began = False, time.perf_counter()
    values: list[float] = []

    def report(row: dict[str, Any]) -> None:
        nonlocal pruned
        value = row.get(f"validation/{metric[0]}")
        if value is None:
            return
        if "step" not in row:
            raise InputError("report: the row has no 'step', the number of updates so far")
        trial.set_user_attr("steps", int(row["step"]))
        values.append(float(value))
        if math.isfinite(value):
            trial.report(float(value), len(values))
            pruned = trial.should_prune()

    def result() -> float:
        finite = [value for value in values if math.isfinite(value)]
        return (min if metric[1] == "min" else max)(finite, default=math.nan) if best else (values or [math.nan])[-1]

    states = optuna.trial.TrialState
    try:
        measure(dict(trial.params), report, lambda: pruned or bool(stop and stop()))
        ended = states.COMPLETE if math.isfinite(result()) else states.FAIL
    except (StoppedError, KeyboardInterrupt) as error:
        if not pruned or isinstance(error, KeyboardInterrupt):  # the trial stays open for the next process
            trial.set_user_attr("stopped", True)
            raise
        ended = states.PRUNED
    except (InputError, DivergedError) as error:
        trial.set_user_attr("error", reason(error))
        if isinstance(error, DivergedError):
            trial.set_user_attr("steps", error.last)
        ended = states.FAIL
    except Exception as error:
        if not memory.ran_out(error):
            trial.set_user_attr("raised", reason(error))
            raise
        trial.set_user_attr("error", f"out of memory ({reason(error)})")
        ended = states.FAIL
    trial.set_user_attr("seconds", time.perf_counter() - began)
    after = {"PRUNED": f"ended early, {metric[0]} {result():.4g}", "COMPLETE": f"{metric[0]} {result():.4g}"}
    line = after.get(ended.name) or _failure(trial, metric[0], best)
    value = result() if ended == states.COMPLETE else None
    return value, ended, f"trial {trial.number}: {line} ({shown(trial.params)})"


def _failure(trial: Any, metric: str, best: bool) -> str:
    why = "was never a finite number" if best else "was not a finite number at the end"
    return f"failed: {trial.user_attrs.get('error') or f'{metric} {why}'}"


def train(plan: runs.Plan, report: Callable[[dict[str, Any]], None], stop: Callable[[], bool]) -> None:
    """Train a plan without a folder: nothing is saved, and the test rows are not read.

    Args:
        plan: what to train.
        report: receives the log row of each validation.
        stop: called between dispatches; training ends when it returns True.

    Raises:
        StoppedError: `stop` returned True.

    """
    ready = runs.prepare(plan)
    plan, splits = ready.plan, ready.splits
    if dataclasses.is_dataclass(ready.splits.train):
        splits = splits._replace(train=dataclasses.replace(splits.train, seed=plan.seed))
    steps, epoch, cut = plan.steps or 0, splits.train.size / plan.batch_size, False

    def validate(state: State) -> dict[str, Any]:
        nonlocal cut
        weights = state.extras.get("ema", state.variables)
        try:
            values, _ = timed_evaluate(ready.ev, weights, splits.valid, batch_size=plan.eval_batch_size, stop=stop)
        except Interrupted:
            cut = True  # perhaps after the last update
            raise
        return {f"validation/{k}": v for k, v in values.items()}

    fitted = fit(
        ready.run, ready.state, splits.train, batch_size=plan.batch_size, steps=steps,
        every=max(plan.every or epoch, steps / plan.validations if plan.validations else 0),
        validate=validate, log=report, stop=stop,
    )  # fmt: skip
    if cut or int(fitted.state.step) < steps:  # without a folder, `fit` returns where it stopped
        raise StoppedError(int(fitted.state.step))


def some_values(space: Mapping[str, Any]) -> dict[str, Any]:
    """Return some values of a space, for a plan that says what is measured, and how long it takes."""
    return {k: d.choices[0] if hasattr(d, "choices") else d.low for k, d in space.items()}


def _sampler(optuna: Any, name: str, seed: int, number: int) -> Any:
    """Return the sampler for one trial; its draws depend on the trial's number, not on the process."""
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if name == "qmc":  # counts its points in the study; the first values and classes are drawn
        drawn = optuna.samplers.RandomSampler(seed=own)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.QMCSampler(
                scramble=True, seed=seed, independent_sampler=drawn, warn_independent_sampling=False
            )
    if name == "random":
        return optuna.samplers.RandomSampler(seed=own)
    return optuna.samplers.TPESampler(seed=own, n_startup_trials=5)


def library() -> Any:
    """Return Optuna, which is an extra.

    Raises:
        InputError: it is not installed.

    """
    try:
        import optuna
    except ImportError:
        raise InputError("optuna is not installed: pip install -e '.[tune]' in the clone of jaxcnn") from None
    return optuna

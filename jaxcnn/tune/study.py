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
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, State, reason
from jaxcnn.train import DivergedError, StoppedError, fit, timed_evaluate

SAMPLERS, PRUNERS = ("tpe", "random", "qmc"), ("hyperband", "halving", "none")
JOURNAL, DESCRIPTION = "journal.log", "study.json"
WAIT = 0.5  # seconds between looks at the last trials of other processes


class Trials(NamedTuple):
    """What a study has found.

    Attributes:
        best: values of the best trial.
        value: its result, the best validation value of the monitored metric.
        number: its number.
        metric: name of the metric, and `"min"` or `"max"`.
        rows: of each finished trial a dict with `number`, `state` (`complete`, `pruned` or `failed`), `value`, `steps`
            and the values.
        importance: share of each setting in the variance of the results, which sum to 1; empty for too few trials.

    """

    best: dict[str, Any]
    value: float
    number: int
    metric: tuple[str, str]
    rows: list[dict[str, Any]]
    importance: dict[str, float]


def search(
    plan_of: Callable[[dict[str, Any]], runs.Plan],
    space: Mapping[str, Any],
    folder: str | pathlib.Path,
    *,
    trials: int = 20,
    seconds: float | None = None,
    sampler: str = "tpe",
    pruner: str = "hyperband",
    seed: int = 0,
    identity: Any = None,
    log: Callable[[str], None] = lambda line: None,
    stop: Callable[[], bool] | None = None,
) -> Trials:
    """Search for the settings with the best validation results. Test rows are never read, and no weights are kept.

    A trial trains a plan and is measured at each of its validations; where others were better at the same step, it is
    ended early. A study that was stopped or killed goes on where it was: a trial that did not finish is tried again
    with the same values. Several processes may extend one study at the same time, and end when its last trial ends.

    Args:
        plan_of: function from the values of a trial, a dict with the names of `space`, to its plan. Each call must use
            the same data.
        space: from names to Optuna's distributions, such as
            `{"rate": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)}`.
        folder: folder of the study, created if absent.
        trials: number of trials of the whole study, those that ended early or failed included.
        seconds: no trial begins after this time in this process; None for no limit.
        sampler: how values are chosen: `"tpe"` (Bergstra et al., 2011), `"random"` or `"qmc"` (a Sobol sequence).
        pruner: which trials end early: `"hyperband"` (Li et al., 2016, arXiv:1603.06560), `"halving"` (asynchronous
            successive halving, Li et al., 2018, arXiv:1810.05934) or `"none"`.
        seed: of the sampler.
        identity: what else belongs to the study, as JSON values; a folder whose study has another space, metric or
            identity is refused.
        log: receives a line for each trial.
        stop: called between dispatches; the study stops when it returns True.

    Returns:
        The trials of the whole study.

    Raises:
        InputError: Optuna is not installed, the space is empty, the folder has another study, or no trial succeeded.
        StoppedError: `stop` returned True.

    """
    optuna = _library()
    if not space:
        raise InputError("space={}: give at least one setting to search for")
    if trials < 1 or seconds is not None and not seconds > 0:
        raise InputError(f"trials={trials}, seconds={seconds}: must be positive")
    for name, value, known in (("sampler", sampler, SAMPLERS), ("pruner", pruner, PRUNERS)):
        if value not in known:
            raise InputError(f"{name}={value!r}: must be one of {', '.join(known)}")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metric = plan_of(_middle(space)).watched
    _described(folder, space, metric, identity, optuna)
    study = _open(optuna, folder, metric, pruner)
    began = time.perf_counter()
    while seconds is None or time.perf_counter() - began < seconds:
        with filelock.FileLock(folder / "next.lock"):
            _retry_dead(optuna, study, folder)
            known = study.get_trials(deepcopy=False)
            more = sum(_counts(one) for one in known) < trials
            if more:
                study.sampler = _sampler(optuna, sampler, seed, len(known))
                trial = study.ask(dict(space))
                held = filelock.FileLock(folder / f"trial-{trial.number}.lock")
                held.acquire()
        if more:
            with contextlib.ExitStack() as stack:
                stack.callback(held.release)
                log(_run(optuna, study, trial, plan_of, metric, stop))
        elif any(one.state.name == "RUNNING" for one in known):  # elsewhere; the last trials may be the best
            if stop and stop():
                raise StoppedError(0)
            time.sleep(WAIT)
        else:
            break
    return found(study, metric, optuna)


def _run(optuna: Any, study: Any, trial: Any, plan_of: Any, metric: tuple[str, str], stop: Any) -> str:
    """Train one trial, tell the study its result, and return a line about it."""
    pruned = False
    values: list[float] = []

    def report(row: dict[str, Any]) -> None:
        nonlocal pruned
        value = row.get(f"validation/{metric[0]}")
        if value is not None and math.isfinite(value):
            values.append(float(value))
            trial.report(float(value), len(values))
            trial.set_user_attr("steps", int(row["step"]))
            pruned = trial.should_prune()

    states = optuna.trial.TrialState
    try:
        train(plan_of(dict(trial.params)), report, lambda: pruned or bool(stop and stop()))
        ended = states.COMPLETE if values else states.FAIL
    except StoppedError:
        if not pruned:  # stopped from outside: the trial stays open, and is tried again by the next process
            raise
        ended = states.PRUNED
    except (InputError, DivergedError) as error:
        trial.set_user_attr("error", reason(error))
        ended = states.FAIL
    best = (min if metric[1] == "min" else max)(values, default=math.nan)
    study.tell(trial, best if ended == states.COMPLETE else None, ended)
    settings = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.params.items())
    after = {"PRUNED": f"ended early, {metric[0]} {best:.4g}", "COMPLETE": f"{metric[0]} {best:.4g}"}
    return f"trial {trial.number}: {after.get(ended.name) or _failure(trial, metric[0])} ({settings})"


def _failure(trial: Any, metric: str) -> str:
    return f"failed: {trial.user_attrs.get('error') or f'{metric} was never a finite number'}"


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
    steps = plan.steps or 0

    def validate(state: State) -> dict[str, Any]:
        weights = state.extras.get("ema", state.variables)
        values, _ = timed_evaluate(ready.ev, weights, splits.valid, batch_size=plan.eval_batch_size, stop=stop)
        return {f"validation/{k}": v for k, v in values.items()}

    fitted = fit(
        ready.run, ready.state, splits.train, batch_size=plan.batch_size, steps=steps,
        every=max(splits.train.size / plan.batch_size, steps / plan.validations if plan.validations else 0),
        validate=validate, log=report, stop=stop,
    )  # fmt: skip
    if int(fitted.state.step) < steps:  # without a folder, `fit` returns where it stopped
        raise StoppedError(int(fitted.state.step))


def found(study: Any, metric: tuple[str, str], optuna: Any) -> Trials:
    """Return what a study has found.

    Raises:
        InputError: no trial succeeded.

    """
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name in names and not trial.user_attrs.get("again"):
            value = trial.value if trial.state.name == "COMPLETE" else None
            steps = trial.user_attrs.get("steps", 0)
            state = names[trial.state.name]
            rows.append({"number": trial.number, "state": state, "value": value, "steps": steps, **trial.params})
    done = [row for row in rows if row["state"] == "complete"]
    if not done:
        errors = [t.user_attrs["error"] for t in study.get_trials(deepcopy=False) if "error" in t.user_attrs]
        raise InputError(f"no trial of the study succeeded{': ' + errors[-1] if errors else ''}")
    best = study.best_trial
    return Trials(dict(best.params), float(best.value), best.number, metric, rows, _importance(study, done, optuna))


def _importance(study: Any, done: list[dict[str, Any]], optuna: Any) -> dict[str, float]:
    if len(done) < 5 or np.ptp([row["value"] for row in done]) == 0:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return {k: float(v) for k, v in optuna.importance.get_param_importances(study, evaluator=evaluator).items()}


def _middle(space: Mapping[str, Any]) -> dict[str, Any]:
    """Return some values of a space, for a plan that says what is measured."""
    return {k: d.choices[0] if hasattr(d, "choices") else d.low for k, d in space.items()}


def _described(
    folder: pathlib.Path, space: Mapping[str, Any], metric: tuple[str, str], identity: Any, optuna: Any
) -> None:
    """Write what the study is about, or refuse a folder that has another study."""
    shown = {k: optuna.distributions.distribution_to_json(d) for k, d in space.items()}
    content = files.plain({"space": shown, "metric": list(metric), "identity": identity})
    path = folder / DESCRIPTION
    if path.exists():
        before = files.read_json(path)
        for name, value in content.items():
            if not isinstance(before, dict) or before.get(name) != value:
                raise InputError(f"{visible(folder)}: has a study with another {name}; give another folder")
    elif (folder / JOURNAL).exists():
        raise InputError(f"{visible(folder)}: has a journal, but no {DESCRIPTION}; give another folder")
    else:
        files.write_json(path, content)


def _open(optuna: Any, folder: pathlib.Path, metric: tuple[str, str], pruner: str) -> Any:
    journal = optuna.storages.journal
    path = str(folder / JOURNAL)
    # a lock by opening files also holds where a file system has no symbolic links
    backend = journal.JournalFileBackend(path, lock_obj=journal.JournalFileOpenLock(path))
    ends = {
        "hyperband": optuna.pruners.HyperbandPruner,
        "halving": optuna.pruners.SuccessiveHalvingPruner,
        "none": optuna.pruners.NopPruner,
    }
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # `log` says what happens
    try:
        return optuna.create_study(
            storage=journal.JournalStorage(backend), pruner=ends[pruner](), study_name="study",
            direction="minimize" if metric[1] == "min" else "maximize", load_if_exists=True,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise InputError(f"{visible(folder / JOURNAL)}: is damaged ({reason(error)}); give another folder") from None


def _retry_dead(optuna: Any, study: Any, folder: pathlib.Path) -> None:
    """Begin trials again whose process is gone: nobody holds their lock."""
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        lock = filelock.FileLock(folder / f"trial-{trial.number}.lock", blocking=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            continue
        lock.release()
        study._storage.set_trial_user_attr(trial._trial_id, "again", True)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _counts(trial: Any) -> bool:
    """Whether a trial is one of the study's: not one that waits to begin, nor one that another replaces."""
    return trial.state.name != "WAITING" and not trial.user_attrs.get("again")


def _sampler(optuna: Any, name: str, seed: int, number: int) -> Any:
    """Return the sampler for one trial; its draws depend on the trial's number, not on the process."""
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if name == "qmc":  # counts its points in the study; the first values and classes are drawn
        drawn = optuna.samplers.RandomSampler(seed=own)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.QMCSampler(seed=seed, independent_sampler=drawn, warn_independent_sampling=False)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=own)
    return optuna.samplers.TPESampler(seed=own, n_startup_trials=5)


def _library() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError("optuna is not installed: pip install 'jaxcnn[tune]'") from None
    return optuna

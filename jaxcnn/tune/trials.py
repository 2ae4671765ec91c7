"""What a study has found: its trials, the best of them, what they cost, and which settings mattered."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.types import InputError

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


class Trials(NamedTuple):
    """What a study has found.

    Attributes:
        best: values of the best trial.
        value: its result, a validation value of the monitored metric.
        number: its number.
        metric: name of the metric, and `"min"` or `"max"`.
        rows: of each finished trial a dict with `number`, `state` (`complete`, `pruned` or `failed`), `value`, `steps`,
            the values, and of a failed one `error`, the reason.
        importance: share of each setting in the variance of the results, which sum to 1; empty for too few trials.
        updates: updates of all trials, those that were tried again included.
        seconds: duration of all trials, as far as they lived to tell it.

    """

    best: dict[str, Any]
    value: float
    number: int
    metric: tuple[str, str]
    rows: list[dict[str, Any]]
    importance: dict[str, float]
    updates: int
    seconds: float


TAKEN = ("number", "state", "value", "steps", "error")  # the columns of `rows` that are no settings


def found(study: Any, metric: tuple[str, str], optuna: Any) -> Trials:
    """Return what a study has found.

    Raises:
        InputError: no trial succeeded.

    """
    every, rows = study.get_trials(deepcopy=False), []
    for trial in every:
        if trial.state.name in STATES and not trial.user_attrs.get("again"):
            value = trial.value if trial.state.name == "COMPLETE" else None
            row = {"number": trial.number, "state": STATES[trial.state.name], "value": value}
            why = {"error": trial.user_attrs["error"]} if "error" in trial.user_attrs else {}
            rows.append(row | {"steps": trial.user_attrs.get("steps", 0), **trial.params} | why)
    done = [row for row in rows if row["state"] == "complete"]
    if not done:
        errors = [t.user_attrs["error"] for t in every if "error" in t.user_attrs]
        raise InputError(f"no trial of the study succeeded{': ' + errors[-1] if errors else ''}")
    best, importance, (updates, seconds) = study.best_trial, _importance(study, done, optuna), spent(every)
    return Trials(dict(best.params), float(best.value), best.number, metric, rows, importance, updates, seconds)


def spent(trials: Iterable[Any]) -> tuple[int, float]:
    """Return the updates and the seconds of Optuna's trials, those that were tried again included."""
    attributes = [trial.user_attrs for trial in trials]
    return sum(a.get("steps", 0) for a in attributes), float(sum(a.get("seconds", 0) for a in attributes))


def _importance(study: Any, done: list[dict[str, Any]], optuna: Any) -> dict[str, float]:
    if len(done) < 5 or np.ptp([row["value"] for row in done]) == 0:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except RuntimeError:  # all complete trials have the same settings, but not the same results
        return {}
    return {k: float(v) for k, v in found.items()}


def shown(values: dict[str, Any]) -> str:
    """Return the values of a trial as one line."""
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())

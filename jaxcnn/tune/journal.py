"""The folder of a study: a journal that a cut line does not end, what the study is about, and trials that died."""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import filelock

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.tune.trials import shown

ABSENT = "absent"  # in messages
JOURNAL, DESCRIPTION = "journal.log", "study.json"
MOST_DEATHS = 2  # of the process of one trial, before the trial counts as failed
BLOCK = 2**16  # bytes read at a time
PRUNERS = {
    "hyperband": "HyperbandPruner", "halving": "SuccessiveHalvingPruner", "none": "NopPruner",
}  # fmt: skip


class MendingLock(NamedTuple):
    """Optuna's lock on a journal, under which a line that was cut off is removed before anything is appended to it.

    Attributes:
        path: the journal.
        held: Optuna's own lock.
        log: receives a line if something was removed.

    """

    path: str
    held: Any
    log: Callable[[str], None]

    def acquire(self) -> bool:
        """Wait for the lock, and remove what was cut off."""
        self.held.acquire()
        try:
            if lost := mend(self.path):
                line = f"the last line was cut off, and its {lost} bytes are removed; the study goes on"
                self.log(f"{visible(self.path)}: {line}")
        except BaseException:
            self.held.release()
            raise
        return True

    def release(self) -> None:
        """Release the lock."""
        self.held.release()


def mend(path: str | pathlib.Path) -> int:
    """Cut a file after its last newline, and return the number of bytes that were removed."""
    with open(path, "r+b") as file:
        end = at = file.seek(0, os.SEEK_END)
        while at > 0:
            begin = max(at - BLOCK, 0)
            file.seek(begin)
            here = file.read(at - begin).rfind(b"\n")
            if here >= 0:
                at = begin + here + 1
                break
            at = begin
        if at < end:
            file.truncate(at)
            os.fsync(file.fileno())
    return end - at


def opened(
    optuna: Any, folder: pathlib.Path, space: Mapping[str, Any], metric: tuple[str, str], pruner: str,
    log: Callable[[str], None],
) -> Any:  # fmt: skip
    """Open or begin the study in a folder.

    Raises:
        InputError: the journal is damaged elsewhere than in its last line, has values that no trial of the study can
            have, or is a folder.

    """
    journal = optuna.storages.journal
    path = str(folder / JOURNAL)
    if (folder / JOURNAL).is_dir():
        raise InputError(f"{visible(path)}: is a folder, not the journal of a study; give another folder")
    # a lock by opening files also holds where a file system has no symbolic links
    lock = MendingLock(path, journal.JournalFileOpenLock(path), log)
    backend = journal.JournalFileBackend(path, lock_obj=lock)
    lock.acquire()
    lock.release()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # `log` says what happens
    direction = "minimize" if metric[1] == "min" else "maximize"
    try:
        study = optuna.create_study(
            storage=journal.JournalStorage(backend), pruner=getattr(optuna.pruners, PRUNERS[pruner])(),
            study_name="study", direction=direction, load_if_exists=True,
        )  # fmt: skip
        if study.direction.name.lower() != direction:
            raise ValueError(f"the direction is {study.direction.name}")
        for trial in study.get_trials(deepcopy=False):
            _check(trial, space)
        return study
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        raise InputError(f"{visible(folder / JOURNAL)}: is damaged ({reason(error)}); give another folder") from None


def _check(trial: Any, space: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a trial has values that no trial of the space can have."""
    for name, value in trial.params.items():
        own = space[name]
        inside = value in own.choices if hasattr(own, "choices") else own.low <= value <= own.high
        if trial.distributions[name] != own or not inside:
            raise ValueError(f"trial {trial.number} has {name} {value}")
    steps, seconds = trial.user_attrs.get("steps", 0), trial.user_attrs.get("seconds", 0)
    if type(steps) is not int or steps < 0 or not 0 <= seconds < math.inf:
        raise ValueError(f"trial {trial.number} has {steps} steps and {seconds} seconds")
    if trial.state.name == "COMPLETE" and not math.isfinite(trial.value):
        raise ValueError(f"trial {trial.number} has the result {trial.value}")


def described(
    folder: pathlib.Path, space: Mapping[str, Any], metric: tuple[str, str], identity: Any, optuna: Any
) -> None:
    """Write what the study is about, or refuse a folder that has another study.

    Raises:
        InputError: the study in the folder has another space, metric or identity.

    """
    known = {k: optuna.distributions.distribution_to_json(d) for k, d in space.items()}
    try:
        content = files.plain({"space": known, "metric": list(metric), "identity": identity})
        files.to_json(content)
    except (TypeError, ValueError) as error:
        raise InputError(f"identity: must be JSON values ({reason(error)})") from None
    path = folder / DESCRIPTION
    if path.exists():
        before = files.read_json(path)
        for name, value in content.items():
            found = before.get(name, ABSENT) if isinstance(before, dict) else ABSENT
            if found != value:
                where, was, now = _difference(name, found, value)
                line = f"{visible(folder)}: has a study with another {name}: {where} was {was} and is now {now}"
                raise InputError(f"{line}; use the old value, or another folder")
    elif (folder / JOURNAL).exists():
        raise InputError(f"{visible(folder)}: has a journal, but no {DESCRIPTION}; give another folder")
    else:
        files.write_json(path, content)


def _difference(name: str, before: Any, now: Any) -> tuple[str, str, str]:
    """Return the name of the first value that differs, and both values as text."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in (*now, *before):
            if before.get(key, ABSENT) != now.get(key, ABSENT):
                return _difference(key, before.get(key, ABSENT), now.get(key, ABSENT))
    was, is_ = (ABSENT if value is ABSENT else visible(_readable(value))[:200] for value in (before, now))
    return visible(name), was, is_


def _readable(value: Any) -> str:
    """Return a value as text; a distribution in the form in which a user states it, such as `1e-4:0.03`."""
    try:
        of = json.loads(value)["attributes"]
        return ",".join(map(str, of["choices"])) if "choices" in of else f"{of['low']:g}:{of['high']:g}"
    except (TypeError, ValueError, KeyError):
        return files.to_json(value)


def retry_dead(optuna: Any, study: Any, folder: pathlib.Path, log: Callable[[str], None]) -> None:
    """Begin trials again whose process is gone: nobody holds their lock. One that died twice has failed.

    The system may end a process that needs too much memory, and then does so again. A process that was asked to stop
    has not died.
    """
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        lock = lock_of(folder, trial.number, blocking=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            continue
        lock.release()
        deaths = trial.user_attrs.get("deaths", 0) + (not trial.user_attrs.get("stopped"))
        if deaths >= MOST_DEATHS:
            raised = trial.user_attrs.get("raised")
            why = f", the second time with: {raised}" if raised else ", perhaps for lack of memory"
            error = f"its process died twice{why}"
            study._storage.set_trial_user_attr(trial._trial_id, "error", error)
            study.tell(trial.number, state=states.FAIL)
            log(f"trial {trial.number}: failed: {error} ({shown(trial.params)})")
            continue
        study._storage.set_trial_user_attr(trial._trial_id, "again", True)
        study.tell(trial.number, state=states.FAIL)
        study.enqueue_trial(trial.params, user_attrs={"deaths": deaths})


def lock_of(folder: pathlib.Path, number: int, blocking: bool = True) -> Any:
    """Return the lock that a process holds while it runs a trial."""
    return filelock.FileLock(folder / f"trial-{number}.lock", blocking=blocking)


def counts(trial: Any) -> bool:
    """Whether a trial is one of the study's: not one that waits to begin, nor one that another replaces."""
    return trial.state.name != "WAITING" and not trial.user_attrs.get("again")

"""A workdir has one writer at a time and keeps rows in a separate file; failed saves are reported."""

import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.train import checkpoint, history
from jaxcnn.train.checkpoint import Checkpoints, reading
from tests.small import fit

ROOT = pathlib.Path(__file__).parents[2]
HOLD = """
import sys
from jaxcnn.train.checkpoint import Checkpoints
held = Checkpoints(sys.argv[1], alone=True)
print("held", flush=True)
sys.stdin.read()
"""


def python(script, *arguments):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], env=environment, cwd=ROOT, **pipes)


def params(fitted):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(fitted.state.params))])


def lines(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_another_process_is_refused_until_the_first_is_gone(tmp_path):
    with python(HOLD, tmp_path / "run") as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(jc.InputError) as error:
                fit(tmp_path / "run")
        finally:
            holder.kill()
    assert str(error.value) == (
        f"workdir={tmp_path / 'run'}: another process is training into it; "
        "wait until it has ended, or give a different workdir"
    )
    assert fit(tmp_path / "run").saved == 2


def test_this_process_does_not_train_into_a_folder_twice_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxcnn.train.lock.PATIENCE", 0.0)

    def validate(state):
        with pytest.raises(jc.InputError, match="another process is training into it"):
            fit(tmp_path)
        return {}

    assert fit(tmp_path, validate=validate).saved == 2


@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "hard link"])
def test_what_lies_in_place_of_the_lock_is_not_followed(tmp_path, kind):
    kept, run = tmp_path / "kept", tmp_path / "run"
    kept.write_text("mine")
    run.mkdir()
    {
        "link": lambda: (run / ".lock").symlink_to(kept),
        "dangling link": lambda: (run / ".lock").symlink_to(tmp_path / "new"),
        "fifo": lambda: os.mkfifo(run / ".lock"),
        "hard link": lambda: os.link(kept, run / ".lock"),
    }[kind]()
    Checkpoints(run, alone=True).close()
    assert kept.read_text() == "mine" and not (tmp_path / "new").exists()


def test_a_folder_in_place_of_the_lock_is_one_line(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(jc.InputError, match="workdir=.*: cannot be written"):
        Checkpoints(tmp_path, alone=True)


ROUNDS = """
import sys, time, small
import jaxcnn as jc
for line in sys.stdin:
    def validate(state):
        time.sleep(2)
        return {}
    try:
        print("done", small.fit(sys.argv[1], steps=int(line), validate=validate, log=None).saved, flush=True)
    except jc.InputError as error:
        print("refused", error, flush=True)
"""


@pytest.mark.slow
def test_two_processes_at_once_twenty_times(tmp_path):
    """Each time one process continues and one is refused, and the result equals the uninterrupted run."""
    with python(ROUNDS, tmp_path) as one, python(ROUNDS, tmp_path) as two:
        try:
            for k in range(1, 21):
                for process in (one, two):
                    process.stdin.write(f"{k}\n")
                    process.stdin.flush()
                done, refused = sorted(process.stdout.readline().strip() for process in (one, two))
                assert done == f"done {k}", done
                assert refused.startswith("refused workdir=") and "another process" in refused, refused
        finally:
            one.kill()
            two.kill()
    resumed = fit(tmp_path, steps=20)
    assert [row["step"] for row in resumed.history] == list(range(1, 21))
    np.testing.assert_array_equal(params(resumed), params(fit(steps=20)))


class Full:
    """A manager on a disk without space."""

    def save(self, *arguments, **options):
        raise OSError(28, "No space left on device")

    def __getattr__(self, name):
        return lambda *_: None


def test_weights_that_no_disk_has_are_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Checkpoints, "manager", Full())
    fitted = fit(tmp_path, steps=4, every=2)
    assert int(fitted.state.step) == 4 and fitted.saved is None and len(fitted.history) == 2
    assert lines(caplog)[-1] == f"the weights of step 4 are not saved: there is no checkpoint in {tmp_path}"
    assert all("no space is left on the disk" in line for line in lines(caplog)[:-1])


def test_weights_of_the_last_step_that_are_not_there_are_said(tmp_path, monkeypatch, caplog):
    fit(tmp_path, steps=2)
    monkeypatch.setattr(Checkpoints, "manager", Full())
    assert fit(tmp_path, steps=4).saved == 2
    assert lines(caplog)[-1] == f"the weights of step 4 are not saved: there is none after step 2 in {tmp_path}"


def test_a_disk_that_has_room_again_at_the_end_has_the_last_step(tmp_path, monkeypatch, caplog):
    real, tries = Checkpoints._added, []

    def added(self, rows):
        tries.append(len(rows))
        if len(tries) <= 2:
            raise OSError(28, "No space left on device")
        return real(self, rows)

    monkeypatch.setattr(Checkpoints, "_added", added)
    assert fit(tmp_path, steps=4, every=2).saved == 4 and tries == [1, 2, 2]
    with reading(tmp_path) as checkpoints:
        assert [row["step"] for row in checkpoints.load(4)[1]["history"]] == [2, 4]


def test_a_folder_that_is_deleted_between_two_saves_is_made_again(tmp_path):
    folder, straight = tmp_path / "run", fit(steps=6, every=2)

    def validate(state):
        if int(state.step) == 4:
            with reading(folder) as checkpoints:
                while 2 not in checkpoints.steps():  # the disk works on while the next steps run
                    pass
            shutil.rmtree(folder)
        if int(state.step) == 6:
            (folder / ".lock").stat()  # as locked as before
        return {}

    fitted = fit(folder, steps=6, every=2, validate=validate)
    assert fitted.saved == 6
    with reading(folder) as checkpoints:
        assert checkpoints.steps() == [6, 4] and [row["step"] for row in checkpoints.load(6)[1]["history"]] == [2, 4, 6]
    np.testing.assert_array_equal(params(fit(folder, steps=6, every=2)), params(straight))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    fit(folder, steps=6, every=2)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def steps(folder):
    with reading(folder) as checkpoints:
        return [row["step"] for row in checkpoints.newest()[2]["history"]]


def test_each_checkpoint_knows_its_own_rows(run):
    assert (run / "history.jsonl").read_bytes().count(b"\n") == 3 and steps(run) == [2, 4, 6]
    shutil.rmtree(run / "6")
    assert steps(run) == [2, 4]
    fitted = fit(run, steps=6, every=2)  # rows behind those of its checkpoint are replaced
    assert [row["step"] for row in fitted.history] == steps(run) == [2, 4, 6]
    assert (run / "history.jsonl").read_bytes().count(b"\n") == 3


def test_killed_between_the_rows_and_the_checkpoint_a_run_goes_on_exactly(run, monkeypatch):
    def killed(*arguments, **options):
        raise KeyboardInterrupt

    real = checkpoint._orbax()
    monkeypatch.setattr(real.CheckpointManager, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(run, steps=8, every=2)
    monkeypatch.undo()
    assert (run / "history.jsonl").read_bytes().count(b"\n") == 4 and steps(run) == [2, 4, 6]
    resumed, straight = fit(run, steps=10, every=2), fit(steps=10, every=2)
    np.testing.assert_array_equal(params(resumed), params(straight))
    pick = lambda fitted: [(r["step"], r["train/count"], r["learning_rate"]) for r in fitted.history]
    assert pick(resumed) == pick(straight) and steps(run) == [2, 4, 6, 8, 10]


def other_digit(path):
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"step": 4', b'"step": 5'))


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def link(path):
    shutil.copy(path, path.with_name("kept"))
    path.unlink()
    path.symlink_to("kept")


def folder(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "changed": other_digit,
    "cut": lambda path: os.truncate(path, path.stat().st_size - 3),
    "empty": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "fifo": fifo,
    "folder": folder,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_rows_cost_no_weights(run, caplog, name):
    straight = params(fit(steps=8, every=2))
    DAMAGE[name](run / "history.jsonl")
    with reading(run) as checkpoints:
        step, flat, loop = checkpoints.newest()
    assert step == 6 and loop["history"] == []
    (line,) = lines(caplog)
    assert line.startswith(f"{run / 'history.jsonl'} is damaged (") and line.endswith(
        "the run's earlier rows are lost, but its weights are not"
    )
    caplog.clear()
    again = fit(run, steps=8, every=2)
    np.testing.assert_array_equal(params(again), straight)
    assert [row["step"] for row in again.history] == [8] and again.saved == 8
    caplog.clear()
    assert steps(run) == [8] and not lines(caplog)


def test_rows_in_a_linked_file_are_not_written_there(run, caplog):
    link(run / "history.jsonl")
    before = (run / "kept").read_bytes()
    fit(run, steps=8, every=2)
    assert (run / "kept").read_bytes() == before and not (run / "history.jsonl").is_symlink()


def test_floats_that_json_does_not_have_come_back():
    row = {
        "step": 1, "a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 0.1, "e": None, "f": "text",
        "g": 10**20,
    }  # fmt: skip
    (line,) = history._lines([row]).splitlines()
    back = history.decoded(json.loads(line))
    assert repr(back) == repr(row) and b"NaN" not in line and b"Infinity" not in line


def test_nan_of_a_validation_is_in_no_file_as_a_bare_word(tmp_path):
    fit(tmp_path, validate=lambda s: {"v": float("nan"), "w": float("inf")})
    for path in (tmp_path / "history.jsonl", tmp_path / "2" / "loop" / "metadata"):
        assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    with reading(tmp_path) as checkpoints:
        (row,) = checkpoints.newest()[2]["history"]
    assert np.isnan(row["v"]) and row["w"] == np.inf


def test_reading_says_nothing_of_its_own(run):
    """Neither Orbax nor Abseil writes to a terminal if logging is not set up."""
    script = (
        "import sys, jaxcnn as jc; from jaxcnn.train.checkpoint import reading; jc.load_run(sys.argv[1])\n"
        "with reading(sys.argv[2]) as checkpoints: print(checkpoints.newest()[0])"
    )
    process = python(script, ROOT / "tests" / "fixtures" / "run-format-2", run)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, "6\n", "")

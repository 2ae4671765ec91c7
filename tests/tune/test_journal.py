"""Trials that need too much memory or whose process dies, journals that are cut, and budgets; nothing is trained."""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import jax
import pytest

import jaxcnn as jc
from jaxcnn import tune

optuna = pytest.importorskip("optuna")
RATE = {"rate": optuna.distributions.FloatDistribution(1e-6, 1e-1, log=True)}
HOW = {"sampler": "random"}


def measure(values, report, stop):
    if stop():
        raise jc.StoppedError(0)
    report({"validation/loss": values["rate"], "step": 12})


def extend(folder, trials, some=measure, **options):
    return tune.extend(some, ("loss", "min"), RATE, folder, trials=trials, **HOW, **options)


def failing(error, at=0):
    """Measures, but raises an error in one call."""
    calls = []

    def some(*given):
        calls.append(given)
        if len(calls) == at + 1:
            raise error
        measure(*given)

    return some


@pytest.mark.parametrize(
    "error",
    [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.")],
    ids=["host", "device"],
)
def test_a_trial_that_needs_too_much_memory_fails_alone(tmp_path, error):
    lines = []
    found = extend(tmp_path, 3, failing(error), log=lines.append)
    assert [row["state"] for row in found.rows] == ["failed", "complete", "complete"]
    assert found.rows[0]["error"].startswith("out of memory (") and "failed: out of memory" in lines[0]
    assert extend(tmp_path, 3).rows == found.rows  # and stays so


def test_another_error_of_a_device_stops_the_study(tmp_path):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        extend(tmp_path, 1, failing(jax.errors.JaxRuntimeError("INTERNAL: no")))


DIES = "import os, sys; from tests.tune.test_journal import extend; extend(sys.argv[1], 2, lambda *_: os._exit(9))"


def test_a_trial_whose_process_died_twice_has_failed(tmp_path):
    how, lines = {"env": os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}}, []
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], **how).returncode == 9
    found = extend(tmp_path, 2, log=lines.append)
    assert [row["state"] for row in found.rows] == ["failed", "complete"]
    assert "its process died twice" in lines[0] and found.rows[0]["error"] in lines[0]
    assert f"rate {found.rows[0]['rate']:.3g}" in lines[0] and found.rows[0]["rate"] != found.rows[1]["rate"]


def test_a_program_that_raises_twice_is_named(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError):
            extend(tmp_path, 2, failing(KeyError("bees")))
    found = extend(tmp_path, 2)
    assert found.rows[0]["error"] == "its process died twice, the second time with: 'bees'"
    assert found.rows[1]["state"] == "complete"


def test_a_process_that_is_late_waits_for_the_others(tmp_path):
    """Its last trial may not be the best of the study."""
    begun = threading.Event()

    def slow(values, report, stop):
        begun.set()
        time.sleep(1.0)
        report({"validation/loss": 0.25, "step": 1})

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        other = pool.submit(extend, tmp_path, 1, slow)
        assert begun.wait(60)
        results = [extend(tmp_path, 5, seconds=1e-9), other.result()]
    assert [one.value for one in results] == [0.25, 0.25]


@pytest.mark.parametrize("error", [jc.StoppedError(0), KeyboardInterrupt()], ids=["signal", "interrupt"])
def test_stops_are_no_deaths(tmp_path, error):
    for _ in range(3):
        with pytest.raises(type(error)):
            extend(tmp_path, 1, failing(error))
    found = extend(tmp_path, 1)
    assert [row["state"] for row in found.rows] == ["complete"]


@pytest.mark.parametrize("tail", [b'{"op_code":6,"worker_id":"x","tri', b"\0" * 70_000], ids=["half", "zeros"])
def test_a_line_that_was_cut_off_is_removed(tmp_path, tail):
    lines, before, path = [], extend(tmp_path, 2), tmp_path / "journal.log"
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    after = extend(tmp_path, 3, log=lines.append)
    assert after.rows[:2] == before.rows and len(after.rows) == 3
    assert f"its {len(tail)} bytes are removed" in lines[0] and path.read_bytes().startswith(whole)
    for line in path.read_bytes().splitlines():
        json.loads(line)


def test_a_study_whose_journal_was_cut_anywhere_goes_on(tmp_path):
    extend(tmp_path / "whole", 2)
    whole, about = ((tmp_path / "whole" / name).read_bytes() for name in ("journal.log", "study.json"))
    for k, left in enumerate([*range(0, len(whole), 37), len(whole) - 1]):
        place = tmp_path / str(k)
        place.mkdir()
        (place / "journal.log").write_bytes(whole[:left])
        (place / "study.json").write_bytes(about)
        found = extend(place, 2)
        assert [row["state"] for row in found.rows] == ["complete"] * 2, left
        assert extend(place, 2).rows == found.rows


def test_a_half_line_of_another_process_is_removed_before_the_next_one(tmp_path):
    path, calls = tmp_path / "journal.log", []

    def some(*given):
        calls.append(given)
        if len(calls) == 2:
            path.write_bytes(path.read_bytes() + b'{"op_code":8,"wor')  # its disk was full
        measure(*given)

    assert len(extend(tmp_path, 3, some).rows) == 3 and len(extend(tmp_path, 4).rows) == 4


def test_a_budget_of_updates_is_kept(tmp_path):
    found = extend(tmp_path, 9, updates=13)
    assert [row["steps"] for row in found.rows] == [12, 12] and found.updates == 24 and found.seconds > 0
    assert extend(tmp_path, 9, updates=25).updates == 36

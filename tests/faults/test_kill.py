"""Killed or stopped at any moment, a run goes on to the same bits, and from the last step that was saved."""

import re
import signal

import numpy as np
import pytest

from tests.faults.fault_injection import RUN, after, committed, ended, resumed, run_folder, start, summary


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The parameters of the run that nobody stops."""
    workdir = tmp_path_factory.mktemp("straight")
    code, _, err = ended(start(*RUN, "--workdir", workdir))
    assert code == 0, err
    return summary(workdir)["params_sha256"]


def moments(n, seed, low=0.5, high=9.0):
    """Seconds after the start, spread over start, compilation, training with its evaluations and saves, and test."""
    values = np.random.default_rng(seed).permutation(np.linspace(low, high, n)).round(2).tolist()
    return [pytest.param(v, marks=() if i < 1 else pytest.mark.slow, id=f"{v}s") for i, v in enumerate(values)]


@pytest.mark.parametrize("seconds", moments(100, seed=1))
def test_killed(straight, tmp_path, seconds):
    process = start(*RUN, "--workdir", tmp_path)
    after(process, seconds)
    process.kill()
    ended(process)
    saved, whole = committed(tmp_path), run_folder(tmp_path) and (run_folder(tmp_path) / "summary.json").exists()
    began = resumed(tmp_path, *RUN)
    assert whole or began == max(saved, default=0)
    assert summary(tmp_path)["params_sha256"] == straight


@pytest.mark.slow  # one signal has a test in test_experiments
@pytest.mark.parametrize("seconds", moments(50, seed=2, low=2.5))
def test_terminated(straight, tmp_path, seconds):
    process = start(*RUN, "--workdir", tmp_path)
    after(process, seconds)
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    if code != 0:  # it had not ended before
        assert code in (143, -signal.SIGTERM), err  # the latter before Python has read the first line of the program
        assert "Traceback" not in err
        found = re.search(r"stopped after step (\d+)", err)
        assert not found or int(found[1]) == max(committed(tmp_path), default=0)
    saved = committed(tmp_path)
    began = resumed(tmp_path, *RUN)
    assert began is None or began == max(saved, default=0)
    assert summary(tmp_path)["params_sha256"] == straight


def test_a_second_interrupt_ends_at_once(tmp_path):
    process = start(*RUN, "--epochs", 2000, "--workdir", tmp_path)
    while not committed(tmp_path) and process.poll() is None:
        after(process, 0.05)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process, 20)
    assert code == 130 and "Traceback" not in err
    saved = committed(tmp_path)
    process = start("--resume", "--workdir", tmp_path)
    for line in process.stderr:
        if "going on from step" in line:
            assert int(line.split()[-1]) == saved[-1]
            break
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 143

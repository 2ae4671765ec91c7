"""Unusual surroundings: closed output, names with arbitrary bytes, no home, little memory, signals at any moment."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.faults.fault_injection import ROOT, RUN, after, committed, ended, run_folder, start, summary

FEW = ["--model", "mlp", "--max-steps", 3, "--batch-size", 16, "--devices", 1, "--no-augment", "--ema", 0]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def pictures(root, names, n=12):
    rng = np.random.default_rng(0)
    for name in names:
        folder = os.fsencode(root) + b"/" + os.fsencode(name)
        os.makedirs(folder)
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (8, 8)).astype(np.uint8)).save(os.fsdecode(folder + b"/%d.png" % i))
    return root


def call(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=None, without=(), limit="", **options):
    """Run `python -m experiments.mnist` to its end, within a `ulimit`: exit code, output, error output, as text."""
    environment = {k: v for k, v in os.environ.items() if k not in without} | {"PYTHONPATH": str(ROOT)} | (env or {})
    command = [sys.executable, "-m", "experiments.mnist", *map(str, arguments)]
    # the shell sets the limit: a function between fork and exec may not run where JAX has threads
    command = ["bash", "-c", f'ulimit {limit} && exec "$@"', "bash", *command] if limit else command
    options = {"cwd": ROOT, "timeout": 240} | options
    done = subprocess.run(command, stdout=stdout, stderr=stderr, env=environment, **options)
    return done.returncode, (done.stdout or b"").decode(), (done.stderr or b"").decode()


def _anybody_may_run(program):
    """Return whether a user without rights can read the interpreter, which may be in somebody's home."""
    real = pathlib.Path(program).resolve()
    return all(
        place.stat().st_mode & 0o005 == 0o005
        for place in (real, *real.parents, *pathlib.Path(program).absolute().parents)
    )


def test_names_of_any_bytes_in_ascii_with_output_on_a_full_disk_and_no_home(tmp_path):
    names = (b"caf\xe9", "grün".encode(), b"$5_$10", b"under 10", b"a\x1b[31m\nb")
    data, home = pictures(tmp_path / "data", names), tmp_path / "none"
    nobody = {"user": 54321, "group": 54321} if os.geteuid() == 0 and _anybody_may_run(sys.executable) else {}
    if nobody:
        tmp_path.chmod(0o777)
        for parent in tmp_path.parents[:2]:
            parent.chmod(0o755)
    with open("/dev/full", "wb") as full:
        code, _, err = call(
            "--dataset", data, *FEW, "--workdir", tmp_path / "runs", stdout=full, env=ASCII,
            without=("HOME", "XDG_CACHE_HOME"), **nobody
        )  # fmt: skip
    assert code == 0 and "Traceback" not in err and "\x1b" not in err, err
    assert err.count("standard output cannot be written (No space left on device)") == 1
    assert err.count("no home folder") == (1 if nobody else 0) and not home.exists()
    assert "not drawn" not in err and "rows to train on" in err
    folder = run_folder(tmp_path / "runs")
    assert (
        summary(tmp_path / "runs")["test"]["accuracy"] is not None
        and (folder / "confusion_matrix.png").stat().st_size > 5000
    )
    classes = json.loads((folder / "config.json").read_text())["classes"]
    assert sorted(map(os.fsencode, classes)) == sorted(names)


@pytest.mark.slow
def test_a_reader_that_goes_after_a_line(tmp_path):
    flags = f"--dataset digits {' '.join(map(str, FEW))} --workdir {tmp_path}"
    command = f"{sys.executable} -m experiments.mnist {flags} 2>&1 | head -1"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1, done.stderr
    assert summary(tmp_path)["steps"] == 3 and committed(tmp_path) == [3]


def watches(process):
    """Whether a program handles SIGTERM by now, or has ended; Python itself does not."""
    if process.poll() is not None:
        return True
    caught = re.search(r"SigCgt:\s*(\w+)", pathlib.Path(f"/proc/{process.pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says which signals a program handles")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_modules_are_imported(tmp_path, number, code):
    for seconds in (0, 0.4):
        process = start(*RUN, "--workdir", tmp_path)
        while not watches(process):
            after(process, 0.005)
        after(process, seconds)
        process.send_signal(number)
        returned, _, err = ended(process)
        assert (returned, len(err.splitlines())) == (code, 1) and "stopped" in err and "nothing was begun" in err, err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("seconds", np.linspace(0.1, 6, 25).round(2).tolist())
def test_a_signal_at_any_moment_of_the_start(tmp_path, seconds, number, code):
    process = start(*RUN, "--epochs", 2000, "--workdir", tmp_path)
    after(process, seconds)
    process.send_signal(number)
    returned, _, err = ended(process)
    assert returned == code and "Traceback" not in err and "stopped" in err, err


@pytest.mark.parametrize("kib", [50_000, 900_000])
def test_little_address_space_is_one_line(tmp_path, kib):
    code, _, err = call(
        "--dataset", "digits", *FEW, "--workdir", tmp_path, limit=f"-v {kib}", env={"OPENBLAS_NUM_THREADS": "1"}
    )
    assert code == 1 and len(err.splitlines()) == 1 and f"only {kib:,} KiB of address space" in err, err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kib", [98, 3])
def test_files_that_may_not_be_large_enough_for_a_checkpoint(tmp_path, kib):
    code, out, err = call(
        "--dataset", "digits", *FEW, "--workdir", tmp_path, "--compilation-cache", "off", limit=f"-f {kib}"
    )
    assert code == 1 and "Traceback" not in err, err
    last = err.splitlines()[-1]
    assert ("the weights are not saved" in last or "File too large" in last) and "test accuracy" in out, err
    assert not committed(tmp_path) and not (run_folder(tmp_path) / "summary.json").exists()


def test_a_working_directory_whose_name_is_not_utf8(tmp_path):
    here = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(here)
    code, _, err = call("--dataset", "digits", *FEW, "--workdir", "runs", cwd=here)
    assert code == 2 and len(err.splitlines()) == 1 and "caf\\udce9" in err and "is not UTF-8; rename it" in err, err
    assert not os.listdir(here)


@pytest.mark.slow
def test_a_name_that_python_reads_as_ascii(tmp_path):
    (tmp_path / "grün").mkdir()
    code, _, err = call("--dataset", "digits", *FEW, "--workdir", tmp_path / "grün", env=ASCII)
    assert code == 2 and "set PYTHONUTF8=1" in err, err
    code, out, err = call(
        "--dataset", "digits", *FEW, "--workdir", tmp_path / "grün", env={"PYTHONIOENCODING": "ascii"}
    )
    assert code == 0 and "gr\\xfcn" in out, err


@pytest.mark.slow
def test_a_test_loss_that_is_not_finite_is_no_good_end(tmp_path):
    wild = ["--limit-examples", 64, "--learning-rate", "1e38", "--on-nan", "skip"]
    code, out, err = call("--dataset", "digits", *FEW, *wild, "--workdir", tmp_path)
    assert code == 1 and "the loss on the test rows is" in err.splitlines()[-1] and "test accuracy" not in out, err
    for path in run_folder(tmp_path).glob("*.json*"):
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(line, parse_constant=pytest.fail)
    assert summary(tmp_path)["test"]["loss"] is None


@pytest.mark.slow
def test_an_interrupt_just_after_the_summary(tmp_path):
    process = start(*RUN, "--workdir", tmp_path)
    while process.poll() is None and not list(pathlib.Path(tmp_path).glob("*/summary.json")):
        time.sleep(0.0005)
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 0 and "--resume" not in err and "Traceback" not in err, err


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_two_resumes_at_once(tmp_path, seed):
    process = start(*RUN, "--epochs", 40, "--workdir", tmp_path)
    while not committed(tmp_path) and process.poll() is None:
        after(process, 0.02)
    process.kill()
    ended(process)
    before = committed(tmp_path)
    both = [start("--resume", "--workdir", tmp_path)]
    after(both[0], seed / 20)
    both.append(start("--resume", "--workdir", tmp_path))
    results = [ended(process) for process in both]
    assert sorted(code for code, _, _ in results) == [0, 2], results
    (refused,) = [err for code, _, err in results if code == 2]
    assert len(refused.splitlines()) == 1 and ("another process trains into" in refused or "is finished" in refused), (
        refused
    )
    assert not any("not written" in err for _, _, err in results)
    assert max(committed(tmp_path)) >= max(before) and summary(tmp_path)["steps"] == max(committed(tmp_path))

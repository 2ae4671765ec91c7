"""Several processes are one run: the same numbers, one end for all when one dies, and any other number of devices goes on with it."""

import signal
import socket

import numpy as np
import pytest

from jaxcnn.train.checkpoint import reading
from tests.faults.fault_injection import RUN, committed, ended, run_folder, start, summary

FEW = [
    *RUN[:-2],
    "--model",
    "tutorial",
    "--optimizer",
    "adam",
    "--schedule",
    "constant",
    "--learning-rate",
    "1e-3",
    "--no-augment",
    "--ema",
    "0",
]


def port():
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def together(n, *arguments, devices=2):
    where = f"localhost:{port()}"
    return [
        start(*arguments, "--coordinator", where, "--processes", n, "--process-id", i, devices=devices)
        for i in range(n)
    ]


def params(workdir):
    with reading(run_folder(workdir) / "checkpoints") as saved:
        flat, _ = saved.load(committed(workdir)[-1])
    return np.concatenate([flat[k].reshape(-1) for k in sorted(flat) if k.startswith("params.")]).astype(np.float64)


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(a)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path):
    code, _, err = ended(start(*FEW, "--devices", 1, "--workdir", tmp_path / "one"))
    assert code == 0, err
    processes = together(2, *FEW, "--shard-parameters", "--workdir", tmp_path / "two")
    for process in processes:
        code, _, err = ended(process)
        assert code == 0 and "Traceback" not in err, err
    one, two = summary(tmp_path / "one"), summary(tmp_path / "two")
    assert (two["devices"], two["steps"], two["test"]["count"]) == (4, one["steps"], one["test"]["count"])
    assert distance(params(tmp_path / "one"), params(tmp_path / "two")) < 1e-4
    lines = [(run_folder(tmp_path / name) / "metrics.jsonl").read_text().count("\n") for name in ("one", "two")]
    assert lines[0] == lines[1]  # one process logs


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_when_one_dies_the_others_end_and_the_run_goes_on(tmp_path, victim):
    processes = together(2, *FEW, "--epochs", 500, "--workdir", tmp_path)
    while not committed(tmp_path) and all(p.poll() is None for p in processes):
        pass
    processes[victim].kill()
    code, _, err = ended(processes[1 - victim], 60)
    assert code == 1 and f"process {victim} is gone" in err and "--resume" in err and "stack trace" not in err, err
    ended(processes[victim])
    saved = committed(tmp_path)
    process = start("--resume", "--workdir", tmp_path, "--devices", 3, devices=3)
    for line in process.stderr:
        if "going on from step" in line:
            break
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert code == 143 and int(line.split()[-1]) == saved[-1], err


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--processes", 2], "give all three"),
        (["--coordinator", "here", "--processes", 2, "--process-id", 0], "--coordinator here: must be HOST:PORT"),
        (["--coordinator", "here:99999", "--processes", 2, "--process-id", 1], "with a port from 1 to 65535"),
        (["--coordinator", "h:1", "--processes", 2, "--process-id", 2], "--process-id 2: must be from 0 to 1"),
        (["--strategy", "pmap", "--shard-parameters"], "keeps parameters whole"),
        (["--model-devices", 3, "--strategy", "sharded"], "model_devices=3: must divide the 8 devices"),
    ],
)
def test_bad_input(tmp_path, arguments, line):
    code, _, err = ended(start(*FEW, *arguments, "--workdir", tmp_path))
    assert code == 2 and line in err and len(err.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


def one_after_another(tmp_path, runs, arguments):
    """Train in parts, each stopped at a step, on the devices that `runs` says: (processes, devices of each, last step)."""
    for i, (n, devices, last) in enumerate(runs):
        divided = "--shard-parameters" if n * devices > 1 else "--no-shard-parameters"
        more = [*(["--resume"] if i else arguments), "--workdir", tmp_path, "--devices", n * devices, divided]
        processes = together(n, *more, devices=devices) if n > 1 else [start(*more, devices=devices)]
        while last and max(committed(tmp_path), default=0) < last and all(p.poll() is None for p in processes):
            pass
        if last:
            processes[0].send_signal(signal.SIGTERM)
        for process in processes:
            code, _, err = ended(process)
            assert code == (143 if last else 0), err


@pytest.mark.slow
def test_from_8_devices_to_1_to_3_to_2_processes(tmp_path):
    arguments = [
        *FEW,
        "--epochs",
        20,
        "--optimizer",
        "sgd",
        "--learning-rate",
        "0.05",
    ]  # Adam makes large steps of rounding errors
    assert ended(start(*arguments, "--devices", 1, "--workdir", tmp_path / "one"))[0] == 0
    one_after_another(tmp_path / "many", [(1, 8, 80), (1, 1, 160), (1, 3, 240), (2, 1, 0)], arguments)
    one, many = summary(tmp_path / "one"), summary(tmp_path / "many")
    print(
        "distance",
        distance(params(tmp_path / "one"), params(tmp_path / "many")),
        one["test"]["accuracy"],
        many["test"]["accuracy"],
    )
    assert distance(params(tmp_path / "one"), params(tmp_path / "many")) < 1e-4
    assert abs(one["test"]["accuracy"] - many["test"]["accuracy"]) <= 0.0015

"""Benchmarks as a user runs them, on tiny shapes: their files, and the arithmetic of best rounds and ratios."""

import importlib
import json
import math
import os
import re
import sys

import jax
import numpy as np
import pytest

import jaxcnn as jc
from experiments.benchmarks import (
    dense,
    harness,
    machine,
    mnist,
    ops,
    report,
    resnet,
    subprocess_worker,
    tutorial,
    worker,
)
from experiments.benchmarks import input as inputs
from experiments.benchmarks.peers import Prepared
from experiments.benchmarks.peers import ops as subjects
from experiments.benchmarks.subprocess_worker import FailedError, Watched, Worker, watch

KEYS = {"case", "subject", "best", "median", "unit", "ratio_to_fastest_peer", "peak_memory_mb"}


def rows(unit="ms", floor=0.0, **samples):
    return {
        row["subject"]: row
        for row in report.make_rows("case", unit, {k.replace("_", "-"): v for k, v in samples.items()}, floor=floor)
    }


def test_ratio_is_the_best_round_over_that_of_the_fastest_peer():
    made = rows(jaxcnn=[3.0, 1.0, 50.0], torch=[4.0, 2.0], torch_compile=[9.0, 12.0, 10.0])
    assert {s: row["median"] for s, row in made.items()} == {"jaxcnn": 3.0, "torch": 3.0, "torch-compile": 10.0}
    assert {s: row["best"] for s, row in made.items()} == {"jaxcnn": 1.0, "torch": 2.0, "torch-compile": 9.0}
    assert {s: row["ratio_to_fastest_peer"] for s, row in made.items()} == {
        "jaxcnn": 0.5,
        "torch": 1.0,
        "torch-compile": 4.5,
    }
    assert (made["jaxcnn"]["min"], made["jaxcnn"]["max"], made["jaxcnn"]["repeats"]) == (1.0, 50.0, 3)


def test_the_fastest_peer_of_a_rate_has_the_highest():
    made = rows("images/s", jaxcnn=[300.0], torch=[100.0], flax=[200.0])
    assert {s: row["ratio_to_fastest_peer"] for s, row in made.items()} == {"jaxcnn": 1.5, "torch": 0.5, "flax": 1.0}


def test_without_peers_there_is_no_ratio():
    assert rows(jaxcnn=[1.0])["jaxcnn"]["ratio_to_fastest_peer"] is None
    assert rows(torch=[2.0], flax=[1.0])["torch"]["ratio_to_fastest_peer"] == 2.0
    assert report.make_rows("case", "ms", {}) == []


def test_share_of_the_floor():
    assert rows(floor=0.5, jaxcnn=[2.0])["jaxcnn"]["fraction_of_floor"] == 0.25
    assert rows("images/s", floor=400.0, jaxcnn=[100.0])["jaxcnn"]["fraction_of_floor"] == 0.25
    assert "fraction_of_floor" not in rows(jaxcnn=[2.0])["jaxcnn"]
    rates = {"matmul_gflops": 100.0, "copy_gbs": 10.0}
    assert harness.floor_seconds({"flop": 1e9, "bytes": 1e7}, rates) == pytest.approx(0.01)
    assert harness.floor_seconds({"flop": 1e7, "bytes": 1e9}, rates) == pytest.approx(0.1)


def test_quiet():
    assert machine.quiet(1.0, 2) and not machine.quiet(1.01, 2) and machine.quiet(0.0, 1)


def test_what_is_missing_is_named():
    needs = {"jaxcnn": (), "torch": ("torch",), "keras-jax": ("keras", "jax")}
    has = {"jaxcnn": {}, "torch": {"jax": "1"}, "keras-jax": {"jax": "1", "keras": "3"}}
    assert machine.missing(needs, has) == {"torch": "torch not installed"}
    assert machine.missing(needs, dict.fromkeys(needs, {}))["keras-jax"] == "keras and jax not installed"


def test_every_module_that_a_subject_needs_is_looked_for():
    needed = [modules for table in (harness.NEEDS, *inputs.READERS.values()) for modules in table.values()]
    assert {module for modules in needed for module in modules} <= {*machine.PACKAGES}


def test_seconds_are_for_all_rows():
    watched = Watched(100.0, [], [(0.0, 200.0), (9.0, 300.0)])
    epochs = [
        {"seconds": 8.0, "images": 80, "at": 20.0},
        {"seconds": 4.0, "images": 80, "at": 25.0},
        {"seconds": 6.0, "images": 80, "at": 32.0},
    ]
    found = {
        "jaxcnn": [tutorial.Training(watched, epochs, 0.98)],
        "flax": [tutorial.Training(watched._replace(seconds=50.0), epochs, 0.97)],
    }
    each, first, whole = mnist.compare("c", 100, found, 1e9, 0.5)
    assert [row["case"] for row in (each[0], first[0], whole[0])] == ["c", "c, first epoch", "c, whole command"]
    assert (
        each[0]["median"] == pytest.approx(6.25)
        and first[0]["median"] == 20.0
        and whole[0]["median"] == pytest.approx(104.5)
    )
    assert whole[0]["ratio_to_fastest_peer"] == pytest.approx(104.5 / 54.5) and whole[0][
        "fraction_of_floor"
    ] == pytest.approx(1.5 / 104.5)
    assert [row["test_accuracy"] for row in whole] == [0.98, 0.97] and each[0]["peak_memory_mb"] == 300.0


def test_names_of_cases_say_their_shapes(shared):
    for name, case in ops.CASES.items():
        *place, last = map(int, re.search(r"\[([\d,]+)\]", name).group(1).split(","))
        whole = (*place, last)
        assert case["x"] in (whole, (*whole, case["x"][-1])), name
        if "kernel" in case and ">" in name:
            assert re.search(r"(\d+)>(\d+)", name).groups() == tuple(map(str, case["kernel"][-2:])), name
    theirs = re.findall(r'^    "(.*?)": \(', (shared.parent / "peers" / "conv_ops.py").read_text(), re.MULTILINE)
    assert len(theirs) == 15 and set(theirs) <= set(ops.CASES)


SMALL = {
    "max_pool": {"op": "max_pool", "x": (2, 7, 7, 3), "window": 3, "strides": 2, "padding": 1},
    "avg_pool": {"op": "avg_pool", "x": (2, 6, 6, 3), "window": 2, "strides": 2},
    "strided": ops.conv((2, 8, 8, 4), (3, 3, 4, 6), strides=2),
    "grouped": ops.conv((2, 6, 6, 8), (3, 3, 2, 8), groups=4),
    "depthwise": ops.depthwise((2, 6, 6, 8), 3, strides=2),
    "transposed": ops.transposed((2, 4, 4, 6), (4, 4, 6, 3), padding=1),
    "1-D": ops.conv((2, 9, 4), (5, 4, 6)),
    "3-D": ops.conv((2, 4, 6, 6, 3), (3, 3, 3, 3, 4)),
}


@pytest.mark.parametrize("name", SMALL)
def test_all_subjects_compute_the_same(name):
    ours, default = subjects.jaxcnn(SMALL[name]), subjects.flax(SMALL[name])
    ours.call(), default.call()
    facts, work = ours.facts(), subjects.floor(SMALL[name]).facts()
    assert facts["error"] < 1e-5 and facts["value"] == pytest.approx(default.facts()["value"], rel=1e-5)
    assert work["flop"] > 0 and work["bytes"] == 2 * sum(a.nbytes for a in subjects.arrays(SMALL[name]))
    if importlib.util.find_spec("torch"):
        torch = subjects.torch(SMALL[name])
        torch.call()
        assert torch.facts()["value"] == pytest.approx(facts["value"], rel=1e-5)


def test_work_is_counted_before_the_compiler_widens_groups():
    case = ops.depthwise((2, 16, 16, 64), 3)
    forward = 2 * 9 * math.prod(case["x"])
    assert 0.7 < subjects.floor(case).facts()["flop"] / (3 * forward) < 1.3


def benchmark(name, module, arguments, monkeypatch):
    """Run a benchmark in this process, its subjects in theirs."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    harness.run(name, module.Config, getattr(module, "SUBJECTS", tutorial.SUBJECTS), module.measure)


def check(path, subjects, cases):
    """What is in a JSON file, and beside it."""
    content = json.loads(path.read_text())
    assert set(content) == {"environment", "rows"} and path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    environment = content["environment"]
    assert {
        "versions",
        "cores",
        "cpu",
        "device",
        "memory_gb",
        "platform",
        "date",
        "quiet",
        "load",
        "command",
        "skipped",
    } <= set(environment)
    assert environment["versions"]["jaxcnn"] and environment["versions"]["jax"] and environment["failed"] == []
    assert environment["quiet"] == (environment["load"] <= 0.5 * environment["cores"])
    assert environment["roofline"]["matmul_gflops"] > 0 and environment["roofline"]["copy_gbs"] > 0
    found = content["rows"]
    assert [(row["case"], row["subject"]) for row in found] == [
        (case, subject) for case in cases for subject in subjects
    ]
    for row in found:
        assert (
            set(row) >= KEYS
            and row["median"] > 0
            and row["min"] <= row["median"] <= row["max"]
            and row["peak_memory_mb"] > 50
        )
        peers = [other["best"] for other in found if other["case"] == row["case"] and other["subject"] != "jaxcnn"]
        fastest = (max if row["unit"] == "images/s" else min)(peers)
        assert row["ratio_to_fastest_peer"] == pytest.approx(row["best"] / fastest) and row["fraction_of_floor"] > 0
    return content


def test_ops(tmp_path, monkeypatch, capsys):
    known = machine.versions
    monkeypatch.setattr(machine, "versions", lambda python: {k: v for k, v in known(python).items() if k != "torch"})
    benchmark("ops", ops, ["--smoke", "--json", tmp_path / "ops.json"], monkeypatch)
    out, err = capsys.readouterr()
    content = check(tmp_path / "ops.json", ("jaxcnn", "flax"), ops.SMOKE)
    assert (
        content["environment"]["skipped"] == {"torch": "torch not installed"}
        and "skipped: torch (torch not installed)" in err
    )
    assert "roofline: " in out and all(case.split(" ")[0] in out for case in ops.SMOKE) and "ratio" in out
    ours = [row for row in content["rows"] if row["subject"] == "jaxcnn"]
    assert all(row["error"] < 1e-4 and row["gflop"] > 0 and row["unit"] == "ms" for row in ours)
    assert err.count("not a quiet machine") == (not content["environment"]["quiet"])


@pytest.mark.slow
def test_resnet(tmp_path, monkeypatch, capsys):
    benchmark(
        "resnet",
        resnet,
        ["--smoke", "--only", "resnet", "--subjects", "jaxcnn", "flax", "--json", tmp_path / "a.json"],
        monkeypatch,
    )
    rows = check(tmp_path / "a.json", ("jaxcnn", "flax"), ["resnet of 1+1 blocks 8x8 batch 4"])["rows"]
    assert (
        rows[0]["parameters"] == rows[1]["parameters"] > 1_000 and "not the same network" not in capsys.readouterr().err
    )


@pytest.mark.slow
def test_dense(tmp_path, monkeypatch, capsys):
    benchmark("dense", dense, ["--smoke", "--subjects", "jaxcnn", "flax", "--json", tmp_path / "a.json"], monkeypatch)
    names = list(dense.networks(True))
    rows = check(tmp_path / "a.json", ("jaxcnn", "flax"), names)["rows"]
    assert len(names) == 6 and all(row["parameters"] > 500 and row["gflop"] > 0 for row in rows)
    assert "not the same network" not in capsys.readouterr().err


def test_networks():
    cpu, gpu = resnet.networks(resnet.Config(), gpu=False), resnet.networks(resnet.Config(batch_size=8), gpu=True)
    assert list(cpu) == ["resnet18 CIFAR batch 64", "mobilenet CIFAR batch 64"] and list(gpu) == [
        "resnet50 224 bfloat16 batch 8"
    ]
    assert (
        not any(case["bfloat16"] for case in cpu.values()) and gpu["resnet50 224 bfloat16 batch 8"]["classes"] == 1000
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "peers"),
    [("mnist", ("jaxcnn", "flax")), ("startup", ("jaxcnn", "flax")), ("input", ("jaxcnn", "tf.data"))],
)
def test_the_others(name, peers, tmp_path, monkeypatch):
    if "tf.data" in peers:
        pytest.importorskip("tensorflow")
    module = importlib.import_module(f"experiments.benchmarks.{name}")
    benchmark(name, module, ["--smoke", "--subjects", *peers, "--json", tmp_path / "b.json"], monkeypatch)
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert {row["subject"] for row in rows} == set(peers) and all(
        set(row) >= KEYS and row["median"] > 0 for row in rows
    )


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("ops", ["--only", "nothing"], "--only 'nothing'"),
        ("ops", ["--json", "no/such/folder/a.json"], "--json no/such/folder/a.json: cannot be written"),
        ("ops", ["--json", "table.png"], "must end in .json"),
        ("ops", ["--peer-python", "no/such/python"], "--peer-python no/such/python"),
        ("ops", ["--peer-python", os.devnull], f"--peer-python {os.devnull}"),
        ("ops", ["--peer-python", "/bin/true"], "--peer-python /bin/true"),
        ("ops", ["--subjects", "torhc"], "did you mean 'torch'?"),
        ("ops", ["--repeats", "0"], "--repeats 0"),
        ("mnist", ["--epochs", "1"], "--epochs 1"),
        ("mnist", ["--batch-sizes", "0"], "--batch-sizes"),
        ("mnist", ["--data", "no/such/file.npz"], "--data no/such/file.npz"),
        ("cifar10", ["--epochs", "1"], "--epochs 1"),
        ("cifar10", ["--data", "./nowhere"], "--dataset ./nowhere: no such file or folder"),
        ("startup", ["--batch-size", "0"], "--batch-size 0"),
        ("resnet", ["--width", "0"], "--width 0"),
        ("resnet", ["--steps", "-1"], "--steps -1"),
        ("input", ["--image-size", "0"], "--image-size 0"),
        ("predict", ["--image-size", "32"], "--image-size 32"),
        ("predict", ["--batch-sizes", "1", "0"], "--batch-sizes (1, 0)"),
    ],
)
def test_bad_flags_are_one_line(name, arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "quiet", lambda load, cores: True)
    with pytest.raises(SystemExit) as error:
        benchmark(
            name,
            importlib.import_module(f"experiments.benchmarks.{name}"),
            ["--subjects", "jaxcnn", *arguments],
            monkeypatch,
        )
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("skipped")]
    assert error.value.code == 2 and line.startswith(f"{name}: ") and said in line and not list(tmp_path.iterdir())


def test_the_speed_network_of_torch_is_ours():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.peers import cifar10 as peer

    image = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    whitening = np.asarray(jc.models.whitening(image), np.float32)
    model = jc.models.speednet(5, widths=(8, 12), whitening=whitening.tolist())
    variables = jax.jit(model.init)(jax.random.key(0), image)
    seen = torch.from_numpy(image).permute(0, 3, 1, 2)
    theirs, params = peer._network([8, 12], 5, seen).eval(), jax.device_get(variables["params"])
    kernel = theirs[0].kernel.permute(2, 3, 1, 0).reshape(12, 12).numpy()
    # the sign of an eigenvector is free
    np.testing.assert_allclose(np.abs(kernel[:, ::-1]), np.abs(whitening), rtol=1e-3, atol=1e-4)
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.size for p in jax.tree.leaves(params))
    with torch.no_grad():
        theirs[0].kernel.copy_(torch.from_numpy(whitening.reshape(2, 2, 3, 12)).permute(3, 2, 0, 1))
        convs = [layer for layer in theirs if isinstance(layer, torch.nn.Conv2d)]
        kernels = [params[f"stages_{i}_0"][f"conv{j}"]["kernel"] for i in (0, 1) for j in (1, 2)]
        for layer, kernel in zip(convs, kernels, strict=True):
            layer.weight.copy_(torch.from_numpy(kernel).permute(3, 2, 0, 1))
        theirs[-1].weight.copy_(torch.from_numpy(params["logits"]["kernel"]).T)
        logits = theirs(seen).numpy()
    np.testing.assert_allclose(jax.jit(model.apply)(variables, image), logits, rtol=1e-4, atol=1e-5)


def test_a_subject_that_fails_is_left_out():
    bench = harness.Bench(ops.Config(repeats=1), ["jaxcnn", "flax"], ({}, {}))
    case = ops.conv((2, 6, 6, 4), (3, 3, 4, 4)) | {"op": "no_such_operation"}
    # the default lowering takes it for a convolution
    samples, facts = harness.in_turn(bench, "ops", "broken", case, ["jaxcnn", "flax"])
    assert list(samples) == list(facts) == ["flax"] and len(samples["flax"]) == 1
    assert (
        len(bench.failed) == 1
        and bench.failed[0].startswith("broken: jaxcnn left out: AttributeError")
        and "\n" not in bench.failed[0]
    )


def test_a_worker_that_ends_says_why():
    gone = Worker(sys.executable, "ops", "nobody")
    with pytest.raises(FailedError, match="ended with code 1: .*nobody"):
        gone.ask("prepare", case={})
    gone.close()
    assert gone.process.poll() is not None


def test_watching_a_command():
    code = (
        "import sys; print('one', flush=True); x = bytearray(64 << 20); "
        "import time; time.sleep(0.5); "
        'print(\'{"event": "epoch", "n": 2}\', flush=True); print(\'end\')'
    )
    done = watch([sys.executable, "-c", code])
    assert [line for _, line in done.lines] == [
        "one",
        '{"event": "epoch", "n": 2}',
        "end",
    ] and done.seconds >= done.lines[-1][0] > 0
    assert [event["n"] for event in done.events("epoch")] == [2] and done.peak_memory_mb() > 4
    waiting = watch(
        [sys.executable, "-c", "import time; print('first step\\nmore', flush=True); time.sleep(100)"],
        until=lambda line: "first" in line,
    )
    assert waiting.seconds < 90 and len(waiting.lines) == 1
    with pytest.raises(FailedError, match="ended with code 3: too bad"):
        watch([sys.executable, "-c", "import sys; print('too bad', file=sys.stderr); sys.exit(3)"])
    with pytest.raises(FailedError, match="printed nothing"):
        watch([sys.executable, "-c", "import time; time.sleep(100)"], patience=0.2)


def test_peak_up_to_a_moment():
    watched = Watched(9.0, [], [(0.0, 0.0), (1.0, 50.0), (5.0, 70.0)])
    assert [watched.peak_memory_mb(by) for by in (0.5, 1.0, 4.9, 5.0)] == [
        0.0,
        50.0,
        50.0,
        70.0,
    ] and watched.peak_memory_mb() == 70.0


def test_peers_start_as_their_users_start_them():
    own, peer = (subprocess_worker.start_of(sys.executable, "worker", own=own) for own in (True, False))
    assert own[1:] == ["-m", "experiments.benchmarks.worker"]
    tell = "import gc, sys; from experiments.benchmarks import worker; print(gc.get_threshold(), 'jax' in sys.modules)"
    default = watch([sys.executable, "-c", "import gc; print(gc.get_threshold(), False)"]).lines[0][1]
    assert watch([*peer[:2], tell]).lines[0][1] == default


def test_data(tmp_path):
    arrays = tutorial.load("", limit=100)
    assert {name: a.shape for name, a in arrays.items()} == {
        "x_train": (100, 28, 28),
        "y_train": (100,),
        "x_test": (100, 28, 28),
        "y_test": (100,),
    }
    with tutorial.as_npz(arrays) as path:
        again = tutorial.load(str(path))
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays) and arrays["x_train"].dtype == np.uint8


def test_a_turn_is_about_as_long_as_asked_for(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(worker.time, "perf_counter", lambda: now[0])

    def turn(seconds, most, *lasting):
        calls[:] = []
        lasts = iter(lasting)

        def call():
            calls.append(now.__setitem__(0, now[0] + next(lasts)))

        return worker.timed(Prepared(call, per=2), seconds, most), len(calls)

    assert turn(0.5, 10, *[0.125] * 20) == ([0.0625] * 3, 4)  # the first warms up, and counts as time spent
    assert turn(0.5, 2, *[0.125] * 20) == ([0.0625] * 2, 3)
    assert turn(0.5, 10, 4.0, 2.0) == ([2.0], 1)  # long enough to need no warming up
    assert turn(0.5, 10, 0.25, 4.0, 1.0) == ([2.0], 2)

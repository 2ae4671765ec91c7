"""Experiments as a user runs them: a second process, real files, exit codes, and errors in one line."""

import functools
import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import jaxcnn as jc
from experiments import cifar10, cli, mnist, settings
from jaxcnn import runs
from jaxcnn.data import tfds_source
from jaxcnn.train.checkpoint import reading

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENV = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {
    "JAX_PLATFORMS": "cpu",
    "https_proxy": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
}
QUICK = [
    "--dataset", "digits", "--model", "mlp", "--no-augment", "--ema", "0", "--limit-examples", "300", "--batch-size",
    "32",
]  # fmt: skip


def start(*arguments, name="mnist", devices=1, env=None):
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENV | flags | (env or {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(*arguments, code=0, **options):
    process = start(*arguments, **options)
    try:
        out, err = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == code, f"exit code {process.returncode}, not {code}\n{out}\n{err}"
    assert "Traceback" not in out + err
    return out, err


def folder(workdir):
    (found,) = [p for p in pathlib.Path(workdir).iterdir() if p.is_dir()]
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    out, _ = run(*QUICK, "--epochs", 3, "--workdir", workdir)
    return folder(workdir), out


def test_what_a_run_leaves(finished):
    path, out = finished
    names = {p.name for p in path.iterdir()}
    assert {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "curves.png",
        "confusion_matrix.png",
        "checkpoints",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines[:-1]] == [
        (s, p) for s in (10, 19, 29) for p in ("train", "validation")
    ]
    assert lines[-1]["split"] == "test"
    assert all(
        {"step", "epoch", "split", "count", "loss", "accuracy", "f1_macro", "learning_rate", "seconds"} <= set(line)
        for line in lines
    )
    summary = json.loads((path / "summary.json").read_text())
    assert summary["test"]["count"] == 300 and 0 <= summary["test"]["accuracy"] <= 1
    assert summary["parameters"] == 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
    assert summary["train_seconds"] == pytest.approx(
        sum(line["seconds"] for line in lines if line["split"] == "train"), abs=1e-3
    )
    assert summary["steps"] == 29 and len(summary["params_sha256"]) == 64 and summary["devices"] == 1
    best = min((line for line in lines if line["split"] == "validation"), key=lambda line: line["loss"])
    assert summary["validation"]["loss"] == best["loss"] and summary["best_step"] == best["step"]
    low, high = summary["test"]["accuracy_interval"]
    interval = f"(95 % interval {low:.4f} to {high:.4f})"
    assert (
        out.strip().splitlines()[-1]
        == f"test accuracy {summary['test']['accuracy']:.4f} {interval} on 300 images, {path}"
    )
    assert summary["checkpoint"] == str(path)


def test_pictures_are_pictures(finished):
    from PIL import Image

    for name in ("curves.png", "confusion_matrix.png"):
        pixels = np.asarray(Image.open(finished[0] / name).convert("L"))
        assert min(pixels.shape) > 300 and pixels.std() > 5


def test_load_run_gives_the_tested_model(finished):
    loaded = jc.load_run(finished[0])
    summary = json.loads((finished[0] / "summary.json").read_text())
    test = jc.data.digits().test
    test = test.take(np.random.default_rng(0).permutation(test.size)[:300])
    values = jc.make_eval_step(loaded.task)(loaded.variables, dict(test.arrays))[1]
    assert values["accuracy"].compute() == pytest.approx(summary["test"]["accuracy"], abs=1e-9)
    assert loaded.step == summary["best_step"] and loaded.config["classes"] == [str(i) for i in range(10)]


def test_evaluate_is_the_same_on_any_devices_and_batch(finished):
    lines = []
    for devices, batch in ((1, 7), (8, 1000)):
        out, _ = run("--evaluate", "--checkpoint", finished[0], "--eval-batch-size", batch, devices=devices)
        lines.append(json.loads(out.strip().splitlines()[-1]))
    assert [line["devices"] for line in lines] == [1, 8]
    assert len({(line["accuracy"], line["count"]) for line in lines}) == 1 and lines[0]["count"] == 359


def test_predict(finished, tmp_path):
    from PIL import Image

    test = jc.data.digits().test
    for i in range(2):
        Image.fromarray(test.arrays["image"][i, ..., 0]).save(tmp_path / f"{i}.png")
    out, _ = run("--checkpoint", finished[0], "--predict", tmp_path / "0.png", tmp_path / "1.png")
    found = [json.loads(line) for line in out.strip().splitlines()]
    loaded = jc.load_run(finished[0])
    logits = loaded.task.predict(loaded.variables, {"image": test.arrays["image"][:2]})
    for row, expected in zip(found, np.asarray(jc.tasks.probabilities(logits)), strict=True):
        np.testing.assert_allclose(list(row["probabilities"].values()), expected, atol=1e-5)
        assert row["class"] == str(expected.argmax())


def killed(arguments, after, number, env=None):
    """Start a run, send a signal when its metrics file has `lines` lines, and return its exit code and output."""
    process, workdir = start(*arguments, env=env), pathlib.Path(arguments[arguments.index("--workdir") + 1])
    limit = time.monotonic() + 120
    lines = lambda: sum(len(p.read_text().splitlines()) for p in workdir.glob("*/metrics.jsonl"))
    while lines() < after and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, err


LONG = [*QUICK, "--epochs", "30", "--workdir"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    run(*LONG, workdir)
    return folder(workdir)


SLOW = [
    pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), *SLOW])
def test_a_stopped_run_resumes_to_the_same_parameters(straight, tmp_path, number, code):
    returned, err = killed([*LONG, str(tmp_path / "cut")], 8, number)
    assert returned == code
    path = folder(tmp_path / "cut")
    if number != signal.SIGKILL:
        assert f"--resume --workdir {path}" in err
    run("--resume", "--workdir", tmp_path / "cut")
    digests = {json.loads((p / "summary.json").read_text())["params_sha256"] for p in (straight, path)}
    assert len(digests) == 1
    logged = [
        [json.loads(line)["step"] for line in (p / "metrics.jsonl").read_text().splitlines()] for p in (straight, path)
    ]
    assert logged[0] == logged[1]


def pictures(root, classes=("cat", "dog"), n=12):
    from PIL import Image

    rng = np.random.default_rng(0)
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(100 * k, 100 * k + 120, (30, 30, 3)).astype(np.uint8)).save(
                root / name / f"{i}.png"
            )
    return root


def test_binary(tmp_path):
    out, _ = run(
        pictures(tmp_path / "data"), "--smoke", "--image-size", 32, "--workdir", tmp_path / "runs", name="binary"
    )
    assert "95 % interval" in out.strip().splitlines()[-1]
    path = folder(tmp_path / "runs")
    out, _ = run("--evaluate", "--checkpoint", path, name="binary")
    assert json.loads(out.strip().splitlines()[-1])["count"] == 5


def by_hand(image):
    """Return six views: the image, its shifts by a pixel down and right or up and left, and their mirror images."""
    views = []
    for one in (image, image[:, :, ::-1]):
        padded = np.pad(one, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
        views += [one, padded[:, :-2, :-2], padded[:, 2:, 2:]]
    return views


def test_cifar10(tmp_path, capsys, monkeypatch):
    data = tmp_path / "data"
    pictures(data / "train"), pictures(data / "test", n=3)
    go = functools.partial(inside, capsys, monkeypatch, "--devices", 1, module=cifar10)
    code, lines = go(
        "--dataset", data, "--smoke", "--widths", 8, "--batch-size", 8, "--max-steps", 2, "--validation-fraction",
        "0.2", "--workdir", tmp_path / "runs",
    )  # fmt: skip
    assert code == 0, lines
    path = folder(tmp_path / "runs")
    summary, loaded = json.loads((path / "summary.json").read_text()), jc.load_run(path)
    assert summary["test"]["count"] == 6 and np.shape(loaded.model.whitening) == (12, 12)
    test = dict(jc.data.folder(data).test.arrays)
    alone = jax.jit(runs.build(loaded.config["build"] | {"views": None})[1].predict)
    each = [alone(loaded.variables, {"image": view}) for view in by_hand(test["image"])]
    assert min(np.abs(each[0] - other).max() for other in each[1:]) > 1e-3  # the views differ
    np.testing.assert_allclose(
        jax.jit(loaded.task.predict)(loaded.variables, test), np.mean(each, 0), rtol=1e-4, atol=1e-5
    )
    assert loaded.task.metrics["loss"](np.mean(each, 0), test).compute() == pytest.approx(
        summary["test"]["loss"], rel=1e-4
    )
    assert (
        go("--evaluate", "--checkpoint", path)[0]
        == go("--checkpoint", path, "--predict", data / "test" / "cat" / "0.png")[0]
        == 0
    )


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--dataset", "auto"], "--dataset 'auto': give the name of a TFDS set"),
        (["--dataset", "cifar10", "--data-dir", "./none"], "cifar10 is not prepared in"),
        (["--model", "resnet20", "--widths", "8", "8"], "--widths 8 8: --model resnet20 takes a single one"),
        (["--model", "lenet5", "--widths", "8"], "--widths 8: --model lenet5 takes none"),
        (["--bias-rate", "0"], "--bias-rate 0.0: must be a positive number"),
        (["--muon", "-1"], "learning_rate=-1.0: must be a positive number"),
        (["--momentum", "1"], "momentum=1.0: must be at least 0 and below 1"),
        (["--shift", "-1"], "pixels=-1: must be at least 0"),
    ],
)
def test_bad_input_of_cifar10(tmp_path, capsys, monkeypatch, arguments, line):
    code, lines = inside(capsys, monkeypatch, *arguments, "--workdir", tmp_path / "w", module=cifar10)
    assert code == 2 and line in lines[-1] and len(lines) == 1, lines
    assert not (tmp_path / "w").exists()


def test_recipes_of_cifar10():
    for recipe in cifar10.PRESETS.values():
        config = cifar10.Config(**recipe)
        settings.check(config)
        assert config.model in jc.models.MODELS
        cifar10.optimizer(config, 100)


def test_biases_of_norms_learn_faster():
    params = {
        "conv": {"kernel": np.ones((3, 3, 4, 4)), "bias": np.ones(4)},
        "norm1": {"bias": np.ones(4), "scale": np.ones(4)},
    }
    tx = cifar10.optimizer(cifar10.Config(bias_rate=64.0), 100)
    updates = jax.jit(lambda p: tx.update(p, tx.init(p), p)[0])(params)
    assert updates["norm1"]["bias"][0] == pytest.approx(64 * updates["conv"]["bias"][0])
    assert updates["norm1"]["scale"][0] == pytest.approx(updates["conv"]["bias"][0]) and updates["conv"]["bias"][0] < 0


def test_auto_falls_back_and_says_why(tmp_path):
    out, _ = run("--smoke", "--model", "mlp", "--workdir", tmp_path / "w", "--data-dir", tmp_path / "none")
    (line,) = [line for line in out.splitlines() if "embedded digits" in line]
    assert "mnist is not prepared in" in line and "--data-dir" in line


def inside(capsys, monkeypatch, *arguments, module=mnist):
    """Run an experiment in this process: the exit code and the lines on the error stream."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    name = module.__name__.rpartition(".")[2]
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.setattr(tfds_source, "_answers", lambda *where: False)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # restored at the end
    try:
        cli.run(module.main, module.Config, name, module.PRESETS)
        code = 0
    except SystemExit as stop:
        code = stop.code
    finally:
        logger = logging.getLogger("jaxcnn")
        logger.handlers.clear()
        logger.propagate = True
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code, capsys.readouterr().err.strip().splitlines()


BAD = [
    (["--dataset", "mnits"], "did you mean 'mnist'"),
    (["--dataset", "./nowhere"], "--dataset ./nowhere: no such file or folder"),
    (["--dataset", "mnist", "--data-dir", "./none"], "mnist is not prepared in"),
    (["--model", "lenet"], "--model 'lenet': unknown; did you mean 'lenet5'?"),
    (["--optimizer", "adamm"], "--optimizer 'adamm': unknown; did you mean 'adam"),
    (["--schedule", "cos"], "--schedule 'cos': unknown; did you mean 'cosine'?"),
    (["--strategy", "shard"], "--strategy 'shard': unknown; did you mean 'sharded'?"),
    (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
    (["--batch-size", "-4"], "--batch-size -4: must be at least 1"),
    (["--epochs", "-1"], "--epochs -1: must be at least 0"),
    (["--learning-rate", "0"], "learning_rate=0.0: must be a positive number"),
    (["--learning-rate", "-1"], "learning_rate=-1.0: must be a positive number"),
    (["--learning-rate", "nan"], "--learning-rate nan: must be a finite number"),
    (["--weight-decay", "1e400"], "--weight-decay inf: must be a finite number"),
    (["--checkpoint-seconds", "inf"], "--checkpoint-seconds inf: must be a finite number"),
    (["--gpu-memory-fraction", "nan"], "--gpu-memory-fraction nan: must be a finite number"),
    (["--seed", "99999999999999999999"], "--seed 99999999999999999999: must be at most 4,294,967,295"),
    (["--image-size", "999999999"], "--image-size 999999999: must be at most 8,192"),
    (["--keep-best", "99999999999"], "--keep-best 99999999999: must be at most 10,000"),
    (["--max-steps", "-99999999999"], "--max-steps -99999999999: must be at least 0"),
    (["--epochs", "2000000000"], "updates, but a run has at most 2,147,483,647; give --max-steps"),
    (["--dropout", "1"], "dropout=1.0: must be at least 0 and below 1"),
    (["--label-smoothing", "1.5"], "label_smoothing=1.5: must be at least 0 and below 1"),
    (["--weight-decay", "-1"], "weight_decay=-1.0: must be a finite number of at least 0"),
    (["--ema", "1"], "ema=1.0: must be at least 0 and below 1"),
    (["--validation-fraction", "1"], "--validation-fraction 1.0: must be above 0 and below 1"),
    (["--image-size", "-5"], "--image-size -5: must be at least 0"),
    (["--dataset", "digit"], "--dataset 'digit': unknown; did you mean 'digits'?"),
    (["--devices", "9"], "devices=9: JAX sees 8"),
    (["--image-size", "8"], "must be at least 24x24 pixels"),
    (["--resume"], "--resume: no unfinished run under"),
    (["--evaluate", "--checkpoint", "."], "not a run's folder"),
    (["--predict", "x.png"], "--evaluate and --predict need --checkpoint RUN"),
]


@pytest.mark.parametrize("arguments, line", BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input(tmp_path, capsys, monkeypatch, arguments, line):
    dataset = [] if arguments[0] == "--dataset" else ["--dataset", "digits"]
    code, lines = inside(capsys, monkeypatch, *dataset, *arguments, "--workdir", tmp_path / "w")
    assert code == 2 and line in lines[-1] and len(lines) == 1, lines
    assert not (tmp_path / "w").exists()


def test_unwritable_workdir(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        code, lines = inside(capsys, monkeypatch, *QUICK, "--workdir", path)
        assert code == 2 and lines == [
            f"mnist: --workdir {path}: cannot be written (Not a directory); give another folder"
        ]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, capsys, monkeypatch):
    wild = ["--optimizer", "sgd", "--schedule", "constant", "--learning-rate", "1e20", "--epochs", "3"]
    code, lines = inside(capsys, monkeypatch, *QUICK, *wild, "--devices", 1, "--workdir", tmp_path)
    assert code == 1
    assert (
        "stopped: the loss is nan at" in lines[-1]
        and "learning rate 1e+20" in lines[-1]
        and str(folder(tmp_path)) in lines[-1]
    )


def test_limits_are_adapted_and_said(tmp_path, capsys, monkeypatch):
    few = [*QUICK[:-2], "--batch-size", 1000, "--epochs", 1, "--devices", 8]
    code, lines = inside(capsys, monkeypatch, *few, "--workdir", tmp_path)
    assert code == 0
    assert any("--batch-size 1000: lowered to the 300 training rows" in line for line in lines)
    assert any("--batch-size 300: padded to 304 rows for 8 devices" in line for line in lines)
    code, lines = inside(capsys, monkeypatch, *QUICK[:-1], 4, "--epochs", 0, "--devices", 8, "--workdir", tmp_path)
    assert code == 0 and any("--batch-size 4: padded to 8 rows" in line for line in lines)


def test_resume_refuses_another_model_and_other_data(tmp_path, capsys, monkeypatch):
    killed([*QUICK, "--epochs", "40", "--workdir", str(tmp_path)], 2, signal.SIGKILL)
    path = folder(tmp_path)
    code, lines = inside(capsys, monkeypatch, "--resume", "--workdir", path, "--model", "lenet5")
    assert code == 2 and "--resume: --model was mlp and is now lenet5" in lines[-1]
    config = json.loads((path / "config.json").read_text())
    config["data"]["sha256"] = "0" * 64
    (path / "config.json").write_text(json.dumps(config))
    code, lines = inside(capsys, monkeypatch, "--resume", "--workdir", path)
    assert code == 2 and "not the same data" in lines[-1]


def test_predict_refuses_what_is_no_image(finished, tmp_path, capsys, monkeypatch):
    (tmp_path / "x.png").write_text("not an image")
    code, lines = inside(capsys, monkeypatch, "--checkpoint", finished[0], "--predict", tmp_path / "x.png")
    assert code == 2 and f"{tmp_path / 'x.png'}: not a readable image" in lines[-1]


def test_resume_refuses_a_finished_run(finished, capsys, monkeypatch):
    code, lines = inside(capsys, monkeypatch, "--resume", "--workdir", finished[0])
    assert code == 2 and "is finished" in lines[-1]


def test_another_experiments_run_is_refused(finished, capsys, monkeypatch, tmp_path):
    config = json.loads((finished[0] / "config.json").read_text()) | {"experiment": "binary"}
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    code, lines = inside(capsys, monkeypatch, "--evaluate", "--checkpoint", tmp_path / "run")
    assert code == 2 and "a run of binary; evaluate it with python -m experiments.binary" in lines[-1]


def test_the_averaged_weights_are_what_is_tested_and_loaded(tmp_path, capsys, monkeypatch):
    averaged = ["0.9" if a == "0" else a for a in QUICK]
    code, _ = inside(capsys, monkeypatch, *averaged, "--epochs", 1, "--devices", 1, "--workdir", tmp_path)
    assert code == 0
    path = folder(tmp_path)
    loaded, summary = jc.load_run(path), json.loads((path / "summary.json").read_text())
    test = jc.data.digits().test
    test = dict(test.take(np.random.default_rng(0).permutation(test.size)[:300]).arrays)
    loss = jc.make_eval_step(loaded.task)(loaded.variables, test)[1]["loss"].compute()
    assert loss == pytest.approx(summary["test"]["loss"], rel=1e-5)
    with reading(path / "checkpoints") as checkpoints:
        flat = checkpoints.newest()[1]
    assert any(not np.array_equal(flat[k], flat["extras.ema." + k]) for k in flat if k.startswith("params."))


def test_the_test_set_is_read_once(tmp_path, capsys, monkeypatch):
    sizes, real = [], jc.timed_evaluate
    monkeypatch.setattr(
        "jaxcnn.runs.train.timed_evaluate", lambda run, v, data, **o: sizes.append(data.size) or real(run, v, data, **o)
    )
    code, _ = inside(capsys, monkeypatch, *QUICK, "--epochs", 2, "--workdir", tmp_path)
    assert code == 0 and sizes == [144, 144, 144, 300]  # before the first step only the names are asked for

"""experiments.transfer: a head on cached features leaves the whole network, resumes exactly, and bad input is one line."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import types

import chex
import jax
import numpy as np
import optax
import pytest
from PIL import Image

import jaxcnn as jc
from experiments import inference, transfer, transfer_curve
from jaxcnn import InputError, runs
from jaxcnn.weights.preprocessing import Preprocessing

SIGNALS = types.SimpleNamespace(stop=lambda: False, while_training=contextlib.nullcontext)
QUICK = {"epochs": 4, "batch_size": 8, "devices": 1, "augment": False}


def run(config):
    opened = []
    return pathlib.Path(transfer.main(config, SIGNALS, opened)["checkpoint"])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, n in (("train", 14), ("test", 6)):
        for k, name in enumerate(("ant", "bee", "cat", "dog", "emu")):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(40 * k, 40 * k + 120, (12, 12, 3)).astype(np.uint8)).save(
                    root / part / name / f"{i}.png"
                )
    return root


@pytest.fixture(scope="module")
def pretrained(images, tmp_path_factory):
    where = str(tmp_path_factory.mktemp("pretrained"))
    return run(transfer.Config(folder=str(images), classes=("ant", "bee", "cat"), model="mlp", workdir=where, **QUICK))


@pytest.fixture(scope="module")
def probe(images, pretrained, tmp_path_factory):
    """A head for two other classes."""
    config = transfer.Config(
        folder=str(images), classes=("dog", "emu"), weights=str(pretrained), train="head", per_class=9, keep_best=2,
        workdir=str(tmp_path_factory.mktemp("probe")), **QUICK,
    )  # fmt: skip
    return config, run(config)


def test_a_head_on_cached_features_leaves_the_whole_network(images, pretrained, probe, capsys):
    config, path = probe
    old, new, summary = jc.load_run(pretrained), jc.load_run(path), json.loads((path / "summary.json").read_text())
    assert summary["best_step"] == summary["steps"] == new.step
    assert new.model.num_classes == 2 and new.config["classes"] == ["dog", "emu"] and summary["train_rows"] == 16
    for name in ("hidden_0", "hidden_1"):
        chex.assert_trees_all_equal(new.variables["params"][name], old.variables["params"][name])
    assert new.config["build"]["task"]["options"]["mean"] == old.config["build"]["task"]["options"]["mean"]
    test = jc.data.folder(images, classes=("dog", "emu")).test
    values = jc.make_eval_step(new.task)(new.variables, dict(test.arrays))[1]
    assert values["accuracy"].compute() == pytest.approx(summary["test"]["accuracy"], abs=1e-9)
    assert values["loss"].compute() == pytest.approx(summary["test"]["loss"], rel=1e-5)
    capsys.readouterr()
    transfer.main(transfer.Config(evaluate=True, checkpoint=str(path), devices=1), SIGNALS, [])
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(summary["test"]["accuracy"])
    (found,) = inference.predict(
        transfer.Config(predict=(str(images / "test" / "emu" / "0.png"),), checkpoint=str(path))
    )
    assert found["class"] in ("dog", "emu")


def test_the_same_head_without_the_cache(probe, tmp_path):
    config, path = probe
    other = run(dataclasses.replace(config, cache=False, workdir=str(tmp_path)))
    a, b = (jax.device_get(jc.load_run(p).variables) for p in (path, other))
    chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal(a["params"]["hidden_0"], b["params"]["hidden_0"])


def test_a_head_resumes_exactly(probe, tmp_path):
    config, path = probe
    cut = tmp_path / "cut"
    shutil.copytree(path, cut)
    before = json.loads((cut / "summary.json").read_text())
    (cut / "summary.json").unlink()
    newest, *older = sorted((int(p.name) for p in (cut / "checkpoints").iterdir() if p.name.isdigit()), reverse=True)
    shutil.rmtree(cut / "checkpoints" / str(newest))
    assert older and newest == before["steps"]
    run(dataclasses.replace(config, resume=True, workdir=str(cut)))
    assert json.loads((cut / "summary.json").read_text())["params_sha256"] == before["params_sha256"]


def test_gradual_with_decay_and_a_frozen_layer(images, pretrained, tmp_path):
    path = run(transfer.Config(
        folder=str(images), classes=("dog", "emu"), weights=str(pretrained), train="gradual", layer_decay=0.5, freeze=("hidden_0",),
        best=True, workdir=str(tmp_path), **QUICK,
    ))  # fmt: skip
    old, new = (jc.load_run(p).variables["params"] for p in (pretrained, path))
    chex.assert_trees_all_equal(new["hidden_0"], old["hidden_0"])
    assert np.abs(new["hidden_1"]["kernel"] - old["hidden_1"]["kernel"]).max() > 1e-5
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    best = min((line for line in lines if line["split"] == "validation"), key=lambda line: line["loss"])
    assert json.loads((path / "summary.json").read_text())["best_step"] == best["step"]


@pytest.mark.parametrize("gray", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_weights_from_a_file(images, tmp_path, gray):
    """As `save_weights` writes them, with what is known about them: the form of the network, its pixels."""
    data = tmp_path / "data"
    shutil.copytree(images, data)
    for path in data.rglob("*.png") if gray else ():
        Image.open(path).convert("L").save(path)
    options = {"widths": [8, 8]}
    model = jc.models.cnn(7, **options)
    variables = model.init(jax.random.key(0), np.zeros((1, 24, 24, 3), np.float32), train=False)
    said = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), size=24)
    jc.save_weights(tmp_path / "x.safetensors", "cnn", variables, preprocessing=said, **options)
    plan = transfer.plan(
        transfer.Config(folder=str(data), model="cnn", weights=str(tmp_path / "x.safetensors"), train="head")
    )
    assert plan.build["model"]["options"] == {"num_classes": 5, "widths": [8, 8]}
    assert plan.build["image"]["shape"] == [24, 24, 1 if gray else 3]
    assert plan.build["task"]["options"]["mean"] == ([pytest.approx(0.2)] if gray else [0.1, 0.2, 0.3])
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    if gray:
        kernel = (
            (np.asarray(kernel, np.float64) * (0.5 / np.array(said.std))[:, None])
            .sum(-2, keepdims=True)
            .astype(np.float32)
        )
    chex.assert_trees_all_close(plan.variables["params"]["stem"]["conv"]["kernel"], kernel, rtol=1e-6)


def stated(header, data=b""):
    """The bytes of a safetensors file with this header."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


BAD_WEIGHTS = {
    "absent": (None, "no such file"),
    "absent.safetensors": (None, "no such file"),
    "folder.safetensors": (pathlib.Path.mkdir, "not a run's folder"),
    "pipe.safetensors": (os.mkfifo, "not a regular file"),
    "garbage": (b"garbage" * 99, "must be a .safetensors file, or a .pth or .pt one"),
    "garbage.safetensors": (b"garbage" * 99, "no sound safetensors file"),
    "empty.safetensors": (b"", "no sound safetensors file"),
    "nested.safetensors": (stated(b"[" * 200_000), "nested too deeply"),
    "large.safetensors": (stated({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}), "is stated at bytes"),
    "twice.safetensors": (
        stated({name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in "ab"}, bytes(16)), "'b' begins at byte 0",
    ),
    "other.safetensors": (
        stated({"fc1.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(16)), "does not fit resnet18: 102 missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_weights_that_are_none(tmp_path, name):
    content, words = BAD_WEIGHTS[name]
    if callable(content):
        content(tmp_path / name)
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        transfer.main(transfer.Config(folder=str(tmp_path), weights=str(tmp_path / name)), SIGNALS, [])
    assert words in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)


def test_scratch_has_the_network_of_the_weights_and_new_values(images, pretrained):
    config = transfer.Config(folder=str(images), classes=("dog", "emu"), weights=str(pretrained), seed=3)
    begun, new = (transfer.plan(dataclasses.replace(config, train=mode)) for mode in ("all", "scratch"))
    assert begun.build["model"] == new.build["model"] and begun.build["task"] != new.build["task"]
    plain = transfer.plan(transfer.Config(folder=str(images), classes=("dog", "emu"), model="mlp", seed=3))
    chex.assert_trees_all_equal(new.variables, plain.variables)
    assert (begun.variables["params"]["hidden_0"]["kernel"] != new.variables["params"]["hidden_0"]["kernel"]).any()


def test_pixel_dropout_brings_training_pixels_to_the_mean(images):
    plan = transfer.plan(transfer.Config(folder=str(images), model="mlp", pixel_dropout=1.0))
    see = plan.wrap(lambda state, batch: batch["image"])
    state = jc.init_state(runs.build(plan.build)[1], optax.identity(), plan.data.train.example(), 0)
    seen = np.asarray(see(state, {"image": np.zeros((64, 12, 12, 3), np.uint8)}))
    mean = np.round(np.array(plan.build["task"]["options"]["mean"]) * 255)
    lost = (seen == mean).all(-1).mean((1, 2))
    assert set(np.unique(seen)) == {0, *mean} and 16 < (lost > 0).sum() < 48 and lost.max() > 0.7


BAD = [
    ({"freeze": ("hiden_0",)}, "pattern 'hiden_0': names no parameter; near it are hidden_0"),
    ({"freeze": ("(",)}, "pattern '(': not a regular expression"),
    ({"train": "heads"}, "--train 'heads': unknown; did you mean 'head'?"),
    ({"train": "head", "weights": ""}, "--train head: needs --weights"),
    ({"model": "cnn"}, "is a run of mlp; leave --model out"),
    ({"weights": "", "model": "resnet19"}, "--model 'resnet19': unknown; did you mean 'resnet18'?"),
    ({"per_class": 13}, "class 'ant' has only 12 training rows"),
    ({"per_class": 2, "classes": ("ant", "bee")}, "--validation-fraction=0.1: cuts no row out of 4"),
    ({"per_class": -1}, "--per-class -1: must be at least 0"),
    ({"pixel_dropout": 1.5}, "--pixel-dropout 1.5: must be in 0..1"),
    (
        {"pixel_dropout": 0.5, "augment": False},
        "--pixel-dropout 0.5: nothing is augmented; give it without --no-augment",
    ),
    (
        {"pixel_dropout": 0.5, "train": "head"},
        "--pixel-dropout 0.5: nothing is augmented; give --no-cache with --train head",
    ),
    (
        {"image_size": 16},
        "the networks differ in 1 of 6 arrays, first hidden_0.kernel, [768, 256] in the new one and [432, 256]",
    ),
    ({"cifar_stem": True, "weights": "", "model": "cnn"}, "--cifar-stem: cnn has no such variant"),
    ({"keep_stats": True, "train": "scratch"}, "--keep-stats: new networks have no statistics to keep"),
    ({"layer_decay": 0.0}, "decay=0.0: must be above 0"),
    ({"weights": "/nowhere/x.safetensors", "model": "resnet18"}, "/nowhere/x.safetensors"),
    ({"classes": ("ant", "bat")}, "no class folder 'bat'"),
    ({"folder": ""}, "FOLDER: give a folder"),
]


@pytest.mark.parametrize("flags, line", BAD, ids=[str(flags) for flags, _ in BAD])
def test_bad_input(images, pretrained, flags, line):
    with pytest.raises(InputError) as caught:
        transfer.plan(transfer.Config(**{"folder": str(images), "weights": str(pretrained)} | flags))
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_curve(images, tmp_path):
    config = transfer_curve.Config(
        folder=str(images), model="mlp", seeds=2, per_class=(4, 8), epochs=2, devices=1, max_steps=3
    )
    config = dataclasses.replace(config, validation_fraction=0.25, workdir=str(tmp_path))
    opened = []
    first = transfer_curve.main(config, SIGNALS, opened)
    (folder,) = opened
    assert [len(row["mean"]) for row in first["table"]] == [2, 2, 2] and len(first["points"]) == 12
    row = first["table"][1]
    cells = [p["accuracy"] for p in first["points"] if (p["train"], p["per_class"]) == (row["train"], 4)]
    assert row["mean"][0] == pytest.approx(np.mean(cells)) and row["deviation"][0] == pytest.approx(
        np.std(cells, ddof=1)
    )
    with Image.open(folder / "curve.png") as picture:
        assert min(picture.size) > 300
    (folder / "summary.json").unlink()
    done = sorted(folder.glob("*/*/config.json"))
    shutil.rmtree(folder / "head-8-1")
    again = transfer_curve.main(dataclasses.replace(config, resume=True, workdir=str(folder)), SIGNALS, [])
    assert (
        len(set(done) - set(folder.glob("*/*/config.json"))) <= 1
        and len(list(folder.glob("*/*/config.json"))) == len(done) == 13
    )
    assert [p["accuracy"] for p in again["points"]] == [p["accuracy"] for p in first["points"]]

"""Studies: a resumed study trains no point twice, validation data decide the rates, and bad input gives one line."""

import contextlib
import dataclasses
import importlib
import json
import pathlib
import shutil
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from experiments.studies import (
    attention,
    bias,
    core,
    depth,
    gradients,
    imbalance,
    parameters,
    pooling,
    regularisation,
    shift,
)
from experiments.studies.core import Variant

SIGNALS = types.SimpleNamespace(stop=lambda: False, while_training=contextlib.nullcontext)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, n in (("train", 10), ("test", 4)):
        for k, name in enumerate(("ant", "bee")):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(100 * k, 100 * k + 150, (12, 12, 3)).astype(np.uint8)).save(
                    root / part / name / f"{i}.png"
                )
    return root


def test_mean_and_deviation_over_seeds():
    found = core.spread([0.1, 0.2, 0.6])
    assert found["mean"] == pytest.approx(0.3) and found["deviation"] == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert core.spread([0.4]) == {"mean": 0.4, "deviation": 0.0, "interval": 0.0}


def test_intervals_hold_the_mean_as_often_as_they_say(rng):
    hits = sum(abs((found := core.spread(rng.normal(size=5)))["mean"]) <= found["interval"] for _ in range(2000))
    assert 0.93 < hits / 2000 < 0.97


def test_variants_against_each_other(tmp_path, capsys):
    variants = {
        "one": Variant({"depth": 1, "width": 4}),
        "two halves": Variant({"depth": 2, "width": 4}, flags={"dropout": 0.5}),
    }
    config = core.Config(
        dataset="digits", seeds=2, train_images=40, epochs=1, max_steps=2, batch_size=8, devices=1,
        workdir=str(tmp_path),
    )  # fmt: skip
    seen, opened = [], []

    def measure(loaded, splits, flags):
        seen.append((splits.train.size, splits.test.size, flags.seed, flags.dropout, loaded.model.depth))
        return {"training accuracy": core.accuracy(loaded, splits.train)}

    table = core.compare("some", variants, config, SIGNALS, opened, measure)["table"]
    assert seen == [(40, 359, 0, 0.0, 1), (40, 359, 1, 0.0, 1), (40, 359, 0, 0.5, 2), (40, 359, 1, 0.5, 2)]
    assert [row["parameters"] for row in table] == [40 + 4 * 14 * 14 * 10 + 10, 40 + 148 + 4 * 7 * 7 * 10 + 10]
    runs = table[1]["runs"]
    summary = json.loads((pathlib.Path(runs[1]["checkpoint"]) / "summary.json").read_text())
    assert runs[1]["test accuracy"] == summary["test"]["accuracy"] and summary["test"]["count"] == 359
    loaded = jc.load_run(runs[0]["checkpoint"])
    few = jc.data.digits(validation_fraction=0.1).train.take(np.random.default_rng(0).permutation(1293)[:40]).arrays
    guess = np.asarray(loaded.task.predict(loaded.variables, few)).argmax(-1)
    assert runs[0]["training accuracy"] == pytest.approx((guess == few["label"]).mean())
    means = [np.mean([run["training accuracy"] for run in row["runs"]]) for row in table]
    lines = capsys.readouterr().out.splitlines()
    assert [f"{mean:.2%}" in line for mean, line in zip(means, lines[-3:-1], strict=True)] == [True, True], lines
    # the output of a run is in a file beside it
    assert "strategy" in (pathlib.Path(runs[0]["checkpoint"]).parent / "log.txt").read_text()
    (folder,) = opened
    (folder / "summary.json").unlink()
    again = core.compare("some", variants, dataclasses.replace(config, resume=True, workdir=str(folder)), SIGNALS, [])[
        "table"
    ]
    # nothing is trained again
    assert [row["runs"][0]["checkpoint"] for row in again] == [row["runs"][0]["checkpoint"] for row in table]


@pytest.mark.parametrize(
    "flags, line",
    [
        ({"seeds": 0}, "--seeds 0: must be at least 1"),
        ({"train_images": -1}, "--train-images -1: must be at least 0"),
        ({"predict": ("x.png",), "checkpoint": "x"}, "--evaluate and --predict: give one of the runs"),
        ({"learning_rate": 0.0}, "learning_rate=0.0: must be a positive number"),
    ],
    ids=["seeds", "train_images", "predict", "learning_rate"],
)
def test_bad_input_of_a_study(tmp_path, flags, line):
    with pytest.raises(jc.InputError, match=line.replace("(", r"\(")):
        config = core.Config(**{"dataset": "digits", "workdir": str(tmp_path)} | flags)
        core.compare("some", depth.VARIANTS, config, SIGNALS, [])
    assert not list(tmp_path.iterdir())


def sizes(variants):
    for variant in variants.values():
        model = jc.models.MODELS[variant.model](**variant.options)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28, 1), "float32"))
        yield sum(x.size for x in jax.tree.leaves(shapes["params"]))


def test_what_is_compared():
    assert len(list(sizes(depth.VARIANTS))) == 5 and len(set(sizes(pooling.VARIANTS))) == 1
    cnn, mlp, cnn_larger, mlp_larger = sizes(parameters.VARIANTS)
    assert mlp == pytest.approx(cnn, rel=0.01) and mlp_larger == pytest.approx(cnn_larger, rel=0.01)
    for variant in regularisation.VARIANTS.values():
        assert set(variant.flags) <= {f.name for f in dataclasses.fields(core.mnist.Config)}


@pytest.mark.slow
def test_the_gradient_shrinks_behind_sigmoids():
    splits, found = jc.data.digits(), {}
    for name in ("relu", "sigmoid"):
        variant = gradients.VARIANTS[name]
        model = jc.models.plain(**{**variant.options, "width": 4})
        loaded = types.SimpleNamespace(task=jc.tasks.classification(model))
        found[name] = gradients.norms(loaded, splits, core.mnist.Config())
        assert found[name]["last over first"] == pytest.approx(found[name]["last layer"] / found[name]["first layer"])
    assert found["relu"]["last over first"] < 10 < 1000 < found["sigmoid"]["last over first"]


def test_a_shift_moves_and_fills_with_zeros(rng):
    images = rng.integers(1, 255, (2, 6, 5, 1)).astype(np.uint8)
    np.testing.assert_array_equal(shift.shift(images, 2, 0)[:, 2:], images[:, :-2])
    np.testing.assert_array_equal(shift.shift(images, 0, -1)[:, :, :-1], images[:, :, 1:])
    assert not shift.shift(images, 2, 0)[:, :2].any() and not shift.shift(images, 0, -1)[:, :, -1:].any()
    np.testing.assert_array_equal(shift.shift(images, 0, 0), images)


def test_colours_follow_the_digit_in_training_only():
    found = bias.coloured(jc.data.digits(), 0.95)
    for part, share in (("train", 0.95), ("test", 0.1)):
        image, label, colour = (found[f"{name}_{part}"] for name in ("x", "y", "colour"))
        usual = found[f"usual_{part}"] == 1
        assert usual.mean() == pytest.approx(share, abs=0.03) and ((colour == label) == usual).all()
        hues = [image[colour == k].reshape(-1, 3).max(0) for k in range(10)]
        assert len({tuple(hue) for hue in hues}) == 10  # one each
    assert (found["x_test"].max(-1) == jc.data.digits().test.arrays["image"][..., 0]).all()  # as bright as before


@pytest.mark.slow
def test_a_planted_bias(tmp_path, monkeypatch):
    monkeypatch.setattr(
        bias, "VARIANTS", {name: v._replace(options={"width": 4, "depth": 1}) for name, v in bias.VARIANTS.items()}
    )
    config = bias.Config(
        dataset="digits", seeds=1, epochs=1, max_steps=2, batch_size=8, devices=1, usual=0.9, workdir=str(tmp_path)
    )
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", types.SimpleNamespace(name="experiments.studies.bias"))
    opened = []
    table = bias.main(config, SIGNALS, opened)["table"]
    run = jc.runs.read_config(table[0]["runs"][0]["checkpoint"])
    # the flags of the command line
    assert run["experiment"] == "mnist" and run["command"].startswith("python -m experiments.studies.bias")
    assert [row["variant"] for row in table] == list(bias.VARIANTS)
    (data,) = tmp_path.glob("coloured-digits-*-0.9.npz")
    weight = jc.load_run(table[1]["runs"][0]["checkpoint"]).config["data"]["sha256"]
    # the weights are among the data
    assert weight != jc.load_run(table[0]["runs"][0]["checkpoint"]).config["data"]["sha256"]
    report = importlib.import_module("jaxcnn.report.__main__")
    report.main([table[2]["runs"][0]["checkpoint"], "--group", "usual"], None)
    (made,) = pathlib.Path(table[2]["runs"][0]["checkpoint"]).glob("report.json")
    groups = {
        group["group"]: group["accuracy"] for group in json.loads(made.read_text())["test"]["slices"][0]["groups"]
    }
    found = table[2]["runs"][0]
    assert groups == {"1": found["accuracy, usual colour"], "0": found["accuracy, other colours"]}
    (folder,) = opened
    (folder / "summary.json").unlink()
    resumed = dataclasses.replace(config, resume=True, workdir=str(folder), dataset=str(data))
    assert bias.main(resumed, SIGNALS, [])["table"][0]["runs"] == table[0]["runs"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [({"usual": 1.0}, "--usual 1.0: must be above 0.1, "), ({"seeds": 0}, "--seeds 0: must be at least 1")],
    ids=["usual", "seeds"],
)
def test_bad_input_of_the_planted_bias(tmp_path, flags, line):
    with pytest.raises(jc.InputError, match=line):
        bias.main(bias.Config(**{"dataset": "digits", "workdir": str(tmp_path / "new")} | flags), SIGNALS, [])
    assert not list(tmp_path.iterdir())


def test_images_that_are_coloured_already_say_how_often(tmp_path, monkeypatch):
    data = jc.data.Resident(
        {
            "image": np.zeros((10, 8, 8, 3), np.uint8), "label": np.arange(10, dtype=np.int32) % 2,
            **{name: (np.arange(10) < 9).astype(np.int32) for name in bias.COLUMNS},
        },
        ("a", "b"),
    )  # fmt: skip
    monkeypatch.setattr(bias.mnist, "load", lambda config: ("x", jc.data.Splits(data, data, data), {}))
    assert bias.planted(bias.Config(dataset="x.npz", usual=0.9)) == "x.npz"
    with pytest.raises(jc.InputError, match="--usual 0.5: 0.9 of these images have the usual colour"):
        bias.planted(bias.Config(dataset="x.npz", usual=0.5))


def test_colour_images_are_filtered():
    pixels = np.full((40, 2, 2, 3), 200, np.uint8)
    part = jc.data.Resident({"image": pixels, "label": np.arange(40, dtype=np.int32) % 2}, ("a", "b"))
    found = bias.coloured(jc.data.Splits(part, part, part), 0.8)
    hues = {tuple(image[0, 0]) for image in found["x_train"]}
    assert found["x_train"].shape == pixels.shape and hues == {(200, 0, 0), (0, 200, 200)}


def test_a_class_is_made_rare():
    splits = jc.data.digits()
    found = imbalance.imbalanced(splits, 3, 20)
    others = sum((part.label != 3).sum() for part in splits[:2])
    assert found["y_train"].sum() == others // 20 and (found["y_train"] == 0).sum() == others
    np.testing.assert_array_equal(found["y_test"], splits.test.label == 3)
    rare = found["x_train"][found["y_train"] == 1].reshape(others // 20, -1)
    label = np.concatenate([part.label for part in splits[:2]])
    pool = np.concatenate([part.arrays["image"] for part in splits[:2]]).reshape(len(label), -1)
    rows = [np.flatnonzero((pool == image).all(1))[0] for image in rare]
    assert (label[rows] == 3).all() and len(set(rows)) == len(rows)
    for rare_class, ratio, line in ((10, 20, "--rare 10"), (3, 0, "--ratio 0"), (3, 2000, "--ratio 2000")):
        with pytest.raises(jc.InputError, match=line):
            imbalance.imbalanced(splits, rare_class, ratio)


def test_both_classes_and_both_groups_are_drawn_equally():
    """No row is left out, and rare ones come again."""
    n = 60
    columns = {"label": np.arange(n, dtype=np.int32) % 20 // 19, "usual": 1 - np.arange(n, dtype=np.int32) % 12 // 11}
    part = jc.data.Resident({"image": np.arange(n)[:, None, None, None].astype(np.uint8)} | columns, ("a", "b"))
    task = jc.tasks.classification(jc.models.mlp(num_classes=2))
    plan = jc.runs.Plan(task, jc.data.Splits(part, part, part), jc.optim.sgd)
    for changed, column in ((imbalance.sampled(plan), "label"), (bias.robust_in_turn(plan), "usual")):
        rows = changed.data.train.arrays
        assert np.bincount(rows[column]).tolist() == [max(np.bincount(columns[column]))] * 2
        assert set(rows["image"].ravel().tolist()) == set(range(n))


def test_variants_with_more_rows_have_no_more_updates():
    flags, task = core.mnist.Config(epochs=3, batch_size=8), jc.tasks.classification(jc.models.mlp(num_classes=2))

    def made(size):
        part = jc.data.Resident(
            {"image": np.zeros((size, 2, 2, 1), np.uint8), "label": np.zeros(size, np.int32)}, ("a",)
        )
        return flags, jc.runs.Plan(task, jc.data.Splits(part, part, part), jc.optim.sgd)

    found = core.same_updates({"as it is": made(20), "the same": made(20), "more": made(36)})
    assert [one.max_steps for one, _ in found.values()] == [flags.max_steps, flags.max_steps, 8]  # of 3 * 20 / 8


def test_differences_are_paired_by_seed():
    def row(name, values):
        return {"variant": name, "runs": [dict.fromkeys(imbalance.COMPARED, x) for x in values]}

    found = imbalance.gains([row("as it is", [0.1, 0.5]), row("weights", [0.2, 0.7]), row("focal", [0.0, 0.6])])
    assert [one["above"] for one in found] == [2, 2, 2, 1, 1, 1] and found[0]["mean"] == pytest.approx(0.15)
    assert [one["variant"] for one in found[::3]] == ["weights", "focal"] and found[3]["mean"] == pytest.approx(0.0)


@pytest.mark.slow
def test_a_rare_class(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        imbalance, "VARIANTS",
        {name: v._replace(options={"width": 4, "depth": 1}) for name, v in imbalance.VARIANTS.items()},
    )  # fmt: skip
    config = imbalance.Config(
        dataset="digits", seeds=1, max_steps=2, batch_size=8, devices=1, ratio=12, workdir=str(tmp_path)
    )
    opened = []
    found = imbalance.main(config, SIGNALS, opened)
    assert [row["variant"] for row in found["table"]] == list(imbalance.VARIANTS)
    run = found["table"][0]["runs"][0]
    loaded = jc.load_run(run["checkpoint"])
    test = jc.data.digits().test
    logits, _ = jc.collect(loaded.task.predict, loaded.variables, test)
    score, label = logits[:, 1].astype(float) - logits[:, 0], test.label == 9
    from sklearn.metrics import average_precision_score, f1_score, recall_score

    assert run["PR area"] == pytest.approx(average_precision_score(label, score))
    assert run["recall"] == pytest.approx(recall_score(label, score >= 0))
    assert run["F1"] == pytest.approx(f1_score(label, score >= 0))
    task = jc.load_run(found["table"][4]["runs"][0]["checkpoint"]).config["build"]["task"]["options"]
    assert task["logit_adjustment"] == pytest.approx(np.log([12 / 13, 1 / 13]).tolist(), rel=0.05)
    assert json.loads((opened[0] / "summary.json").read_text())["paired"] == found["paired"]
    (opened[0] / "summary.json").unlink()
    data = next(tmp_path.glob("rare-digits-*.npz"))
    again = dataclasses.replace(config, resume=True, workdir=str(opened[0]), dataset=str(data))
    assert imbalance.main(again, SIGNALS, [opened[0]])["table"] == found["table"]


@pytest.mark.slow
def test_attention_against_plain(images, tmp_path, monkeypatch, capsys):
    networks = {"plain": {"model": "resnet20", "widths": (4,)}, "squeezed": {"model": "seresnet20", "widths": (4,)}}
    monkeypatch.setattr(attention, "NETWORKS", networks)
    config = attention.Config(
        dataset=str(images), seeds=2, rates=(1e-6, 0.1), epochs=1, max_steps=2, batch_size=8, devices=1,
        validation_fraction=0.2,
        workdir=str(tmp_path),
    )  # fmt: skip
    opened = []
    table = attention.main(config, SIGNALS, opened)["table"]
    (folder,) = opened
    assert [row["network"] for row in table] == list(networks) and table[0]["parameters"] < table[1]["parameters"]
    for row in table:
        assert row["learning_rate"] == min(row["validation_losses"], key=row["validation_losses"].get)
        point = networks[row["network"]]["model"], row["learning_rate"]
        runs = [next(folder.glob(f"{'-'.join(map(str, point))}-{seed}/*/summary.json")) for seed in (0, 1)]
        assert row["accuracies"] == [json.loads(path.read_text())["test"]["accuracy"] for path in runs]
        assert row["mean"] == pytest.approx(np.mean(row["accuracies"]))
    settings = jc.load_run(runs[0].parent).config["settings"]
    assert settings["label_smoothing"] == attention.cifar10.RESNET20["label_smoothing"] and settings["epochs"] == 1
    assert len(capsys.readouterr().out.splitlines()) == 3
    (folder / "summary.json").unlink()
    done = sorted(folder.glob("*/*/config.json"))
    assert len(done) == 2 * (2 + 1)  # networks; rates with the first seed, the second seed
    shutil.rmtree(runs[1].parents[1])
    again = attention.main(dataclasses.replace(config, resume=True, workdir=str(folder)), SIGNALS, [])["table"]
    left = set(done) & set(folder.glob("*/*/config.json"))
    assert len(left) == 5 and [row["accuracies"] for row in again] == [row["accuracies"] for row in table]


@pytest.mark.parametrize(
    "flags, line",
    [
        ({"seeds": 0}, "--seeds 0, 3 numbers for --rates: needs at least one of each"),
        ({"rates": (-1.0,)}, "learning_rate=-1.0: must be a positive number"),
        ({"evaluate": True, "checkpoint": "x"}, "--evaluate and --predict: give one of the runs"),
        ({"dataset": "nowhere/at/all"}, "nowhere/at/all"),
    ],
    ids=["seeds", "rates", "evaluate", "dataset"],
)
def test_bad_input(images, tmp_path, flags, line):
    with pytest.raises(jc.InputError) as caught:
        attention.main(attention.Config(**{"dataset": str(images), "workdir": str(tmp_path)} | flags), SIGNALS, [])
    assert line in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())

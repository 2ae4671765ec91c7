"""An untrusted run's folder: files are checked, paths are not followed by default, and other data can be measured."""

import contextlib
import html.parser
import json
import os
import pathlib
import re
import shutil
import types

import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from experiments import binary, mnist
from jaxcnn import report, runs
from jaxcnn.report.__main__ import command, main
from jaxcnn.runs import match

SIGNALS = types.SimpleNamespace(stop=lambda: False, while_training=contextlib.nullcontext)


def arrays(part, n, classes=2, channels=1, turned=0, seed=0):
    """Make images whose brightness gives the class; `turned` exchanges 0 and 1."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % classes
    image = rng.integers(0, 40, (n, 8, 8, channels)) + (150 // (classes - 1)) * (label ^ turned)[:, None, None, None]
    return {f"x_{part}": image.astype(np.uint8), f"y_{part}": label}


def save(path, n, **more):
    np.savez(path, **arrays("train", 60, **more), **arrays("test", n, seed=1, **more))
    return str(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two classes of 8x8 gray images in an `.npz`, with no mistakes: its data and its folder."""
    top = tmp_path_factory.mktemp("made")
    config = mnist.Config(
        dataset=save(top / "a.npz", 20), model="mlp", epochs=6, batch_size=20, augment=False, ema=0.0, devices=1,
        gradient_norm=False,
        workdir=str(top / "runs"),
    )  # fmt: skip
    run = pathlib.Path(mnist.main(config, SIGNALS, [])["checkpoint"])
    assert json.loads((run / "summary.json").read_text())["test"]["accuracy"] == 1
    return top / "a.npz", run


@pytest.fixture
def run(finished, tmp_path):
    """A copy that may be changed."""
    shutil.copytree(finished[1], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A different user, or a different machine: none of the runs was made here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def edit(run, change, name="config.json"):
    found = json.loads((run / name).read_text())
    change(found)
    (run / name).write_text(json.dumps(found))


def evaluated(run, capsys, **flags):
    mnist.main(mnist.Config(evaluate=True, checkpoint=str(run), devices=1, **flags), SIGNALS, [])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(match, call, *arguments, **options):
    with pytest.raises(jc.InputError, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# other data


def test_other_data_are_measured_and_named(finished, tmp_path, capsys):
    own = evaluated(finished[1], capsys)
    assert (own["count"], own["accuracy"], own["data"], own["own_test_data"]) == (20, 1, str(finished[0]), True)
    other = save(tmp_path / "b.npz", 37, turned=1)
    found = evaluated(finished[1], capsys, dataset=other)
    assert (found["count"], found["accuracy"], found["data"], found["own_test_data"]) == (37, 0, other, False)
    assert found["part"] == "test part"
    values = runs.evaluate(jc.load_run(finished[1]), other)
    assert (values["count"], values["accuracy"]) == (37, 0)
    shutil.copy(finished[0], tmp_path / "moved.npz")
    moved = evaluated(finished[1], capsys, dataset=str(tmp_path / "moved.npz"))
    assert (moved["count"], moved["accuracy"], moved["own_test_data"]) == (20, 1, True)


def test_other_classes_and_images_are_refused(finished, tmp_path):
    config = runs.read_config(finished[1])
    three = save(tmp_path / "three.npz", 9, classes=3)
    line = refused("3 classes .0, 1, 2., and the run has 2 .0, 1.", runs.rows_to_measure, config, three)
    assert "three.npz" in line
    np.savez(tmp_path / "big.npz", **{k: v.repeat(2, 1) if v.ndim > 1 else v for k, v in np.load(finished[0]).items()})
    refused(
        "images of 16 x 8 x 1, and the run's are 8 x 8 x 1", runs.rows_to_measure, config, str(tmp_path / "big.npz")
    )
    refused("no such file or folder", runs.rows_to_measure, config, str(tmp_path / "none"))
    refused("data_dir=x .--data-dir.: only TFDS sets", runs.rows_to_measure, config, data_dir="x")


def pictures(root, names, n, value=lambda k: 150 * k, mode="L", side=8):
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(n):
            gray = np.random.default_rng(i).integers(0, 40, (side, side)) + value(k)
            Image.fromarray(gray.astype(np.uint8)).convert(mode).save(root / name / f"{i}.png")
    return str(root)


def test_a_plain_folder_is_measured_whole_and_a_test_folder_alone(finished, tmp_path):
    loaded = jc.load_run(finished[1])
    # read gray and at the run's size, as --predict does
    plain = pictures(tmp_path / "plain", "01", 7, mode="RGB", side=11)
    rows = runs.rows_to_measure(loaded.config, plain)
    assert (rows.data.size, rows.part, rows.own, rows.data.example()["image"].shape) == (
        14,
        "all images",
        False,
        (1, 8, 8, 1),
    )
    values = runs.evaluate(loaded, plain)
    assert values["count"] == 14 and values["accuracy"] == 1
    pictures(tmp_path / "parts" / "test", "01", 3)
    rows = runs.rows_to_measure(loaded.config, str(tmp_path / "parts"))  # no training part is needed
    assert (rows.data.size, rows.part) == (6, "test/ folder")
    pictures(tmp_path / "parts" / "train", "01", 5)
    assert runs.evaluate(loaded, str(tmp_path / "parts"))["count"] == 6
    named = pictures(tmp_path / "named", ("ant", "bee"), 4)
    rows = runs.rows_to_measure(loaded.config, named)
    assert rows.data.size == 8 and "matched by number" in rows.notes[0] and "1 is bee" in rows.notes[0]
    refused("3 classes", runs.rows_to_measure, loaded.config, pictures(tmp_path / "more", "012", 2))


def test_classes_are_matched_by_name(tmp_path, capsys):
    here = pictures(tmp_path / "data", ("bee", "ant"), 20)  # ant is bright
    config = binary.Config(
        folder=here, classes=("bee", "ant"), model="mlp", image_size=8, epochs=8, batch_size=8, ema=0.0, devices=1,
        dropout=0.0,
        workdir=str(tmp_path / "runs"),
    )  # fmt: skip
    path = binary.main(config, SIGNALS, [])["checkpoint"]
    loaded = jc.load_run(path)
    assert loaded.config["classes"] == ["bee", "ant"]
    other = pictures(tmp_path / "other", ("bee", "ant", "cow"), 3)
    capsys.readouterr()
    binary.main(binary.Config(evaluate=True, checkpoint=path, folder=other, devices=1), SIGNALS, [])
    found = json.loads(capsys.readouterr().out)
    assert (found["count"], found["accuracy"], found["own_test_data"], found["data"]) == (6, 1, False, other)
    rows = runs.rows_to_measure(loaded.config, other)
    assert [k for k, v in zip(rows.data.label, rows.data.arrays["image"].mean((1, 2, 3)), strict=True) if v > 100] == [
        1,
        1,
        1,
    ]
    shutil.copytree(here, tmp_path / "moved")
    assert runs.rows_to_measure(
        loaded.config, str(tmp_path / "moved")
    ).own  # the same training rows, so its test rows as well
    Image.new("L", (8, 8)).save(tmp_path / "data" / "bee" / "new.png")
    refused("which has changed since", runs.rows_to_measure, loaded.config, here)
    assert runs.evaluate(loaded, str(tmp_path / "moved"))["count"] == 8
    main([path, "--data", str(tmp_path / "moved")], None)
    assert "sigmoid" in (pathlib.Path(path) / "report.html").read_text()
    assert not runs.rows_to_measure(loaded.config, str(tmp_path / "moved" / "..") + "/other").own


def test_labels_and_channels_become_those_of_the_run(rng):
    table, note = match.table(("b", "c", "a"), ("a", "b", "c"), "x")
    assert table.tolist() == [1, 2, 0] and not note
    data = jc.data.Resident(
        {"image": rng.integers(0, 256, (3, 2, 2, 3), np.uint8), "label": np.array([0, 2, -1], np.int32)},
        ("b", "c", "a"),
    )
    held = match.matched(data, ("a", "b", "c"), table, 1)
    assert held.label.tolist() == [1, 0, -1] and held.classes == ("a", "b", "c")
    gray = [np.asarray(Image.fromarray(x).convert("L"))[..., None] for x in data.arrays["image"]]
    np.testing.assert_array_equal(held.arrays["image"], gray)
    read = jc.data.Indexed(lambda i: {k: x[i] for k, x in data.arrays.items()}, 3, data.classes)
    streamed = match.matched(read, ("a", "b", "c"), table, 1)
    (chunk,) = streamed.once(3)
    np.testing.assert_array_equal(chunk.at(0)["image"], gray)
    assert chunk.at(0)["label"].tolist() == [1, 0, -1] and streamed.size == 3
    np.testing.assert_allclose(match.with_channels(np.float32([[[1, 0, 0]]]), 1), [[[0.299]]], atol=1e-4)
    assert match.with_channels(held.arrays["image"], 3).shape == (3, 2, 2, 3)
    for theirs in (("a", "b"), ("a", "b", "d"), ("0", "1", "2", "3")):
        refused("give data with the classes of the run", match.table, theirs, ("a", "b", "c"), "x")


def test_a_report_on_other_data_says_so(finished, run, tmp_path, capsys):
    other = save(tmp_path / "<i>b.npz", 37, turned=1)
    assert command([str(run), "--data", other]) == 0
    assert "accuracy 0.0000 on 37 rows of other data" in capsys.readouterr().out
    made = json.loads((run / "report.json").read_text())
    assert (
        made["tested"] == {"name": other, "part": "test part", "own": False} and made["test"]["metrics"]["count"] == 37
    )
    card, page = (run / "MODEL_CARD.md").read_text(), (run / "report.html").read_text()
    for text in (card, page):
        assert "data other than the run" in text and "&lt;i&gt;b.npz" in text.replace("\\<i\\>", "&lt;i&gt;")
    assert "Not the run's own test part, but other data" in card and "37 rows" in card and ": 20 rows" not in card
    assert command([str(run)]) == 0
    made = json.loads((run / "report.json").read_text())
    assert made["tested"]["own"] and made["test"]["metrics"]["count"] == 20 and not made["test"]["notes"]


# runs that were made elsewhere


def test_paths_of_a_run_made_elsewhere_are_not_followed(run, finished, elsewhere, capsys):
    config = runs.read_config(run)
    line = refused(
        "the run was not made here, so the path in its config.json, .*a.npz, is not followed; say where",
        runs.read_data,
        config,
    )
    assert "--data" in line and "--dataset" in line
    assert command([str(run)]) == 2 and "is not followed" in capsys.readouterr().err
    assert command([str(run), "--data", str(finished[0])]) == 0
    assert evaluated(run, capsys, dataset=str(finished[0]))["own_test_data"]
    assert runs.read_data(config, str(finished[0])).test.size == 20


def test_a_mark_is_of_one_description_and_one_user(run, tmp_path, monkeypatch):
    assert runs.read_data(runs.read_config(run)).test.size == 20  # a copy of a run that was made here
    other = save(tmp_path / "b.npz", 20)
    edit(run, lambda c: c["source"]["options"].update(path=other))
    refused("is not followed", runs.read_data, runs.read_config(run))
    edit(run, lambda c: c["source"].update(made_here="ü" * 64))
    refused("is not followed", runs.read_data, runs.read_config(run))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    # there is no place for a key: the user says where the data are
    assert set(runs.source("npz", {"path": "x"})) == {
        "name",
        "options",
    }
    key = tmp_path / "cache" / "jaxcnn" / "runs" / "key"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = runs.source("npz", {"path": "x"})
    assert first == runs.source("npz", {"path": "x"}) != runs.source("npz", {"path": "y"})
    assert len(key.read_bytes()) == 32 and key.stat().st_mode & 0o77 == 0 and len(list(key.parent.iterdir())) == 1


def test_options_of_a_source_are_those_that_runs_write(run, tmp_path):
    for options, line in (
        ({"cache": str(tmp_path)}, "cache: no such option"), ({"on_bad": 1}, "on_bad: no such option"),
        ({"path": 3}, "path: .*string"),
        ({"seed": -1}, "seed: -1"), ({"validation_fraction": [1]}, "validation_fraction"),
        ({"x" * 500: 1}, "no such option"),
    ):  # fmt: skip
        config = runs.read_config(run)
        config["source"]["options"].update(options)
        refused(line, runs.read_data, config, str(tmp_path / "x.npz"))
    for name, options, line in (
        ("os.system", {}, "'os.system' as the source of the data, which this version does not have"),
        ("tfds", {"name": "../../x"}, "must be the name of a TFDS set"), ("tfds", {}, "must be the name of a TFDS set"),
        ("folder", {"path": "/x", "size": 10**9}, "pixels per side"),
        ("folder", {"path": "/x", "size": [1, 2, 3]}, "pixels per side"),
        ("folder", {}, "does not say where the data are"),
        ("folder", {"path": "/x", "classes": [1]}, "classes.0: .*string, not 1"),
    ):  # fmt: skip
        refused(line, runs.read_data, config | {"source": {"name": name, "options": options}})


def test_runs_older_than_the_record_can_be_measured(finished, run, elsewhere, capsys):
    edit(run, lambda c: c.pop("source"))
    refused("is not followed", runs.read_data, runs.read_config(run))
    assert evaluated(run, capsys, dataset=str(finished[0]))["own_test_data"]
    edit(run, lambda c: c.update(settings={}))
    refused("does not say how the data were read", runs.read_data, runs.read_config(run))
    assert evaluated(run, capsys, dataset=str(finished[0]))["count"] == 20


# files of a run


def put(*path):
    """Change one place of a config."""
    *way, last, value = path

    def change(found):
        for key in way:
            found = found[key]
        found[last] = value

    return change


def detector(backbone):
    return {"name": "fcos", "options": {"num_classes": 2, "backbone": backbone}}


CONFIG = {
    "experiment": (put("experiment", 3), "experiment: .*string, not 3"),
    "experiment that is a command": (
        put("experiment", "x; rm -rf ~"),
        "experiment: 'x; rm -rf ~': must be the name of an experiment",
    ),
    "classes": (put("classes", {"a": 1}), "classes: .*list"),
    "a class": (put("classes", ["0", 1]), "classes.1: .*string, not 1"),
    "no classes": (put("classes", []), "classes: .*0 names"),
    "twice": (put("classes", ["0", "0"]), "each once"),
    "other number": (put("classes", ["0", "1", "2"]), "num_classes=2"),
    "data": (put("data", []), "data: .*dict"),
    "rows": (put("data", "rows", [1, -2, 3]), "data.rows: .*must be the rows"),
    "a row": (put("data", "rows", [1, 2.5, 3]), "data.rows.1: .*integer, not 2.5"),
    "sha": (put("data", "sha256", 5), "data.sha256: .*string, not 5"),
    "settings": (put("settings", None), "settings: .*dict"),
    "a setting": (put("settings", "seed", {"a": 1}), "settings.seed: .*plain value"),
    "command": (put("command", ["x"]), "command: .*string"),
    "versions": (put("versions", {"jax": 1}), "versions.jax: .*string, not 1"),
    "build": (put("build", "x"), "build: .*dict"),
    "model": (put("build", "model", "mlp"), "build.model: .*dict"),
    "model name": (
        put("build", "model", "name", "os.system"),
        "build.model.name: 'os.system': this version of jaxcnn has no such model",
    ),
    "model name of a type": (put("build", "model", "name", ["mlp"]), "build.model.name: .*string"),
    "task name": (put("build", "task", "name", "x"), "build.task.name: 'x'"),
    "unknown option": (
        put("build", "model", "options", "depth", 3),
        "depth: no such option .*it has dropout, dtype, num_classes, widths",
    ),
    "option of a type": (
        put("build", "model", "options", "widths", "a"),
        "build.model.options: widths: .*list, not 'a'",
    ),
    "true for a number": (put("build", "model", "options", "num_classes", True), "num_classes: .*integer, not True"),
    "many classes": (
        put("build", "model", "options", "num_classes", 10**12),
        "num_classes: 1000000000000: must be 1 to",
    ),
    "wide": (put("build", "model", "options", "widths", [10**9]), "widths: .*must be 0 to"),
    "negative": (put("build", "model", "options", "widths", [-1]), "widths: .*must be 0 to"),
    "deep": (put("build", "model", "options", "widths", [1] * 10**4), "10,000 layers"),
    "dropout": (put("build", "model", "options", "dropout", 1.5), "dropout: 1.5: must be at least 0"),
    "dtype": (put("build", "model", "options", "dtype", "os"), "the model cannot be built from this description .*os"),
    "code only": (
        put("build", "model", {"name": "cnn", "options": {"norm": "eval"}}),
        "norm: 'eval': can only be given in Python",
    ),
    "huge depth": (
        put("build", "model", {"name": "plain", "options": {"depth": 10**6, "num_classes": 2}}),
        "depth: 1000000: must be 0 to",
    ),
    "many blocks": (
        put("build", "model", {"name": "resnet18", "options": {"blocks": [200] * 4, "num_classes": 2}}),
        "800 layers",
    ),
    "no heads": (
        put("build", "model", {"name": "vit_tiny_patch16_224", "options": {"heads": 0, "num_classes": 2}}),
        "cannot be built",
    ),
    "body unknown": (put("build", "model", detector({"name": "nosuch", "options": {}})), "backbone: name: 'nosuch'"),
    "body of a detector": (put("build", "model", detector({"name": "ssd", "options": {}})), "backbone: name: 'ssd'"),
    "body in code": (put("build", "model", detector({"name": "cnn", "options": {"norm": "x"}})), "backbone.*in Python"),
    "body wide": (put("build", "model", detector({"name": "resnet18", "options": {"width": 10**9}})), "must be 0 to"),
    "body of keys": (put("build", "model", detector({"name": "cnn"})), "backbone: options: field required"),
    "body of a type": (put("build", "model", detector([1])), "backbone: .*not \\[1\\]"),
    "task option": (put("build", "task", "options", "mean", "x"), "build.task.options: mean: "),
    "model as option": (put("build", "task", "options", "model", "x"), "model: no such option"),
    "head": (put("build", "task", "options", "head", "x"), "head: .*'softmax'"),
    "sigmoid": (put("build", "task", "options", "head", "sigmoid"), "cannot be built .*num_classes=2"),
    "size": (put("build", "task", "options", "size", [10**9, 10**9]), "size: .*must be height and width"),
    "size of three": (put("build", "task", "options", "size", [1, 2, 3]), "size: .*must be height and width"),
    "resize": (put("build", "task", "options", "resize", 10**9), "resize: .*values"),
    "image": (put("build", "image", "shape", [10**9, 10**9, 3]), "build.image.shape: .*values at most"),
    "no image": (put("build", "image", "shape", []), "build.image.shape: .*must be height, width and channels"),
    "negative image": (put("build", "image", "shape", [-1, 8, 1]), "build.image.shape: "),
    "image dtype": (put("build", "image", "dtype", "object"), "build.image.dtype: 'object': must be one of uint8"),
    "ema": (put("build", "ema", 7), "build.ema: 7: must be"),
    "views": (put("build", "views", {"flip": 1}), "build.views: flip: .*boolean, not 1"),
    "views far": (put("build", "views", {"shift": 10**9}), "build.views.shift: 1000000000"),
    "views unknown": (put("build", "views", {"x": 1}), "build.views: x: no such option"),
    "source": (put("source", []), "source: .*dict"),
    "format": (put("format", 9), "format: 9: newer than 1"),
    "big integer": (put("settings", "seed", 10**400), "an integer of .* bits"),
    "NaN": (put("build", "task", "options", "std", [float("nan")]), "std: .*must be finite"),
}


@pytest.mark.parametrize("name", CONFIG)
def test_a_config_that_does_not_fit_is_one_line(run, name):
    change, line = CONFIG[name]
    edit(run, change)
    assert "config.json" in refused(line, jc.load_run, run)


def test_files_that_are_no_config(run):
    path = run / "config.json"
    for text, line in (
        ("[" * 10**5, "nested too deeply"),
        ('{"a":' * 40 + "1" + "}" * 40, "40|32 levels"),
        ("{", "not JSON"),
        ("[]", "dict"),
    ):
        path.write_text(text)
        refused(line, jc.load_run, run)
    path.unlink()
    refused("no config.json in it", jc.load_run, run)
    os.mkfifo(path)
    refused("not a regular file", jc.load_run, run)
    path.unlink()
    path.symlink_to("/dev/zero")
    refused("not a regular file", jc.load_run, run)


SUMMARY = {
    "parameters": (put("parameters", "1"), "parameters: .*integer, not '1'"),
    "steps": (put("steps", 1.5), "steps: .*integer"),
    "epochs": (put("epochs", None), "epochs: "), "seconds": (put("train_seconds", -1), "train_seconds: -1"),
    "seed": (put("seed", [1]), "seed: "), "best": (put("best_step", "x"), "best_step: "),
    "validation": (put("validation", 3), "validation: "),
    "accuracy": (put("test", "accuracy", "x"), "test.accuracy: 'x'"),
    "large": (put("test", "accuracy", 1e300), "test.accuracy: 1e\\+300"),
}  # fmt: skip
LINES = {
    "split": ("split", "x", "split: "), "split of a type": ("split", [], "split: "),
    "step": ("step", "1", "step: .*integer, not '1'"),
    "negative": ("step", -1, "must not be negative"), "epoch": ("epoch", None, "epoch: "),
    "loss": ("loss", "1", "loss"),
    "large": ("loss", 1e300, "larger than"), "accuracy": ("accuracy", 5.0, "accuracy above 1"),
    "count": ("count", None, "count: "),
    "list": ("x", [1], "x: .*plain value"), "rate": ("learning_rate", {}, "learning_rate"),
}  # fmt: skip


@pytest.mark.parametrize("name", SUMMARY)
def test_a_summary_that_does_not_fit_is_one_line(run, name):
    change, line = SUMMARY[name]
    edit(run, change, "summary.json")
    assert "summary.json" in refused(line, report.read_finished, run)


@pytest.mark.parametrize("name", LINES)
def test_a_log_that_does_not_fit_is_one_line(run, name):
    key, value, line = LINES[name]
    path = run / "metrics.jsonl"
    first, second, *rest = [json.loads(x) for x in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(x) + "\n" for x in (first, second | {key: value}, *rest)))
    assert "metrics.jsonl: line 2" in refused(line, report.read_finished, run)


def test_metrics_that_are_no_numbers_are_reported(run, capsys):
    path = run / "metrics.jsonl"
    found = [json.loads(x) for x in path.read_text().splitlines()]
    found[-2] |= {"loss": float("nan"), "accuracy": None}
    found[0] |= {"loss": float("inf"), "learning_rate": None, "grad_norm": None}
    path.write_text("".join(json.dumps(x) + "\n" for x in found))
    for value in (None, float("nan")):
        edit(run, put("test", "accuracy", value), "summary.json")
        edit(run, put("validation", {"loss": value}), "summary.json")
        assert command([str(run)]) == 0 and "verdict diverged" in capsys.readouterr().out
        json.loads((run / "report.json").read_text(), parse_constant=pytest.fail)
        assert "recorded no accuracy of its test rows" in (run / "report.html").read_text()


def test_tiny_values_and_a_run_of_one_epoch_are_drawn(run):
    path = run / "metrics.jsonl"
    found = [json.loads(x) | {"loss": 5e-324 * k, "epoch": 1e-320} for k, x in enumerate(path.read_text().splitlines())]
    path.write_text("".join(json.dumps(x) + "\n" for x in found))
    assert command([str(run)]) == 0


EVIL = "<script>x</script>](javascript:x)\x1b]0;x\x07\n# heading\u202e`|\"'>"


def poison(value):
    """Add markup and control sequences to every string of a value."""
    if isinstance(value, dict):
        return {(k if k in KEPT else k): v if k in KEPT else poison(v) for k, v in value.items()}
    return [poison(x) for x in value] if isinstance(value, list) else value + EVIL if isinstance(value, str) else value


KEPT = {"experiment", "build", "source", "split", "classes"}


class Attributes(html.parser.HTMLParser):
    """All attributes of a page, and that it has the elements of a page alone."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "iframe", "object", "embed", "form", "base"), tag
        self.found += attrs


def test_nothing_in_a_run_is_live_in_pages_cards_or_on_the_terminal(finished, tmp_path, capsys):
    paths = [tmp_path / f"run{k}\x1b]0;x\x07\n# heading" for k in range(2)]
    for k, path in enumerate(paths):
        shutil.copytree(finished[1], path)
        edit(path, lambda c: c.update(poison(c), classes=[x + EVIL for x in c["classes"]]))
        edit(
            path,
            lambda c, k=k: (
                c["versions"].update({EVIL: EVIL}),
                c["settings"].update({f"x{EVIL}": k}),
                c["build"].update(variant=EVIL + str(k)),
            ),
        )
        edit(path, lambda c: c.update({EVIL: EVIL, "strategy": EVIL}), "summary.json")
    np.savez(tmp_path / "c.npz", **np.load(finished[0]))
    (tmp_path / "g.json").write_text(json.dumps({f"who{EVIL}": [f"{i % 2}{EVIL}" for i in range(20)]}))
    flags = [
        "--data",
        str(tmp_path / "c.npz"),
        "--group-file",
        str(tmp_path / "g.json"),
        "--out",
        str(tmp_path / "compare.html"),
    ]
    assert command([*map(str, paths), *flags]) == 0
    said = capsys.readouterr()
    assert command([str(paths[0]), "--group", EVIL]) == 2  # also in refused input
    said = said.out + said.err + capsys.readouterr().err
    pages = [(path / name).read_text() for path in paths for name in ("report.html", "MODEL_CARD.md")] + [
        (tmp_path / "compare.html").read_text()
    ]
    for text in (said, *pages):
        assert not set("\x1b\x07\u202e") & set(text)
    assert "\n# heading" not in said and len(said.splitlines()) == 4
    for text in pages:
        assert not re.search(r"(?<!\\)<script", text) and not re.search(r"^# heading", text, re.M)
        assert "](javascript" not in text or text.startswith("<!DOCTYPE html>")  # where it is text
        attributes = Attributes(text).found if text.startswith("<!DOCTYPE html>") else []
        assert not [name for name, _ in attributes if name.startswith("on")]
        assert all(
            re.fullmatch(r"#[a-z]+|data:,|[\w%/]+/report\.html", value) for name, value in attributes if name == "href"
        )


def test_reports_replace_links_and_follow_none(run, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("report.html", "report.json", "MODEL_CARD.md", ".report.html.part", ".MODEL_CARD.md.part"):
        (run / name).symlink_to(victim)
    assert command([str(run)]) == 0
    assert (
        victim.read_text() == "mine"
        and not (run / "report.html").is_symlink()
        and (run / ".report.html.part").is_symlink()
    )


def test_an_interrupted_report_says_so(run, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxcnn.report.__main__.load_run", stop)
    assert command([str(run)]) == 130
    assert capsys.readouterr().err == "jaxcnn.report: stopped; each report is written completely or not at all\n"


def test_checkpoints_of_another_model_are_named(run):
    edit(run, put("build", "model", "options", "widths", [7, 7]))
    refused("its checkpoint .* does not fit its config.json", jc.load_run, run)
    shutil.rmtree(run / "checkpoints")
    refused("no checkpoint that can be read", jc.load_run, run)


def test_ten_thousand_classes_make_a_small_page(finished):
    config, n = runs.read_config(finished[1]), 10**4
    names = [f"class {k}" for k in range(n)]
    each = [
        {"class": c, "count": 1, "precision": 0.5, "recall": 0.5, "f1": k / n, "roc_auc": 0.5, "pr_auc": 0.5}
        for k, c in enumerate(names)
    ]
    found = report.measure(np.eye(2)[[0, 1, 1]], np.array([0, 1, 0]), ("0", "1"))
    found |= {"per_class": each[::-1], "confusion": None, "notes": [f"ROC of {c} is undefined" for c in names]}
    made = report.make("run", report.read_finished(finished[1])._replace(config=config | {"classes": names}), found)
    page, card = report.page(made), report.card(made)
    assert len(page) < 200_000 and len(card) < 30_000 and page.count("<tr>") < 300
    for text in (page, card):
        assert "class 99" in text and "class 100" not in text and "lowest F1" in text and "9,980 more notes" in text


# meanings of `--dataset`


def test_what_a_user_names(tmp_path):
    for name in ("digits-train-images-idx3-ubyte", "x"):
        (tmp_path / name).mkdir()
    idx = tmp_path / "digits-train-images-idx3-ubyte" / "emnist-digits-train-images-idx3-ubyte.gz"
    idx.write_bytes(b"")
    (tmp_path / "x.txt").write_text("a")
    (tmp_path / "x.csv").write_text("file,label")
    assert runs.find(str(tmp_path / "x.csv"))[0] == "csv"
    found = {name: runs.find(str(tmp_path / name))[0] for name in ("x", "digits-train-images-idx3-ubyte", "none.npz")}
    assert found == {"x": "folder", "digits-train-images-idx3-ubyte": "idx", "none.npz": "npz"}
    assert runs.find(str(idx))[0] == "idx" and runs.find("digits") == ("digits", {})
    assert runs.find("emnist/letters", "here") == ("tfds", {"name": "emnist/letters", "data_dir": "here"})
    refused(
        "not a data set; give a folder of images, a CSV file, an .npz file, or a folder of IDX",
        runs.find,
        str(tmp_path / "x.txt"),
    )
    refused("--dataset .*none: no such file or folder", mnist.load, mnist.Config(dataset=str(tmp_path / "none")))
    refused("IDX", mnist.load, mnist.Config(dataset=str(idx)))
    assert runs.find("a.npz")[1] == {"path": "a.npz"}


@pytest.mark.slow
def test_a_set_of_tfds_by_name_is_brought_to_the_runs_size(tmp_path):
    from tests.data import test_tfds

    test_tfds.prepare(test_tfds.JcNumbered, tmp_path / "here", "array_record")
    made = jc.data.tfds("jc_numbered", data_dir=tmp_path / "here").test
    height, width, channels = made.example()["image"].shape[1:]
    other = {1: 3, 3: 1}[channels]
    config = {
        "settings": {}, "classes": list(made.classes)[::-1], "data": {"name": "x"}, "source": None,
        "build": {
            "task": {"name": "classification", "options": {}},
            "image": {"shape": [height // 2, width, other], "dtype": "uint8"},
        },
    }  # fmt: skip
    rows = runs.rows_to_measure(config, "jc_numbered", data_dir=str(tmp_path / "here"))
    assert (rows.data.size, rows.part, rows.own, rows.name) == (made.size, "test part", False, "jc_numbered")
    assert rows.data.example()["image"].shape == (1, height // 2, width, other)
    assert (rows.data.label == len(made.classes) - 1 - made.label).all()
    source = {"name": "tfds", "options": {"name": "jc_numbered", "data_dir": "/somewhere", "validation_fraction": 0.1}}
    config |= {
        "source": source,
        "classes": list(made.classes),
        "data": {"name": "jc_numbered", "rows": [1, 1, made.size]},
    }
    refused("path in its config.json, /somewhere, is not followed", runs.rows_to_measure, config)
    # where the run's own set is now
    for flags in (
        {"place": str(tmp_path / "here")},
        {"data_dir": str(tmp_path / "here")},
    ):
        assert runs.rows_to_measure(config, **flags).own


def test_options_of_older_runs_have_their_present_names(tmp_path):
    shutil.copytree(pathlib.Path(__file__).parents[1] / "fixtures" / "run-format-2", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    config["settings"]["small_images"] = True
    config["build"]["model"] = {"name": "resnet18", "options": {"num_classes": 3, "small_images": True}}
    path.write_text(json.dumps(config))
    found = runs.read_config(tmp_path / "run")
    assert found["settings"]["cifar_stem"] and runs.build(found["build"])[0].cifar_stem
    path.write_text("[]")  # of another form
    with pytest.raises(jc.InputError, match="not a run's folder"):
        runs.read_config(tmp_path / "run")

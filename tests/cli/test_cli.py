"""The `jaxcnn` command: each subcommand on tiny data, files with their names, and errors in one line."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.cli import layouts, options, planning, rate, recipe, weights
from jaxcnn.cli.main import COMMANDS, main
from jaxcnn.cli.train import SHOWN, Train
from jaxcnn.data import image as image_files
from jaxcnn.weights.tables import TABLES
from tests.data import test_tfds
from tests.data.test_sources import good, write_idx

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLASSES = ("bee", "cat", "dog")
prepared = test_tfds.prepared  # a fixture
TINY = (
    "--max-steps", "3", "--batch-size", "16", "--devices", "1", "--model", "mlp", "--augment", "none",
    "--no-gradient-norm",
)  # fmt: skip


def picture(path, k, rng, size=(16, 16)):
    from PIL import Image

    pixels = rng.integers(0, 90, (*size, 3))
    pixels[..., k % 3] += 140
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def photos(folder, each=20, classes=CLASSES, size=(16, 16)):
    rng = np.random.default_rng(0)
    for k, name in enumerate(classes):
        for i in range(each):
            picture(folder / name / f"{name}-{i:02}.png", k, rng, size)
    return folder


def run(*arguments, code=0):
    found = main([*map(str, arguments)])
    assert found == code, found


def refused(capsys, *arguments):
    """The line that a command ends with, of bad input."""
    run(*arguments, code=2)
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("dataset")]
    assert "Traceback" not in out + err and lines
    return lines[-1]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("cli") / "photos")


@pytest.fixture(scope="module")
def trained(here):
    """The folder of a run, and the output of its training."""
    command = [sys.executable, "-m", "jaxcnn", "train", here.name, *TINY, "--workdir", "runs"]
    done = subprocess.run(
        command, cwd=here.parent, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (here.parent / "runs").iterdir()
    return folder, done.stdout


def test_training_says_what_it_does_and_what_comes_next(trained):
    folder, out = trained
    lines = out.splitlines()
    assert lines[0] == "photos: photos: 3 classes in folders: classification"
    head = {line[:9].strip(): line[9:] for line in lines[1:10]}
    assert head["classes"] == "3: bee, cat, dog" and head["rows"] == "43 to train on, 5 to validate on, 12 to test on"
    assert head["images"] == "16 x 16 x 3 uint8" and head["training"] == "1.116 epochs, 3 updates of 16 rows"
    assert lines[-2:] == [f"next: jaxcnn report runs/{folder.name}", f"      jaxcnn predict runs/{folder.name} FILES"]
    assert all(len(line) <= 80 for line in lines if str(folder.parent.parent) not in line), out
    config = json.loads((folder / "config.json").read_text())
    assert config["experiment"] == "train" and config["command"].startswith("jaxcnn train photos --max-steps 3")
    assert config["data"]["name"] == "photos" and config["settings"]["data"] == str(folder.parent.parent / "photos")
    assert config["source"]["name"] == "folder" and config["settings"]["learning_rate"] == 1e-3


def test_evaluate_on_its_own_and_on_other_rows(trained, tmp_path, capsys):
    run("evaluate", trained[0], "--devices", 1)
    own = json.loads(capsys.readouterr().out)
    summary = json.loads((trained[0] / "summary.json").read_text())
    assert own["count"] == 12 and own["own_test_data"] and own["accuracy"] == pytest.approx(summary["test"]["accuracy"])
    run("evaluate", trained[0], photos(tmp_path / "others", 4, CLASSES[::-1]), "--devices", 1)
    assert json.loads(capsys.readouterr().out)["count"] == 12
    assert (
        refused(capsys, "evaluate", tmp_path)
        == f"jaxcnn evaluate: {tmp_path}: not a run's folder (no config.json in it)"
    )


def test_predictions_name_their_files(trained, here, tmp_path, capsys):
    files = sorted((here / "cat").iterdir())[:3]
    run("predict", trained[0], *files)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == [str(f) for f in files]
    loaded = jc.load_run(trained[0])
    images = np.stack([jc.data.folder.__globals__["read_image"](f, 3, (16, 16)) for f in files])
    expected = np.asarray(jc.tasks.probabilities(loaded.task.predict(loaded.variables, {"image": images})))
    np.testing.assert_allclose([list(line["probabilities"].values()) for line in lines], expected, atol=2e-6)
    run("predict", trained[0], here, "--csv", tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert len(rows) == 60 and rows[0]["file"] == str(here / "bee" / "bee-00.png")
    assert {r["class"] for r in rows} <= set(CLASSES) and set(CLASSES) < set(rows[0])
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert refused(capsys, "predict", trained[0], tmp_path / "bad.png").endswith(
        "leave it out, or give --on-bad-example skip"
    )
    run("predict", trained[0], tmp_path / "bad.png", files[0], "--on-bad-example", "skip")
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_mistakes_in_reports_name_their_files(trained, here, capsys):
    run("report", trained[0])
    made = json.loads((trained[0] / "report.json").read_text())
    test = jc.data.folder(here).test
    examples = [e for kind in made["examples"].values() for e in kind]
    assert examples and all(e["file"] == test.names[e["row"]] and (here / e["file"]).is_file() for e in examples)
    assert examples[0]["file"] in (trained[0] / "report.html").read_text()


def test_explain_draws_a_picture_per_file(trained, here, tmp_path, capsys):
    run(
        "explain", trained[0], here / "bee" / "bee-00.png", here / "cat" / "cat-00.png", "--target", "dog", "--output",
        tmp_path / "e",
    )  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == ["bee-00.png", "cat-00.png"]
    assert all(json.loads(line)["explained"] == "dog" for line in capsys.readouterr().out.splitlines())


def test_data_says_what_is_there(here, tmp_path, capsys):
    (here / "notes.txt").write_text("x")
    run("data", here, "--output", tmp_path / "examples.png")
    (here / "notes.txt").unlink()
    out, err = capsys.readouterr()
    said = " ".join(out.split())
    assert (
        "train validation test rows 43 5 12 bee 15 1 4 cat 14 2 4" in said
        and "files 16 to 16 pixels high, 16 to 16 wide" in said
    ), said
    assert "1 .txt" in err and (tmp_path / "examples.png").stat().st_size > 5000


def test_models_lists_the_networks(capsys, monkeypatch):
    monkeypatch.setattr("jaxcnn.models.__main__.MODELS", {"lenet5": jc.models.lenet5})
    run("models", "--json")
    assert json.loads(capsys.readouterr().out)[0]["name"] == "lenet5"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen(name, capsys):
    run(name, "--help")
    lines = capsys.readouterr().out.splitlines()
    assert 3 < len(lines) < 60 and lines[0].startswith(f"usage: jaxcnn {name}")
    run(name, "--help-all")
    assert len(capsys.readouterr().out.splitlines()) >= len(lines) - 1


def test_help_all_has_the_flags_that_help_leaves_out(capsys):
    assert set(SHOWN) <= {f for f in Train.__dataclass_fields__}
    run("train", "--help")
    assert "--shard-parameters" not in capsys.readouterr().out
    run("train", "--help-all")
    assert "--shard-parameters" in capsys.readouterr().out


def test_an_unknown_command(capsys):
    run("trian", code=2)
    assert capsys.readouterr().err == "jaxcnn: 'trian': no such command; did you mean 'train'?\n"
    run(code=2)
    assert "jaxcnn train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "DATA: give a folder of classes"),
        (("PHOTOZ",), "PHOTOZ: no such file or folder; did you mean PHOTOS?"),
        (("./nothing",), "./nothing: no such file or folder, and not the name of a TFDS set"),
        (("PHOTOS", "--modle", "cnn"), "--modle: no such flag; did you mean --model?"),
        (("PHOTOS", "--model", "resnet81"), "--model 'resnet81': unknown; did you mean 'resnet18'?"),
        (("PHOTOS", "--epochs", "many"), "--epochs 'many': must be a whole number; see jaxcnn train --help"),
        (("PHOTOS", "more"), "more: unexpected argument; leave it out; see jaxcnn train --help"),
        (("PHOTOS", "--batch-size", "0"), "--batch-size 0: must be at least 1"),
        (("PHOTOS", "--resize", "stretch"), "--resize 'stretch': unknown; must be one of squash, crop, pad"),
        (("PHOTOS", "--task", "regression"), "PHOTOS: --task regression does not fit: photos: 3 classes in folders"),
        (("PHOTOS", "--class-weights", "1,2"), "--class-weights 1,2: must be balanced, or 3 numbers w1,w2,..."),
        (
            ("PHOTOS", "--weights", "imagenet", "--model", "lenet5"),
            "--weights imagenet: no known weights for --model lenet5",
        ),
        (("--resume", "PHOTOS"), "--resume: no unfinished run under PHOTOS"),
        (("empty",), "empty: no class folders, no IDX files and no CSV file of images; needs"),
        (("one",), "one: only one class folder, a/; needs"),
    ],
)
def test_bad_input_is_one_line(here, tmp_path, monkeypatch, capsys, arguments, line):
    monkeypatch.chdir(tmp_path)
    os.symlink(here, "PHOTOS")
    pathlib.Path("empty").mkdir()
    picture(pathlib.Path("one/a/x.png"), 0, np.random.default_rng(0))
    assert refused(capsys, "train", *arguments).startswith(f"jaxcnn train: {line}")
    assert not pathlib.Path("runs").exists()


def listed(folder, header, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "labels.csv"


@pytest.fixture
def flat(tmp_path):
    """Images beside each other, `00.png` to `29.png`."""
    rng = np.random.default_rng(0)
    for i in range(30):
        picture(tmp_path / "flat" / f"{i:02}.png", i, rng)
    return tmp_path / "flat"


def test_a_table_of_classes(flat):
    path = listed(flat, "file,label,note", [f"{i:02}.png,{CLASSES[i % 3]},x" for i in range(30)])
    found = layouts.look(str(flat))
    assert found.line == "labels.csv with 30 images: classification" and found.kind == "csv"
    splits = jc.data.table(path)
    assert splits.train.classes == CLASSES and [p.size for p in splits] == [22, 2, 6]
    for part in splits:
        assert all(int(name[:2]) % 3 == k for name, k in zip(part.names, part.label, strict=True))
    streamed = jc.data.table(path, resident_bytes=0)
    assert streamed.test.names == splits.test.names
    np.testing.assert_array_equal(streamed.test.example()["image"], splits.test.example()["image"])


def test_a_table_of_parts(flat):
    parts = ["train"] * 20 + ["val"] * 4 + ["test"] * 6
    splits = jc.data.table(
        listed(flat, "file,label,split", [f"{i:02}.png,{i % 2},{part}" for i, part in enumerate(parts)])
    )
    assert [p.size for p in splits] == [20, 4, 6] and splits.test.names == tuple(f"{i:02}.png" for i in range(24, 30))


@pytest.mark.parametrize(("resident", "words"), [(2**30, "4 of 5 test images"), (0, "4 of 5 test files")])
def test_a_file_that_a_table_has_in_two_parts_is_told(flat, caplog, resident, words):
    rows = [f"{i:02}.png,{i % 2},train" for i in range(20)] + ["21.png,1,valid", "22.png,0,valid"]
    rows += [f"{i:02}.png,{i % 2},test" for i in (1, 2, 3, 4, 25)]
    jc.data.table(listed(flat, "file,label,split", rows), resident_bytes=resident)
    assert words in caplog.text


def test_a_table_with_a_name_that_no_file_can_have(flat):
    with pytest.raises(jc.InputError, match="line 3: .*: no such file") as caught:
        jc.data.table(listed(flat, "file,label", ["00.png,a", f"{'9' * 5000},b"]))
    assert len(str(caught.value)) < 600


def test_several_labels_and_numbers_train(flat, tmp_path, capsys):
    rows = [f"{i:02}.png,{i % 2},{i // 2 % 2}" for i in range(30)]
    run("train", listed(flat, "file,red,blue", rows), *TINY, "--workdir", tmp_path / "m")
    (folder,) = (tmp_path / "m").iterdir()
    run("predict", folder, flat / "00.png")
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["probabilities"]) == {"red", "blue"}
    run(
        "evaluate",
        folder,
        listed(tmp_path / "o", "blue,red,file", [f"0,1,{flat / '01.png'}", f"1,1,{flat / '03.png'}"]),
        "--devices",
        1,
    )
    assert json.loads(capsys.readouterr().out)["count"] == 2

    run(
        "train",
        listed(flat, "file,target", [f"{i:02}.png,{i / 10}" for i in range(30)]),
        *TINY,
        "--workdir",
        tmp_path / "r",
    )
    (folder,) = (tmp_path / "r").iterdir()
    out = capsys.readouterr().out
    assert "labels.csv with 30 images: regression" in out and "test mae" in out
    run("predict", folder, flat / "00.png")
    assert isinstance(json.loads(capsys.readouterr().out.splitlines()[-1])["value"], float)
    run("evaluate", folder, flat / "labels.csv", "--devices", 1)
    assert json.loads(capsys.readouterr().out)["own_test_data"]


@pytest.mark.parametrize(
    ("header", "rows", "line"),
    [
        ("file,label", ["00.png,a", "gone.png,b"], "line 3: .*gone.png: no such file; paths are relative"),
        (
            "file,label",
            ["00.png,a", "01.png,3"],
            r"column 'label' mixes text \('a', line 2\) and numbers \(3, line 3\)",
        ),
        (
            "file,label",
            ["00.png,0.5", "01.png,0.7", "02.png,0.9"],
            "every row has a label of its own.*name the column 'target'",
        ),
        ("file,label", ["00.png,a", "01.png,a"], "only the label 'a'; needs at least two classes"),
        (
            "file,label,target",
            ["00.png,a,1", "01.png,b,2"],
            "both fit; say which with --task classification or --task regression",
        ),
        ("name,label", ["00.png,a"], "no column 'file' in its header"),
        ("file,colour", ["00.png,a"], "besides 'file' it has the columns colour; needs 'label'"),
        ("file,target", ["00.png,1", "01.png,much"], "line 3: target is 'much': must be a finite number"),
        ("file,label", ["00.png,a,b"], "line 2: 3 values for 2 columns"),
        ("file,label", [], "no rows below its header"),
        (
            "file,label,split",
            ["00.png,a,dev", "01.png,b,train"],
            "line 2: split is 'dev': must be train, valid or test",
        ),
    ],
)
def test_tables_that_are_refused(flat, header, rows, line):
    path = listed(flat, header, rows)
    with pytest.raises(jc.InputError, match=line) as error:
        found = layouts.look(str(path))
        jc.data.table(path, task=found.task)
    assert "\n" not in str(error.value)


def test_two_layouts_that_fit_are_refused(tmp_path, capsys):
    photos(tmp_path / "d" / "train", 3)
    rows = [f"train/bee/bee-{i:02}.png,{i}" for i in range(3)]
    listed(tmp_path / "d", "file,target", rows)
    line = refused(capsys, "data", tmp_path / "d")
    assert (
        "two layouts fit" in line
        and "--task classification" in line
        and "--task regression" in line
        and "--task NAME" in line
    )
    assert layouts.look(str(tmp_path / "d"), "regression").kind == "csv"
    assert layouts.look(str(tmp_path / "d"), "classification").kind == "folder"


def test_known_layouts_come_before_folders_of_classes(flat, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(flat, tmp_path / "d" / name)
    assert layouts.look(str(tmp_path / "d")).kind == "folder"
    listed(tmp_path / "d", "file,label", [f"one/{i:02}.png,{i % 2}" for i in range(30)])
    assert layouts.look(str(tmp_path / "d")).kind == "csv"


def test_an_archive_of_arrays(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (40, 8, 8)).astype(np.uint8), np.arange(40) % 3
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:9] // 2, y_test=y[:9])
    found = layouts.look(str(tmp_path / "a.npz"))
    assert found.line == "arrays in one .npz: classification"
    splits, source = layouts.read(found, Train())
    config, plan = recipe.plan(Train(class_weights="balanced"), found, splits, source, None, None)
    options = plan.build["task"]["options"]
    assert (
        config.model == "cnn"
        and options["size"] == [28, 28]
        and options["class_weights"] == pytest.approx([12 / 13, 1, 1], abs=0.1)
    )
    with pytest.raises(jc.InputError, match="--resize pad: only image files are resized on reading"):
        layouts.read(found, Train(resize="pad"))


def test_idx_files_and_a_tfds_set_train(tmp_path, prepared):
    """The same two words for each: DATA, and where a set is prepared."""
    for i, (name, values) in enumerate(good(30, side=8).items()):
        kind = ("train" if "train" in name else "t10k") + ("-images-idx3" if name[0] == "x" else "-labels-idx1")
        (tmp_path / "idx").mkdir(exist_ok=True)
        write_idx(tmp_path / "idx" / f"{kind}-ubyte", values, zipped=i % 2 == 0)
    sets = prepared(test_tfds.JcNumbered, "array_record")
    for data, more, rows in ((tmp_path / "idx", (), 30), ("jc_numbered", ("--data-dir", sets), 60)):
        run("train", data, *TINY, *more, "--workdir", tmp_path / f"runs-{rows}")
        (folder,) = (tmp_path / f"runs-{rows}").iterdir()
        summary, config = (json.loads((folder / f"{name}.json").read_text()) for name in ("summary", "config"))
        assert summary["test"]["count"] == config["data"]["rows"][2] > 0
        assert sum(config["data"]["rows"][:2]) == rows


def test_defaults_make_300_updates():
    config = recipe.settled(Train(), 65, "cnn")
    assert (config.epochs, config.batch_size, config.learning_rate) == (148, 32, 4e-3) and 148 * 65 / 32 >= 300
    assert recipe.settled(Train(), 60_000, "resnet18").batch_size == 128
    assert recipe.settled(Train(epochs=2), 65, "cnn").epochs == 2


def test_patience_is_in_epochs_between_validations():
    data = jc.data.Resident({"image": np.zeros((64, 8, 8, 1), np.uint8), "label": np.arange(64) % 2}, ("a", "b"))
    plan = jc.Plan(jc.tasks.classification(jc.models.mlp(2)), jc.data.Splits(data, data, data), lambda steps: None)
    for validations, patience in ((20, 2), (None, 6)):  # every fifth epoch, and every epoch
        some = dataclasses.replace(plan, validations=validations)
        config = Train(epochs=100, batch_size=32, early_stopping=6)
        assert planning.planned("train", config, some).patience == patience
    hidden = dataclasses.replace(plan, grads=jc.methods.private.private(1.0, 0.0, 32))
    with pytest.raises(jc.InputError, match="--accumulate 8: train has its own gradient estimator"):
        planning.planned("train", dataclasses.replace(config, accumulate=8), hidden)


def test_targets_of_rows_that_are_read_as_needed_are_those_of_the_rows():
    def read(index):
        return {"image": np.zeros((len(index), 2, 2, 1), np.uint8), "target": np.where(index == 0, 100.0, 0.0)}

    found = recipe.targets(jc.data.Indexed(read, 257))
    assert len(found) == 257 and found.sum() == 100


def test_images_in_memory_have_no_other_size(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.zeros((40, 8, 8, 1), np.uint8), label=np.arange(40) % 2)
    with pytest.raises(jc.InputError, match="--image-size 64: images in npz keep their size"):
        layouts.read(layouts.look(str(tmp_path / "a.npz")), Train(image_size=64))


def test_photos_are_mirrored_and_digits_are_not(monkeypatch):
    monkeypatch.setattr("jaxcnn.augment.affine", lambda **_: "digits")
    monkeypatch.setattr("jaxcnn.augment.compose", lambda *changes: changes[0])
    for shape, augment, expected in (
        ((28, 28, 1), "auto", "digits"), ((32, 32, 3), "auto", jc.augment.flip),
        ((128, 128, 1), "auto", jc.augment.flip),
        ((32, 32, 3), "digits", "digits"), ((28, 28, 1), "photos", jc.augment.flip), ((28, 28, 1), "none", None),
    ):  # fmt: skip
        assert (
            recipe.change(Train(augment=augment), layouts.Found("folder", {}, "classification", ""), shape) == expected
        )


@pytest.mark.parametrize(("resize", "corner", "middle"), [("squash", 200, 200), ("crop", 200, 200), ("pad", 0, 200)])
def test_ways_to_resize(tmp_path, resize, corner, middle):
    from PIL import Image

    wide = np.full((10, 30, 3), 200, np.uint8)
    wide[:, :10] = 100
    Image.fromarray(wide).save(tmp_path / "x.png")
    found = image_files.decode(tmp_path / "x.png", "RGB", (10, 10), resize=resize)
    assert found.shape == (10, 10, 3) and found[5, 5, 0] == middle
    assert found[0, 9, 0] == corner and (found[5, 0, 0] < 150) == (resize != "crop")


def test_a_run_reads_images_as_it_was_trained(tmp_path, capsys):
    photos(tmp_path / "wide", 8, size=(12, 30))
    run("train", tmp_path / "wide", *TINY, "--image-size", 12, "--resize", "pad", "--workdir", tmp_path / "w")
    (folder,) = (tmp_path / "w").iterdir()
    capsys.readouterr()
    run("evaluate", folder, photos(tmp_path / "more", 3, size=(12, 30)), "--devices", 1)
    assert json.loads(capsys.readouterr().out)["count"] == 9
    from jaxcnn.runs.single import pixels

    assert not pixels(jc.load_run(folder).config, tmp_path / "wide" / "bee" / "bee-00.png")[0].any()  # black above


def test_the_range_test_finds_a_rate_and_draws_it(here, tmp_path, capsys):
    run("train", here, *TINY, "--smoke", "--lr-find", "--workdir", tmp_path / "w")
    (folder,) = (tmp_path / "w").iterdir()
    config = json.loads((folder / "config.json").read_text())
    assert (folder / "learning_rates.png").stat().st_size > 5000
    assert rate.LOWEST <= config["settings"]["learning_rate"] < rate.HIGHEST and not config["settings"]["lr_find"]
    assert f"learning rate {config['settings']['learning_rate']:g}: a tenth" in capsys.readouterr().out


def test_fine_tuning_begins_with_a_run(trained, here, tmp_path):
    run("train", here, "--weights", trained[0], *TINY, "--learning-rate", 1e-12, "--workdir", tmp_path / "w")
    (folder,) = (tmp_path / "w").iterdir()
    before, after = jc.load_run(trained[0]).variables, jc.load_run(folder).variables
    same = jc.types.jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-6), before, after)
    flags = dict(jc.types.named(same))
    assert all(value for path, value in flags.items() if "logits" not in path) and flags


def test_published_weights_are_known_for_networks_that_read_them():
    both = {**weights.HUB, **weights.TORCHVISION}
    for name in both:
        assert ("timm" if name in weights.HUB else "torchvision") in TABLES[name], name
    lacking = [name for name in TABLES if name in jc.models.MODELS and name not in both]
    assert lacking == ["seresnet18"]  # timm has it without weights


def test_names_travel_with_their_rows():
    rows = jc.data.Resident({"image": np.zeros((3, 2, 2, 1), np.uint8)}, names=("a", "b", "c"))
    assert rows.take(np.array([2, 0])).names == ("c", "a") and "names" not in rows.example()
    with pytest.raises(jc.InputError, match="names: 1 for 3 rows"):
        jc.data.Resident({"image": np.zeros((3, 2, 2, 1), np.uint8)}, names=("a",))


def test_resume_goes_on_and_refuses_another_result(here, tmp_path, monkeypatch, capsys):
    calls = []

    def cut(ready, folder, **options):
        calls.append(ready.plan.steps)
        raise jc.DivergedError("as if", 1, 1)

    with monkeypatch.context() as patch:
        patch.setattr("jaxcnn.runs.train_prepared", cut)
        run("train", here, *TINY, "--workdir", tmp_path / "w", code=1)
    (folder,) = (tmp_path / "w").iterdir()
    assert f"continue with: jaxcnn train --resume {folder}" in capsys.readouterr().err
    jc.runs.folders.release(folder)
    line = refused(capsys, "train", "--resume", folder, "--learning-rate", "0.5")
    assert (
        line
        == "jaxcnn train: --resume: --learning-rate was 0.001 and is now 0.5; resume without it, or start a new run"
    )
    run("train", "--resume", folder)
    assert calls == [3] and (folder / "summary.json").exists()
    assert "is finished" in refused(capsys, "train", "--resume", folder)


def test_flags_take_no_values_of_others():
    with pytest.raises(jc.InputError, match="--no-data: no such flag"):
        options.parse(Train, "train", ["--no-data"])


@pytest.mark.slow
def test_installed_from_an_empty_folder(tmp_path):
    """`pip install .` into a new environment; then train, kill, resume, evaluate, predict, report."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    source = shutil.copytree(
        ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".git", "checkpoints", "*.egg-info")
    )
    pip = [tmp_path / "env" / "bin" / "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "."], cwd=source, check=True)
    empty = tmp_path / "empty"
    photos(empty / "PHOTOS", 40, size=(40, 48))
    photos(empty / "OTHERS", 5, size=(30, 30))
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "XLA_"))}

    def command(*arguments):
        return [tmp_path / "env" / "bin" / "jaxcnn", *arguments]

    def call(*arguments):
        done = subprocess.run(command(*arguments), cwd=empty, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "jaxcnn train" in call("--help")
    flags = ("--model", "cnn", "--image-size", "32", "--epochs", "40", "--checkpoint-seconds", "1")
    begun = subprocess.Popen(
        command("train", "PHOTOS", *flags), cwd=empty, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    until = time.monotonic() + 300
    while not list(empty.glob("runs/*/checkpoints/[0-9]*")):
        assert begun.poll() is None and time.monotonic() < until, begun.stdout.read()
        time.sleep(0.2)
    begun.send_signal(signal.SIGTERM)
    said, _ = begun.communicate(timeout=300)
    assert begun.returncode == 143 and b"continue with: jaxcnn train --resume runs/" in said
    (folder,) = (p.relative_to(empty) for p in (empty / "runs").iterdir())
    assert f"next: jaxcnn report {folder}" in call("train", "--resume", folder)
    assert json.loads(call("evaluate", folder, "OTHERS"))["count"] == 15
    call("predict", folder, "OTHERS", "--csv", "out.csv")
    assert len((empty / "out.csv").read_text().splitlines()) == 16
    assert "report.html" in call("report", folder) and "MODEL_CARD.md" in {p.name for p in (empty / folder).iterdir()}


def test_a_picture_does_not_replace_an_input(trained, tmp_path, capsys):
    picture(tmp_path / "x.png", 0, np.random.default_rng(0))
    before = (tmp_path / "x.png").read_bytes()
    said = refused(capsys, "explain", trained[0], tmp_path / "x.png", "--output", tmp_path)
    assert "x.png would replace an input; give another folder" in said and (tmp_path / "x.png").read_bytes() == before


def test_a_report_keeps_what_the_author_wrote(trained, capsys):
    run("report", trained[0])
    card = trained[0] / "MODEL_CARD.md"
    card.write_text(card.read_text().replace("To be filled in by the author: what the model is for", "For bees; what"))
    run("report", trained[0])
    assert "For bees; what" in card.read_text() and card.read_text().count("## Intended use") == 1
    assert "To be filled in by the author: whom the data show" in card.read_text()
    card.write_bytes(card.read_bytes().replace(b"\n", b"\r\n").replace(b"## Intended use", b"## Intended use "))
    run("report", trained[0])
    assert "For bees; what" in card.read_text()
    said = refused(capsys, "report", trained[0], "--out", trained[0] / "other.html")
    assert "only applies to a comparison of several runs; leave it out" in said

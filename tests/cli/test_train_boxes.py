"""Detection from the command line: training on boxes in three formats, other data, pictures, and the report."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from jaxcnn.cli import layouts, pictures, recipe
from jaxcnn.cli.main import main
from jaxcnn.data import dense_format
from jaxcnn.deploy.answers import objects_of
from jaxcnn.report.found import _pr, judge

FEW = ("--max-steps", "4", "--batch-size", "4", "--devices", "1")
LIGHT = {"backbone": "resnet20", "width": 8, "depth": 1, "levels": [2], "extra": 0, "max_detections": 10}
SIZE = (48, 64)


def scenes(rows, seed):
    """Dark images with a red and a green square each, and their boxes as (class, left, top, right, bottom)."""
    rng = np.random.default_rng(seed)
    for i in range(rows):
        image, boxes = rng.integers(0, 60, (*SIZE, 3)).astype(np.uint8), []
        for k, name in enumerate(("red", "green")):
            top, left = int(rng.integers(0, SIZE[0] - 16)), int(rng.integers(0, SIZE[1] - 16))
            image[top : top + 16, left : left + 16, k] = 220
            boxes.append((name, left, top, left + 16, top + 16))
        yield f"{i:02d}", image, boxes


def voc(folder, rows=12, seed=0):
    for name in ("JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True)
    for name, image, boxes in scenes(rows, seed):
        Image.fromarray(image).save(folder / "JPEGImages" / f"{name}.png")
        objects = "".join(
            f"<object><name>{kind}</name><bndbox><xmin>{a + 1}</xmin><ymin>{b + 1}</ymin><xmax>{c}</xmax>"
            f"<ymax>{d}</ymax></bndbox></object>"
            for kind, a, b, c, d in boxes
        )
        size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    return folder


def yolo(folder, rows=4, seed=1):
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    (folder / "classes.txt").write_text("green\nred\n")
    for name, image, boxes in scenes(rows, seed):
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        kinds = [["green", "red"].index(kind) for kind, *_ in boxes]
        middle = [((a + c) / 2 / SIZE[1], (b + d) / 2 / SIZE[0]) for _, a, b, c, d in boxes]
        lines = [f"{k} {x} {y} {16 / SIZE[1]} {16 / SIZE[0]}" for k, (x, y) in zip(kinds, middle, strict=True)]
        (folder / "labels" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return voc(tmp_path_factory.mktemp("boxes") / "a")


@pytest.fixture(scope="module")
def trained(here):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipe.OPTIONS, "fcos", LIGHT)
        assert main(["train", str(here), "--workdir", str(here.parent / "runs"), *FEW]) == 0
    return next((here.parent / "runs").iterdir())


def answer(capsys, *arguments):
    assert main([*map(str, arguments)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def test_formats_are_known_by_their_files(here, tmp_path):
    yolo(tmp_path / "y")
    (tmp_path / "c" / "annotations").mkdir(parents=True)
    (tmp_path / "c" / "annotations" / "instances_train.json").write_text("{}")
    (tmp_path / "m" / "images").mkdir(parents=True)
    (tmp_path / "m" / "labels").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "m" / "labels" / "x.png")
    found = {name: dense_format(tmp_path / name) for name in "ycm"}
    assert found == {"y": "yolo", "c": "coco", "m": "masks"} and dense_format(here) == "voc"
    assert dense_format(tmp_path) is None and dense_format(tmp_path / "none") is None
    look = layouts.look(str(here))
    assert look.task == "detection" and layouts.side_of(look) == (64, 64)


def test_a_run_has_the_scores_of_detection(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert {"ap", "ap50", "loss", "count"} <= summary["test"].keys()
    config = jc.runs.read_config(trained)
    assert config["build"]["model"]["name"] == "fcos" and config["classes"] == ["green", "red"]
    assert config["task"]["monitor"] == ["ap50", "max"]


def test_a_box_is_explained(trained, here, tmp_path, capsys, monkeypatch):
    file = here / "JPEGImages" / "00.png"
    found = answer(capsys, "explain", trained, file, "--box", 2, "--output", tmp_path)[0]
    objects = answer(capsys, "predict", trained, file, "--least-score", 0, "--out", tmp_path / "p")[0]["objects"]
    assert (found["class"], found["score"]) == (objects[1]["class"], objects[1]["score"])
    assert (tmp_path / "00.png").stat().st_size > 5000
    for flags, message in (
        (("--box", 99), "has 10 boxes; give 1 to 10"),
        (("--box", 0), "must be at least 1"),
        (("--pixel", 1, 1), "has no classes of pixels"),
        (("--target", "red"), "explained by its own class"),
    ):
        assert main(["explain", str(trained), str(file), *map(str, flags)]) == 2
        assert message in capsys.readouterr().err


def test_evaluate_on_its_own_and_on_other_rows(trained, tmp_path, capsys):
    own = answer(capsys, "evaluate", trained, "--devices", 1)[0]
    assert own["own_test_data"] and own["ap50"] == json.loads((trained / "summary.json").read_text())["test"]["ap50"]
    other = answer(capsys, "evaluate", trained, yolo(tmp_path / "b"), "--devices", 1)[0]
    assert not other["own_test_data"] and other["count"] == 4
    loaded = jc.load_run(trained)
    names = jc.runs.rows_to_measure(loaded.config, str(tmp_path / "b")).data
    (tmp_path / "b/classes.txt").write_text("red\ngreen\n")  # the same numbers now mean the other class
    turned = jc.runs.rows_to_measure(loaded.config, str(tmp_path / "b")).data
    there = names.arrays["box_mask"] > 0
    np.testing.assert_array_equal(turned.arrays["box_label"][there], 1 - names.arrays["box_label"][there])
    (tmp_path / "b/classes.txt").write_text("red\nblue\n")
    assert main(["evaluate", str(trained), str(tmp_path / "b")]) == 2
    assert "2 classes (red, blue), and the run has 2 (green, red)" in capsys.readouterr().err


def test_prediction_reads_an_image_as_training_did(tmp_path):
    rng = np.random.default_rng(0)
    voc(tmp_path / "a", 1)
    image = Image.fromarray(rng.integers(0, 256, (40, 90, 3)).astype(np.uint8))
    image.save(tmp_path / "a/JPEGImages/00.png")
    text = (tmp_path / "a/Annotations/00.xml").read_text()
    text = text.replace(f"<width>{SIZE[1]}</width><height>{SIZE[0]}", "<width>90</width><height>40")
    (tmp_path / "a/Annotations/00.xml").write_text(text)
    for more in ({}, {"resize": "squash"}, {"resize": "pad"}):
        data = jc.data.voc(tmp_path / "a", size=64, validation_fraction=0.0, test_fraction=0.0, **more).train
        shape = list(data.example()["image"].shape[1:])
        config = {
            "build": {"image": {"shape": shape, "dtype": "uint8"}, "task": {"name": "detection"}},
            "source": {"options": more}, "classes": ["green", "red"],
        }  # fmt: skip
        read = jc.runs.single.pixels(config, tmp_path / "a/JPEGImages/00.png")
        np.testing.assert_array_equal(read, next(iter(data.once(1))).at(0)["image"][0])
        there = {k: np.asarray(v)[0] for k, v in next(iter(data.once(1))).at(0).items()}
        found = {"boxes": there["boxes"], "labels": there["box_label"], "box_mask": there["box_mask"]}
        found["scores"] = there["box_mask"] * 1.0
        run = jc.runs.TrainedRun(config, None, None, None, 0)
        boxes = [one["box"] for one in objects_of(run, "x", found, (40, 90)).objects]
        assert boxes[0] == pytest.approx(next(scenes(1, 0))[2][0][1:], abs=0.1)


def test_boxes_return_to_the_pixels_of_the_file(tmp_path):
    Image.new("RGB", (128, 96)).save(tmp_path / "x.png")
    run = jc.runs.TrainedRun(
        {"classes": ["green", "red"], "build": {"image": {"shape": [64, 64, 3]}, "task": {"name": "detection"}}},
        None, None, None, 0,
    )  # fmt: skip
    draw = pictures.drawer(run, str(tmp_path / "out"), [tmp_path / "x.png"], 0.5)
    found = {  # the upper left quarter of the image, which is padded above and below in its row
        "boxes": np.array([[8 / 64, 0, 32 / 64, 0.5], [0, 0, 1, 1], [np.nan] * 4]), "labels": np.array([1, 0, 7]),
        "scores": np.array([0.9, 0.4, 0.0]), "box_mask": np.array([1, 1, 0]),
    }  # fmt: skip
    one = draw(str(tmp_path / "x.png"), found)
    assert one["objects"] == [{"class": "red", "score": 0.9, "box": [0, 0, 64, 48]}]
    with Image.open(one["picture"]) as drawn:
        assert drawn.size == (128, 96) and np.asarray(drawn).any()
    with pytest.raises(jc.InputError, match="not finite"):
        draw(str(tmp_path / "x.png"), found | {"boxes": np.full((3, 4), np.nan)})


def test_predictions_are_lines_and_a_table(trained, here, tmp_path, capsys):
    found = answer(capsys, "predict", trained, here / "JPEGImages", "--out", tmp_path / "out", "--least-score", 0)
    assert len(found) == 12 and all({"file", "picture", "objects"} == one.keys() for one in found)
    for thing in found[0]["objects"]:
        left, top, right, bottom = thing["box"]
        assert thing["class"] in ("green", "red") and 0 <= thing["score"] <= 1
        assert 0 <= left <= right <= 64 and 0 <= top <= bottom <= 48
    answer(capsys, "predict", trained, here / "JPEGImages", "--csv", tmp_path / "p.csv", "--out", tmp_path / "q",
           "--least-score", 0)  # fmt: skip
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == "file,class,score,left,top,right,bottom" and len(lines) > 12


def test_the_report_shows_failures_and_the_worst_images(trained):
    assert main(["report", str(trained)]) == 0
    made = json.loads((trained / "report.json").read_text())
    assert [one["class"] for one in made["boxes"]] == ["green", "red"]
    assert all(one["right"] + one["missed"] == one["count"] for one in made["boxes"])
    assert {"ap", "ap50", "ap_small"} <= made["coco"].keys()
    wrong = [one["wrong"] for one in made["worst"]]
    assert wrong == sorted(wrong, reverse=True) and made["worst"][0]["file"].startswith("JPEGImages/")
    page = (trained / "report.html").read_text()
    assert "wrong place" in page and "boxes in JPEGImages/" in page


def test_failures_by_kind():
    truth = {
        "boxes": np.array([[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50], [60, 60, 70, 70], [80, 0, 90, 10.0]]),
        "labels": np.array([0, 0, 1, 0, 1]), "iscrowd": np.array([False, False, False, False, True]),
    }  # fmt: skip
    guess = {
        "boxes": np.array([
            [0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [40, 46, 50, 56], [0, 80, 9, 90], [80, 0, 90, 10],
            [60, 60, 70, 70.0],
        ]),
        "scores": np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.1]), "labels": np.array([0, 0, 1, 1, 0, 1, 0]),
    }  # fmt: skip
    assert judge(guess, truth).kinds == [
        ("right", 0), ("doubled", 0), ("wrong class", 1), ("wrong place", 1), ("nothing there", 0),
        ("missed", 0), ("missed", 1), ("missed", 0),
    ]  # fmt: skip
    crowd = {
        "boxes": np.array([[0, 0, 100, 100], [0, 0, 10, 10.0]]), "labels": np.array([0, 1]),
        "iscrowd": np.array([True, False]),
    }  # fmt: skip
    inside = {"boxes": np.array([[50, 50, 60, 60], [0, 0, 10, 10], [20, 20, 30, 30.0]]), "labels": np.array([0, 1, 1])}
    inside["scores"] = np.array([0.9, 0.8, 0.7])  # in a crowd of its class; right; in a crowd of another class
    assert judge(inside, crowd).kinds == [("right", 1), ("nothing there", 1)]
    own = {**crowd, "labels": np.array([1, 1])}
    points = _pr([inside], [own], 1)
    assert points == [[1.0, 1.0]]
    assert judge(guess, truth).wrong == 7
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "iscrowd": np.zeros(0, bool)}
    assert judge(guess, nothing).wrong == 6 and judge({**nothing, "scores": np.zeros(0)}, truth).wrong == 4


@pytest.mark.parametrize(
    "more, line",
    [
        (("--model", "unet"), "--model unet: is not for detection; use one of faster_rcnn"),
        (("--class-weights", "balanced"), "--class-weights balanced: does not apply to detection"),
        (("--resize", "crop"), "crop"),
    ],
)
def test_what_does_not_fit_is_one_line(here, tmp_path, capsys, more, line):
    assert main(["train", str(here), "--workdir", str(tmp_path), *more]) == 2
    found = capsys.readouterr().err.strip().splitlines()[-1]
    assert line in found and "Traceback" not in found


def test_pictures_of_several_files_have_names_of_their_own():
    paths = [pathlib.Path(name) for name in ("a/f.jpg", "b/f.jpg", "b/f_2.jpg", "c/f.nii.gz", "c/f_2.png")]
    names = pictures._names(paths)
    assert list(names.values()) == ["f", "f_2", "f_2_2", "f_3", "f_2_3"]

"""Segmentation from the command line: training on images and masks, other data, pictures, the report, and refusals."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from jaxcnn.cli import layouts, recipe
from jaxcnn.cli.main import main
from jaxcnn.data.stored import stored_classes

FEW = ("--max-steps", "4", "--batch-size", "4", "--devices", "1")


def painted(folder, rows=14, size=(24, 40), seed=0):
    """Write dark images with a red and a green square, which are the classes 1 and 2."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(rows):
        image, mask = rng.integers(0, 60, (*size, 3)).astype(np.uint8), np.zeros(size, np.uint8)
        for k in (1, 2):
            y, x = rng.integers(0, size[0] - 10), rng.integers(0, size[1] - 10)
            mask[y : y + 10, x : x + 10] = k
            image[y : y + 10, x : x + 10, k - 1] = 220
        Image.fromarray(image).save(folder / "images" / f"{i:02d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return painted(tmp_path_factory.mktemp("scenes") / "a")


@pytest.fixture(scope="module")
def trained(here):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipe.OPTIONS, "unet", {"widths": [4, 8]})
        assert main(["train", str(here), "--workdir", str(here.parent / "runs"), *FEW]) == 0
    return next((here.parent / "runs").iterdir())


def answer(capsys, *arguments):
    assert main([*map(str, arguments)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def refused(capsys, *arguments):
    assert main([*map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_the_data_say_that_it_is_segmentation(here, tmp_path):
    found = layouts.look(str(here))
    assert (found.kind, found.task) == ("masks", "segmentation") and layouts.side_of(found) == (24, 40)
    painted(tmp_path / "parts" / "train")
    assert layouts.look(str(tmp_path / "parts")).task == "segmentation"


def test_a_run_has_the_scores_of_segmentation(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert {"iou", "dice", "iou_per_class", "accuracy"} <= summary["test"].keys()
    config = jc.runs.read_config(trained)
    assert config["build"]["model"]["name"] == "unet" and config["task"]["monitor"] == ["iou", "max"]
    assert config["build"]["task"]["options"]["ignore_label"] == 255


def test_evaluate_on_its_own_and_on_other_rows(trained, tmp_path, capsys):
    own = answer(capsys, "evaluate", trained, "--devices", 1)[0]
    assert own["own_test_data"] and own["iou"] == json.loads((trained / "summary.json").read_text())["test"]["iou"]
    other = answer(capsys, "evaluate", trained, painted(tmp_path / "b", 5, seed=1), "--devices", 1)[0]
    assert not other["own_test_data"] and other["count"] == 5 and other["part"] == "all images"


def test_a_pixel_is_explained(trained, here, tmp_path, capsys):
    file = here / "images" / "00.png"
    found = answer(capsys, "explain", trained, file, "--pixel", 30, 5, "--output", tmp_path)[0]
    loaded = jc.load_run(trained)
    with Image.open(file) as image:
        scores = np.asarray(loaded.task.predict(loaded.variables, {"image": np.asarray(image)[None]}))[0, 5, 30]
    assert found["pixel"] == [30, 5] and found["class"] == found["explained"] == str(scores.argmax())
    assert (tmp_path / "00.png").stat().st_size > 5000
    said = refused(capsys, "explain", trained, file, "--pixel", 40, 5, "--output", tmp_path)
    assert "--pixel" in said and "row 5, column 40: must be within the 24 x 40 pixels" in said
    assert "must be two numbers" in refused(capsys, "explain", trained, file, "--pixel", 40)
    assert "has no boxes; leave it out" in refused(capsys, "explain", trained, file, "--box", 2)


def test_predictions_are_masks_of_the_size_of_the_file(trained, here, tmp_path, capsys):
    files = sorted((here / "images").iterdir())[:2]
    found = answer(capsys, "predict", trained, *files, "--out", tmp_path / "out")
    loaded = jc.load_run(trained)
    for file, one in zip(files, found, strict=True):
        with Image.open(one["mask"]) as image, Image.open(one["overlay"]) as drawn:
            mask = np.asarray(image)
            assert mask.shape == (24, 40) and drawn.size == (40, 24)
        shares = np.bincount(mask.ravel(), minlength=3) / mask.size
        assert list(one["shares"]) == ["0", "1", "2"] and np.allclose([*one["shares"].values()], shares, atol=1e-6)
        with Image.open(file) as image:
            scores = loaded.task.predict(loaded.variables, {"image": np.asarray(image)[None]})
        assert (np.asarray(scores[0]).argmax(-1) == mask).all()  # neither resized nor cropped
    again = painted(tmp_path / "same", 2)
    for path in (again / "masks").iterdir():
        path.write_bytes((tmp_path / "out" / f"{path.stem}.png").read_bytes())
    assert jc.data.masks(again, classes=("0", "1", "2"), test_fraction=0.0, validation_fraction=0.0).train.size == 2


def test_predictions_replace_no_input(trained, here, tmp_path, capsys):
    photo = next((here / "images").iterdir())
    for name in ("x.png", "x_overlay.png"):
        shutil.copy(photo, tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    inputs = [str(tmp_path / name) for name in before]
    assert main(["predict", str(trained), *inputs, "--out", str(tmp_path)]) == 2
    assert "would replace an input; give another folder" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["predict", str(trained), *inputs, "--csv", inputs[0]]) == 2
    assert "--csv" in capsys.readouterr().err and (tmp_path / "x.png").read_bytes() == before["x.png"]
    assert main(["predict", str(trained), *inputs, "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_predictions_as_a_table(trained, here, tmp_path, capsys):
    answer(capsys, "predict", trained, here / "images", "--csv", tmp_path / "p.csv", "--out", tmp_path / "q")
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == "file,mask,overlay,0,1,2" and len(lines) == 15 and len(list((tmp_path / "q").iterdir())) == 28


def test_the_report_shows_classes_and_the_worst_images(trained, here, capsys):
    assert main(["report", str(trained)]) == 0
    made = json.loads((trained / "report.json").read_text())
    assert [one["class"] for one in made["per_class"]] == ["0", "1", "2"]
    assert sum(one["pixels"] for one in made["per_class"]) == pytest.approx(1)
    values = [one["iou"] for one in made["worst"]]
    assert values == sorted(values) and made["worst"][0]["file"].startswith("images/")
    page = (trained / "report.html").read_text()
    assert "Each class over all pixels" in page and "true classes of images/" in page
    iou = [one["iou"] for one in made["per_class"]]
    assert np.mean(iou) == pytest.approx(made["test"]["metrics"]["iou"])


def test_data_shows_the_shares_of_the_classes(here, tmp_path, capsys):
    assert main(["data", str(here), "--output", str(tmp_path / "x.png")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "images with masks: segmentation" in out and "1 (%)" in out and (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    "more, line",
    [
        (("--model", "resnet18"), "--model resnet18: is not for segmentation; use one of "),
        (("--label-smoothing", "0.1"), "--label-smoothing 0.1: does not apply to segmentation"),
        (("--task", "regression"), "--task regression does not fit"),
        (("--model", "unet", "--weights", "imagenet"), "--model unet starts from the folder of a run only"),
        (("--class-weights", "1,2"), "--class-weights 1,2: must be balanced, or 3 numbers"),
    ],
)
def test_what_does_not_fit_is_one_line(here, tmp_path, capsys, more, line):
    assert line in refused(capsys, "train", here, "--workdir", tmp_path, *more)


def test_other_data_of_another_kind_are_refused(trained, here, tmp_path, capsys):
    for k in "ab":
        (tmp_path / "classes" / k).mkdir(parents=True)
        Image.new("RGB", (40, 24)).save(tmp_path / "classes" / k / "x.png")
    assert "a run of segmentation is not measured on such data (folder)" in refused(
        capsys, "evaluate", trained, tmp_path / "classes"
    )
    other = painted(tmp_path / "four", 3)
    Image.fromarray(np.full((24, 40), 7, np.uint8)).save(other / "masks" / "00.png")
    assert "the value 7 is no class" in refused(capsys, "evaluate", trained, other)


@pytest.mark.parametrize(
    "resize, shape, outside",
    [("squash", (8, 8), 0), ("pad", (8, 8), 0), ("crop", (8, 8), 64)],
)
def test_classes_return_to_the_pixels_of_the_file(resize, shape, outside):
    scores = np.zeros((*shape, 2), np.float32)  # of an image of 8 x 16 pixels whose right half is class 1
    scores[..., 1] = np.where(np.arange(8) >= 4, 1, -1)
    found = stored_classes(scores, (8, 16), resize)
    assert found.shape == (8, 16) and (found == 255).sum() == outside
    known = found != 255
    assert (found[known] == np.broadcast_to(np.arange(16) >= 8, (8, 16))[known]).all()
    scores[2, 2] = np.nan
    assert (stored_classes(scores, (8, 16), resize) == 255).sum() > outside

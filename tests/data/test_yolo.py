"""YOLO: layouts, names of classes, polygons, images without objects, and lines that are none."""

import logging

import numpy as np
import pytest

from jaxcnn.core.types import InputError
from jaxcnn.data import yolo
from tests.data.boxes_on_disk import make_yolo, picture, save


def whole(path, **options):
    return yolo(path, **{"validation_fraction": 0.0, "test_fraction": 0.0, "size": 32} | options).train


def with_text(path, text):
    (make_yolo(path, "ab") / "labels/a.txt").write_text(text)
    return whole(path)


@pytest.mark.parametrize("inside", ["{}/{}", "{1}/{0}"])
def test_parts_are_folders(tmp_path, inside):
    made = make_yolo(tmp_path / "all")
    for part, names in (("train", "ab"), ("val", "c"), ("test", "d")):
        for kind, ending in (("images", "png"), ("labels", "txt")):
            for name in names:
                file, place = made / kind / f"{name}.{ending}", tmp_path / "parts" / inside.format(kind, part)
                place.mkdir(parents=True, exist_ok=True)
                if file.exists():
                    file.rename(place / file.name)
    splits = yolo(tmp_path / "parts", size=32)
    assert [part.names[0][-5] for part in splits] == ["a", "c", "d"] and splits.train.classes == ("0", "1")


def test_an_image_without_a_text_file_shows_nothing(tmp_path, caplog):
    root = make_yolo(tmp_path)
    (root / "labels/b.txt").write_text("\n \n")
    with caplog.at_level(logging.INFO, "jaxcnn"):
        assert whole(root).arrays["box_mask"].sum(1).tolist() == [2, 0, 0, 1]
    assert "1 of 4 images have no text file: they show no object" in caplog.text


def test_a_text_file_without_an_image(tmp_path):
    root, told = make_yolo(tmp_path), []
    (root / "images/b.png").unlink()
    with pytest.raises(InputError, match="b.txt: no image of this name"):
        whole(root)
    assert whole(root, on_bad=lambda line, n: told.append(line)).size == 3 and len(told) == 1


def test_labels_that_are_elsewhere(tmp_path):
    root = make_yolo(tmp_path)
    for file in (root / "labels").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="no text file has the name of an image; check labels/"):
        whole(root)
    (root / "labels").rmdir()
    with pytest.raises(InputError, match="labels: no such folder"):
        whole(root)


@pytest.mark.parametrize(
    "text",
    [
        "names: [cat, 'dog']  # two\n",
        'nc: 2\nnames: ["cat",\n  "dog"]\n',
        "train: ../../x\nnames:\n- cat\n- dog\nnc: 2\n",
        "names:\n  0: cat\n  1: 'dog'\n\npath: /etc\n",
        "names: {1: dog, 0: cat}\n",
        "names:\n  # classes\n  - cat\n  - dog",
    ],
)
def test_names_in_yaml(tmp_path, text):
    root = make_yolo(tmp_path)
    (root / "data.yaml").write_text(text)
    assert whole(root).classes == ("cat", "dog")


@pytest.mark.parametrize("text", ["", "nc: 2", "names:", "names: 3", "names: {0: cat, 0: dog}", "names: {1: cat}"])
def test_names_that_cannot_be_read(tmp_path, text):
    root = make_yolo(tmp_path)
    (root / "data.yaml").write_text(text)
    with pytest.raises(InputError, match="data.yaml: (no )?names:|class 1, but there are 1 names|is there twice"):
        whole(root)
    assert whole(root, classes=("x", "y")).classes == ("x", "y")


def test_names_by_line_and_by_number(tmp_path):
    root = make_yolo(tmp_path)
    (root / "classes.txt").unlink()
    (root / "labels/classes.txt").write_text("one\ntwo\n")
    assert whole(root).classes == ("one", "two")
    (root / "labels/classes.txt").unlink()
    assert whole(root).classes == ("0", "1")
    (root / "classes.txt").write_text("cat\n\ndog\n")
    with pytest.raises(InputError, match="classes.txt: an empty line among the names"):
        whole(root)


def test_polygons_become_boxes(tmp_path):
    read = with_text(tmp_path, "1 0.5 0.1 0.7 0.4 0.6 0.9\n0 .5 .5 .2 .2\n")
    wanted = [[0.1, 0.5, 0.9, 0.7], [0.4, 0.4, 0.6, 0.6]]
    place = read.arrays["image_box"][0]
    assert place[0] == 5 / 32  # 40 x 60 pixels become 21 x 32
    assert read.arrays["box_label"][0].tolist() == [1, 0]
    boxes = (read.arrays["boxes"][0] - np.tile(place[:2], 2)) / np.tile(place[2:] - place[:2], 2)
    np.testing.assert_allclose(boxes, wanted, atol=1e-5)


def test_points_of_a_pose_are_left_out(tmp_path):
    points = " .45 .4 2" * 12
    with pytest.raises(InputError, match="line 1: the points of a polygon must lie in 0 to 1.*kpt_shape"):
        with_text(tmp_path / "a", f"0 .5 .5 .2 .4{points}\n")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/data.yaml").write_text("names: [person, dog]\nkpt_shape: [12, 3]\n")
    pose = with_text(tmp_path / "b", f"0 .5 .5 .2 .4{points}\n").arrays
    (tmp_path / "b/data.yaml").write_text("names: [person, dog]  # no kpt_shape: here\n")
    with pytest.raises(InputError, match="points of a polygon"):
        whole(tmp_path / "b")
    (tmp_path / "c").mkdir()
    np.testing.assert_array_equal(pose["boxes"], with_text(tmp_path / "c", "0 .5 .5 .2 .4\n").arrays["boxes"])


@pytest.mark.parametrize(
    "line, message",
    [
        ("0 0.5 0.5 0.1", "4 numbers: must be class, cx, cy, w and h"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 numbers: must be class"),
        ("0 0.1 0.2 0.3 0.4 0.5 0.6 0.7", "8 numbers: must be class"),
        ("cat 0.5 0.5 0.1 0.1", "'cat 0.5 0.5 0.1 0.1': must be numbers"),
        ("1.5 0.5 0.5 0.1 0.1", "class 1.5: must be an integer from 0"),
        ("-1 0.5 0.5 0.1 0.1", "class -1: must be an integer from 0"),
        ("nan 0.5 0.5 0.1 0.1", "class nan: must be an integer from 0"),
        ("9" * 400 + " 0.5 0.5 0.1 0.1", "must be an integer from 0"),
        ("0 320 240 50 50", "must be shares of the image, 0 to 1, not pixels"),
        ("2 0.5 0.5 0.1 0.1", "class 2, but there are 2 names"),
    ],
)
def test_lines_that_are_no_object(tmp_path, line, message):
    with pytest.raises(InputError, match=f"a.txt: line 2: .*{message}") as error:
        with_text(tmp_path, f"0 0.5 0.5 0.1 0.1\n{line}\n")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line",
    ["0 nan .5 .1 .1", "0 .5 .5 0 .1", "0 1.5 .5 .1 .1", "0 .5 .5 -.1 .1", "0 inf 0 1 0 1 1", "0 .1 .1 .1 .1 nan 0"],
)
def test_boxes_that_cannot_be_meant(tmp_path, line, caplog):
    if "inf" in line:
        with pytest.raises(InputError, match="not pixels"):
            with_text(tmp_path, line)
        return
    assert not with_text(tmp_path, line).arrays["box_mask"][0].any()
    assert "1 of 2 boxes are left out" in caplog.text


def test_text_that_is_none(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "labels/a.txt").write_bytes(b"0 .5 .5 .1 .1\n\xff\xfe")
    with pytest.raises(InputError, match="a.txt: not UTF-8 text"):
        whole(tmp_path)


def test_two_images_of_one_name(tmp_path):
    save(make_yolo(tmp_path) / "images/a.jpg", picture("a"))
    with pytest.raises(InputError, match="a.png: a.jpg has the same name; remove one"):
        whole(tmp_path)

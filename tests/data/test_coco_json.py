"""COCO: layouts, crowds, segmentation that is passed over, and files that are not what they say."""

import json

import numpy as np
import pytest

from jaxcnn.core.types import InputError
from jaxcnn.data import coco
from tests.data.boxes_on_disk import SHAPES, coco_value, make_coco, picture, save

RLE = {"size": [40, 60], "counts": [0, 2400]}
PACKED = {"size": [40, 60], "counts": "0gj2"}


def whole(path, **options):
    return coco(path, **{"validation_fraction": 0.0, "test_fraction": 0.0, "size": 32} | options).train


def folder_of(root, part, names, file, images):
    for name in names:
        save(root / images / f"{name}.png", picture(name))
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(coco_value(names)))


@pytest.mark.parametrize(
    "train, val, images",
    [
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json", "{}2017"),
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json", "images/{}2017"),
        ("annotations/instances_train.json", "annotations/instances_val.json", "images"),
        ("instances_train.json", "instances_val.json", "{}"),
        ("train/_annotations.coco.json", "val/_annotations.coco.json", "{}"),
    ],
)
def test_layouts(tmp_path, train, val, images):
    folder_of(tmp_path, "train", "abc", train, images.format("train"))
    folder_of(tmp_path, "val", "d", val, images.format("val"))
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / "annotations/captions_train2017.json").write_text("{}")  # another task of COCO
    splits = coco(tmp_path, size=32, validation_fraction=0.4)
    assert [part.size for part in splits] == [2, 1, 1] and splits.test.names[0].endswith("d.png")


def test_a_file_and_folders_by_name(tmp_path):
    folder_of(tmp_path, "train", "ab", "x/y.json", "photos")
    assert whole(tmp_path / "x/y.json", images="../photos").size == 2
    assert whole(tmp_path, annotations="x/y.json", images="photos").names == ("photos/a.png", "photos/b.png")
    splits = coco(tmp_path, annotations="x/y.json", images="photos", size=9, validation_fraction=0, test_fraction=0.5)
    assert [part.size for part in splits] == [1, 0, 1]


def test_two_files_for_one_part(tmp_path):
    assert whole(make_coco(tmp_path) / "annotations/instances_all.json").names[0] == "images/a.png"
    for name in ("instances_train2014", "instances_train2017"):
        (tmp_path / "annotations" / f"{name}.json").write_text("{}")
    with pytest.raises(InputError, match="instances_all.json: neither train nor val nor test; give annotations="):
        whole(tmp_path)
    (tmp_path / "annotations/instances_all.json").unlink()
    with pytest.raises(InputError, match="instances_train2014.json is the same part; give annotations="):
        whole(tmp_path)


def test_classes_follow_the_ids(tmp_path):
    value = coco_value()
    value["categories"] = [{"id": 90, "name": "dog"}, {"id": 4, "name": "cat"}, {"id": 5, "name": "cow"}]
    read = whole(make_coco(tmp_path, value))
    assert read.classes == ("cat", "cow", "dog") and read.arrays["box_label"][0].tolist() == [0, 2]
    assert whole(tmp_path, classes=("dog", "cat")).arrays["box_label"][0].tolist() == [1, 0]  # no object is a cow


@pytest.mark.parametrize("segmentation", [[], [[1, 2, 3]], RLE, PACKED, None, "nothing", [[float("nan")]]])
def test_segmentation_is_passed_over(tmp_path, segmentation):
    value = coco_value()
    for entry in value["annotations"]:
        entry["segmentation"] = segmentation
    with_it = whole(make_coco(tmp_path, value))
    np.testing.assert_array_equal(with_it.arrays["boxes"], whole(make_coco(tmp_path)).arrays["boxes"])


def test_crowds(tmp_path):
    value = coco_value()
    value["annotations"][1] |= {"iscrowd": 1, "segmentation": RLE}
    read = whole(make_coco(tmp_path, value))
    np.testing.assert_array_equal(read.arrays["box_crowd"], [[0, 1], [0, 0], [0, 0], [0, 0]])


def test_parts_that_number_apart(tmp_path):
    folder_of(tmp_path, "train", "abc", "annotations/instances_train.json", "images")
    folder_of(tmp_path, "val", "d", "annotations/instances_val.json", "images")
    value = coco_value("d")
    value["categories"] = [{"id": 4, "name": "cow"}]
    (tmp_path / "annotations/instances_val.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="test part: the category 'cow' is not among those of the training part"):
        coco(tmp_path, size=32)


def test_images_that_are_not_there(tmp_path):
    make_coco(tmp_path, coco_value(), names="abd")
    told = []
    with pytest.raises(InputError, match="c.png: no such image, but .*instances_all.json names it; add it"):
        whole(tmp_path)
    assert whole(tmp_path, on_bad=lambda line, n: told.append(line)).size == 3 and "c.png" in told[0]
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="no image 'a.png' in its folders; give images="):
        whole(tmp_path)


def at(*path, new):
    def change(value):
        for key in path[:-1]:
            value = value[key]
        if new is KeyError:
            del value[path[-1]]
        else:
            value[path[-1]] = new

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (at("images", new=KeyError), "images must be a list of objects"),
        (at("annotations", new={}), "annotations must be a list of objects"),
        (at("annotations", 0, new=3), "annotations must be a list of objects"),
        (at("images", 0, "id", new=None), r"images\[0\]: id None must be a number of its own"),
        (at("images", 0, "id", new=10), r"images\[1\]: id 10 must be a number of its own"),
        (at("images", 0, "file_name", new=3), r"images\[0\]: file_name '3' must be a text"),
        (at("images", 0, "file_name", new="b.png"), "the file_name 'b.png' is there twice"),
        (at("images", 0, "file_name", new="../a.png"), "'../a.png' leads out of the folder"),
        (at("images", 0, "file_name", new="/etc/passwd"), "'/etc/passwd' leads out of the folder"),
        (at("images", 0, "file_name", new="x" * 5000), "no such image"),
        (at("images", 0, "width", new="60"), "height 40, width 60: must be pixels"),
        (at("images", 0, "width", new=61), "but its annotation states 40 x 61"),
        (at("categories", 0, "id", new=90), r"categories\[1\]: id 90 must be a number of its own"),
        (at("categories", 0, "name", new="dog"), "the name 'dog' is there twice"),
        (at("annotations", 0, "image_id", new=999), r"annotations\[0\]: image_id 999 is not there"),
        (at("annotations", 0, "image_id", new=[3]), r"annotations\[0\]: image_id \[3\] is not there"),
        (at("annotations", 0, "category_id", new=KeyError), r"annotations\[0\]: category_id None is not there"),
        (at("annotations", 0, "bbox", new=KeyError), "image 3: bbox None: must be x, y, width and height"),
        (at("annotations", 0, "bbox", new=[1, 2, 3]), "must be x, y, width and height"),
        (at("annotations", 0, "bbox", new=[1, 2, 3, "4"]), "must be x, y, width and height"),
        (at("annotations", 0, "bbox", new=[1, 2, 3, True]), "must be x, y, width and height"),
        (at("annotations", 0, "iscrowd", new=7), "iscrowd 7: must be 0 or 1"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, change, message):
    value = coco_value()
    change(value)
    with pytest.raises(InputError, match=message) as error:
        whole(make_coco(tmp_path, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "box", [[1, 2, -9, 8], [float("nan"), 2, 3, 4], [10**400, 2, 3, 4], [1, 2, 0, 4], [99, 2, 3, 4]]
)
def test_boxes_that_cannot_be_meant(tmp_path, box, caplog):
    value = coco_value()
    value["annotations"][0]["bbox"] = box
    read = whole(make_coco(tmp_path, value))
    assert read.arrays["box_mask"].sum() == 3 and "1 of 4 boxes are left out" in caplog.text


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "not JSON"),
        (b"[]", "must be an object"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (json.dumps(coco_value()).encode()[:-40], "not JSON"),
    ],
)
def test_hostile_files(tmp_path, data, message):
    make_coco(tmp_path)
    (tmp_path / "annotations/instances_all.json").write_bytes(data)
    with pytest.raises(InputError, match=f"instances_all.json: {message}"):
        whole(tmp_path)


def test_sizes_need_not_be_stated(tmp_path):
    value = coco_value()
    for image in value["images"]:
        del image["height"], image["width"]
    read = whole(make_coco(tmp_path, value))
    np.testing.assert_array_equal(read.arrays["image_size"], list(SHAPES.values()))

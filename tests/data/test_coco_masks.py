"""COCO's regions as masks: the pixels of pycocotools, overlaps, crowds, and regions that are none."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxcnn.core.types import InputError
from jaxcnn.data import Indexed, coco_masks
from jaxcnn.data.coco_regions import from_polygon, from_runs, region, unpacked
from tests.data.boxes_on_disk import OBJECTS, coco_value, make_coco, picture

CASES = json.loads((pathlib.Path(__file__).parents[1] / "fixtures/coco_regions.json").read_text())


def whole(path, **options):
    return coco_masks(path, **{"validation_fraction": 0.0, "test_fraction": 0.0} | options).train


def test_regions_are_those_of_pycocotools():
    for size, polygons, counts, area in CASES:
        packed = region({"size": size, "counts": counts}, tuple(size))
        assert packed.sum() == area and packed.shape == tuple(size)
        np.testing.assert_array_equal(region(polygons, tuple(size)), packed)
        np.testing.assert_array_equal(region({"size": size, "counts": unpacked(counts)}, tuple(size)), packed)


def test_by_hand():
    assert unpacked("52203") == [5, 2, 2, 2, 5]  # the last two are differences to the second and the third
    np.testing.assert_array_equal(from_runs([1, 2, 3], (2, 3)), [[0, 1, 0], [1, 0, 0]])
    wanted = np.zeros((4, 5), bool)
    wanted[1:3, 2:5] = True
    np.testing.assert_array_equal(from_polygon([2, 1, 5, 1, 5, 3, 2, 3], (4, 5)), wanted)


def test_rows(tmp_path):
    read = whole(make_coco(tmp_path), size=64, resize="pad")
    assert read.classes == ("background", "cat", "dog") and read.arrays["mask"].dtype == np.uint8
    wanted = np.full((64, 64), 255)
    wanted[16:47] = 0
    ((y0, x0, y1, x1), name), *_ = OBJECTS["d"]  # of 31 x 64 pixels, and not resized
    wanted[16 + y0 : 16 + y1, x0:x1] = ["background", "cat", "dog"].index(name)
    np.testing.assert_array_equal(read.arrays["mask"][3], wanted)
    bright, inside = read.arrays["image"][..., 0] > 125, read.arrays["mask"] != 255
    assert (bright != (read.arrays["mask"] > 0))[inside].mean() < 0.05
    later = whole(tmp_path, size=64, resize="pad", resident_bytes=0)
    assert isinstance(later, Indexed) and later.names == read.names
    np.testing.assert_array_equal(later.read(np.arange(4))["mask"], read.arrays["mask"])
    assert whole(tmp_path, size=64, classes=("dog", "cat")).classes == ("background", "dog", "cat")


def one(tmp_path, *objects, **options):
    """The mask of an image of 40 x 60 pixels with these objects: (category, segmentation, iscrowd)."""
    value = coco_value("a")
    value["annotations"] = [
        {"id": i, "image_id": 3, "category_id": k, "segmentation": s, "iscrowd": c, "bbox": [0, 0, 1, 1]}
        for i, (k, s, c) in enumerate(objects)
    ]
    return whole(make_coco(tmp_path, value, "a"), **options).arrays["mask"][0]


def square(y, x, side):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


@pytest.mark.parametrize("order", [1, -1])
def test_smaller_objects_are_on_top_and_crowds_below(tmp_path, order):
    crowd = np.zeros((40, 60), int)
    crowd[:30, :] = 1
    edges = np.flatnonzero(np.diff(crowd.T.reshape(-1))) + 1
    runs = [0, *np.diff([0, *edges, 2400]).tolist()]
    objects = [(4, square(0, 0, 20), 0), (90, square(5, 5, 5), 0), (4, {"size": [40, 60], "counts": runs}, 1)]
    mask = one(tmp_path, *objects[::order])
    wanted = 255 * crowd
    wanted[:20, :20] = 1
    wanted[5:10, 5:10] = 2
    np.testing.assert_array_equal(mask, wanted)


@pytest.mark.parametrize("turn", range(5, 9))
def test_regions_are_turned_with_their_image(tmp_path, turn):
    """The JSON states the size of the pixels as they are stored."""
    stored = np.asarray(picture("a"))[..., 0]
    exif = Image.Exif()
    exif[274] = turn
    make_coco(tmp_path, coco_value("a"), "a")
    Image.fromarray(stored).save(tmp_path / "images/a.png", exif=exif)
    read = whole(tmp_path)
    np.testing.assert_array_equal(read.arrays["image"][0, ..., 0] > 125, read.arrays["mask"][0] > 0)
    assert read.arrays["mask"].shape == (1, 60, 40)


@pytest.mark.parametrize(
    "segmentation, message",
    [
        (None, "segmentation None: must be polygons, or runs"),
        ([], r"segmentation \[\]: must be polygons, or runs"),
        ([[1, 2, 3, 4]], "must be the x and y of at least three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "must be the x and y of at least three points"),
        ([[1, 2, 3, 4, 5, "6"]], "must be the x and y of at least three points"),
        ([[1, 2, 3, 4, 5, float("nan")]], "must be the x and y of at least three points"),
        ([[1, 2, 3, 4, 5, 1e9]], "must be the x and y of at least three points"),
        ([[0, 0, 1e6, 1e6] * 40], "a polygon with a border of more than"),
        ({"size": [40, 61], "counts": [2440]}, r"segmentation of size \[40, 61\], its image \[40, 60\]"),
        ({"counts": [2400]}, "segmentation of size None"),
        ({"size": [40, 60], "counts": [2399]}, "runs of 2399 pixels for 40 x 60"),
        ({"size": [40, 60], "counts": [2401, -1]}, "must be runs of pixels, or a packed text"),
        ({"size": [40, 60], "counts": [10**30]}, "runs of 1" + "0" * 30),
        ({"size": [40, 60], "counts": None}, "must be runs of pixels, or a packed text"),
        ({"size": [40, 60], "counts": "o"}, "ends within a run"),
        ({"size": [40, 60], "counts": "o" * 40 + "0"}, "not packed runs"),
        ({"size": [40, 60], "counts": "\x1b[2J"}, "not packed runs"),
        ({"size": [40, 60], "counts": "5"}, "runs of 5 pixels"),
        ({"size": [40, 60], "counts": "N"}, "must be runs of pixels, or a packed text"),
    ],
)
def test_regions_that_are_none(tmp_path, segmentation, message):
    with pytest.raises(InputError, match=f"a.png: .*{message}|a.png: {message}") as error:
        one(tmp_path, (4, segmentation, 0))
    assert "\n" not in str(error.value) and str(error.value).isprintable()


def test_what_does_not_fit(tmp_path):
    make_coco(tmp_path, {**coco_value(), "images": []}, "a")
    with pytest.raises(InputError, match="image_id 3 is not there"):
        whole(tmp_path)
    value = coco_value()
    value["images"][0]["width"] = 61
    make_coco(tmp_path, value)
    with pytest.raises(InputError, match="but its annotation states 40 x 61"):
        whole(tmp_path, size=32)
    assert whole(tmp_path, size=32, on_bad=lambda line, n: None).size == 3
    (tmp_path / "images/b.png").unlink()
    assert whole(tmp_path, size=32, on_bad=lambda line, n: None).size == 2
    with pytest.raises(InputError, match=r"ignore_label=2: must be in 3..255"):
        whole(tmp_path, size=32, ignore_label=2)
    with pytest.raises(InputError, match="the category 'dog' is not in classes="):
        whole(tmp_path, size=32, classes=("cat",))

"""Readers of boxes: the three formats give the same rows, boxes follow the pixels, and nothing is silently lost."""

import logging

import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from jaxcnn.core.types import InputError
from jaxcnn.data import Indexed, Resident, box_checks, image_box, letterbox, unletterbox
from jaxcnn.data.detection import boxes as stated_boxes
from jaxcnn.data.image import decode
from tests.data.boxes_on_disk import MAKE, OBJECTS, SHAPES, make_voc, ones, picture, save, xml

WHOLE = {"validation_fraction": 0.0, "test_fraction": 0.0}


def whole(kind, path, **options):
    return getattr(jc.data, kind)(path, **WHOLE | {"size": 48} | options).train


def written(path, objects, size=(40, 60), name="a", **more):
    """A set of VOC with one image and these objects, in VOC's pixels."""
    make_voc(path, (name,))
    (path / "Annotations" / f"{name}.xml").write_text(xml(objects, size, **more))
    return whole("voc", path, size=None)


def pixels_of(data, i):
    """Boxes of a row in pixels of its file."""
    row = {key: np.asarray(x[i]) for key, x in data.arrays.items()}
    return unletterbox(row["boxes"], row["image_size"], row["image_box"])[row["box_mask"] > 0]


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("resize", ["pad", "squash"])
def test_every_format_gives_the_boxes_that_are_in_the_pixels(tmp_path, kind, resize):
    read = whole(kind, MAKE[kind](tmp_path), resize=resize)
    assert isinstance(read, Resident) and read.classes == ("cat", "dog")
    assert [name.split("/")[-1] for name in read.names] == ["a.png", "b.png", "c.png", "d.png"]
    assert {name: x.dtype.name for name, x in read.arrays.items()} == {
        "image": "uint8", "boxes": "float32", "box_label": "int32", "box_mask": "float32", "image_size": "int32",
        "image_box": "float32",
    }  # fmt: skip
    np.testing.assert_array_equal(read.arrays["box_mask"], [[1, 1], [1, 0], [0, 0], [1, 0]])
    np.testing.assert_array_equal(read.arrays["image_size"], list(SHAPES.values()))
    for i, name in enumerate("abcd"):
        wanted = [box for box, _ in OBJECTS[name]]
        np.testing.assert_allclose(pixels_of(read, i), np.reshape(wanted, (-1, 4)), atol=0.01)
        labels = read.arrays["box_label"][i][read.arrays["box_mask"][i] > 0]
        assert [read.classes[k] for k in labels] == [label for _, label in OBJECTS[name]]
        bright = read.arrays["image"][i, ..., 0] > 125
        inside = np.zeros_like(bright)
        for y0, x0, y1, x1 in np.rint(read.arrays["boxes"][i] * 48).astype(int):
            inside[y0:y1, x0:x1] = True
        assert (inside != bright).mean() < 0.06, name


@pytest.mark.parametrize("image_size", [(30, 90), (97, 41), (48, 48), (200, 201), (7, 3)])
@pytest.mark.parametrize("resize", ["pad", "squash"])
def test_edges_follow_to_half_a_pixel_and_come_back(tmp_path, rng, image_size, resize):
    size, (height, width) = (64, 80), image_size
    box = np.array([[height // 3, width // 3, height // 3 + height // 2, width // 3 + width // 2]], float)
    pixels = np.zeros(image_size, np.uint8)
    y0, x0, y1, x1 = box[0].astype(int)
    pixels[y0:y1, x0:x1] = 255
    save(tmp_path / "x.png", Image.fromarray(pixels))
    shown = decode(tmp_path / "x.png", "L", size, resize=resize)[..., 0] / 255.0
    place = image_box(image_size, size, resize)
    moved = letterbox(box, image_size, place)[0] * np.tile(size, 2)
    # the sum over a middle row is the width of the rectangle, and its centre of mass is its centre
    for axis, (start, end) in enumerate(((moved[0], moved[2]), (moved[1], moved[3]))):
        line = shown.sum(1 - axis) / max(shown.sum(1 - axis).max(), 1e-9)
        centre = (line * (np.arange(size[axis]) + 0.5)).sum() / line.sum()
        assert abs(centre - (start + end) / 2) < 0.5 and abs(line.sum() - (end - start)) < 1
    np.testing.assert_allclose(unletterbox(letterbox(box, image_size, place), image_size, place), box, atol=1e-9)
    np.testing.assert_array_equal(unletterbox([[-1, -1, 2, 2]], image_size, place), [[0, 0, height, width]])


def test_the_way_back_takes_batches():
    sizes = np.array([(30, 90), (97, 41)])
    places = np.stack([image_box((a, b), (64, 64)) for a, b in sizes.tolist()])
    boxes = np.array([[[3.0, 4, 20, 30]] * 3, [[50, 1, 90, 40]] * 3])
    np.testing.assert_allclose(unletterbox(letterbox(boxes, sizes, places), sizes, places), boxes)


@pytest.mark.parametrize("kind", MAKE)
def test_large_sets_are_read_as_needed(tmp_path, kind):
    path = MAKE[kind](tmp_path)
    held, read = whole(kind, path), whole(kind, path, resident_bytes=100)
    assert isinstance(read, Indexed) and read.names == held.names
    (chunk,) = read.once(4)
    for name, x in held.arrays.items():
        np.testing.assert_array_equal(np.asarray(chunk.at(0)[name]), x)
    assert [part.size for part in getattr(jc.data, kind)(path, size=32, validation_fraction=0.4)] == [2, 1, 1]


BAD = {
    "without area": (10, 10, 10, 10),
    "inverted": (20, 8, 9, 30),
    "outside the image": (41, 70, 60, 90),
    "with NaN or infinity": (3, "nan", 30, 30),
    "repeated": (11, 6, 30, 25),
}


def test_boxes_that_cannot_be_meant_are_left_out_and_counted(tmp_path, caplog):
    good = (11, 6, 30, 25)
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        read = written(tmp_path, [(good, "cat"), *((box, "cat") for box in BAD.values()), ((-4, 41, 20, 99), "dog")])
    np.testing.assert_allclose(pixels_of(read, 0), [(10, 5, 30, 25), (0, 40, 20, 60)], atol=1e-4)
    (line,) = [r.getMessage() for r in caplog.records]
    assert "5 of 7 boxes are left out" in line and "1 reach over the border and are clipped" in line
    assert all(f"1 {kind} (the first: a.png)" in line for kind in BAD)


def test_boxes_at_the_border_are_neither_moved_nor_told(tmp_path, caplog):
    read = written(tmp_path, [((1, 1, 40, 60), "cat"), ((40, 60, 41, 61), "cat")])
    np.testing.assert_array_equal(read.arrays["boxes"][0, 0], [0, 0, 1, 1])
    assert "1 reach over the border" in caplog.text and "left out" not in caplog.text


def test_five_thousand_boxes_in_one_image(tmp_path, rng, caplog):
    start = rng.integers(1, 20, (5000, 2))
    end = start + rng.integers(2, 20, (5000, 2))
    objects = [((y0, x0, y1, x1), "cat") for (y0, x0), (y1, x1) in zip(start.tolist(), end.tolist(), strict=True)]
    make_voc(tmp_path, ("a", "b"))
    (tmp_path / "Annotations/a.xml").write_text(xml(objects, (40, 60)))
    read = whole("voc", tmp_path)
    there = len(np.unique(np.concatenate([start, end], 1), axis=0))
    assert read.arrays["boxes"].shape == (2, there, 4) and read.arrays["box_mask"].sum(1).tolist() == [there, 1]
    caplog.clear()
    few = whole("voc", tmp_path, max_boxes=7)
    area = np.prod(np.diff(few.arrays["boxes"].reshape(2, 7, 2, 2), axis=2)[..., 0, :], -1)
    largest = np.prod(np.diff(read.arrays["boxes"].reshape(2, -1, 2, 2), axis=2)[..., 0, :], -1)
    np.testing.assert_allclose(np.sort(area), np.sort(largest)[:, -7:], rtol=1e-5)
    assert f"{there - 7} beyond max_boxes=7" in caplog.text


def test_more_boxes_than_any_photo_shows(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxcnn.data.detection.MOST_BOXES", 1)
    with pytest.raises(InputError, match="a.png: 2 boxes, more than 1; correct it, or give max_boxes="):
        whole("voc", make_voc(tmp_path))
    assert whole("voc", tmp_path, max_boxes=2).arrays["boxes"].shape == (4, 2, 4)


def test_difficult_objects_are_crowds(tmp_path):
    read = written(tmp_path, ones(OBJECTS["a"]), difficult=(1,))
    np.testing.assert_array_equal(read.arrays["box_crowd"], [[0, 1]])


@pytest.mark.parametrize("turn", range(1, 9))
def test_boxes_are_those_of_the_image_as_it_is_shown(tmp_path, turn):
    """Whether the annotation states the size as shown or as stored, the box is where the bright pixels are."""
    for states in ("shown", "stored") if turn > 4 else ("shown",):
        root = make_voc(tmp_path / states, ("a",))
        stored = np.asarray(picture("a"))[..., 0]
        exif = Image.Exif()
        exif[274] = turn
        save(root / "JPEGImages/a.png", Image.fromarray(stored))
        Image.fromarray(stored).save(root / "JPEGImages/a.png", exif=exif)
        upright = decode(root / "JPEGImages/a.png", "L", None)[..., 0]
        bright = np.argwhere((stored if states == "stored" else upright) > 125)
        half = bright[bright[:, 1] < 33] if states == "stored" else bright
        corners = (*(half.min(0) + 1).tolist(), *(half.max(0) + 1).tolist())
        size = stored.shape if states == "stored" else upright.shape
        (root / "Annotations/a.xml").write_text(xml([(corners, "cat")], size))
        (box,) = pixels_of(whole("voc", root, size=None), 0)
        y0, x0, y1, x1 = np.rint(box).astype(int)
        if states == "stored":  # the larger rectangle, which is bright all over
            assert (upright[y0:y1, x0:x1] > 125).all() and (y1 - y0) * (x1 - x0) == 20 * 20
        else:
            np.testing.assert_array_equal(np.argwhere(upright > 125).min(0), (y0, x0))


def test_an_image_of_another_size_than_its_annotation_states(tmp_path):
    with pytest.raises(InputError, match=r"40 x 60 pixels \(height, width\), but its annotation states 80 x 120"):
        written(tmp_path, ones(OBJECTS["a"]), size=(80, 120))


@pytest.mark.parametrize("kind", MAKE)
def test_what_is_not_readable_may_be_left_out(tmp_path, kind):
    path, told = MAKE[kind](tmp_path), []
    next(path.rglob("b.png")).write_bytes(b"nothing")
    with pytest.raises(InputError, match="b.png"):
        whole(kind, path)
    on_bad = {"on_bad": lambda line, n: told.append(line)}
    assert whole(kind, path, **on_bad).size == 3 and any("b.png" in line for line in told)
    damaged = next(path.rglob("d.png"))
    damaged.write_bytes(damaged.read_bytes()[:60])  # the head is whole
    assert whole(kind, path, **on_bad).size == 2
    batch = whole(kind, path, resident_bytes=1, **on_bad).read(np.arange(3))
    np.testing.assert_array_equal(batch["row_mask"], [1, 1, 0])
    assert not batch["box_mask"][2].any()


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize(
    "options, message",
    [
        ({"resize": "crop"}, "would cut boxes"),
        ({"max_boxes": 0}, "max_boxes=0: must be at least 1"),
        ({"classes": ("cat", "cat", "dog")}, "'cat' is there twice"),
        ({"size": None}, "give an image size to resize them to"),
        ({"size": 0}, "size=0"),
        ({"channels": 2}, "channels=2"),
        ({"test_fraction": 1.0}, "test_fraction=1.0"),
    ],
)
def test_options_out_of_range(tmp_path, kind, options, message):
    with pytest.raises(InputError, match=message) as error:
        whole(kind, MAKE[kind](tmp_path), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", MAKE)
def test_a_class_that_is_not_in_the_list(tmp_path, kind):
    path = MAKE[kind](tmp_path)
    assert whole(kind, path, classes=("cat", "dog", "cow")).classes == ("cat", "dog", "cow")
    with pytest.raises(InputError, match="'dog' is not in classes=|class 1, but there are 1 names"):
        whole(kind, path, classes=("cat",))


@pytest.mark.parametrize("kind", MAKE)
def test_nothing_there(tmp_path, kind):
    with pytest.raises(InputError, match="no such"):
        whole(kind, tmp_path / "none")
    with pytest.raises(InputError, match="needs|no annotations"):
        whole(kind, tmp_path)


def test_gray_images_and_channels(tmp_path):
    root = make_voc(tmp_path, ("a",))
    save(root / "JPEGImages/a.png", picture("a").convert("L"))
    assert whole("voc", root).arrays["image"].shape == (1, 48, 48, 1)
    assert whole("voc", root, channels=3).arrays["image"].shape == (1, 48, 48, 3)


def test_no_boxes_at_all_are_mended():
    none = box_checks.mended(stated_boxes([], []), (4, 4), box_checks.pathlib.Path("x"), box_checks.Tally(), 3)
    assert none.boxes.shape == (0, 4)


@pytest.mark.parametrize("kind", [*MAKE, "coco_masks"])
def test_rows_of_a_group_are_in_one_part(tmp_path, kind):
    path, read = MAKE[kind.removesuffix("_masks")](tmp_path), getattr(jc.data, kind)
    for seed in range(6):
        parts = read(path, size=16, seed=seed, group="([a-d])[.]png", test_fraction=0.25, validation_fraction=0.3)
        assert [part.size for part in parts] == [2, 1, 1]
        together = read(path, size=16, seed=seed, group="[ab]([.])png|png", test_fraction=0.4, validation_fraction=0)
        assert {frozenset(name[-5] for name in part.names) for part in together} == {
            frozenset(), frozenset("ab"), frozenset("cd"),
        }  # fmt: skip
    for group, message in (
        ("(", "not a regular"),
        ("[ab][.]png", "[cd].png has no match"),
        ("png", "of the group 'png'"),
    ):
        with pytest.raises(InputError, match=message):
            read(path, size=16, group=group)

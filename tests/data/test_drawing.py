"""Pictures of predictions, read back: palettes, indexed masks, overlays with contours, boxes with labels."""

import io

import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from jaxcnn.data import draw_boxes, drawing
from jaxcnn.data.drawing import indexed_png, overlay, palette, png


def decoded(data, mode=None):
    image = Image.open(io.BytesIO(data))
    return np.asarray(image.convert(mode) if mode else image), image


def test_colours_are_told_apart_by_all_eyes():
    colours = palette(24)
    assert colours.dtype == np.uint8 and colours[0].tolist() == [0, 0, 0] and colours[6].tolist() == [213, 94, 0]
    for count, least in ((8, 15), (12, 15), (20, 12)):
        seen = drawing.lab(np.concatenate([palette(count), [drawing.VOID]]))
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1).min(-1) + 1e9 * np.eye(count + 1)
        assert apart.min() > least, (count, apart.min())
    np.testing.assert_array_equal(palette(12), colours[:12])
    assert len(np.unique(palette(255), axis=0)) == 255


def test_lightness_and_hue_are_those_of_cielab():
    seen = drawing.lab(np.array([[255, 255, 255], [255, 0, 0], [0, 0, 255], [119, 119, 119]]))[:, 0]
    expected = [[100, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [50.03, 0, 0]]
    np.testing.assert_allclose(seen, expected, atol=0.05)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool])
def test_an_indexed_mask_is_read_back(tmp_path, dtype, rng):
    mask = rng.integers(0, 2 if dtype is bool else 5, (9, 13)).astype(dtype)
    if dtype is not bool:
        mask[0, :3] = 255
    values, image = decoded(indexed_png(mask))
    assert image.mode == "P"
    np.testing.assert_array_equal(values, mask)
    seen = np.asarray(image.convert("RGB"))
    inside = mask != 255
    np.testing.assert_array_equal(seen[inside], palette(5)[mask[inside].astype(int)])
    assert dtype is bool or (seen[~inside] == 255).all()
    for part, data in (("images", png(np.zeros((9, 13, 3), np.uint8))), ("masks", indexed_png(mask))):
        (tmp_path / part).mkdir()
        (tmp_path / part / "a.png").write_bytes(data)
    (tmp_path / "images/b.png").write_bytes((tmp_path / "images/a.png").read_bytes())
    (tmp_path / "masks/b.png").write_bytes((tmp_path / "masks/a.png").read_bytes())
    read = jc.data.masks(tmp_path, validation_fraction=0.0, test_fraction=0.5)
    np.testing.assert_array_equal(read.train.arrays["mask"][0], mask)


def test_colours_of_ones_own():
    mask = np.array([[0, 1], [11, 1]])
    image = decoded(indexed_png(mask, [[9, 8, 7], [1, 2, 3]], ignore_label=11))[1]
    assert np.asarray(image.convert("RGB")).tolist() == [[[9, 8, 7], [1, 2, 3]], [[255] * 3, [1, 2, 3]]]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_overlay_colours_classes_and_surrounds_errors(channels, rng):
    image = rng.integers(60, 200, (20, 24, channels)).astype(np.uint8)
    mask = np.zeros((20, 24), int)
    mask[2:8, 2:8], mask[15:, 15:] = 1, 255
    true = mask.copy()
    true[2:8, 2:8] = 0  # a square that is not there
    true[15:, :5], true[0, 0] = 2, 255
    plain = overlay(image, mask)
    rgb = np.broadcast_to(image[..., :3], (20, 24, 3))
    np.testing.assert_array_equal(plain[mask != 1], rgb[mask != 1])
    np.testing.assert_allclose(plain[mask == 1], 0.5 * rgb[mask == 1] + 0.5 * palette(2)[1], atol=1)
    both = overlay(image, mask, true=true)
    ring = np.zeros((20, 24), bool)
    ring[2:8, 2:8] = True
    inner = ring.copy()
    inner[2:8, 2:8] = np.pad(np.zeros((4, 4), bool), 1, constant_values=True)
    assert (both[inner & ring] == 255).all() and (both[1, 2:8] == 0).all() and (both[2:8, 8] == 0).all()
    np.testing.assert_array_equal(both[3:7, 3:7], plain[3:7, 3:7])
    np.testing.assert_array_equal(both[16:19, 1:4], plain[16:19, 1:4])
    assert (both[15:, 0] == 255).all() and (both[19, :5] == 255).all()  # also along the border of the image
    np.testing.assert_array_equal(both[0, 0], plain[0, 0])  # unknown is not wrong
    again = decoded(png(both))[0]
    np.testing.assert_array_equal(again, both)


def test_floats_and_every_class():
    image = np.full((4, 4), 0.5, np.float32)
    shown = overlay(image, np.zeros((4, 4), int), background=None, opacity=1.0, colours=[[10, 20, 30]])
    assert (shown == [10, 20, 30]).all()
    assert (overlay(image, np.zeros((4, 4), int)) == 128).all()


def boxes_of(*rows):
    rows = np.array(rows, np.float32)
    return {"boxes": rows[:, :4], "labels": rows[:, 4].astype(int), "scores": rows[:, 5]}


def test_boxes_are_where_they_are_and_padding_is_nowhere():
    image = np.full((200, 300, 3), 90, np.uint8)
    found = boxes_of((0.3, 0.2, 0.6, 0.5, 1, 0.93), (0.7, 0.7, 0.9, 0.9, 0, 0.2), (np.nan, 0, 1, 1, -7, np.nan))
    found["box_mask"] = np.array([1, 1, 0])
    drawn = draw_boxes(image, found, ("red", "white"), least_score=0.5)
    colours = palette(3)[1:].astype(int)
    edge = colours[1]
    for at in ((60, 100), (119, 100), (90, 60), (90, 149)):
        np.testing.assert_array_equal(drawn[at], edge)
    assert (drawn[75:110, 75:140] == 90).all() and (drawn[135:, 180:] == 90).all()
    label = drawn[30:59, 60:]
    on_colour = (label == edge).all(-1)
    assert on_colour.sum() > 200 and (label.max(-1) < 60).sum() > 20  # dark text on a bright colour
    low = draw_boxes(image, found, ("red", "white"))
    np.testing.assert_array_equal(low[140, 240], colours[0])
    assert (draw_boxes(image, {"boxes": np.zeros((0, 4))}) == image).all()


def test_the_surest_box_is_on_top_and_labels_stay_inside():
    image = np.zeros((100, 100), np.uint8)
    found = boxes_of((0.0, 0.0, 1.0, 1.0, 0, 0.9), (0.0, 0.0, 1.0, 1.0, 1, 0.4), (-3, 0.9, 5, 9, 2, 0.1))
    drawn = draw_boxes(image, found)
    np.testing.assert_array_equal(drawn[60, 0], palette(4)[1])
    np.testing.assert_array_equal(drawn[99, 50], palette(4)[1])
    assert (drawn[2:12, 2:30] == palette(4)[1]).all(-1).any()  # inside, because there is no room above


def test_true_boxes_are_dashed():
    image = np.full((120, 120, 1), 200, np.uint8)
    true = {"boxes": np.array([[0.25, 0.25, 0.75, 0.75]]), "box_label": np.array([1])}
    drawn = draw_boxes(image, {"boxes": np.zeros((0, 4))}, true=true)
    line = (drawn[30, 30:90] == palette(3)[2]).all(-1)
    assert 0.3 < line.mean() < 0.9 and (drawn[40:80, 40:80] == 200).all()


GOOD = np.zeros((4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: palette(0), "count=0: must be 1 to 255"),
        (lambda: palette(256), "count=256"),
        (lambda: indexed_png(np.zeros((2, 2))), "must be integers"),
        (lambda: indexed_png(np.full((2, 2), -1)), "values from -1 to -1"),
        (lambda: indexed_png(np.full((2, 2), 300)), "must be in 0..255"),
        (lambda: indexed_png(np.full((2, 2), 3), [[0, 0, 0]]), "colours for 1 classes: the mask has class 3"),
        (lambda: indexed_png(np.zeros((2, 2), int), [0, 0, 0]), r"must be \[K, 3\]"),
        (lambda: overlay(GOOD, np.zeros((5, 4), int)), r"must have the \(4, 5\) pixels"),
        (lambda: overlay(GOOD, np.zeros((4, 5), int), true=np.zeros((4, 4), int)), "true of shape"),
        (lambda: overlay(GOOD, np.zeros((4, 5), int), opacity=2), "opacity=2"),
        (lambda: overlay(GOOD.astype(int), np.zeros((4, 5), int)), "image of dtype int64"),
        (lambda: overlay(np.full((4, 5, 3), 7.0), np.zeros((4, 5), int)), "floats must be in 0..1"),
        (lambda: overlay(np.full((4, 5, 3), np.nan), np.zeros((4, 5), int)), "floats must be in 0..1"),
        (lambda: overlay(np.zeros((4, 5, 2)), np.zeros((4, 5), int)), "1, 3 or 4 channels"),
        (lambda: draw_boxes(GOOD, {"boxes": np.zeros((1, 2, 4))}), "those of one image"),
        (lambda: draw_boxes(GOOD, {"boxes": np.full((1, 4), np.nan)}), "is not finite"),
        (lambda: draw_boxes(GOOD, {"boxes": np.zeros((1, 4)), "scores": np.zeros(2)}), "one for each box"),
        (lambda: draw_boxes(GOOD, {"boxes": np.zeros((1, 4)), "scores": [np.nan]}), "is not finite"),
        (lambda: draw_boxes(GOOD, {"boxes": np.zeros((1, 4)), "labels": [5]}, colours=[[1, 2, 3]]), "box of class 5"),
    ],
)
def test_what_is_wrong_is_one_line(make, message):
    with pytest.raises(jc.InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)

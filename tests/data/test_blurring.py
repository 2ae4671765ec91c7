"""Blurred boxes: what changes, what stays, files, and boxes that are refused."""

import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from jaxcnn.data import blur_boxes, blur_file
from jaxcnn.data.blurring import _moving_mean


def test_a_moving_mean_by_hand():
    np.testing.assert_allclose(_moving_mean(np.array([3.0, 0, 6, 9]), 0, 1), [2, 3, 5, 8])
    np.testing.assert_allclose(_moving_mean(np.array([[4.0, 8]]), 1, 5), [[4 + 4 * 5 / 11, 4 + 4 * 6 / 11]])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_only_the_box_changes_and_loses_its_detail(rng, dtype):
    image = rng.integers(0, 256, (40, 60, 3)) if dtype == np.uint8 else rng.random((40, 60, 3))
    image = image.astype(dtype)
    found = blur_boxes(image, [[0.25, 0.5, 0.75, 0.9]])
    inside = np.zeros((40, 60), bool)
    inside[10:30, 30:54] = True
    np.testing.assert_array_equal(found[~inside], image[~inside])
    assert found.dtype == dtype and found[inside].std() < 0.2 * image[inside].std()
    assert found[inside].mean() == pytest.approx(image[inside].mean(), rel=0.1)
    other = image.copy()
    other[~inside] = 0  # nothing outside shows through
    np.testing.assert_array_equal(blur_boxes(other, [[0.25, 0.5, 0.75, 0.9]])[inside], found[inside])
    np.testing.assert_array_equal(blur_boxes(image, []), image)


def test_a_file_is_blurred_as_it_is_shown(rng, tmp_path):
    pixels = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    blur_file(tmp_path / "a.png", [[0, 0, 0.5, 1]], tmp_path / "b.png", strength=1)
    found = np.asarray(Image.open(tmp_path / "b.png"))
    np.testing.assert_array_equal(found[10:], pixels[::-1, ::-1][10:])
    assert found[:10].std() < 20 and not Image.open(tmp_path / "b.png").getexif()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p: blur_boxes(np.zeros((4, 4)), []), r"must be \[H, W, C\]"),
        (lambda p: blur_boxes(np.zeros((4, 4, 3)), [[0, 0, 4, 4]]), r"box \[0.0, 0.0, 4.0, 4.0\]: must be top, left"),
        (lambda p: blur_boxes(np.zeros((4, 4, 3)), [[0.5, 0, 0.5, 1]]), "must be top, left"),
        (lambda p: blur_boxes(np.zeros((4, 4, 3)), [[np.nan, 0, 0.5, 1]]), "must be top, left"),
        (lambda p: blur_boxes(np.zeros((4, 4, 3)), [[0, 0, 1, 1]], 0), "strength=0"),
        (lambda p: blur_file(p / "a.png", [], p / "b.jpg"), "the result is a PNG file"),
        (lambda p: blur_file(p / "none.png", [], p / "b.png"), "none.png"),
    ],
)
def test_bad_input_is_one_line(tmp_path, call, message):
    with pytest.raises(jc.InputError, match=message) as error:
        call(tmp_path)
    assert "\n" not in str(error.value)

"""Which part of an image is read: the centre, or a random crop that depends only on the seed and the row's place."""

import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from jaxcnn.data import crops, image


@pytest.fixture
def photos(tmp_path, rng):
    """Two classes of ten photos, 60 x 90 pixels, in which red is the row and green the column."""
    rows, columns = np.mgrid[0:60, 0:90]
    for c in ("a", "b"):
        (tmp_path / c).mkdir()
        for i in range(10):
            pixels = np.stack([rows, columns, np.full_like(rows, 10 * i)], -1).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / c / f"{i}.png")
    return tmp_path


def test_drawn_rectangles_have_the_areas_and_ratios_of_torchvision():
    size = crops.training((8, 8), None, (0.2, 0.5))
    found = np.array([size.window(np.array([3, i]))(60, 90) for i in range(2000)])
    top, left, high, wide = found.T
    share, ratio = high * wide / 5400, wide / high
    assert top.min() == 0 and left.min() == 0 and (top + high).max() == 60 and (left + wide).max() == 90
    assert 0.19 < share.min() < 0.21 and 0.48 < share.max() < 0.51 and abs(share.mean() - 0.35) < 0.01
    assert 0.73 < ratio.min() < 0.77 and 1.29 < ratio.max() < 1.38 and abs(np.log(ratio).mean()) < 0.02


def test_the_centre_is_cut_out_as_by_resizing_and_cropping(tmp_path, rng):
    pixels = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    smooth = Image.fromarray(pixels).resize((96, 64)).resize((960, 640), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "x.png")
    whole = smooth.resize((384, 256), Image.Resampling.BILINEAR)
    want = np.asarray(whole.crop((80, 16, 304, 240)), np.float64)
    got = jc.data.folder.__globals__["read_image"](tmp_path / "x.png", 3, (224, 224), "crop", 0.875)
    assert np.abs(got - want).mean() < 1.5


def test_training_reads_crops_that_a_resumed_run_reads_again(photos):
    def read(**options):
        return jc.data.folder(photos, size=16, resize="crop", random_crop=(0.1, 0.3), train_size=8, **options)

    data = read().train
    several = np.asarray(data.chunk(4, 0, 6, 6).batches["image"])
    assert several.shape == (6, 4, 8, 8, 3) and data.example()["image"].shape == (1, 16, 16, 3)
    again = np.asarray(read().train.chunk(4, 3, 2, 4).batches["image"])
    np.testing.assert_array_equal(again[:2], several[3:5])
    halves = [np.asarray(data.chunk(4, 3, 2, 2, 2, (i, 2)).batches["image"]) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves, 1), several[3:5])
    epochs = [data.chunk(data.size, e, 1, 1).at(0) for e in range(2)]
    first, second = (np.asarray(e["image"])[np.argsort(np.asarray(e["image"])[..., 2].mean((1, 2)))] for e in epochs)
    assert (first[..., :2] != second[..., :2]).any((1, 2, 3)).mean() > 0.9  # other crops of the same photos
    spread = np.ptp(several[..., 0].astype(int), axis=(2, 3)).mean()
    assert 15 < spread < 40  # a crop shows a third to a half of the 60 rows


def test_evaluation_reads_the_centre(photos):
    data = jc.data.folder(photos, size=20, resize="crop", crop_ratio=0.5, random_crop=(0.1, 0.3))
    (chunk,) = data.test.once(8)
    pixels = np.asarray(chunk.at(0)["image"])[0]
    assert abs(pixels[..., 0].mean() - 29.5) < 1 and abs(pixels[..., 1].mean() - 44.5) < 1
    assert 25 < np.ptp(pixels[..., 0].astype(int)) < 31


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_a_jpeg_that_is_much_larger_is_decoded_smaller(tmp_path, turn, monkeypatch):
    rows, columns = np.mgrid[0:800, 0:1200]
    pixels = np.stack([rows * 255 // 800, columns * 255 // 1200, rows * 0], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(pixels).save(tmp_path / "x.jpg", quality=95, exif=exif)
    seen = []
    monkeypatch.setattr(image, "in_eight_bits", lambda x, *_: seen.append(x.size) or x)
    small = image.decode(tmp_path / "x.jpg", "RGB", (100, 100), resize="crop")
    window = image.decode(tmp_path / "x.jpg", "RGB", (50, 50), window=lambda h, w: crops.Window(h / 2, w / 2, 100, 100))
    monkeypatch.setattr(image, "drafted", lambda x, part, *_: part)
    want = image.decode(tmp_path / "x.jpg", "RGB", (100, 100), resize="crop")
    exact = image.decode(tmp_path / "x.jpg", "RGB", (50, 50), window=lambda h, w: crops.Window(h / 2, w / 2, 100, 100))
    assert seen == [(300, 200), (600, 400), (1200, 800), (1200, 800)]
    assert np.abs(small.astype(int) - want).max() <= 4 and np.abs(window.astype(int) - exact).max() <= 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"random_crop": (0.5, 0.2)}, "random_crop=.*smaller one first"),
        ({"random_crop": (0, 1)}, "random_crop="),
        ({"random_crop": (0.1, 1), "size": None}, "give size as well"),
        ({"train_size": 8}, "give random_crop as well"),
        ({"crop_ratio": 0.875}, 'needs resize="crop"'),
        ({"crop_ratio": 0, "resize": "crop"}, "crop_ratio=0"),
        ({"channels": 2}, "channels=2: must be 1 or 3"),
    ],
)
def test_bad_options_are_one_line(photos, options, message):
    with pytest.raises(jc.InputError, match=message):
        jc.data.folder(photos, **{"size": 16, **options})


def test_files_are_not_opened_before_they_are_needed(photos, monkeypatch):
    monkeypatch.setattr("jaxcnn.data.reader.head", None)
    data = jc.data.folder(photos, size=16, channels=1, random_crop=(0.1, 1), test_fraction=0.5)
    assert data.train.example()["image"].shape == (1, 16, 16, 1)

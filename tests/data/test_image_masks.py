"""Images with masks: layouts, forms of masks, sizes, and what does not belong together."""

import numpy as np
import pytest
from PIL import Image

from jaxcnn.core.types import InputError
from jaxcnn.data import Indexed, Resident, masks


def save(path, pixels, mode=None, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels, np.uint8), mode)
    if palette:
        image.putpalette(palette)
    image.save(path)


def pair(root, name, label, image=None):
    """An image whose pixels are ten times their class, beside its mask."""
    save(root / "images" / f"{name}.png", np.minimum(10 * label, 255) if image is None else image)
    save(root / "masks" / f"{name}.png", label)


@pytest.fixture
def label(rng):
    return rng.integers(0, 3, (10, 8, 12))


@pytest.fixture
def data(tmp_path, label):
    for i, one in enumerate(label):
        pair(tmp_path, f"{i:02}", one)
    return tmp_path


def whole(path, **options):
    return masks(path, **{"validation_fraction": 0.0, "test_fraction": 0.0} | options).train


def test_pairs_are_rows(data, label):
    read = whole(data)
    assert isinstance(read, Resident) and read.classes == ("0", "1", "2") and read.names[3] == "images/03.png"
    np.testing.assert_array_equal(read.arrays["mask"], label)
    np.testing.assert_array_equal(read.arrays["image"][..., 0], 10 * label)
    splits = masks(data, classes=("a", "b", "c"))
    assert [part.size for part in splits] == [7, 1, 2] and splits.test.classes == ("a", "b", "c")


def test_large_sets_are_read_as_needed(data, label):
    read = whole(data, resident_bytes=100)
    assert isinstance(read, Indexed)
    (chunk,) = read.once(16)
    np.testing.assert_array_equal(np.asarray(chunk.at(0)["mask"])[:10], label)


def test_parts_are_folders(tmp_path, label):
    for part, some in (("train", label[:6]), ("val", label[6:8]), ("test", label[8:])):
        for i, one in enumerate(some):
            pair(tmp_path / part, str(i), one)
    assert [part.size for part in masks(tmp_path)] == [6, 2, 2]


@pytest.mark.parametrize("values", [None, [0, 255], [255, 0]])
def test_black_and_white(tmp_path, label, values):
    region = label == 1
    for i, one in enumerate(region):
        pair(tmp_path, str(i), np.where(one, 255, 0))
    read = whole(tmp_path, values=values)
    np.testing.assert_array_equal(read.arrays["mask"], ~region if values == [255, 0] else region)


def test_values_that_are_no_numbers_of_classes(tmp_path, label):
    for i, one in enumerate(label == 1):
        pair(tmp_path / "a", str(i), np.where(one, 128, 0))
    with pytest.raises(InputError, match="the masks have the values 0, 128, and most .*: give values="):
        whole(tmp_path / "a")
    assert whole(tmp_path / "a", values=[0, 128]).classes == ("0", "1")
    save(tmp_path / "b/images/0.png", np.zeros((8, 12, 3)))
    save(tmp_path / "b/masks/0.jpg", np.zeros((8, 12)))
    with pytest.raises(InputError, match="0.jpg: JPEG compression changes the values of a mask; save it as PNG"):
        whole(tmp_path / "b")


def test_a_mask_is_turned_as_its_image(tmp_path):
    from PIL import Image

    ramp = np.zeros((8, 12), np.uint8)
    ramp[:2] = 1
    for kind, pixels in (("images", np.stack([ramp * 255] * 3, -1)), ("masks", ramp)):
        (tmp_path / kind).mkdir()
        for i in range(2):
            made = Image.fromarray(pixels)
            made.getexif()[0x0112] = 3
            made.save(tmp_path / kind / f"{i}.png", exif=made.getexif())
    read = whole(tmp_path).arrays
    np.testing.assert_array_equal(read["mask"][0], ramp[::-1])
    np.testing.assert_array_equal(read["image"][0, ..., 0] > 127, read["mask"][0] == 1)


def test_palettes_colours_and_void(tmp_path, label):
    colours = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 9]])
    void = np.where(np.arange(12) < 2, 255, label)
    for i, (one, most) in enumerate(zip(label, void, strict=True)):
        save(tmp_path / "a/images" / f"{i}.jpg", np.zeros((8, 12, 3)))
        save(tmp_path / "a/masks" / f"{i}.png", colours[one])
        save(tmp_path / "b/images" / f"{i}.jpg", np.zeros((8, 12, 3)))
        save(tmp_path / "b/masks" / f"{i}.png", most, palette=list(range(256)) * 3)
    np.testing.assert_array_equal(whole(tmp_path / "a", values=colours.tolist()).arrays["mask"], label)
    np.testing.assert_array_equal(whole(tmp_path / "b", classes=("x", "y", "z")).arrays["mask"], void)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_masks_are_resized_like_images(tmp_path, resize):
    for i, (height, width) in enumerate([(30, 60), (40, 40), (90, 30)]):
        label = np.zeros((height, width), int)
        label[height // 3 : height // 3 * 2, width // 3 : width // 3 * 2] = 1
        pair(tmp_path, str(i), label, 255 * label)
    read = whole(tmp_path, size=24, resize=resize)
    image, mask = (np.asarray(read.arrays[name]) for name in ("image", "mask"))
    inside = mask != 255
    sure = inside & ((image[..., 0] < 40) | (image[..., 0] > 215))
    assert ((image[..., 0] > 127) == mask)[sure].all() and sure.sum() > 0.85 * inside.sum()
    assert (inside.all((1, 2)) == [resize != "pad", True, resize != "pad"]).all()
    assert (image[..., 0][~inside] == 0).all()


def test_what_cannot_be_read_may_be_left_out(data):
    (data / "images/03.png").write_bytes(b"nothing")
    save(data / "masks/05.png", np.full((8, 12), 7))
    told = []
    read = whole(data, classes=("a", "b", "c"), on_bad=lambda line, n: told.append(line))
    assert read.size == 8 and any("05.png: the value 7 is no class" in line for line in told)


@pytest.mark.parametrize(
    "change, options, message",
    [
        (lambda d: (d / "masks/02.png").unlink(), {}, "02.png: has no mask"),
        (lambda d: (d / "images/02.png").unlink(), {}, "02.png: has no image"),
        (lambda d: save(d / "masks/02.png", np.zeros((8, 13))), {}, "a mask of 8 x 13 pixels, its image 8 x 12"),
        (
            lambda d: save(d / "masks/02.png", np.full((8, 12), 9)),
            {"classes": "abc"},
            "02.png: the value 9 is no class",
        ),
        (lambda d: save(d / "masks/02.png", np.zeros((8, 12, 3))), {}, "02.png: a mask of colours; give values="),
        (lambda d: save(d / "masks/02.png", np.zeros((8, 12, 3))), {"values": [0, 1, 2]}, "but values= has gray"),
        (lambda d: None, {"values": [[0, 0, 0], [9, 9, 9]]}, "but values= has colours"),
        (lambda d: None, {"values": [0, 0, 1]}, "must be different"),
        (lambda d: None, {"values": [0, 300]}, "must be different"),
        (lambda d: None, {"values": [0, (1, 2, 3)]}, "must be different"),
        (lambda d: None, {"values": [0.0, 1.0]}, "must be different"),
        (lambda d: None, {"values": [0, 1]}, "the value 2 is no class"),
        (lambda d: None, {"classes": ("a",)}, "give one for each"),
        (lambda d: None, {"classes": ("a", "b"), "values": [0, 1, 2]}, "2 names for 3 values"),
        (lambda d: None, {"ignore_label": 1}, "ignore_label=1: is the label of a class"),
        (lambda d: save(d / "images/02.png", np.zeros((9, 9))), {}, "give an image size"),
        (lambda d: (d / "masks").rename(d / "other"), {}, "needs a folder images/ and a folder masks/"),
        (lambda d: (d / "images").rename(d / "other"), {}, "needs images/ beside masks/"),
        (lambda d: save(d / "images/02.jpg", np.zeros((8, 12))), {}, "has the same name; remove one"),
    ],
)
def test_what_does_not_belong_together_is_one_line(data, change, options, message):
    change(data)
    with pytest.raises(InputError, match=message) as error:
        whole(data, **options)
    assert "\n" not in str(error.value)


def test_deep_masks(data, label):
    Image.fromarray(label[2].astype(np.uint16)).save(data / "masks/02.png")
    np.testing.assert_array_equal(whole(data).arrays["mask"], label)
    Image.fromarray((label[2] * 1000).astype(np.uint16)).save(data / "masks/02.png")
    with pytest.raises(InputError, match="a mask with the value 2000"):
        whole(data)

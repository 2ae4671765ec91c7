"""Digits, `.npz` archives, IDX files and folders of images are read, or refused in one line that gives the reason."""

import gzip
import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import Indexed, Resident, digits, folder, idx, is_idx_folder, npz, reader
from jaxcnn.data.folder import read_image
from tests.data.test_data import refused


def sizes(splits):
    return tuple(part.size for part in splits)


def same(a, b):
    return all((a.arrays[name] == b.arrays[name]).all() for name in a.arrays)


# digits


def test_digits():
    splits = digits()
    assert sizes(splits) == (1294, 144, 359) and splits.train.classes == tuple("0123456789")
    assert splits.train.arrays["image"].shape == (1294, 8, 8, 1) and splits.train.arrays["label"].dtype == np.int32
    image = np.concatenate([part.arrays["image"] for part in splits])
    label = np.concatenate([part.arrays["label"] for part in splits])
    assert image.dtype == np.uint8 and image.min() == 0 and image.max() == 255
    from sklearn.datasets import load_digits

    raw = load_digits()
    stored = {
        (x.tobytes(), int(y)) for x, y in zip(np.rint(raw.images * 255 / 16).astype(np.uint8), raw.target, strict=True)
    }
    assert {(x.tobytes(), int(y)) for x, y in zip(image, label, strict=True)} == stored and len(
        stored
    ) == 1797  # all differ: disjoint


def test_digits_splits_are_seeded_and_stratified():
    a, b, c = digits(), digits(), digits(seed=1)
    assert all(same(x, y) for x, y in zip(a, b, strict=True)) and not same(a.test, c.test)
    counts = np.array([np.bincount(part.arrays["label"]) for part in a])
    assert (np.abs(counts[2] - 0.2 * counts.sum(0)) < 1).all() and (
        np.abs(counts[1] - 0.1 * counts[:2].sum(0)) < 1
    ).all()


def test_digits_shares():
    assert sizes(digits(validation_fraction=0.5, test_fraction=0.5)) == (449, 450, 898)
    refused("test_fraction=1: must be", digits, test_fraction=1)
    refused("validation_fraction=0.0001: cuts no row out of 1438", digits, validation_fraction=0.0001)


# npz


def good(n=20, side=4):
    label = np.arange(n) % 3
    image = np.random.default_rng(0).integers(0, 256, (n, side, side)).astype(np.uint8)
    return {"x_train": image, "y_train": label, "x_test": image[:6] // 2, "y_test": label[:6]}


def save(path, **changes):
    np.savez_compressed(path, **(good() | changes))
    return path


def test_npz(tmp_path):
    splits = npz(save(tmp_path / "a.npz"), validation_fraction=0.2)
    assert sizes(splits) == (16, 4, 6) and splits.test.classes == ("0", "1", "2")
    assert (splits.test.arrays["image"][..., 0] == good()["x_test"]).all()
    read = np.concatenate([splits.train.arrays["image"], splits.valid.arrays["image"]])[..., 0]
    assert {x.tobytes() for x in read} == {x.tobytes() for x in good()["x_train"]}


def test_npz_floats_colours_and_small_label_types(tmp_path):
    image = np.random.default_rng(0).random((20, 4, 5, 3))
    splits = npz(save(tmp_path / "a.npz", x_train=image, x_test=image[:6], y_train=good()["y_train"].astype(np.uint8)))
    assert splits.train.arrays["image"].shape == (18, 4, 5, 3) and splits.train.arrays["image"].dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x_train": good()["x_train"] / 10}, "training part: float images from 0.0 to 25.5; floats must be in 0..1"),
        ({"y_train": np.zeros(20, int)}, "only class 0 in the labels; needs at least two classes"),
        ({"y_train": np.ones(20, int)}, "only class 1 in the labels; needs at least two classes"),
        ({"y_train": np.arange(20) % 3 - 1}, "label -1 among 20 images is out of range; number the classes"),
        ({"y_train": np.arange(20) % 3 - 5}, "label -5 among 20 images is out of range"),
        ({"y_train": np.append(np.arange(19) % 3, 2**40)}, "label 1099511627776 among 20 images is out of range"),
        ({"y_train": np.arange(20) / 2}, "training part: labels of dtype float64"),
        ({"y_train": np.arange(19) % 3}, r"labels of dtype int64 and shape \(19,\); must be integers of shape \(20,\)"),
        ({"y_train": np.eye(20, dtype=int)}, r"shape \(20, 20\); must be integers \[N\]"),
        (
            {"y_train": np.zeros(0, int), "x_train": np.zeros((0, 4, 4), np.uint8)},
            r"labels of dtype int64 and shape \(0,\)",
        ),
        ({"y_test": np.arange(6)}, "test part: label 5 is out of range; with 3 classes labels are 0 to 2"),
        ({"y_test": np.arange(5) % 3}, r"test part: labels of dtype int64 and shape \(5,\)"),
        (
            {"x_test": np.zeros((6, 5, 4), np.uint8)},
            r"test part: images of \(5, 4, 1\) uint8, but the training images are \(4, 4, 1\)",
        ),
        ({"x_test": np.zeros((6, 4, 4))}, r"test part: images of \(4, 4, 1\) float32, but .* \(4, 4, 1\) uint8"),
        ({"x_train": np.array([{}] * 20, object)}, "not a readable .npz file .*allow_pickle.*; write it with np.savez"),
    ],
)
def test_bad_npz(tmp_path, changes, match):
    path = save(tmp_path / "bad.npz", **changes)
    assert str(path) in refused(match, npz, path)


def test_columns_of_an_npz_go_with_their_rows(tmp_path):
    columns = {"site_train": np.arange(20), "sample_weight_train": np.linspace(0, 2, 20), "site_test": np.arange(6) > 2}
    splits = npz(save(tmp_path / "a.npz", **columns), validation_fraction=0.2)
    for part in (splits.train, splits.valid):
        assert (part.arrays["image"][..., 0] == good()["x_train"][part.arrays["site"]]).all()
        np.testing.assert_allclose(
            part.arrays["sample_weight"], columns["sample_weight_train"][part.arrays["site"]], rtol=1e-6
        )
    assert splits.test.arrays["site"].tolist() == [0, 0, 0, 1, 1, 1] and "sample_weight" not in splits.test.arrays


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"site_train": np.arange(19)},
            r"column site_train, int64 of shape \(19,\); must be finite numbers of shape \(20,\)",
        ),
        ({"site_test": np.array(list("abcdef"))}, "column site_test, <U1"),
        ({"age_train": np.full(20, np.nan)}, "column age_train, float64"),
        (
            {"sample_weight_train": np.full(20, -1.0)},
            "sample_weight_train from -1.0 to -1.0; weights must not be negative, nor all 0",
        ),
        (
            {"sample_weight_train": np.zeros(20)},
            "sample_weight_train from 0.0 to 0.0; weights must not be negative, nor all 0",
        ),
        ({"label_train": np.zeros(20, int)}, "column label_train, a name that batches use"),
        ({"site_train": np.full(20, 2**40)}, "column site_train has numbers beyond int32; number the groups from 0"),
    ],
    ids=["rows", "letters", "nan", "negative", "zero", "taken", "large"],
)
def test_bad_columns_of_an_npz(tmp_path, changes, match):
    assert "bad.npz" in refused(match, npz, save(tmp_path / "bad.npz", **changes))


def test_npz_without_an_array(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=np.zeros(3), other=np.zeros(3))
    refused(
        r"no array 'y_train' \(it has x_train, other\); needs x_train, y_train, x_test, y_test", npz, tmp_path / "a.npz"
    )


def test_not_an_npz(tmp_path):
    path = tmp_path / "a.npz"
    refused("a.npz: not a readable .npz file .*No such file", npz, path)
    for content in (b"", b"no archive\nat all", b"PK\x03\x04 nearly"):
        path.write_bytes(content)
        refused("a.npz: not a readable .npz file", npz, path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    refused(r"no array 'x_train' \(it has none\)", npz, tmp_path / "array.npy")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_damaged_npz(tmp_path, part):
    path = save(tmp_path / "a.npz", x_train=np.random.default_rng(0).integers(0, 256, (20, 64, 64)).astype(np.uint8))
    raw = path.read_bytes()
    at = int(part * len(raw))
    path.write_bytes(raw[:at])
    refused("not a readable .npz file", npz, path)
    if part < 0.9:  # inside the compressed images
        path.write_bytes(raw[:at] + bytes(100) + raw[at + 100 :])
        refused("not a readable .npz file", npz, path)


# idx


def write_idx(path, array, zipped=False):
    array = np.asarray(array, np.uint8)
    raw = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.with_name(path.name + ".gz" * zipped).write_bytes(gzip.compress(raw) if zipped else raw)


@pytest.fixture
def mnist_like(tmp_path):
    arrays = good(20, side=28)
    for i, (name, key) in enumerate(
        (
            ("train-images-idx3", "x_train"),
            ("train-labels-idx1", "y_train"),
            ("t10k-images-idx3", "x_test"),
            ("t10k-labels-idx1", "y_test"),
        )
    ):
        write_idx(tmp_path / f"{name}-ubyte", arrays[key], zipped=i % 2 == 0)  # mixed: some are gzipped
    return tmp_path


def test_idx(mnist_like):
    splits = idx(mnist_like, validation_fraction=0.2)
    assert is_idx_folder(mnist_like) and sizes(splits) == (16, 4, 6)
    assert (splits.test.arrays["image"][..., 0] == good(20, 28)["x_test"]).all() and splits.test.arrays[
        "label"
    ].tolist() == [0, 1, 2] * 2


def test_real_mnist(shared):
    splits = idx(shared / "mnist")
    assert sizes(splits) == (54_000, 6_000, 10_000) and splits.test.arrays["label"][:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.parametrize("name", ["train-images", "train-labels", "t10k-images", "t10k-labels"])
def test_idx_file_missing(mnist_like, name):
    next(mnist_like.glob(f"{name}*")).unlink()
    refused(rf"no file {name}\*; needs the four IDX files train-images, ", idx, mnist_like)


def test_idx_folder_missing(tmp_path):
    assert not is_idx_folder(tmp_path)
    refused(r"nowhere: no file train-images\*", idx, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "damage", "match"),
    [
        ("train-labels-idx1-ubyte", lambda raw: raw[:-3], "17 bytes of data, but its header says 20; it is cut"),
        ("train-labels-idx1-ubyte", lambda raw: raw + b"x", "21 bytes of data, but its header says 20"),
        ("train-labels-idx1-ubyte", lambda raw: raw[:6], r"not an IDX file of unsigned bytes \(begins with 00000801"),
        ("train-labels-idx1-ubyte", lambda raw: b"", r"not an IDX file of unsigned bytes \(begins with nothing"),
        ("train-labels-idx1-ubyte", lambda raw: b"\x00\x00\x07" + raw[3:], "begins with 00000701"),
        (
            "train-labels-idx1-ubyte",
            lambda raw: b"\x00\x00\x0d" + raw[3:],
            "20 bytes of data, but its header says 20 of 4 bytes",
        ),
        (
            "train-labels-idx1-ubyte",
            lambda raw: raw[:4] + b"\xff" * 4 + raw[8:],
            "20 bytes of data, but its header says 4294967295",
        ),
        ("train-labels-idx1-ubyte", lambda raw: b"<html>", "begins with 3c68746d"),
        (
            "train-images-idx3-ubyte.gz",
            lambda raw: raw[: len(raw) // 2],
            "not readable .*; download or unpack it again",
        ),
        ("train-images-idx3-ubyte.gz", lambda raw: raw[:100] + bytes(50) + raw[150:], "not readable"),
        ("train-images-idx3-ubyte.gz", lambda raw: raw[:10] + b"\xff" + raw[11:], "not readable .*invalid block type"),
        ("train-images-idx3-ubyte.gz", lambda raw: b"<html>" + raw, "not readable .*Not a gzipped file"),
        (
            "train-images-idx3-ubyte.gz",
            lambda raw: gzip.compress(gzip.decompress(raw)[:-1]),
            "15679 bytes .* header says 20 x 28 x 28",
        ),
    ],
)
def test_damaged_idx(mnist_like, name, damage, match):
    path = mnist_like / name
    path.write_bytes(damage(path.read_bytes()))
    assert str(path) in refused(match, idx, mnist_like)


# folders of images


def picture(value, side=8, mode="RGB"):
    return Image.new(mode, (side, side), value if mode == "L" else (value,) * 3)


def fill(root, classes=("ant", "bee"), n=10, offset=0, **options):
    """Make `n` images per class, with the gray value 10 * class + index + offset."""
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(n):
            picture(10 * k + i + offset, **options).save(root / name / f"{i:02}.png")


def values(data):
    """Gray and label of each row; the images are of one gray."""
    batch = data.read(np.arange(data.size)) if isinstance(data, Indexed) else data.arrays
    assert batch["image"].dtype == np.uint8 and (batch["image"] == batch["image"][:, :1, :1, :1]).all()
    return sorted(zip(batch["image"][:, 0, 0, 0].tolist(), batch["label"].tolist(), strict=True))


ALL = [(v, v // 10) for v in range(20)]


def test_class_folders_alone(tmp_path):
    fill(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "ant" / "._00.png").write_text("what macOS leaves behind")
    (tmp_path / "bee" / "09.png").rename(tmp_path / "bee" / "upper.PNG")
    splits = folder(tmp_path)
    assert sizes(splits) == (14, 2, 4) and splits.train.classes == ("ant", "bee")
    assert sorted(sum(map(values, splits), [])) == ALL
    assert np.bincount(splits.test.arrays["label"]).tolist() == [2, 2]
    again, other = folder(tmp_path), folder(tmp_path, seed=1)
    assert values(again.test) == values(splits.test) != values(other.test)
    assert sizes(folder(tmp_path, validation_fraction=0.5, test_fraction=0.5)) == (5, 5, 10)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_parts(tmp_path, name):
    for offset, part in ((0, "Train" if name == "Val" else "train"), (50, name), (100, "test")):
        fill(tmp_path / part, offset=offset)
    splits = folder(tmp_path)
    for offset, part in zip((0, 50, 100), splits, strict=True):
        assert values(part) == [(v + offset, k) for v, k in ALL]


def test_train_and_test(tmp_path):
    fill(tmp_path / "train"), fill(tmp_path / "test", n=2, offset=100)
    splits = folder(tmp_path, validation_fraction=0.2)
    assert sizes(splits) == (16, 4, 4) and sorted(values(splits.train) + values(splits.valid)) == ALL
    assert values(splits.test) == [(100, 0), (101, 0), (110, 1), (111, 1)]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_without_test_the_validation_folder_is_it(tmp_path, name):
    fill(tmp_path / "train"), fill(tmp_path / name, n=2, offset=100)
    splits = folder(tmp_path, validation_fraction=0.2)
    assert sizes(splits) == (16, 4, 4) and min(values(splits.test)) == (100, 0)


def test_train_alone(tmp_path):
    fill(tmp_path / "train")
    assert sizes(folder(tmp_path)) == (14, 2, 4)


def test_chosen_classes(tmp_path):
    fill(tmp_path, ("ant", "bee", "cat"))
    splits = folder(tmp_path, classes=["cat", "ant"])
    assert splits.train.classes == ("cat", "ant")
    assert sorted(sum(map(values, splits), [])) == sorted([(v, 1) for v in range(10)] + [(v, 0) for v in range(20, 30)])
    refused("no class folder 'dog'; it has ant, bee, cat", folder, tmp_path, classes=["ant", "dog"])
    refused("classes ant; needs at least two class folders", folder, tmp_path, classes=["ant"])
    refused("classes ant, ant, bee; needs .* each once", folder, tmp_path, classes=["ant", "ant", "bee"])
    refused("classes none; needs", folder, tmp_path, classes=[])


def test_bad_folders(tmp_path):
    refused("nowhere: no such folder", folder, tmp_path / "nowhere")
    refused("no class folders; needs <class>/<image>", folder, tmp_path)
    fill(tmp_path, ("ant",))
    refused("classes ant; needs at least two", folder, tmp_path)
    (tmp_path / "bee").mkdir()
    refused("bee: no images .*; add some, or leave the class out", folder, tmp_path)
    picture(0).save(tmp_path / "bee" / "0.png")
    refused("test_fraction=0.01: cuts no row out of 11", folder, tmp_path, test_fraction=0.01)
    refused("size=-3: must be at least 1", folder, tmp_path, size=-3)


def test_parts_must_fit_together(tmp_path):
    fill(tmp_path / "test")
    refused("test: no train/ beside it", folder, tmp_path)
    fill(tmp_path / "train", ("ant", "bee", "cat"))
    refused("test/cat: no images", folder, tmp_path)
    shutil.rmtree(tmp_path / "train" / "bee"), shutil.rmtree(tmp_path / "test" / "ant")
    refused("test: class folder 'bee' has no counterpart in .*train; remove or rename it", folder, tmp_path)


@pytest.mark.parametrize("resident_bytes", [2**30, 0])
def test_unreadable_image(tmp_path, resident_bytes):
    fill(tmp_path)
    (tmp_path / "bee" / "03.png").write_text("not\nan image")
    refused(
        "bee/03.png: not a readable image .*; replace or remove it", folder, tmp_path, resident_bytes=resident_bytes
    )


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "webp", "ppm", "tif"])
def test_cut_image_is_named(tmp_path, kind):
    fill(tmp_path, side=64)
    bad = tmp_path / "ant" / f"03.{kind}"
    Image.effect_noise((64, 64), 50).convert("RGB").save(bad)
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size * 2 // 3])
    refused(f"ant/03.{kind}: not a readable image", folder, tmp_path)


def test_cut_image_is_named_while_streaming(tmp_path):
    fill(tmp_path, side=64)
    bad = tmp_path / "ant" / "03.png"
    Image.effect_noise((64, 64), 50).convert("RGB").save(bad)
    bad.write_bytes(bad.read_bytes()[:1000])
    splits = folder(tmp_path, resident_bytes=0)  # its head is fine
    refused("ant/03.png: not a readable image", lambda: [list(part.once(4)) for part in splits])


@pytest.mark.parametrize("resident_bytes", [2**30, 0])
def test_bad_images_can_be_left_out(tmp_path, resident_bytes):
    fill(tmp_path, side=64)
    cut, text = tmp_path / "ant" / "03.png", tmp_path / "bee" / "02.png"
    Image.effect_noise((64, 64), 50).convert("RGB").save(cut)
    cut.write_bytes(cut.read_bytes()[:1000])
    text.write_text("no image")
    everything, told = len(list(tmp_path.rglob("*.png"))), {}
    splits = folder(tmp_path, resident_bytes=resident_bytes, on_bad=lambda line, rows: told.setdefault(line, rows))
    batches = [chunk.at(k) for part in splits for chunk in part.once(4) for k in range(int(chunk.count))]
    assert sum(int(b["row_mask"].sum()) for b in batches) == everything - 2
    assert sum(told.values()) == 2 and {line.split(":")[0] for line in told} == {str(cut), str(text)}
    assert splits.train.chunk(4, 0, 2, 2).at(0)["image"].shape == (4, 64, 64, 3)


def test_all_gray_stays_gray_and_mixed_becomes_colour(tmp_path, caplog):
    fill(tmp_path, mode="L")
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        assert folder(tmp_path).train.arrays["image"].shape == (14, 8, 8, 1) and not caplog.records
        picture(3).save(tmp_path / "ant" / "03.png")
        splits = folder(tmp_path)
    assert splits.train.arrays["image"].shape == (14, 8, 8, 3) and sorted(sum(map(values, splits), [])) == ALL
    assert [r.getMessage() for r in caplog.records] == ["19 gray images among 20: all are read as RGB"]


def test_deep_images_keep_their_range(tmp_path):
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for kind in ("png", "tif"):
        Image.fromarray(deep).save(tmp_path / f"deep.{kind}")
        for channels in (1, 3):
            assert (read_image(tmp_path / f"deep.{kind}", channels) == np.rint(deep / 257)[..., None]).all()
    for name in ("ant", "bee"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(10):
            shutil.copy(tmp_path / "deep.png", tmp_path / "set" / name / f"{i}.png")
    image = folder(tmp_path / "set").train.arrays["image"]
    assert image.shape[-1] == 1 and (image == np.rint(deep / 257)[..., None]).all()


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1", "CMYK"])
def test_other_modes(tmp_path, mode):
    colour = Image.new("RGB", (8, 8), (200, 40, 90))
    image = colour.convert(mode)
    path = tmp_path / f"x.{'tif' if mode == 'CMYK' else 'png'}"
    image.save(path, **({"transparency": bytes([255] * 256)} if mode == "P" else {}))
    expected = np.asarray(image.convert("RGBA" if mode == "P" else "RGB").convert("RGB"))
    assert (read_image(path, 3) == expected).all()
    assert read_image(path, 1).shape == (8, 8, 1)
    if mode in ("P", "RGBA", "CMYK"):
        assert np.abs(expected.mean((0, 1)) - (200, 40, 90)).max() < 10


def test_float_images_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "x.tif")
    refused(
        "x.tif: an image of floats has no fixed range; save it with 8 or 16 bits", read_image, tmp_path / "x.tif", 1
    )


def test_different_sizes(tmp_path):
    fill(tmp_path)
    picture(3, side=12).resize((12, 9)).save(tmp_path / "ant" / "03.png")
    refused(
        r"ant/03.png: \(9, 12\) pixels .* 00.png has \(8, 8\); give an image size to resize them to, .*--image-size",
        folder,
        tmp_path,
    )
    for size, shape in ((6, (6, 6)), ((5, 7), (5, 7))):
        splits = folder(tmp_path, size=size)
        assert splits.train.arrays["image"].shape == (14, *shape, 3) and sorted(sum(map(values, splits), [])) == ALL


def test_streamed_folder_equals_the_resident_one(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.effect_noise((20, 16), 60 + i).convert("RGB").save(tmp_path / name / f"{i}.jpg")
    for size in (None, 7):
        held, streamed = folder(tmp_path, size=size), folder(tmp_path, size=size, resident_bytes=100)
        for a, b in zip(held, streamed, strict=True):
            assert isinstance(a, Resident) and isinstance(b, Indexed) and a.size == b.size and a.classes == b.classes
            rows = b.read(np.arange(b.size))
            assert all((rows[name] == a.arrays[name]).all() for name in ("image", "label"))


def test_streaming_decodes_only_what_is_asked(tmp_path, monkeypatch):
    fill(tmp_path)
    decoded, whole = [], reader.decode
    monkeypatch.setattr(
        reader, "decode", lambda path, *more, **rest: decoded.append(path) or whole(path, *more, **rest)
    )
    splits = folder(tmp_path, resident_bytes=0)
    assert decoded == []
    splits.train.chunk(3, 0, 2, 8)
    assert len(decoded) == 6


def test_resizing_averages_what_it_leaves_out(tmp_path):
    checks = (np.indices((240, 240)).sum(0) % 2 * 255).astype(np.uint8)  # picking pixels would give black or white
    Image.fromarray(checks).save(tmp_path / "checks.png")
    assert np.abs(read_image(tmp_path / "checks.png", 1, (16, 20)).astype(int) - 127.5).max() < 3
    ramp = np.tile(np.linspace(0, 255, 240), (240, 1)).round().astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    small = read_image(tmp_path / "ramp.png", 1, (24, 24))[..., 0].astype(int)
    means = ramp.reshape(24, 10, 24, 10).mean((1, 3))
    assert np.abs(small - means)[:, 1:-1].max() <= 1 and np.abs(small - means).max() <= 3
    big = read_image(tmp_path / "ramp.png", 1, (240, 480))[..., 0].astype(int)
    assert np.diff(big, axis=1).min() >= 0 and (big[:, 0] == 0).all() and (big[:, -1] == 255).all()

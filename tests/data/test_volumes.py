"""NIfTI pairs: one orientation, one shape and one range, the way back to a file, and what is no volume."""

import gzip
import itertools
import json
import struct
import sys

import nibabel
import numpy as np
import pytest

from jaxcnn.core.types import InputError
from jaxcnn.data import Indexed, Resident, centred, nifti, read_nifti, read_volume, volumes, write_nifti
from tests.data.volumes_on_disk import make_volumes, pair, write


def whole(path, **options):
    return volumes(path, **{"validation_fraction": 0.0, "test_fraction": 0.0} | options).train


def stored(path):
    return np.asarray(nibabel.load(path).dataobj)


def test_rows_have_one_shape_and_one_range(tmp_path):
    read = whole(make_volumes(tmp_path))
    assert isinstance(read, Resident) and read.classes == ("0", "1", "2")
    assert read.names == tuple(f"imagesTr/v{i}.nii.gz" for i in range(4))
    image, mask = read.arrays["image"], read.arrays["mask"]
    assert image.shape == (4, 7, 8, 6, 1) and image.dtype == np.float32 and mask.dtype == np.uint8
    assert image.min() == 0 and (image.max((1, 2, 3, 4)) == 1).all()
    np.testing.assert_array_equal(read.arrays["image_size"][2], (7, 8, 4))
    np.testing.assert_array_equal(read.arrays["spacing"], np.ones((4, 3)))
    for i in range(4):
        label = stored(tmp_path / f"labelsTr/v{i}.nii.gz").T  # the identity is the orientation of the rows
        np.testing.assert_array_equal(centred(mask[i], label.shape), label)
        assert (mask[i] == 255).sum() == mask[i].size - label.size
        inside = mask[i] != 255
        assert np.abs(image[i, ..., 0] - mask[i] / 2)[inside].max() < 0.01 and not image[i, ..., 0][~inside].any()


@pytest.mark.parametrize("size", [4, (9, 3, 6), (7, 8, 6)])
def test_volumes_are_cut_or_padded_evenly(tmp_path, size, caplog):
    read = whole(make_volumes(tmp_path), size=size)
    wanted = (4, 4, 4) if size == 4 else size
    full = whole(tmp_path)
    for i, mask in enumerate(read.arrays["mask"]):
        label = centred(full.arrays["mask"][i], tuple(full.arrays["image_size"][i]))
        np.testing.assert_array_equal(mask, centred(label, wanted, 255))
    assert ("are cut" in caplog.text) == (size != (7, 8, 6))


def test_the_way_back_undoes_every_shift():
    for n, m in itertools.product(range(1, 8), repeat=2):
        there = centred(np.arange(1, n + 1), (m,), 99)
        back = centred(there, (n,), 0)
        assert (back[back > 0] == np.arange(1, n + 1)[back > 0]).all() and (back > 0).sum() == min(n, m)


ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def test_every_orientation_is_read_as_one_and_written_as_its_own(tmp_path, rng):
    world = rng.integers(0, 4, (4, 5, 6)).astype(np.uint8)  # x, y, z from left, back and foot
    for axes, flips in ORIENTATIONS:
        affine = np.zeros((4, 4))
        for i, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
            affine[axis, i] = flip * (1.0, 2.0, 3.0)[axis]
        affine[:, 3] = 7, -8, 9, 1
        turned = world.transpose(axes)[tuple(slice(None, None, flip) for flip in flips)]
        write(tmp_path / "x.nii", turned, affine)
        read = read_nifti(tmp_path / "x.nii")
        np.testing.assert_array_equal(read.voxels, world.T)
        assert read.head.shape == (6, 5, 4) and read.head.spacing == pytest.approx((3, 2, 1))
        write_nifti(tmp_path / "y.nii.gz", 3 - read.voxels, like=tmp_path / "x.nii")
        again = nibabel.load(tmp_path / "y.nii.gz")
        np.testing.assert_array_equal(np.asarray(again.dataobj), 3 - turned)
        np.testing.assert_array_equal(again.affine, nibabel.load(tmp_path / "x.nii").affine)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_predictions_keep_the_header_but_not_the_scale(tmp_path, kind):
    affine = np.array([[0.7, 0.1, 0, 3], [-0.1, 0.7, 0.02, 4], [0, 0, 2, -90], [0, 0, 0, 1]])  # oblique
    write(tmp_path / "x.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine, kind, cal_max=50, qform_code=2)
    before = nibabel.load(tmp_path / "x.nii")
    probability = np.linspace(0, 1, 60).reshape(5, 4, 3)
    write_nifti(tmp_path / "y.nii", probability, like=tmp_path / "x.nii")
    after = nibabel.load(tmp_path / "y.nii")
    assert type(after) is kind and after.get_data_dtype() == np.float32 and after.header["cal_max"] == 0
    assert after.header["qform_code"] == before.header["qform_code"]
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_allclose(read_nifti(tmp_path / "y.nii").voxels, probability, rtol=1e-6)
    for voxels, dtype in ((np.zeros((5, 4, 3), bool), "uint8"), (np.full((5, 4, 3), -2), "int16")):
        write_nifti(tmp_path / "y.nii", voxels, like=tmp_path / "x.nii")
        assert read_nifti(tmp_path / "y.nii").voxels.dtype == dtype
    with pytest.raises(InputError, match=r"voxels of shape \(4, 4, 3\), but .*x.nii has \(5, 4, 3\); bring them there"):
        write_nifti(tmp_path / "y.nii", np.zeros((4, 4, 3)), like=tmp_path / "x.nii")
    with pytest.raises(InputError, match="must end in .nii or .nii.gz"):
        write_nifti(tmp_path / "y.png", probability, like=tmp_path / "x.nii")
    with pytest.raises(InputError, match="voxels of dtype complex128"):
        write_nifti(tmp_path / "y.nii", probability * 1j, like=tmp_path / "x.nii")


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8", ">i2", ">f4"])
def test_every_dtype_gives_the_same_rows(tmp_path, dtype):
    make_volumes(tmp_path)
    image = np.rint(stored(tmp_path / "imagesTr/v0.nii.gz")).astype(dtype)
    label = stored(tmp_path / "labelsTr/v0.nii.gz").astype(dtype)
    before = whole(tmp_path).arrays
    for place, voxels in (("imagesTr", image), ("labelsTr", label)):
        header = nibabel.Nifti1Header(endianness=dtype[0] if dtype[0] == ">" else "<")
        made = nibabel.Nifti1Image(voxels, np.eye(4), header, dtype=dtype)
        nibabel.save(made, tmp_path / place / "v0.nii.gz")
    after = whole(tmp_path).arrays
    np.testing.assert_array_equal(after["mask"], before["mask"])
    np.testing.assert_allclose(after["image"], before["image"], atol=0.01)
    assert after["image"].dtype == np.float32 and after["image"].dtype.isnative


def test_a_scale_in_the_header_counts(tmp_path):
    made = nibabel.Nifti1Image(np.arange(24.0).reshape(2, 3, 4) * 0.25 + 3, np.eye(4))
    made.set_data_dtype(np.uint8)
    nibabel.save(made, tmp_path / "x.nii")
    np.testing.assert_allclose(read_nifti(tmp_path / "x.nii").voxels.T, made.get_fdata(), atol=0.02)


def test_parts_and_names_of_classes(tmp_path):
    make_volumes(tmp_path / "msd")
    make_volumes(tmp_path / "msd", images="imagesTs", labels="labelsTs", shapes=[(3, 3, 3)])
    (tmp_path / "msd/dataset.json").write_text(json.dumps({"labels": {"0": "rest", "1": "head", "2": "tail"}}))
    (tmp_path / "msd/imagesTr/._v0.nii.gz").write_bytes(b"of another system")
    splits = volumes(tmp_path / "msd", validation_fraction=0.25)
    assert [part.size for part in splits] == [3, 1, 1] and splits.test.classes == ("rest", "head", "tail")
    for i, (part, n) in enumerate((("train", 3), ("val", 2))):
        make_volumes(tmp_path / "b" / part, images="images", labels="labels", shapes=[(3 + i, 3, 3)] * n)
    (tmp_path / "b/dataset.json").write_text(json.dumps({"labels": {"rest": 0, "tail": 2, "head": 1}}))
    splits = volumes(tmp_path / "b", validation_fraction=0.4)
    assert [part.size for part in splits] == [2, 1, 2] and splits.test.classes == ("rest", "head", "tail")
    (tmp_path / "b/dataset.json").write_text(json.dumps({"labels": {"rest": 0, "tail": 3}}))
    with pytest.raises(InputError, match="dataset.json: labels are not numbered from 0"):
        volumes(tmp_path / "b")


def test_an_ignored_label_is_no_class(tmp_path):
    pair(tmp_path, "v0", (4, 4, 4), 0)
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "tumor": 1, "ignore": 2}}')
    with pytest.raises(InputError, match="the label 'ignore' is no class; give its voxels the value 255"):
        whole(tmp_path)


def test_names_of_the_only_channel(tmp_path):
    make_volumes(tmp_path)
    for file in list((tmp_path / "imagesTr").iterdir()):
        file.rename(file.with_name(file.name.replace(".nii", "_0000.nii")))
    assert whole(tmp_path).size == 4


def test_images_without_labels_are_left_out(tmp_path, caplog):
    make_volumes(tmp_path)
    make_volumes(tmp_path, images="imagesTs", labels="other")
    assert whole(tmp_path).size == 4 and "imagesTs: left out, because there are no labels beside it" in caplog.text


def test_large_sets_are_read_as_needed(tmp_path):
    held, read = whole(make_volumes(tmp_path)), whole(tmp_path, resident_bytes=100)
    assert isinstance(read, Indexed) and read.names == held.names
    rows = [chunk.at(0) for chunk in read.once(2)]
    for name, x in held.arrays.items():
        np.testing.assert_array_equal(np.concatenate([np.asarray(row[name]) for row in rows]), x)


def test_nan_is_read_as_0_and_counted(tmp_path, caplog):
    make_volumes(tmp_path)
    voxels = stored(tmp_path / "imagesTr/v1.nii.gz").copy()
    voxels[0, 0, :2], voxels[1, 1, 1] = np.nan, np.inf
    write(tmp_path / "imagesTr/v1.nii.gz", voxels)
    read = whole(tmp_path)
    assert np.isfinite(read.arrays["image"]).all()
    assert "3 voxels of 1 volumes are NaN or infinite, and are read as 0 (the first: v1.nii.gz)" in caplog.text
    write(tmp_path / "imagesTr/v1.nii.gz", np.full_like(voxels, np.nan))
    with pytest.raises(InputError, match="v1.nii.gz: no voxel is finite"):
        whole(tmp_path)


LARGE = np.where(np.arange(210).reshape(5, 6, 7) % 2, 3e38, -3e38)


@pytest.mark.parametrize("voxels", [np.full((5, 6, 7), 3.0), np.eye(7)[None, :6] * np.ones((5, 1, 1)) * 1e-38, LARGE])
def test_flat_tiny_and_large_volumes_are_finite(tmp_path, voxels):
    make_volumes(tmp_path)
    write(tmp_path / "imagesTr/v0.nii.gz", voxels.astype(np.float32))
    image = whole(tmp_path).arrays["image"][0]
    assert np.isfinite(image).all() and image.min() == 0 and image.max() == len(np.unique(voxels)) - 1


def label(change):
    def changed(root):
        voxels = stored(root / "labelsTr/v0.nii.gz").astype(np.float64)
        write(root / "labelsTr/v0.nii.gz", np.asarray(change(voxels)))

    return changed


def image(make):
    return lambda root: write(root / "imagesTr/v0.nii.gz", make(np.ones((5, 6, 7), np.float32)))


def raw(change, name="imagesTr/v0.nii.gz"):
    def changed(root):
        data = gzip.decompress((root / name).read_bytes())
        (root / name).write_bytes(change(data))

    return changed


def number(data, at, kind, *values):
    return data[:at] + struct.pack(kind, *values) + data[at + struct.calcsize(kind) :]


FLIPPED, ONES = np.diag([-1, 1, 1, 1]), np.ones((5, 6, 7), np.uint8)
RGB = np.zeros((5, 6, 7), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
BAD = {
    "other shape": (label(lambda x: x[:-1]), r"labels of shape \(7, 6, 4\), their image \(7, 6, 5\)"),
    "orientation": (lambda d: write(d / "labelsTr/v0.nii.gz", ONES, FLIPPED), "another orientation"),
    "spacing": (lambda d: write(d / "labelsTr/v0.nii.gz", ONES, np.diag([2, 2, 2, 1])), "another orientation"),
    "half": (label(lambda x: x + 0.5), "the label 0.5 is no integer|the label [12].5 is no integer"),
    "nan": (label(lambda x: np.where(x == 1, np.nan, x)), "the label nan is no integer"),
    "negative": (label(lambda x: x - 1), "the label -1; labels may be 0 to 255"),
    "large": (label(lambda x: (x + 299).astype(np.int16)), "the label 301; labels may be 0 to 255"),
    "4-D": (image(lambda x: np.stack([x, x], -1)), r"a volume of shape \(5, 6, 7, 2\); must have three axes"),
    "2-D": (image(lambda x: x[..., 0]), r"a volume of shape \(5, 6\)"),
    "complex": (image(lambda x: x.astype(np.complex64)), "voxels of dtype complex64"),
    "rgb": (image(lambda x: RGB), "voxels of dtype"),
    "cut gz": (raw(lambda d: gzip.compress(d)[:-30]), "not a readable NIfTI file"),
    "cut": (raw(lambda d: d[:-9]), "1,183 bytes, but its header states 1,192"),
    "cut head": (raw(lambda d: d[:300]), "not a NIfTI file"),
    "empty": (raw(lambda d: b""), "not a NIfTI file"),
    "text": (raw(lambda d: b"hello " * 100), "not a NIfTI file"),
    "huge": (raw(lambda d: number(d, 42, "<hhh", 32767, 32767, 32767)), "labels of shape|its header states"),
    "dims": (raw(lambda d: number(d, 40, "<h", 9)), "not a readable NIfTI file"),
    "no axis": (raw(lambda d: number(d, 42, "<h", 0)), "must have three axes"),
    "code": (raw(lambda d: number(d, 70, "<h", 1234)), "not a readable NIfTI file"),
    "offset": (raw(lambda d: number(d, 108, "<f", 1e9)), "but its header states 1,000,000,840"),
    "flat": (raw(lambda d: number(d, 280, "<12f", *[0.0] * 12)), "an affine that is not finite, or flat"),
    "affine": (raw(lambda d: number(d, 280, "<f", np.nan)), "an affine that is not finite"),
    "alone": (lambda d: (d / "labelsTr/v0.nii.gz").unlink(), r"v0.nii.gz: has no labels \(1 such\)"),
    "no image": (lambda d: (d / "imagesTr/v0.nii.gz").unlink(), "has no image"),
    "twice": (lambda d: write(d / "imagesTr/v0.nii", np.ones((5, 6, 7))), "v0.nii.gz: v0.nii has the same name"),
    "two parts": (lambda d: make_volumes(d, images="images", labels="labels"), "are the same part; remove one"),
    "nothing": (lambda d: (d / "labelsTr").rename(d / "x"), "needs images/ beside labels/"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_volume_is_one_line(tmp_path, kind):
    change, message = BAD[kind]
    change(make_volumes(tmp_path))
    with pytest.raises(InputError, match=message) as error:
        whole(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["half", "4-D", "cut gz", "orientation"])
def test_what_is_no_volume_may_be_left_out(tmp_path, kind):
    told = []
    BAD[kind][0](make_volumes(tmp_path))
    assert whole(tmp_path, on_bad=lambda line, n: told.append(line)).size == 3 and len(told) == 1
    read = whole(tmp_path, on_bad=lambda line, n: None, resident_bytes=0, classes="abc")
    assert read.read(np.arange(read.size))["row_mask"].sum() == 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 0}, "size=0: must be depth, height and width"),
        ({"size": (3, 3)}, r"size=\(3, 3\): must be depth"),
        ({"percentiles": (5, 5)}, r"percentiles=\(5, 5\)"),
        ({"percentiles": (-1, 99)}, r"percentiles=\(-1, 99\)"),
        ({"ignore_label": 256}, "ignore_label=256"),
        ({"ignore_label": 1}, "the label 2 is no class|ignore_label=1 is one of them"),
        ({"classes": ("a",)}, "needs at least two"),
        ({"classes": ("a", "b")}, "the label 2 is no class"),
    ],
)
def test_options_out_of_range(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        whole(make_volumes(tmp_path), **options)


def test_a_bomb_is_not_unpacked(tmp_path):
    write(tmp_path / "x.nii.gz", np.zeros((200, 200, 200), np.uint8))
    with pytest.raises(InputError, match=r"x.nii.gz: unpacks to more than 1,000,000 bytes; raise limit_bytes="):
        read_nifti(tmp_path / "x.nii.gz", limit_bytes=10**6)
    assert read_nifti(tmp_path / "x.nii.gz").voxels.shape == (200, 200, 200)


def test_without_nibabel(tmp_path, monkeypatch):
    make_volumes(tmp_path)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(InputError, match=r"need nibabel: pip install -e '.\[nifti\]'"):
        whole(tmp_path)


def test_labels_of_another_origin_are_paired_by_voxel_and_told(tmp_path, caplog):
    pair(tmp_path, "v0", (4, 4, 4), 0)
    moved = np.eye(4)
    pair(tmp_path, "v1", (4, 4, 4), 1)
    assert whole(tmp_path).size == 2 and "elsewhere" not in caplog.text
    moved[:3, 3] = 1.5
    write(tmp_path / "labelsTr/v0.nii.gz", stored(tmp_path / "labelsTr/v0.nii.gz"), moved)
    assert whole(tmp_path).size == 2 and nifti.read_head(tmp_path / "labelsTr/v0.nii.gz").shape == (4, 4, 4)
    assert "1 label volumes are elsewhere than their image" in caplog.text and "v0.nii.gz" in caplog.text


def test_a_volume_without_labels(tmp_path, caplog):
    voxels = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    voxels[0, 0, 0] = np.nan
    write(tmp_path / "x.nii", voxels)
    found = read_volume(tmp_path / "x.nii", percentiles=(0, 100))
    assert found.shape == (5, 4, 3, 1) and found.min() == 0 and found.max() == 1 and found[0, 0, 0, 0] == 0
    assert "1 voxels are NaN or infinite" in caplog.text
    for wrong in ((99, 1), (-1, 50), (50, 50)):
        with pytest.raises(InputError, match="percentiles=.*must be two of 0 to 100"):
            read_volume(tmp_path / "x.nii", percentiles=wrong)


def test_hippocampus(shared, tmp_path):
    import tarfile

    with tarfile.open(shared / "hippocampus/hippocampus.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    splits = volumes(tmp_path / "hippocampus", size=(48, 64, 48), classes=("background", "anterior", "posterior"))
    assert [part.size for part in splits] == [113, 12, 31] and splits.train.arrays["image"].shape[1:] == (48, 64, 48, 1)
    for i in (0, 30):
        file, mask = tmp_path / "hippocampus" / splits.test.names[i], splits.test.arrays["mask"][i]
        labels = centred(mask, tuple(splits.test.arrays["image_size"][i]))
        write_nifti(tmp_path / "out.nii.gz", labels, like=file)
        known = str(file).replace("imagesTr", "labelsTr")
        np.testing.assert_array_equal(stored(tmp_path / "out.nii.gz"), stored(known))
        np.testing.assert_array_equal(nibabel.load(tmp_path / "out.nii.gz").affine, nibabel.load(file).affine)

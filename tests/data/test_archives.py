"""Untrusted npz and IDX files are refused in one line before they take memory; IDX sets with other names are read."""

import gzip
import io
import os
import struct
import zipfile

import numpy as np
import pytest

from jaxcnn.data import arrays, cache, idx, is_idx_folder, npz
from tests.data.test_data import refused
from tests.data.test_sources import good, save, sizes, write_idx


def npy(array=None, header=None, version=1):
    """One array in NumPy's format, with a given header."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros(4, np.uint8) if array is None else array)
    if header is None:
        return file.getvalue()
    text = header.encode().ljust(118) + b"\n"
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + (struct.pack("<H", len(text)) if version == 1 else struct.pack("<L", len(text)))
        + text
    )


def pack(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return path


SOUND = {f"{name}.npy": npy(x) for name, x in good().items()}
DICT = "{{'descr': {!r}, 'fortran_order': False, 'shape': {}}}"


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (
            npy(header=DICT.format("|u1", (10**13, 28, 28))),
            "its header states 7,840,000,000,000,000 bytes, but it has 0",
        ),
        (npy(header=DICT.format("|u1", (2**62, 2**62))), "its header states 21,267"),
        (npy(header=DICT.format("|u1", (-4, -4)), version=2) + bytes(16), "its header states 16 bytes, but it has 16"),
        (npy(header=DICT.format("|u1", (4,))) + bytes(3), "its header states 4 bytes, but it has 3"),
        (npy(header=DICT.format("|O", (4,))) + bytes(32), "Python objects or records, which need allow_pickle"),
        (npy(header=DICT.format("|V0", (10**12,))), "Python objects or records"),
        (npy(header=DICT.format([("a", "|u1")], (4,))) + bytes(4), "Python objects or records"),
        (npy(header="(" * 100), ""),
        (npy(header="__import__('os').abort()"), ""),
        (b"\x93NUMPY\x02\0" + struct.pack("<L", 2**32 - 1) + bytes(10**6), "a header of 4,294,967,295 bytes"),
        (b"\x93NUMPY\x03\0" + bytes(20), "not an array in NumPy's format 1.0 or 2.0"),
        (b"\x93NUM", "not an array in NumPy's format"),
    ],
    ids=range(12),
)
def test_what_an_array_states_is_checked_first(tmp_path, raw, match):
    pack(tmp_path / "a.npz", SOUND | {"x_train.npy": raw})
    refused(f"a.npz: not a readable .npz file .*{match}", npz, tmp_path / "a.npz")


def test_a_zip_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "UNPACKED", 2**20)  # as if that were gigabytes
    pack(tmp_path / "a.npz", SOUND | {"x_train.npy": npy(np.zeros(2**21, np.uint8))})
    assert (tmp_path / "a.npz").stat().st_size < 2**14
    refused(
        r"a.npz: array x_train of 2,097,152 bytes; the arrays exceed the limit of 1,048,576 .*limit_bytes=",
        npz,
        tmp_path / "a.npz",
    )


def test_the_limit_counts_all_arrays_and_can_be_raised(tmp_path):
    path = save(tmp_path / "a.npz")
    whole = sum(np.asarray(x).nbytes for x in good().values())
    assert sizes(npz(path, limit_bytes=whole)) == (18, 2, 6)
    refused("array y_test of .* exceed the limit", npz, path, limit_bytes=whole - 1)


def test_names_in_an_archive_are_only_names(tmp_path):
    pack(tmp_path / "a.npz", SOUND | {"../../etc/x.npy": npy(), "/tmp/y": b"", "\x1b[2J_train.npy": npy(np.zeros(3))})
    refused(r"column \\x1b\[2J_train", npz, tmp_path / "a.npz")
    pack(tmp_path / "b.npz", {"\x1b[2J": b"", "../x": b""})
    refused(r"no array 'x_train' \(it has \\x1b\[2J, ../x\)", npz, tmp_path / "b.npz")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        for raw in (npy(), npy()):
            archive.writestr("x_train.npy", raw)
    refused("two members of one name", npz, tmp_path / "c.npz")


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npz"), os.mkfifo(tmp_path / "train-images-idx3-ubyte")
    refused("a.npz: not a regular file", npz, tmp_path / "a.npz")
    assert not is_idx_folder(tmp_path)
    refused(r"no file train-images\*; needs the four IDX files", idx, tmp_path)


def test_kept_arrays_that_were_exchanged_are_as_if_absent(tmp_path):
    cache.store(tmp_path / "kept", 1, {"x": np.zeros(1000, np.uint8)})
    (file,) = (tmp_path / "kept").iterdir()
    os.utime(file, (1, 1))
    assert cache.load(tmp_path / "kept", 1)["x"].shape == (1000,)
    # a bomb of its kind: `store` compresses nothing
    np.savez_compressed(file.with_suffix(""), x=np.zeros(10**6, np.uint8))
    assert cache.load(tmp_path / "kept", 1) is None
    file.rename(tmp_path / "elsewhere.npz"), file.symlink_to(tmp_path / "elsewhere.npz")
    assert cache.load(tmp_path / "kept", 1) is None
    file.unlink(), os.mkfifo(file)
    assert cache.load(tmp_path / "kept", 1) is None
    np.savez(file.with_name("o"), x=np.array([{}], object))
    assert os.replace(file.with_name("o.npz"), file) is None and cache.load(tmp_path / "kept", 1) is None


# IDX

NAMES = {"x_train": "train-images", "y_train": "train-labels", "x_test": "t10k-images", "y_test": "t10k-labels"}


def write_set(folder, name, **changes):
    """The four files, by a pattern of their names."""
    folder.mkdir(exist_ok=True)
    for key, x in (good(20, side=28) | changes).items():
        part, kind = NAMES[key].split("-")
        write_idx(folder / name.format(part=part, kind=kind, d=x.ndim), x)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "{part}-{kind}-idx{d}-ubyte", "{part}-{kind}.idx{d}-ubyte", "emnist-letters-{part}-{kind}-idx{d}-ubyte",
        "{part}_{kind}.idx{d}",
        "{part}-{kind}", "{part}-{kind}-idx{d}-ubyte/{part}-{kind}-idx{d}-ubyte",
    ],
)  # fmt: skip
def test_idx_sets_under_other_names(tmp_path, name):
    if "/" in name:
        for key, value in NAMES.items():
            (tmp_path / f"{value}-idx{np.ndim(good()[key])}-ubyte").mkdir()
    write_set(tmp_path, name)
    assert is_idx_folder(tmp_path) and sizes(idx(tmp_path)) == (18, 2, 6)
    renamed = [p for p in tmp_path.iterdir() if "t10k" in p.name and p.is_file()]
    for p in renamed:
        p.rename(p.with_name(p.name.replace("t10k", "test")))
    assert sizes(idx(tmp_path)) == (18, 2, 6)


def test_several_idx_sets_in_one_folder(tmp_path):
    for name in ("emnist-letters", "emnist-digits"):
        write_set(tmp_path, name + "-{part}-{kind}-idx{d}-ubyte")
    refused(r"IDX files of several sets \(emnist-digits, emnist-letters\); move those of one set", idx, tmp_path)


def test_idx_files_that_are_no_whole_set(tmp_path):
    write_set(tmp_path, "{part}-{kind}-idx{d}-ubyte")
    one = tmp_path / "train-images-idx3-ubyte"
    assert is_idx_folder(one)
    refused(
        "train-images-idx3-ubyte: one file of an IDX set; give the folder that holds it, which needs the four IDX "
        "files",
        idx,
        one,
    )
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / name).rename(tmp_path / f"set.{'x' if 'images' in name else 'y'}")
    assert is_idx_folder(tmp_path)
    message = refused(
        r"no file train-images\*; needs the four IDX files .*; rename the files to these names", idx, tmp_path
    )
    assert message.endswith("(it has t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, set.x, set.y)")
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).unlink()
    assert is_idx_folder(tmp_path) and is_idx_folder(tmp_path / "set.x")
    (tmp_path / "set.x").write_text("something else"), (tmp_path / "set.y").unlink()
    assert (
        not is_idx_folder(tmp_path)
        and not is_idx_folder(tmp_path / "set.x")
        and not is_idx_folder(tmp_path / "nowhere")
    )


def other(array, code, kind):
    array = np.asarray(array)
    return bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(kind).tobytes()


@pytest.mark.parametrize(("code", "kind"), [(9, "i1"), (11, ">i2"), (12, ">i4")])
def test_idx_of_other_integers(tmp_path, code, kind):
    write_set(tmp_path, "{part}-{kind}-idx{d}-ubyte")
    sound = idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(other(good()["y_train"][:, None], code, kind))  # and as a column
    if kind != "i1":
        (tmp_path / "t10k-images-idx3-ubyte").write_bytes(other(good(20, 28)["x_test"], code, kind))
    for a, b in zip(sound, idx(tmp_path), strict=True):
        assert all(
            (a.arrays[name] == b.arrays[name]).all() and a.arrays[name].dtype == b.arrays[name].dtype
            for name in a.arrays
        )


@pytest.mark.parametrize(("code", "kind"), [(13, ">f4"), (14, ">f8")])
def test_idx_of_floats(tmp_path, code, kind):
    pixels = {key: np.asarray(good(20, 28)[key]) / 255 for key in ("x_train", "x_test")}
    write_set(tmp_path, "{part}-{kind}-idx{d}-ubyte")
    for key, x in pixels.items():
        (tmp_path / f"{NAMES[key]}-idx3-ubyte").write_bytes(other(x, code, kind))
    np.testing.assert_allclose(idx(tmp_path).test.arrays["image"][..., 0], pixels["x_test"], atol=1e-7)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(other(pixels["x_train"] * 255, code, kind))
    refused("float images from 0.0 to 255.0; floats must be in 0..1", idx, tmp_path)


@pytest.mark.parametrize(
    ("label", "match"),
    [
        (np.zeros((20, 8)), r"labels of shape \(20, 8\); an IDX file of labels must have one number per image"),
        (np.arange(19) % 3, r"shape \(19,\); must"),
    ],
)
def test_idx_labels_of_another_shape(tmp_path, label, match):
    write_set(tmp_path, "{part}-{kind}-idx{d}-ubyte")
    write_idx(tmp_path / "train-labels-idx1-ubyte", label)
    refused(match, idx, tmp_path)


def test_idx_that_states_more_than_it_has(tmp_path):
    write_set(tmp_path, "{part}-{kind}-idx{d}-ubyte")
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(b"\0\0\x08\3" + struct.pack(">III", 2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(100))
    refused("100 bytes of data, but its header says 4294967295 x 4294967295 x 4294967295; it is cut", idx, tmp_path)
    path.rename(tmp_path / "train-images-idx3-ubyte.gz")
    stated = b"\0\0\x08\3" + struct.pack(">III", 2**21, 32, 32)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(stated + bytes(2**20)))
    refused(
        "its header says 2,147,483,648 bytes, more than the limit of 1,073,741,824 bytes for such a file; "
        "raise limit_bytes=",
        idx,
        tmp_path,
    )
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(b"\0\0\x08\3" + struct.pack(">III", 20, 28, 28) + bytes(10**7))
    )
    # 10 MB are not unpacked to count them
    refused("15681 bytes of data, but its header says 20 x 28 x 28", idx, tmp_path)


def test_the_default_limits():
    assert arrays.allowed(10**6) == 2**30 and arrays.allowed(10**9) == 20 * 10**9 and arrays.allowed(10**9, 5) == 5


@pytest.mark.parametrize("packed", [False, True])
def test_holes_of_a_sparse_idx_file_are_not_read(tmp_path, packed):
    write_set(tmp_path / "in", "{part}-{kind}")
    file = tmp_path / "in" / "train-images"
    if packed:
        file.write_bytes(gzip.compress(file.read_bytes()))
    os.truncate(file, 10**12)
    refused("1,000,000,000,000 packed bytes" if packed else "bytes of data, but its header says", idx, tmp_path / "in")
    file.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 10**6, 1000, 1000))
    os.truncate(file, 16 + 10**12)
    refused("its header says 1,000,000,000,000 bytes, more than the", idx, tmp_path / "in")

"""Sources that are one file or a few: the embedded digits, `.npz` archives, and MNIST-style IDX files."""

import dataclasses
import gzip
import logging
import pathlib
import zlib
from collections.abc import Mapping

import numpy as np

from jaxcnn.data.core import Splits, cut, labelled
from jaxcnn.types import InputError, reason

IDX_NAMES = ("train-images", "train-labels", "t10k-images", "t10k-labels")
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
TAKEN = {"image", "label", "mask", "boxes", "boxes_real", "real"}
log = logging.getLogger("jaxcnn")


def digits(*, seed: int = 0, validation_fraction: float = 0.1, test_fraction: float = 0.2) -> Splits:
    """Real handwritten digits, 8x8 gray, inside scikit-learn: no file, no network.

    1,797 images from the test part of the UCI optical recognition set (Alpaydin and Kaynak, 1998), CC BY 4.0.

    Args:
        seed: of the stratified splits.
        validation_fraction: share of the training rows to validate on.
        test_fraction: share of all rows to test on.

    """
    from sklearn.datasets import load_digits  # 4 s to import, and only needed here

    raw = load_digits()
    image = np.rint(raw.images * (255 / 16)).astype(np.uint8)
    whole = labelled(image, raw.target, tuple(map(str, range(10))), "digits")
    train, test, label = cut(whole, raw.target, test_fraction, seed, "test_fraction")
    train, valid, _ = cut(train, label, validation_fraction, seed)
    return Splits(train, valid, test)


def npz(path: str | pathlib.Path, *, seed: int = 0, validation_fraction: float = 0.1) -> Splits:
    """Arrays `x_train, y_train, x_test, y_test` of one `.npz` file; images uint8 0..255 or float 0..1, labels from 0.

    Other arrays `NAME_train` and `NAME_test`, numbers `[N]`, are columns of these rows: groups for reports or for `tasks.group_dro`;
    `sample_weight_train` is how much each row counts in the loss.

    Raises:
        InputError: the file, one of the arrays, a column, or a label is not usable.

    """
    try:
        with open(path, "rb") as file:  # np.load itself leaves a damaged file open
            archive = np.load(file, allow_pickle=False)
            names = getattr(archive, "files", [])  # a .npy file gives an array, without names
            missing = [key for key in ARRAYS if key not in names]
            if missing:
                raise InputError(f"{path}: no array {missing[0]!r} (it has {', '.join(names) or 'none'}); needs {', '.join(ARRAYS)}")
            arrays = [archive[key] for key in ARRAYS]
            columns = {part: _columns(archive, part, archive[f"y_{part}"].shape, path) for part in ("train", "test")}
    except InputError:
        raise
    except Exception as error:  # a damaged archive raises what zipfile, zlib or NumPy stumble over
        raise InputError(f"{path}: not a readable .npz file ({reason(error)}); write it with np.savez and plain number arrays") from error
    return _from_arrays(*arrays, str(path), seed, validation_fraction, columns)


def _columns(archive: Mapping[str, np.ndarray], part: str, shape: tuple[int, ...], path: str | pathlib.Path) -> dict[str, np.ndarray]:
    columns = {}
    for key in archive:
        name = key.removesuffix(f"_{part}")
        if name == key or key in ARRAYS:
            continue
        found = archive[key]
        if name in TAKEN or found.shape != shape or found.dtype.kind not in "biuf" or not np.isfinite(found).all():
            what = "a name that batches use" if name in TAKEN else f"{found.dtype} of shape {found.shape}"
            raise InputError(f"{path}: column {key}, {what}; must be finite numbers of shape {shape} under another name, or left out")
        if key == f"sample_weight_{part}" and found.size and not (found.min() >= 0 < found.max()):
            raise InputError(f"{path}: {key} from {found.min()} to {found.max()}; weights must not be negative, nor all 0")
        columns[name] = found.astype(np.float32 if found.dtype.kind == "f" else np.int32)
        if not np.allclose(columns[name], found, rtol=1e-6, atol=0):
            raise InputError(f"{path}: column {key} has numbers beyond {columns[name].dtype}; number the groups from 0")
    return columns


def idx(path: str | pathlib.Path, *, seed: int = 0, validation_fraction: float = 0.1) -> Splits:
    """Read a folder of four IDX files named like MNIST's, `train-images...`, `t10k-labels...`, gzipped or not.

    Raises:
        InputError: a file is missing, truncated, or not of this format.

    """
    parts = [_read_idx(_find_idx(pathlib.Path(path), name)) for name in IDX_NAMES]
    return _from_arrays(*parts, str(path), seed, validation_fraction)


def is_idx_folder(path: pathlib.Path) -> bool:
    """Whether a folder holds files named like MNIST's."""
    return any(p.is_file() for p in path.glob("train-images*"))


def _from_arrays(
    x_train, y_train, x_test, y_test, name: str, seed: int, validation_fraction: float, columns: Mapping[str, Mapping] | None = None
) -> Splits:
    train, test = f"{name}, training part", f"{name}, test part"
    if not np.issubdtype(y_train.dtype, np.integer) or y_train.ndim != 1 or y_train.size == 0:
        raise InputError(f"{train}: labels of dtype {y_train.dtype} and shape {y_train.shape}; must be integers [N], one an image")
    found = np.unique(y_train)
    if len(found) < 2:
        raise InputError(f"{train}: only class {found[0]} in the labels; needs at least two classes, numbered from 0")
    if found[0] < 0 or found[-1] >= len(y_train):
        bad = found[0] if found[0] < 0 else found[-1]
        raise InputError(f"{train}: label {bad} among {len(y_train)} images is out of range; number the classes 0, 1, 2, ...")
    _check_gaps(found, train)
    classes = tuple(map(str, range(int(found[-1]) + 1)))
    learn, measure = labelled(x_train, y_train, classes, train), labelled(x_test, y_test, classes, test)
    kinds = [f"{x.shape[1:]} {x.dtype}" for x in (learn.arrays["image"], measure.arrays["image"])]
    if kinds[0] != kinds[1]:
        raise InputError(f"{test}: images of {kinds[1]}, but the training images are {kinds[0]}; must be alike")
    if columns is not None:
        learn = dataclasses.replace(learn, arrays={**learn.arrays, **columns["train"]})
        measure = dataclasses.replace(measure, arrays={**measure.arrays, **columns["test"]})
    learn, valid, _ = cut(learn, y_train, validation_fraction, seed)
    return Splits(learn, valid, measure)


def _check_gaps(found: np.ndarray, name: str) -> None:
    """Refuse labels that would make more classes without a row than with one; say which are without, where they are fewer."""
    missing = np.setdiff1d(np.arange(found[-1] + 1), found)
    if len(missing) >= len(found):
        shown = ", ".join(map(str, found if len(found) < 5 else [*found[:2], "...", found[-1]]))
        raise InputError(
            f"{name}: {len(found)} different labels ({shown}) would make {found[-1] + 1} classes, {len(missing)} of them without a row; "
            f"number them 0 to {len(found) - 1}, as np.unique(y_train, return_inverse=True)[1] does"
        )
    if len(missing):
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        log.warning("%s: no row of class %s; labels up to %d make %d classes, numbered from 0", name, shown, found[-1], found[-1] + 1)


def _find_idx(path: pathlib.Path, name: str) -> pathlib.Path:
    found = sorted(p for p in path.glob(f"{name}*") if p.is_file())
    if not found:
        raise InputError(f"{path}: no file {name}*; needs the four IDX files {', '.join(IDX_NAMES)}")
    return found[0]


def _read_idx(path: pathlib.Path) -> np.ndarray:
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: not readable ({reason(error)}); fetch or unpack it again") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or not 1 <= raw[3] <= 4 or len(raw) < 4 + 4 * raw[3]:
        raise InputError(
            f"{path}: not an IDX file of unsigned bytes (begins with {raw[:4].hex() or 'nothing'}, not 00000801 to 00000804); "
            "fetch or unpack it again"
        )
    shape = np.frombuffer(raw, ">u4", raw[3], 4).astype(int)
    left = len(raw) - 4 - 4 * raw[3]
    if left != shape.prod():
        raise InputError(
            f"{path}: {left} bytes of data, but its header says {' x '.join(map(str, shape))}; it is cut or damaged: fetch it again"
        )
    data = np.frombuffer(raw, np.uint8, left, 4 + 4 * raw[3]).reshape(shape)
    return data.astype(np.int32) if data.ndim == 1 else data

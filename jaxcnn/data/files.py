"""Sources that are one file or a few: the embedded digits, `.npz` archives, and MNIST-style IDX files."""

import gzip
import pathlib
import zipfile

import numpy as np

from jaxcnn.data.core import Resident, Splits, cut_validation, labelled, stratified
from jaxcnn.types import InputError

IDX_NAMES = ("train-images", "train-labels", "t10k-images", "t10k-labels")


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
    rest, test = stratified(raw.target, test_fraction, seed)
    train, valid = cut_validation(whole.take(rest), raw.target[rest], validation_fraction, seed)
    return Splits(train, valid, whole.take(test))


def npz(path: str | pathlib.Path, *, seed: int = 0, validation_fraction: float = 0.1) -> Splits:
    """Arrays `x_train, y_train, x_test, y_test` of one `.npz` file; images uint8 0..255 or float 0..1, labels from 0.

    Raises:
        InputError: the file, one of the arrays, or a label is not usable.

    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in ("x_train", "y_train", "x_test", "y_test") if key not in archive]
            if missing:
                raise InputError(
                    f"{path}: no array {missing[0]!r} (it has {', '.join(archive) or 'none'}); needs x_train, y_train, x_test, y_test"
                )
            arrays = [archive[key] for key in ("x_train", "y_train", "x_test", "y_test")]
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a readable .npz file ({_one_line(error)})") from error
    return _from_arrays(*arrays, str(path), seed, validation_fraction)


def idx(path: str | pathlib.Path, *, seed: int = 0, validation_fraction: float = 0.1) -> Splits:
    """Read a folder of four IDX files named like MNIST's, `train-images...`, `t10k-labels...`, gzipped or not.

    Raises:
        InputError: a file is missing, truncated, or not of this format.

    """
    parts = [_read_idx(_find_idx(pathlib.Path(path), name)) for name in IDX_NAMES]
    return _from_arrays(*parts, str(path), seed, validation_fraction)


def is_idx_folder(path: pathlib.Path) -> bool:
    """Whether a folder holds files named like MNIST's."""
    return any(path.glob("train-images*"))


def _from_arrays(x_train, y_train, x_test, y_test, name: str, seed: int, validation_fraction: float) -> Splits:
    if not np.issubdtype(y_train.dtype, np.integer) or y_train.size == 0:
        raise InputError(f"{name}: y_train of dtype {y_train.dtype} and shape {y_train.shape}; must be integers, at least one")
    classes = tuple(map(str, range(int(y_train.max()) + 1)))
    if len(classes) < 2:
        raise InputError(f"{name}: only class 0 in the training labels; needs at least two classes")
    whole: Resident = labelled(x_train, y_train, classes, f"{name}, training part")
    test = labelled(x_test, y_test, classes, f"{name}, test part")
    train, valid = cut_validation(whole, y_train, validation_fraction, seed)
    return Splits(train, valid, test)


def _find_idx(path: pathlib.Path, name: str) -> pathlib.Path:
    found = sorted(p for p in path.glob(f"{name}*") if p.is_file())
    if not found:
        raise InputError(f"{path}: no file {name}*; needs the four IDX files {', '.join(IDX_NAMES)}")
    return found[0]


def _read_idx(path: pathlib.Path) -> np.ndarray:
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: not readable ({_one_line(error)})") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or not 1 <= raw[3] <= 4:
        raise InputError(f"{path}: not an IDX file of unsigned bytes (begins with {raw[:4].hex()})")
    shape = np.frombuffer(raw, ">u4", raw[3], 4).astype(int)
    body = raw[4 + 4 * raw[3] :]
    if len(body) != shape.prod():
        raise InputError(
            f"{path}: {len(body)} bytes of data, but its header says {' x '.join(map(str, shape))}; the file is cut or damaged"
        )
    data = np.frombuffer(body, np.uint8).reshape(shape)
    return data.astype(np.int32) if data.ndim == 1 else data


def _one_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

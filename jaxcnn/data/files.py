"""Sources that are a single file: scikit-learn's digits and `.npz` archives."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.data.arrays import open_npz
from jaxcnn.data.checking import labelled
from jaxcnn.data.core import Splits
from jaxcnn.data.parts import tell_copies
from jaxcnn.data.splitting import cut

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
TAKEN = {"image", "label", "mask", "boxes", "box_mask", "row_mask"}
log = logging.getLogger("jaxcnn")


def digits(*, seed: int = 0, validation_fraction: float = 0.1, test_fraction: float = 0.2) -> Splits:
    """Load the handwritten digits of scikit-learn, 8x8 gray images; needs no file and no network.

    The 1,797 images are the test part of the UCI set "Optical Recognition of Handwritten Digits", CC BY 4.0.

    Args:
        seed: seed of the stratified splits.
        validation_fraction: share of the training rows to validate on, in [0, 1).
        test_fraction: share of all rows to test on, in [0, 1).

    Reference:
        Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.

    """
    from sklearn.datasets import load_digits  # the import takes 4 s and is only needed here

    raw = cast(Any, load_digits())
    image = np.rint(raw.images * (255 / 16)).astype(np.uint8)
    whole = labelled(image, raw.target, tuple(map(str, range(10))), "digits")
    train, test, label = cut(whole, raw.target, test_fraction, seed, "test_fraction")
    train, valid, _ = cut(train, label, validation_fraction, seed)
    return Splits(train, valid, test)


def npz(
    path: str | pathlib.Path, *, seed: int = 0, validation_fraction: float = 0.1, limit_bytes: int | None = None
) -> Splits:
    """Load the arrays `x_train, y_train, x_test, y_test` of an `.npz` file.

    Images are uint8 0..255 or float 0..1; labels are integers from 0. Other arrays `NAME_train` and `NAME_test`,
    numbers `[N]`, become columns of the rows, such as groups for reports or for `methods.group_dro`.
    `sample_weight_train` has the weight of each row in the loss.

    Args:
        path: path of the file.
        seed: seed of the stratified validation split.
        validation_fraction: share of the training rows to validate on, in [0, 1).
        limit_bytes: most bytes of all arrays together; by default 1 GiB, or 20 times the file's size if that is more.

    Raises:
        InputError: The file, an array, a column or a label is not usable.

    """
    try:
        with open_npz(path, limit_bytes) as archive:
            missing = [key for key in ARRAYS if key not in list(archive)]
            if missing:
                names = ", ".join(map(visible, list(archive)[:20])) or "none"
                raise InputError(
                    f"{visible(path)}: no array {missing[0]!r} (it has {names}); needs {', '.join(ARRAYS)}"
                )
            arrays = [archive[key] for key in ARRAYS]
            columns = {
                part: _columns(archive, part, y.shape, visible(path))
                for part, y in (("train", arrays[1]), ("test", arrays[3]))
            }
    except InputError:
        raise
    except Exception as error:  # for a damaged archive, zipfile, zlib and NumPy raise errors of many types
        why = visible(reason(error))
        raise InputError(
            f"{visible(path)}: not a readable .npz file ({why}); write it with np.savez and plain number arrays"
        ) from error
    return _from_arrays(arrays, visible(path), seed, validation_fraction, columns)


def _columns(
    archive: Mapping[str, np.ndarray], part: str, shape: tuple[int, ...], path: str | pathlib.Path
) -> dict[str, np.ndarray]:
    columns = {}
    for key in archive:
        name = key.removesuffix(f"_{part}")
        if name == key or key in ARRAYS:
            continue
        found = archive[key]
        if name in TAKEN or found.shape != shape or found.dtype.kind not in "biuf" or not np.isfinite(found).all():
            what = "a name that batches use" if name in TAKEN else f"{found.dtype} of shape {found.shape}"
            raise InputError(
                f"{path}: column {visible(key)}, {what}; must be finite numbers of shape {shape} under another name, "
                "or left out"
            )
        if key == f"sample_weight_{part}" and found.size and not (found.min() >= 0 < found.max()):
            raise InputError(
                f"{path}: {key} from {found.min()} to {found.max()}; weights must not be negative, nor all 0"
            )
        columns[name] = found.astype(np.float32 if found.dtype.kind == "f" else np.int32)
        if not np.allclose(columns[name], found, rtol=1e-6, atol=0):
            raise InputError(
                f"{path}: column {visible(key)} has numbers beyond {columns[name].dtype}; number the groups from 0"
            )
    return columns


def _from_arrays(
    arrays: Sequence[np.ndarray],
    name: str,
    seed: int,
    validation_fraction: float,
    columns: Mapping[str, Mapping] | None = None,
) -> Splits:
    x_train, y_train, x_test, y_test = arrays
    train, test = f"{name}, training part", f"{name}, test part"
    if not np.issubdtype(y_train.dtype, np.integer) or y_train.ndim != 1 or y_train.size == 0:
        raise InputError(
            f"{train}: labels of dtype {y_train.dtype} and shape {y_train.shape}; must be integers [N], one per image"
        )
    found = np.unique(y_train)
    if len(found) < 2:
        raise InputError(f"{train}: only class {found[0]} in the labels; needs at least two classes, numbered from 0")
    if found[0] < 0 or found[-1] >= len(y_train):
        bad = found[0] if found[0] < 0 else found[-1]
        raise InputError(
            f"{train}: label {bad} among {len(y_train)} images is out of range; number the classes 0, 1, 2, ..."
        )
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
    splits = Splits(learn, valid, measure)
    tell_copies(splits, name)
    return splits


def _check_gaps(found: np.ndarray, name: str) -> None:
    """Refuse labels if most classes would have no row; log a warning if only some classes have no row."""
    missing = np.setdiff1d(np.arange(found[-1] + 1), found)
    if len(missing) >= len(found):
        shown = ", ".join(map(str, found if len(found) < 5 else [*found[:2], "...", found[-1]]))
        raise InputError(
            f"{name}: {len(found)} different labels ({shown}) would make {found[-1] + 1} classes, {len(missing)} of "
            f"them without a row; number them 0 to {len(found) - 1}, as np.unique(y_train, return_inverse=True)[1] does"
        )
    if len(missing):
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        classes = f"labels up to {found[-1]} make {found[-1] + 1} classes, numbered from 0"
        log.warning("%s: no row of class %s; %s", name, shown, classes)

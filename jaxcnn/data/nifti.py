"""NIfTI volumes: reading them in one orientation, and writing predictions with the affine of their input.

Voxels are `[D, H, W]`: from foot to head, from back to front, from left to right, as the affine of the file tells. The
sizes that a file states are compared with what it holds before memory is allocated.
"""

import gzip
import io
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.files import opened, write_bytes
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.data.arrays import allowed

HEAD = 544  # bytes of the longer of the two kinds of headers, with the mark of extensions
ENDINGS = (".nii.gz", ".nii")


class Head(NamedTuple):
    """What the header of a file states.

    Attributes:
        header: nibabel's header.
        shape: depth, height and width.
        spacing: millimetres from voxel to voxel along each of these.
        orientation: nibabel's orientation, `[3, 2]`: for each axis of the file, axis and direction from left, back and
            foot.

    """

    header: Any
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    orientation: np.ndarray


class Volume(NamedTuple):
    """Voxels `[D, H, W]` of a file, and its header."""

    voxels: np.ndarray
    head: Head


def nibabel() -> Any:
    """Import nibabel.

    Raises:
        InputError: It is not installed.

    """
    try:
        import nibabel
    except ImportError as error:
        raise InputError(
            "NIfTI files need nibabel: pip install -e '.[nifti]' in the clone of jaxcnn, or pip install nibabel"
        ) from error
    return nibabel


def read_head(path: str | pathlib.Path) -> Head:
    """Read the header of a file.

    Args:
        path: path of a `.nii` or `.nii.gz` file.

    Raises:
        InputError: It is no NIfTI file of one three-dimensional volume; one line that names it.

    """
    return _attempt(path, lambda: _head(_bytes(path, HEAD)))


def read_nifti(path: str | pathlib.Path, limit_bytes: int | None = None) -> Volume:
    """Read a volume.

    Args:
        path: path of a `.nii` or `.nii.gz` file.
        limit_bytes: most bytes that it may unpack to; by default 1 GiB, or 20 times its size if that is more.

    Returns:
        The voxels in the file's dtype, or as float64 if the file states a scale, and the header.

    Raises:
        InputError: It is not readable, or unpacks to more; one line that names it.

    """
    return _attempt(path, lambda: _volume(path, limit_bytes))


def write_nifti(path: str | pathlib.Path, voxels: np.ndarray, like: str | pathlib.Path) -> None:
    """Write a volume with the affine, the orientation and the spacing of another file, such as a prediction.

    Args:
        path: path of the file, which ends in `.nii` or `.nii.gz`.
        voxels: `[D, H, W]`, integers or floats, in the shape of the volume in `like`; `centred` brings rows of
            `volumes` there.
        like: the file that the prediction is for.

    Raises:
        InputError: The shape or the ending is another one, or `like` is not readable.

    """
    library, target, voxels = nibabel(), pathlib.Path(path), np.asarray(voxels)
    if not target.name.endswith(ENDINGS):
        raise InputError(f"{visible(target)}: must end in .nii or .nii.gz")
    head = read_head(like)
    if voxels.shape != head.shape:
        raise InputError(
            f"voxels of shape {voxels.shape}, but {visible(like)} has {head.shape}; bring them there with "
            "jc.data.centred(voxels, shape)"
        )
    dtype = _stored(voxels)
    way = library.orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), head.orientation)
    turned = library.orientations.apply_orientation(voxels.astype(dtype).transpose(2, 1, 0), way)
    header = head.header.copy()
    header.extensions.clear()
    header.set_data_dtype(dtype)
    header["cal_min"], header["cal_max"] = 0, 0  # the range to show was that of the input
    kind = library.Nifti2Image if isinstance(header, library.Nifti2Header) else library.Nifti1Image
    data = kind(turned, header.get_best_affine(), header).to_bytes()
    write_bytes(target, gzip.compress(data, mtime=0) if target.name.endswith(".gz") else data)


def centred(voxels: np.ndarray, shape: tuple[int, ...], fill: float = 0) -> np.ndarray:
    """Cut or pad an array evenly on all sides; the same call with the old shape is the way back.

    Args:
        voxels: `[D, H, W]`, or any number of axes.
        shape: the new shape.
        fill: what is put where the array has nothing.

    Returns:
        An array of the new shape and the same dtype.

    """
    source, target = [], []
    for n, m in zip(voxels.shape, shape, strict=True):
        moved, both = int((m - n) / 2), min(n, m)  # towards 0, so that the way back undoes it
        source.append(slice(max(-moved, 0), max(-moved, 0) + both))
        target.append(slice(max(moved, 0), max(moved, 0) + both))
    out = np.full(shape, fill, voxels.dtype)
    out[tuple(target)] = voxels[tuple(source)]
    return out


def _attempt(path: str | pathlib.Path, read: Any) -> Any:
    nibabel()
    try:
        with np.errstate(all="ignore"):  # a damaged header has quaternions of any size
            return read()
    except InputError as error:
        where = visible(path)
        raise InputError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error
    except Exception as error:  # gzip, zlib and nibabel raise errors of many types
        raise InputError(
            f"{visible(path)}: not a readable NIfTI file ({visible(reason(error))}); replace it"
        ) from error


def _bytes(path: str | pathlib.Path, most: int) -> bytes:
    """Return at most so many bytes of a file, unpacked."""
    with opened(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            return file.read(most)
        with gzip.GzipFile(fileobj=file) as inside:
            return inside.read(most)


def _head(data: bytes) -> Head:
    library = nibabel()
    sizes = [int.from_bytes(data[:4], order) for order in ("little", "big")]
    if 348 not in sizes and 540 not in sizes or len(data) < 352:
        raise InputError("not a NIfTI file; give .nii or .nii.gz")
    kind = library.Nifti1Header if 348 in sizes else library.Nifti2Header
    header = kind.from_fileobj(io.BytesIO(data[: kind.sizeof_hdr] + bytes(4)))
    shape = header.get_data_shape()
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"a volume of shape {tuple(map(int, shape))}; must have three axes, one value per voxel")
    if header.get_data_dtype().kind not in "iuf":
        raise InputError(f"voxels of dtype {visible(header.get_data_dtype())[:40]}; must be integers or floats")
    affine = header.get_best_affine()
    if not np.isfinite(affine).all() or not abs(np.linalg.det(affine[:3, :3])) > 0:
        raise InputError("an affine that is not finite, or flat; correct its header")
    orientation = library.orientations.io_orientation(affine)
    axes = orientation[:, 0].astype(int)
    ordered, spacing = np.zeros(3, int), np.zeros(3)
    ordered[axes], spacing[axes] = shape, np.sqrt((affine[:3, :3] ** 2).sum(0))
    depth, height, width = ordered[::-1].tolist()
    return Head(header, (depth, height, width), tuple(spacing[::-1].tolist()), orientation)


def _volume(path: str | pathlib.Path, limit_bytes: int | None) -> Volume:
    library, most = nibabel(), allowed(os.stat(path).st_size, limit_bytes)
    data = _bytes(path, most + 1)
    if len(data) > most:
        raise InputError(f"unpacks to more than {most:,} bytes; raise limit_bytes= if that is right")
    head = _head(data[:HEAD])
    dtype, count = head.header.get_data_dtype(), int(np.prod(head.shape))
    start = max(int(head.header.get_data_offset()), head.header.sizeof_hdr + 4)
    if start + count * dtype.itemsize > len(data):
        raise InputError(f"{len(data):,} bytes, but its header states {start + count * dtype.itemsize:,}; replace it")
    stored = np.frombuffer(data, dtype, count, start).reshape(head.header.get_data_shape()[:3], order="F")
    slope, inter = head.header.get_slope_inter()
    if slope is not None and (slope, inter) != (1, 0):
        stored = stored * float(slope) + float(inter)
    turned = library.orientations.apply_orientation(stored, head.orientation)
    return Volume(np.ascontiguousarray(turned.transpose(2, 1, 0)), head)


def _stored(voxels: np.ndarray) -> np.dtype:
    """Return a dtype that NIfTI has and other programs read."""
    if voxels.dtype.kind == "f":
        return np.dtype(np.float32)
    if voxels.dtype.kind in "biu":
        low, high = int(voxels.min()), int(voxels.max())
        for dtype in (np.uint8, np.int16, np.int32):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return np.dtype(dtype)
    raise InputError(f"voxels of dtype {voxels.dtype}: must be floats, or integers of 32 bits")

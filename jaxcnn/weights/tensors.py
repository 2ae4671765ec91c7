"""State dicts in files, safetensors and PyTorch's, read within the size of the file and of the network."""

import json
import math
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcnn.core.files import opened
from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason

Tensors = dict[str, np.ndarray]
HEADER = 2**26  # bytes; the library's own limit is 10**8
FLOATS = {"F16": np.float16, "BF16": jnp.bfloat16, "F32": np.float32, "F64": np.float64}
OTHERS = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "I16": np.int16, "U16": np.uint16, "I32": np.int32,
    "U32": np.uint32, "I64": np.int64, "U64": np.uint64,
}  # fmt: skip
DTYPES = FLOATS | OTHERS
WRAPPERS = (
    "state_dict",
    "model",
    "model_state",
    "model_state_dict",
    "module",
)  # under which training scripts save a state dict


class _Entry(NamedTuple):
    dtype: str
    shape: list[int]
    start: int
    end: int


def read(file: pathlib.Path, most: Callable[[Mapping[str, Any]], int]) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors of a file, and the metadata of a safetensors one.

    Args:
        file: `.safetensors`, or `.pth`, `.pt` or `.bin` where torch is installed, whose loader for weights runs no
            code.
        most: gives for the metadata the most values that are wanted; a file with more is another network's and is not
            read.

    Raises:
        InputError: the file cannot be read, is damaged, or holds more.

    """
    if file.suffix == ".safetensors":
        return _safetensors(file, most)
    if file.suffix in (".pth", ".pt", ".bin"):
        tensors = _pickle(file)
        _refuse_more(file, sum(x.size for x in tensors.values()), most({}))
        return tensors, {}
    raise InputError(f"{visible(file)}: must be a .safetensors file, or a .pth or .pt one")


def _refuse_more(file: pathlib.Path, size: int, most: int) -> None:
    if size > most:
        raise InputError(
            f"{visible(file)}: holds {size:,} numbers, far more than the network has; give the weights of the network"
        )


def _safetensors(file: pathlib.Path, most: Callable[[Mapping[str, Any]], int]) -> tuple[Tensors, dict[str, str]]:
    try:
        with opened(file) as stream:
            entries, metadata, begin = _header(stream, visible(file))
            _refuse_more(file, sum(math.prod(e.shape) for e in entries.values()), most(metadata))
            tensors = {}
            for name, entry in entries.items():
                stream.seek(begin + entry.start)
                data = stream.read(entry.end - entry.start)
                tensors[name] = np.frombuffer(data, DTYPES[entry.dtype]).reshape(entry.shape)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{visible(file)}: no sound safetensors file ({visible(reason(error))}); get it again"
        ) from error
    return tensors, metadata


def _header(stream: Any, where: str) -> tuple[dict[str, _Entry], dict[str, str], int]:
    """Read a safetensors file's description of its tensors, checked against its size, and nothing else of the file."""
    size = stream.seek(0, 2)
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > min(size - 8, HEADER):
        raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
    try:
        found = json.loads(stream.read(length).decode(), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("a header that is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("a header that is no JSON object")
    metadata = fitted(
        dict[str, str], found.pop("__metadata__", {}), f"{where}: no sound safetensors file: __metadata__"
    )
    entries, at = {}, 0
    for name, entry in found.items():
        entries[name] = _entry(name, entry, size - 8 - length)
    for name, entry in sorted(entries.items(), key=lambda e: (e[1].start, e[1].end)):
        if entry.start != at:
            raise ValueError(f"tensor {name!r} begins at byte {entry.start}, where {at} bytes come before it")
        at = entry.end
    if at != size - 8 - length:
        raise ValueError(f"tensors of {at:,} bytes in {size - 8 - length:,}")
    return entries, metadata, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a header that names a tensor twice")
    return out


def _entry(name: str, entry: Any, size: int) -> _Entry:
    """Check one tensor's description: its type, its shape, and that its bytes are in the file."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} is described by {str(entry)[:80]}")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"tensor {name!r} is of type {str(dtype)[:20]!r}, which is none of {', '.join(DTYPES)}")
    whole = (
        isinstance(shape, list) and isinstance(place, list) and all(type(n) is int and n >= 0 for n in shape + place)
    )
    if not whole or len(shape) > 32 or len(place) != 2:
        raise ValueError(f"tensor {name!r} has the shape {str(shape)[:80]} at bytes {str(place)[:80]}")
    if place[1] > size or place[1] - place[0] != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
        raise ValueError(f"tensor {name!r} of shape {str(shape)[:80]} is stated at bytes {place} of {size:,}")
    return _Entry(dtype, shape, *place)


def _pickle(file: pathlib.Path) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{file}: reading a {file.suffix} file needs torch; install it, or get the weights as .safetensors"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler finds; its own words say how to run the code all the same
        raise InputError(
            f"{file}: holds more than tensors, or is damaged; nothing in it was run, get .safetensors"
        ) from error
    state = unwrapped(state)
    state = {name: x for name, x in state.items() if isinstance(x, torch.Tensor)} if isinstance(state, dict) else {}
    if not state or not all(isinstance(name, str) for name in state):
        raise InputError(f"{file}: no state dict, a mapping of names to tensors")
    return {
        name: (x.float() if x.dtype == torch.bfloat16 else x).detach().numpy() for name, x in state.items()
    }  # NumPy has no bfloat16


def unwrapped(state: Any) -> Any:
    """Return the state dict within what a training script saved, which may be nested under one name or several."""
    while isinstance(state, dict):
        inner = next((state[key] for key in WRAPPERS if isinstance(state.get(key), dict)), None)
        if inner is None:
            break
        state = inner
    return state


def as_float32(tensors: Tensors) -> Tensors:
    """Return floating-point tensors as float32, and others as they are."""
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused as that
        return {name: x if x.dtype.kind in "iub" else x.astype(np.float32, copy=False) for name, x in tensors.items()}


def narrow(tensors: Tensors) -> str:
    """Name the floating-point types of 16 bits among tensors."""
    return " and ".join(
        sorted({str(x.dtype) for x in tensors.values() if x.dtype.itemsize == 2 and x.dtype.kind not in "iu"})
    )

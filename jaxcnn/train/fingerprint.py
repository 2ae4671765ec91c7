"""Fingerprints that distinguish runs by the traced step, the initial state and the data.

The step is traced before compilation with a whole batch, so that the fingerprint does not depend on the strategy or
the devices. Each value in the jaxpr gets a digest of the operation that computes it and of its operands; constants are
digested by their bytes. Names, source locations, addresses and the order of independent operations have no effect.
"""

import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxcnn.core.types import CompiledStep, State, named
from jaxcnn.parallel import mesh
from jaxcnn.version import __version__

PLACES = {"sharding", "in_shardings", "out_shardings", "in_layouts", "out_layouts"}
PLACES |= {"ctx_mesh", "mesh", "device", "devices", "backend"}
IGNORED = PLACES | {"name", "debug_info", "donated_invars", "keep_unused", "inline"}
IGNORED |= {"compiler_options_kvs", "jvp_jaxpr_fun"}
PARTS = {
    "step": "the step (loss, augmentation, model or precision, or a schedule or setting of the optimiser)",
    "optimizer": "the optimiser's settings, such as the learning rate",
    "weights": "the initial weights",
    "seed": "the seed of the state",
    "data": "the training data",
}
PLAIN = {int, bool, str, type(None)}
CLOSE = 1e-5  # relative: rounding makes sums of floats differ between machines
Description = dict[str, Any]


def describe(run: CompiledStep, state: State, data: Any, batch: Mapping[str, Any]) -> Callable[[], Description]:
    """Trace the step, and return a function that computes the fingerprint.

    Args:
        run: a compiled step. If `run.step` is None or cannot be traced, the fingerprint does not cover the step.
        state: the initial state.
        data: the training data.
        batch: shapes and dtypes of one batch without padding.

    Returns:
        A function without arguments, which may run on any thread.

    """
    traced = None
    if run.step is not None:
        try:
            traced = jax.jit(run.step, inline=True).trace(state, dict(batch)).jaxpr
        except Exception:  # compilation reports the fault
            traced = None

    def computed() -> Description:
        return {
            "versions": _versions(),
            "step": None if traced is None else _known(lambda jaxpr=traced: _Digests().closed(jaxpr).hex()),
            "optimizer": _known(lambda: _summary(state.opt_state)),
            "weights": _known(lambda: _summary((state.step, state.params, state.model_state, state.extras))),
            "seed": _known(lambda: _summary(state.rng)),
            "data": _known(lambda: _data(data)),
        }

    return computed


def differing(old: Mapping[str, Any], new: Description, parts: Iterable[str] = tuple(PARTS)) -> list[str]:
    """Describe the parts that differ between two fingerprints. A part that either one lacks counts as equal."""
    return [PARTS[name] for name in parts if not _alike(old.get(name), new.get(name))]


def unknown(old: Mapping[str, Any] | None, new: Description) -> str | None:
    """Return the reason why two fingerprints cannot be compared, or None if they can."""
    if not old:
        return "it has no fingerprint, because an older version of jaxcnn wrote it"
    if old.get("versions") != new["versions"]:

        def shown(versions):
            return ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, Mapping) else "unknown"

        return f"it was trained with {shown(old.get('versions'))}, and this is {shown(new['versions'])}"
    return None


def untraced(old: Mapping[str, Any], new: Description) -> str | None:
    """Return the reason why the steps were not compared, or None if they were."""
    return None if old.get("step") and new["step"] else "its step cannot be traced on its own"


def _alike(old: Any, new: Any) -> bool:
    if old is None or new is None:
        return True
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        a, b = (
            np.asarray([x if isinstance(x, int | float) else np.nan for x in part.get("sums") or ()])
            for part in (old, new)
        )
        return (
            old.get("exact") == new.get("exact")
            and a.shape == b.shape
            and bool(np.allclose(a, b, CLOSE, 0, equal_nan=True))
        )
    kinds = [x.partition(":")[0] for x in (old, new) if isinstance(x, str) and ":" in x]
    if len(set(kinds)) == 2:
        return True  # rows in memory and streamed rows: the number of rows is compared elsewhere
    return old == new


@functools.cache
def _versions() -> dict[str, str]:
    others = {name: importlib.metadata.version(name) for name in ("flax", "optax")}
    return {"jaxcnn": __version__, "jax": jax.__version__, **others, "platform": jax.default_backend()}


def _known(make: Callable[[], Any]) -> Any:
    """Compute a part. Return None if that fails, because no training may be lost to a fingerprint."""
    try:
        return make()
    except Exception:
        return None


def _data(data: Any) -> str | None:
    """Digest the rows in memory, or the facts about streamed rows that are known without reading them."""
    arrays = getattr(data, "every_array", getattr(data, "arrays", None))
    if isinstance(arrays, Mapping):
        total = hashlib.sha256()
        for name in sorted(arrays):
            if not mesh.whole_here(arrays[name]):
                return None
            x = np.asarray(arrays[name])
            total.update(f"{name} {jax.dtypes.canonicalize_dtype(x.dtype)} {x.shape}\n".encode())
            for i in range(0, len(x), 4096):  # with the dtype on a device: int64 becomes int32
                part = np.ascontiguousarray(x[i : i + 4096], jax.dtypes.canonicalize_dtype(x.dtype))
                total.update(part.reshape(-1).view(np.uint8).data)
        if hasattr(data, "drawn"):  # which rows are read, or how
            total.update(repr(data.drawn).encode())
        return f"arrays:{total.hexdigest()}"
    label = getattr(data, "label", None)
    known = [
        data.size,
        list(getattr(data, "classes", ())),
        data.seed,
        None if label is None else np.asarray(label).tolist(),
    ]
    return f"stream:{hashlib.sha256(repr(known).encode()).hexdigest()}"


def _summary(tree: Any) -> dict[str, Any]:
    """Digest integers and keys exactly, floats by the sum of absolute values: rounding depends on the machine."""
    exact, sums = hashlib.sha256(), []
    for name, leaf in named(tree):
        if not mesh.whole_here(leaf):
            continue
        key = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        x = np.asarray(jax.random.key_data(leaf) if key else leaf)
        exact.update(f"{name} {jax.dtypes.canonicalize_dtype(x.dtype)} {x.shape}\n".encode())
        if jnp.issubdtype(x.dtype, jnp.inexact):
            total = np.abs(x.astype(np.float32) if x.dtype.kind == "V" else x).sum(dtype=np.float64)
            sums.append(float(f"{total:.8g}") if np.isfinite(total) else None)
        else:
            exact.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
    return {"exact": exact.hexdigest(), "sums": sums}


class _Digests:
    """Digests of jaxprs and of their parts. A jaxpr that occurs twice is walked once."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, bytes]] = {}

    def closed(self, closed: ClosedJaxpr) -> bytes:
        """Digest a jaxpr and its constants."""
        return self._once(closed, lambda: self._jaxpr(closed.jaxpr, [self.array(x) for x in closed.consts]))

    def _once(self, key: Any, make: Callable[[], bytes]) -> bytes:
        if id(key) not in self.known:
            self.known[id(key)] = key, make()
        return self.known[id(key)][1]

    def _jaxpr(self, jaxpr: Jaxpr, consts: Sequence[bytes] | None = None) -> bytes:
        consts = consts if consts is not None else [b"const %d" % i for i in range(len(jaxpr.constvars))]
        known: dict[Any, bytes] = dict(zip(jaxpr.constvars, consts, strict=True))
        known |= {v: _hash(b"argument %d" % i, _aval(v)) for i, v in enumerate(jaxpr.invars)}

        def read(v):
            return _hash(b"literal", _aval(v), self.array(v.val)) if isinstance(v, Literal) else known[v]

        for eqn in jaxpr.eqns:
            params = [
                part for k in sorted(eqn.params) if k not in IGNORED for part in (k.encode(), self.value(eqn.params[k]))
            ]
            made = _hash(eqn.primitive.name.encode(), b"%d" % len(params), *params, *map(read, eqn.invars))
            known |= {v: _hash(made, b"%d" % i, _aval(v)) for i, v in enumerate(eqn.outvars)}
        return _hash(*map(read, jaxpr.outvars))

    def array(self, x: Any) -> bytes:
        """Digest a constant by its dtype, shape and bytes."""
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        if not mesh.whole_here(x):
            return _hash(b"divided", str(x.dtype).encode(), str(x.shape).encode())
        x = np.asarray(x)
        content = hashlib.sha256(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data).digest()
        return _hash(str(x.dtype).encode(), str(x.shape).encode(), content)

    def value(self, x: Any) -> bytes:
        """Digest a parameter of a primitive."""
        if type(x) in PLAIN or type(x) is tuple and all(type(i) in PLAIN for i in x):  # the most common case
            return repr(x).encode()
        if isinstance(x, jax.sharding.Sharding | jax.sharding.Mesh | jax.sharding.AbstractMesh):
            return _hash(b"place")  # a location does not change the result
        if isinstance(x, ClosedJaxpr):
            return self._once(x, lambda: self.closed(x))
        if isinstance(x, Jaxpr):
            return self._once(x, lambda: self._jaxpr(x))
        if isinstance(x, np.ndarray | np.generic | jax.Array):
            return self.array(x)
        if isinstance(x, Mapping):
            return _hash(b"map", *sorted(_hash(self.value(k), self.value(v)) for k, v in x.items()))
        if isinstance(x, list | tuple):
            return _hash(type(x).__name__.encode(), *map(self.value, x))
        if isinstance(x, set | frozenset):
            return _hash(b"set", *sorted(map(self.value, x)))
        if dataclasses.is_dataclass(x) and not isinstance(x, type):
            fields = [(f.name, self.value(getattr(x, f.name))) for f in dataclasses.fields(x) if f.name not in IGNORED]
            return _hash(type(x).__qualname__.encode(), *(_hash(name.encode(), value) for name, value in fields))
        return _hash(type(x).__qualname__.encode(), _text(x).encode())


def _text(x: Any) -> str:
    if isinstance(x, float):
        return x.hex()
    if x is None or isinstance(x, str | bytes | int | complex | np.dtype):
        return repr(x)
    if isinstance(x, enum.Enum):
        return x.name
    if isinstance(x, functools.partial):
        return f"{_text(x.func)} {x.args} {x.keywords}"
    if callable(x):  # its code is in the traced jaxpr
        return str(getattr(x, "__qualname__", ""))
    return re.sub(r"0x[0-9a-fA-F]+", "", repr(x))


def _aval(v: Any) -> bytes:
    dtype = getattr(v.aval, "dtype", v.aval)
    return f"{_name(dtype) if isinstance(dtype, np.dtype) else dtype} {getattr(v.aval, 'shape', '')}".encode()


_name = functools.cache(str)  # NumPy rebuilds the name on each call


def _hash(*parts: Any) -> bytes:
    return hashlib.sha256(b"".join([b"%d " % len(part) + part for part in parts])).digest()

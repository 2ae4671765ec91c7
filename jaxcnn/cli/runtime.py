"""Settings of a command's own process, made before JAX starts; importing this module changes nothing."""

import ctypes
import importlib.metadata
import importlib.util
import logging
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax

from jaxcnn.core import memory
from jaxcnn.core.files import writable
from jaxcnn.core.paths import cache_folder, for_now, prune

log = logging.getLogger("jaxcnn")

# Numbers of mallopt in glibc. By default, buffers above about 32 MB are mapped and returned at every use, and each use
# costs a page fault per 4 KiB; these settings keep them on the heap. One arena, because other arenas are too small.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
KNOBS = {M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: 2**31 - 1, M_ARENA_MAX: 1}
PROGRAMS_BYTES = 2**30  # limit of the cache of compiled programs; a run on small images adds half a megabyte


def prepare(gpu_memory_fraction: float, deterministic: bool) -> None:
    """Set the options that JAX reads when it starts.

    Args:
        gpu_memory_fraction: share of GPU memory to reserve; 0 to allocate on demand, negative for JAX's default.
        deterministic: use only GPU operations that give the same bits each time.

    """
    if gpu_memory_fraction == 0:
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    elif gpu_memory_fraction > 0:
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(gpu_memory_fraction)
    if deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()


def find_home() -> None:
    """Give a user without a home folder a temporary one, because several libraries fail without it."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = str(for_now())


def too_little(error: BaseException, config: Any) -> str | None:
    """Suggest a fix if an error means that memory or threads ran out; None for other errors."""
    if "can't start new thread" in str(error):
        return (
            "no more threads can be started; give more processes or address space (ulimit -u, ulimit -v), or use fewer "
            "--devices"
        )
    return out_of_memory(error, config)


def out_of_memory(error: BaseException, config: Any) -> str | None:
    """Suggest a fix if an error means that memory ran out; None for other errors."""
    wanted = re.search(r"allocat\w*\D{0,20}(\d[\d.]* ?(?:[KMGT]i?B|bytes))", str(error))
    if not memory.ran_out(error):
        return None
    asked = f", {wanted[1]} more requested" if wanted else ""
    where = f" at --batch-size {config.batch_size}" if hasattr(config, "batch_size") else ""
    fix = "try --accumulate 4, --remat, --precision bf16 or a smaller --batch-size" if where else "give more memory"
    return f"out of memory{where}: {peak_bytes() / 2**20:,.0f} MiB used at most{asked}; {fix}"


def peak_bytes() -> int:
    """Return the peak memory use in bytes: of the accelerator if there is one, else of the process."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peak = max((s.get("peak_bytes_in_use", 0) for s in stats), default=0)
    if peak or sys.platform == "win32":
        return peak
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reuse_memory(knobs: dict[int, int] = KNOBS) -> bool:
    """Let the allocator keep large buffers for reuse; false without glibc, or if JAX runs on an accelerator."""
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 (musl has a mallopt that does nothing)
    except (AttributeError, OSError, TypeError):  # not glibc; Windows raises for a library without a name
        return False
    return on_cpu() and all([libc.mallopt(knob, value) for knob, value in knobs.items()])


def on_cpu() -> bool:
    """Whether JAX runs on the CPU; asking JAX starts its threads, so only do it if a plugin is installed."""
    if jax.config.jax_platforms:  # pyright: ignore[reportAttributeAccessIssue] (JAX adds its flags at run time)
        return jax.config.jax_platforms == "cpu"  # pyright: ignore[reportAttributeAccessIssue]
    plugins = importlib.util.find_spec("jax_plugins") or importlib.metadata.entry_points(group="jax_plugins")
    return not (plugins or importlib.util.find_spec("libtpu")) or jax.default_backend() == "cpu"


def keep_programs(folder: str) -> None:
    """Cache compiled programs in a folder.

    If JAX's own `JAX_COMPILATION_CACHE_DIR` is set, it stays in force with its limits unless a folder is given.

    Args:
        folder: the folder; empty for the user's cache folder, `"off"` for no cache. A folder that cannot be written
            gives a warning and no cache.

    """
    if folder == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if not folder and jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        return
    path = pathlib.Path(folder) if folder else cache_folder("jax")
    try:
        str(path).encode()  # JAX only accepts UTF-8
        writable(path)
    except OSError as error:
        reason = f"{path} cannot be written ({error.strerror})"
        log.warning("compiled programs are not kept: %s; give another --compilation-cache", reason)
        return
    except UnicodeEncodeError:
        log.warning("compiled programs are not kept: %s is not UTF-8; give another --compilation-cache", path)
        return
    prune(path, PROGRAMS_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    warnings.showwarning = _mend(path, warnings.showwarning)


def _mend(folder: pathlib.Path, show: Callable[..., None]) -> Callable[..., None]:
    """Remove a damaged entry of the cache; JAX recompiles such a program but would leave the entry there."""

    def shown(message: Any, *rest: Any, **more: Any) -> None:
        text = str(message)
        if not text.startswith("Error reading persistent compilation cache entry for '"):
            return show(message, *rest, **more)
        name = text.split("'")[1]
        log.warning("a compiled program in %s was damaged (%s): it is compiled again", folder, name)
        for entry in folder.glob(f"{name}-*"):
            entry.unlink(missing_ok=True)

    return shown

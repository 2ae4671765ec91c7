"""Checkpoints through Orbax: latest and best, each with our own digest, because Orbax restores a flipped byte without complaint."""

import contextlib
import functools
import hashlib
import json
import logging
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.types import InputError, Tree

FORMAT = 1
log = logging.getLogger("jaxcnn")


def flatten(tree: Tree) -> dict[str, np.ndarray]:
    """Copy a tree to the host as `{path: array}`; random keys become their integers."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.array(_plain(leaf)) for path, leaf in leaves}


def unflatten(like: Tree, flat: Mapping[str, np.ndarray]) -> Tree:
    """Rebuild a tree of the form of `like` from `{path: array}`.

    Raises:
        InputError: a leaf is missing, unexpected, or of another shape or dtype; the message names the first.

    """
    expected = jax.tree_util.tree_leaves_with_path(like)
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in expected]
    wrong = sorted(set(paths) ^ set(flat))
    if wrong:
        raise InputError(
            f"the checkpoint {'has' if wrong[0] in flat else 'lacks'} {wrong[0]}: it was written by another model or optimiser"
        )
    leaves = []
    for path, (_, leaf) in zip(paths, expected, strict=True):
        plain, saved = _plain(leaf), flat[path]
        if (plain.shape, plain.dtype) != (saved.shape, saved.dtype):
            raise InputError(f"the checkpoint has {path} {saved.dtype}{list(saved.shape)}, this model {plain.dtype}{list(plain.shape)}")
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        leaves.append(jax.random.wrap_key_data(jnp.asarray(saved), impl=jax.random.key_impl(leaf)) if is_key else saved)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def digest(flat: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over path, dtype, shape and bytes of every array, in order of path."""
    total = hashlib.sha256()
    for path in sorted(flat):
        array = np.ascontiguousarray(flat[path])
        total.update(f"{path} {array.dtype} {array.shape}\n".encode())
        total.update(array.reshape(-1).view(np.uint8))
    return total.hexdigest()


def _seal(flat: Mapping[str, np.ndarray], loop: dict[str, Any]) -> str:
    text = json.dumps(loop, sort_keys=True).encode()
    return digest({**flat, "loop record": np.frombuffer(text, np.uint8)})


class _Kept:
    """Orbax preservation policy: the newest two, and the best as each of them knows it, should the newest be damaged."""

    best: tuple[int | None, ...] = ()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        newest = sorted(c.step for c in checkpoints)[-2:]
        return [c.step in newest or c.step in self.best for c in checkpoints]


class Checkpoints:
    """The checkpoints of one run, in `<folder>/<step>/`: the newest two and the best one.

    Args:
        folder: made if absent.
        read_only: do not create or clean anything.

    """

    def __init__(self, folder: str | pathlib.Path, read_only: bool = False):
        self.folder, self.read_only, self.kept = pathlib.Path(folder).absolute(), read_only, _Kept()
        if not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def manager(self) -> Any:
        """Orbax's own, made when there is something to read or write: a new run trains before that."""
        passive = {"read_only": True, "save_interval_steps": 0, "create": False} if self.read_only else {"cleanup_tmp_directories": True}
        options = _orbax().CheckpointManagerOptions(preservation_policy=self.kept, **passive)
        return _orbax().CheckpointManager(self.folder, options=options, item_names=("state", "loop"))

    def steps(self) -> list[int]:
        """Return the steps that can be restored, the newest first."""
        return sorted(self.manager.all_steps(), reverse=True) if self.folder.is_dir() and any(self.folder.iterdir()) else []

    def save(self, step: int, state: Tree, loop: dict[str, Any], best: int | None = None) -> None:
        """Write state and loop record, and keep step `best` as well; returns when they are copied, while the disk works on.

        Raises:
            OSError: this save, or the one before it, could not be written.

        """
        self.kept.best = (*self.kept.best[-1:], best)
        flat = flatten(state)  # a copy: the state's buffers are donated to the next dispatch
        record, ocp = {"format": FORMAT, "digest": _seal(flat, loop), "loop": loop}, _orbax()
        items = ocp.args.Composite(state=ocp.args.StandardSave(flat), loop=ocp.args.JsonSave(record))
        self._guard(lambda: self.manager.save(step, args=items))

    def load(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Read `{path: array}` and the loop record of one step.

        Raises:
            DamagedError: it is cut, or has changed.
            InputError: it is of a newer format.

        """
        ocp = _orbax()
        try:
            record = self.manager.restore(step, args=ocp.args.Composite(loop=ocp.args.JsonRestore()))["loop"]
            if record["format"] > FORMAT:
                raise InputError(f"checkpoint {step} has format {record['format']}, newer than this program's {FORMAT}: update jaxcnn")
            flat = self.manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]
            flat = {path: np.asarray(array) for path, array in flat.items()}
        except (InputError, MemoryError, PermissionError):
            raise
        except Exception as error:  # Orbax and TensorStore raise a dozen kinds for cut and missing files
            raise DamagedError(str(error).splitlines()[0][:200] if str(error) else type(error).__name__) from error
        if _seal(flat, record["loop"]) != record["digest"]:
            raise DamagedError("it is not what was saved (digest differs)")
        return flat, record["loop"]

    def newest(self) -> tuple[int, dict[str, np.ndarray], dict[str, Any]] | None:
        """Read the newest sound checkpoint, `(step, arrays, loop)`; damaged ones are named and set aside."""
        found = False
        for step in self.steps():
            try:
                flat, loop = self.load(step)
                self.kept.best = (loop.get("best_step"),)
                return step, flat, loop
            except DamagedError as error:
                log.warning("checkpoint %d is damaged (%s): looking at the one before", step, error)
                if not self.read_only:
                    self.discard(step)
                found = True
        if found:
            log.warning("no sound checkpoint is left in %s: nothing to go on from", self.folder)
        return None

    def discard(self, step: int) -> None:
        """Move one step's folder out of the way, to `damaged/<step>` beside the folder, so that its number can be written again."""
        source, target = self.folder / str(step), self.folder.parent / "damaged" / str(step)
        if source.exists():
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
        self.manager.reload()

    def close(self) -> None:
        """Wait for the disk, then let go.

        Raises:
            OSError: a save that was under way could not be written.

        """
        if "manager" in vars(self):
            self._guard(self.manager.wait_until_finished)
            self.manager.close()

    def _guard(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except ValueError as error:  # so TensorStore reports a full disk
            full = "RESOURCE_EXHAUSTED" in str(error) or "No space left" in str(error)
            why = "no space is left on the disk" if full else str(error).splitlines()[0][:200]
            raise OSError(f"checkpoint not written, {why} ({self.folder})") from error


class DamagedError(Exception):
    """A checkpoint that cannot be trusted; the message says why."""


@contextlib.contextmanager
def reading(folder: str | pathlib.Path) -> Any:
    """Open the checkpoints of a finished run without changing anything."""
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


def _orbax() -> Any:
    """Import Orbax, which takes as long as Flax and Optax together; every start would pay for what the first save needs."""
    import orbax.checkpoint as ocp

    return ocp


def _plain(leaf: Any) -> Any:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

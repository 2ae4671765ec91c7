"""Checkpoints through Orbax: latest and best, each with our own digests, because Orbax restores a flipped byte without complaint.

Format 2: item `state` holds `{path: array}`, item `loop` the JSON `{"format", "loop", "parts", "digest"}`. `parts` has for each
path `[dtype, shape, [[first, SHA-256], ...]]`, a digest for each part of the array as the devices held it, by where the part
begins, and `digest` is over `loop` and `parts`. Orbax makes both items visible by one renaming, when all is written.
"""

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

from jaxcnn import mesh
from jaxcnn.types import InputError, Tree, named, reason

FORMAT = 2
log = logging.getLogger("jaxcnn")


def flatten(tree: Tree) -> dict[str, np.ndarray]:
    """Copy a tree to the host as `{path: array}`; random keys become their integers."""
    return {path: mesh.fetch(leaf) for path, leaf in _leaves(tree)}


def _leaves(tree: Tree) -> list[tuple[str, Any]]:
    return [(path, _plain(leaf)) for path, leaf in named(tree)]


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


def _parts(flat: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Digests of each array, part by part: what this process holds, and once in all processes together."""
    found: dict[str, list[Any]] = {}
    for path, x in flat.items():
        pieces = [(s.index, s.data) for s in x.addressable_shards if s.replica_id == 0] if isinstance(x, jax.Array) else [((), x)]
        digests = [[[part.start or 0 for part in index], _sha256(np.asarray(piece))] for index, piece in pieces]
        found[path] = [str(x.dtype), list(x.shape), digests]
    return found


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8)).hexdigest()


def _together(parts: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Join what the processes hold."""
    everywhere = [json.loads(text) for text in mesh.tell_all(json.dumps(parts))]
    return {path: [dtype, shape, sum((other[path][2] for other in everywhere), [])] for path, (dtype, shape, _) in parts.items()}


def _seal(parts: dict[str, list[Any]], loop: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([parts, loop], sort_keys=True).encode()).hexdigest()


def _changed(flat: Mapping[str, np.ndarray], parts: Mapping[str, list[Any]]) -> str | None:
    """Name the first array that is not what was saved."""
    if set(flat) != set(parts):
        return min(set(flat) ^ set(parts))
    for path, (dtype, shape, digests) in parts.items():
        x = flat[path]
        if (str(x.dtype), list(x.shape)) != (dtype, shape) or not digests:
            return path
        for first, sha256 in digests:
            size = _part_size(shape, [other for other, _ in digests])
            if _sha256(x[tuple(slice(a, a + n) for a, n in zip(first, size, strict=False))]) != sha256:
                return path
    return None


def _part_size(shape: list[int], firsts: list[list[int]]) -> list[int]:
    """Parts are alike, so the smallest beginning above 0 is how long they are."""
    return [min([f[i] for f in firsts if f and f[i] > 0], default=n) for i, n in enumerate(shape)]


class _Kept:
    """Orbax preservation policy: the newest two, and the best as each of them knows them, should the newest be damaged."""

    best: tuple[list[int], ...] = ()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        newest, best = sorted(c.step for c in checkpoints)[-2:], sum(self.best, [])
        return [c.step in newest or c.step in best for c in checkpoints]


class Checkpoints:
    """The checkpoints of one run, in `<folder>/<step>/`: the newest two and the best.

    Args:
        folder: made if absent.
        keep_best: how many of the best.
        read_only: do not create or clean anything.

    """

    def __init__(self, folder: str | pathlib.Path, keep_best: int = 1, read_only: bool = False):
        self.folder, self.keep_best, self.read_only, self.kept = pathlib.Path(folder).absolute(), keep_best, read_only, _Kept()
        self.set_aside, self.written = self.folder.parent / "replaced", None
        if not read_only and mesh.share()[0] == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._recover()
        mesh.meet("checkpoints")

    @functools.cached_property
    def manager(self) -> Any:
        """Orbax's own, made when there is something to read or write: a new run trains before that."""
        passive = {"read_only": True, "save_interval_steps": 0, "create": False} if self.read_only else {"cleanup_tmp_directories": True}
        options = _orbax().CheckpointManagerOptions(preservation_policy=self.kept, **passive)
        return _orbax().CheckpointManager(self.folder, options=options, item_names=("state", "loop"))

    def steps(self) -> list[int]:
        """Return the steps that can be restored, the newest first."""
        return sorted(self.manager.all_steps(), reverse=True) if self.folder.is_dir() and any(self.folder.iterdir()) else []

    def save(self, step: int, state: Tree, loop: dict[str, Any], ranking: Sequence[int] = ()) -> bool:
        """Write state and loop record, and keep the first of `ranking` as well; returns when they are copied, while the disk works on.

        What cannot be written (no space, no permission, no folder) is said and left out: older checkpoints stay as they are.
        A step that is there already is replaced, and stays until it is.

        Returns:
            Whether this save could begin, and the one before it, which ends with this call, was written.

        """
        self.kept.best = (*self.kept.best[-1:], list(ranking[: self.keep_best]))
        flat = _copies(state)
        parts = _together(_parts(flat))
        record, ocp = {"format": FORMAT, "loop": loop, "parts": parts, "digest": _seal(parts, loop)}, _orbax()
        items = ocp.args.Composite(state=ocp.args.StandardSave(flat), loop=ocp.args.JsonSave(record))

        def write() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            if (self.folder / str(step)).exists():
                self._replace(step)
            self.manager.save(step, args=items)

        return self._attempt(write, step)

    def load(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Read `{path: array}` and the loop record of one step.

        Raises:
            DamagedError: it is cut, or has changed.
            InputError: it is of another format.

        """
        ocp = _orbax()
        try:
            record = self.manager.restore(step, args=ocp.args.Composite(loop=ocp.args.JsonRestore()))["loop"]
            if record["format"] != FORMAT:
                other = "newer" if record["format"] > FORMAT else "older"
                raise InputError(f"checkpoint {step} has format {record['format']}, {other} than this program's {FORMAT}: use that jaxcnn")
            if _seal(record["parts"], record["loop"]) != record["digest"]:
                raise DamagedError("its record is not what was saved (digest differs)")
            on_host = {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in record["parts"]}
            flat = self._reader.restore(self.folder / str(step) / "state", args=ocp.args.PyTreeRestore(restore_args=on_host))
            flat = {path: np.asarray(array) for path, array in flat.items()}
        except (InputError, DamagedError, MemoryError, PermissionError):
            raise
        except Exception as error:  # Orbax and TensorStore raise a dozen kinds for cut and missing files
            raise DamagedError(reason(error)) from error
        if (path := _changed(flat, record["parts"])) is not None:
            raise DamagedError(f"{path} is not what was saved (digest differs)")
        return flat, record["loop"]

    def newest(self) -> tuple[int, dict[str, np.ndarray], dict[str, Any]] | None:
        """Read the newest sound checkpoint, `(step, arrays, loop)`; damaged ones are named and set aside."""
        for part in sorted(self.folder.glob("*.orbax-checkpoint-tmp*")):
            log.warning("checkpoint %s was cut off while it was written: looking at the one before", part.name.split(".")[0])
        found = False
        for step in self.steps():
            try:
                flat, loop = self.load(step)
                best = loop.get("best_step")
                self.kept.best = ([best] if best is not None else [],)
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
        if mesh.share()[0] == 0:
            _move(self.folder / str(step), self.folder.parent / "damaged" / str(step))
        mesh.meet("discarded")
        self.manager.reload()

    def wait(self) -> bool:
        """Wait for the disk; false, and said, if a save that was under way could not be written."""
        return self._attempt(self.manager.wait_until_finished) if "manager" in vars(self) else True

    def close(self) -> None:
        """Wait for the disk, then let go."""
        if "manager" in vars(self) and self.wait():
            self.manager.close()
        if not self.read_only and self.set_aside.exists() and mesh.share()[0] == 0:
            self._recover()

    def _replace(self, step: int) -> None:
        """Set a step aside until its successor is written; should that never be, `_recover` puts it back."""
        self.manager.wait_until_finished()
        if mesh.share()[0] == 0:
            self._recover()
            _move(self.folder / str(step), self.set_aside / str(step))
        mesh.meet("replaced")
        self.manager.reload()

    def _recover(self) -> None:
        """Put back what was set aside and has no successor; the rest is not needed any more."""
        for old in self.set_aside.glob("*"):
            new = self.folder / old.name
            if not new.exists():
                old.rename(new)
        shutil.rmtree(self.set_aside, ignore_errors=True)

    def _attempt(self, action: Callable[[], Any], step: int | None = None) -> bool:
        """Do something with the disk; if it cannot be, say so, and begin with a new manager the next time."""
        try:
            action()
        except (OSError, ValueError) as error:  # TensorStore reports a full disk as a ValueError
            full = any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "No space left"))
            why = "no space is left on the disk" if full else reason(error)
            which = self.written if step is None or self.written is None else f"{self.written} or {step}"
            log.warning("checkpoint %s not written, %s (%s); training goes on", step if which is None else which, why, self.folder)
            self._let_go()
            return False
        self.written = step
        return True

    def _let_go(self) -> None:
        """Forget a manager whose save failed, and what it left unfinished."""
        manager = vars(self).pop("manager", None)
        self.written = None
        with contextlib.suppress(Exception):  # it reports the same failure once more
            manager.close()
        for part in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(part, ignore_errors=True)
        self._recover()

    @functools.cached_property
    def _reader(self) -> Any:
        return _orbax().Checkpointer(_orbax().PyTreeCheckpointHandler())


def _copies(state: Tree) -> dict[str, Any]:
    """Copy a state as `{path: array}`, because its buffers are donated to the next dispatch: to the host, where it is whole here."""
    leaves = dict(_leaves(state))
    divided = {path: leaf for path, leaf in leaves.items() if not mesh.whole_here(leaf)}
    divided = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(divided) if divided else {}
    return {path: divided[path] if path in divided else np.array(leaf) for path, leaf in leaves.items()}


def _move(source: pathlib.Path, target: pathlib.Path) -> None:
    if source.exists():
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        source.rename(target)


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

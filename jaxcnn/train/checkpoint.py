"""The newest and the best checkpoints, written by Orbax, with digests of our own: Orbax does not notice a flipped byte.

Format 3: the item `state` holds `{path: array}`, and the item `loop` the JSON `{"format", "loop", "parts", "digest"}`.
`parts` maps each path to `[dtype, shape, [[first, SHA-256], ...]]`: one digest for each shard of the array, with the
index of the shard's first element. `digest` covers `loop` and `parts`. When everything is written, a single rename
makes both items visible. The rows of `loop["history"]` are in a file beside the checkpoints (see `history`); format 2
had them in the record. `stored` reads checkpoints.
"""

import contextlib
import functools
import json
import logging
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, Tree, reason
from jaxcnn.parallel import mesh
from jaxcnn.train import step_folders, stored
from jaxcnn.train.flat import compare, copies, digest, flatten, unflatten
from jaxcnn.train.history import History, coded, decoded
from jaxcnn.train.lock import lock
from jaxcnn.train.stored import DamagedError

FORMAT, OLDEST = 3, 2
__all__ = ["Checkpoints", "DamagedError", "digest", "flatten", "reading", "unflatten"]
log = logging.getLogger("jaxcnn")


def _together(parts: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Join the digests of all processes."""
    everywhere = [json.loads(text) for text in mesh.gather_texts(json.dumps(parts))]

    def joined(path: str) -> list[Any]:
        return sum((other[path][2] for other in everywhere), [])

    return {path: [dtype, shape, joined(path)] for path, (dtype, shape, _) in parts.items()}


class _Kept:
    """An Orbax preservation policy: keep the newest two checkpoints, and the best ones that either refers to."""

    best: tuple[list[int], ...] = ()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        newest, best = sorted(c.step for c in checkpoints)[-2:], sum(self.best, [])
        return [c.step in newest or c.step in best for c in checkpoints]


class Checkpoints:
    """The checkpoints of one run, in `<folder>/<step>/`: the newest two and the best.

    Args:
        folder: the folder, created if absent.
        keep_best: number of best checkpoints to keep.
        read_only: do not create, move or delete anything.
        alone: hold the folder's lock until `close`, so that no other process writes there.

    Raises:
        InputError: the folder cannot be created, is a link, or is locked by a different process.

    """

    def __init__(self, folder: str | pathlib.Path, keep_best: int = 1, read_only: bool = False, alone: bool = False):
        self.folder, self.kept = pathlib.Path(folder).absolute(), _Kept()
        self.keep_best, self.read_only = keep_best, read_only
        self.set_aside, self.alone, self.held = self.folder / "replaced", alone, None
        self.written, self.begun = None, None  # the step of a save that may not be finished, and of the last save
        self.history = History(self.folder)
        if not read_only:
            trouble = mesh.broadcast_text(self._opened() if mesh.process_shard()[0] == 0 else "")
            if trouble:
                raise InputError(trouble)

    def _opened(self) -> str:
        """Create the folder and lock it. Return an error message, or an empty string."""
        name = visible(self.folder)
        if self.folder.is_symlink():
            return f"workdir={name}: is a link; give its target, {visible(self.folder.resolve())}"
        try:
            str(self.folder).encode()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.held = lock(self.folder) if self.alone else None
            self._recover()
        except UnicodeEncodeError:
            return f"workdir={name}: its name is not UTF-8; give a different one"
        except OSError as error:
            return f"workdir={name}: cannot be written ({error.strerror or reason(error)}); give a different one"
        except InputError as error:
            return str(error)
        return ""

    @functools.cached_property
    def manager(self) -> Any:
        """The Orbax manager, created at the first save, so that a new run starts to train earlier."""
        options = _orbax().CheckpointManagerOptions(preservation_policy=self.kept, cleanup_tmp_directories=True)
        return _orbax().CheckpointManager(self.folder, options=options, item_names=("state", "loop"))

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, the newest first."""
        return step_folders.listed(self.folder)

    def save(self, step: int, state: Tree, loop: Mapping[str, Any], ranking: Sequence[int] = ()) -> bool:
        """Save a checkpoint. Returns when the arrays are copied; writing continues in the background.

        A save that fails (no space, no permission, no folder) is logged, and older checkpoints stay. An existing
        checkpoint of the same step stays until the new one is written.

        Args:
            step: the step.
            state: the state.
            loop: the fields of the record. The rows of `loop["history"]` may only be appended to between saves.
            ranking: steps of the best checkpoints, the best first; the first `keep_best` are kept.

        Returns:
            Whether this save could start and the previous one, for which this call waits, was written.

        """
        self.kept.best = (*self.kept.best[-1:], list(ranking[: self.keep_best]))
        flat = copies(state)
        parts = _together({path: [str(x.dtype), list(x.shape), stored.digests(x)] for path, x in flat.items()})
        rows, plain = loop.get("history"), coded({k: v for k, v in loop.items() if k != "history"})

        def write() -> None:
            ocp, mark = _orbax(), self._added(rows)
            if mark is not None:
                plain["history"] = mark
            record = {"format": FORMAT, "loop": plain, "parts": parts, "digest": stored.seal(parts, plain)}
            if (self.folder / str(step)).exists():
                self._replace(step)
            arrays = {path: x for path, x in flat.items() if x.size}  # Orbax rejects empty arrays
            items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), loop=ocp.args.JsonSave(record))
            if not self.manager.save(step, args=items, force=True):
                raise OSError("Orbax skipped it")

        return self._attempt(write, step)

    def _added(self, rows: Sequence[Mapping[str, Any]] | None) -> dict[str, Any] | None:
        """Write the new rows, and return their mark. If the folder was deleted, create and lock it again."""
        trouble, mark = "", None
        if mesh.process_shard()[0] == 0:
            try:
                if not self.folder.is_dir():
                    self.folder.mkdir(parents=True)
                    if self.held is not None:
                        self.held.release()
                        self.held = lock(self.folder)
                mark = None if rows is None else self.history.add(rows)
            except (OSError, InputError) as error:
                trouble = reason(error)
        if trouble := mesh.broadcast_text(trouble):  # then all processes skip the save
            raise OSError(trouble)
        return mark if rows is None or mark else self.history.add(rows, write=False)

    def load(self, step: int, like: Tree = None, rows: bool = True) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Read the arrays and the loop record of a checkpoint.

        Args:
            step: one of `steps()`.
            like: a tree with the expected structure, checked before any array is read. Without it, the checkpoint may
                not declare arrays that are much larger than its files.
            rows: whether to read the rows of `loop["history"]`; later rows are then appended after them.

        Returns:
            The arrays, `{path: array}`, and the record.

        Raises:
            DamagedError: the checkpoint is truncated or changed, or this library did not write it.
            InputError: its format is not supported, it does not match `like`, or it may not be read.

        """
        folder = self.folder / str(step)
        try:
            stored.weighed(folder)  # rejects links and pipes before any file is opened
            record = stored.read_record(folder, range(OLDEST, FORMAT + 1))
            if like is not None:
                compare(like, record["parts"])
            stored.check_sizes(folder, record["parts"], like is not None)
            flat = stored.read_arrays(folder / "state", record["parts"])
        except (InputError, DamagedError, MemoryError):
            raise
        except Exception as error:  # TensorStore raises many types for truncated and missing files
            if isinstance(error, PermissionError) or "PERMISSION_DENIED" in str(error):
                where = f"checkpoint {step} in {visible(self.folder)}"
                raise InputError(f"{where} may not be read ({reason(error)})") from error
            raise DamagedError(reason(error)) from error
        return flat, self._with_rows(record["loop"]) if rows else record["loop"]

    def _with_rows(self, loop: dict[str, Any]) -> dict[str, Any]:
        """Replace the mark of the history by its rows."""
        mark = loop.pop("history", None)
        self.history.begin()
        loop = decoded(loop)
        if isinstance(mark, list):  # format 2
            loop["history"] = mark
        elif mark is not None:
            loop["history"] = self.history.read(mark) or []
        return {"best_step": None, **loop}

    def newest(self, like: Tree = None) -> tuple[int, dict[str, np.ndarray], dict[str, Any]] | None:
        """Read the newest intact checkpoint. Damaged ones are logged and moved away.

        Args:
            like: see `load`.

        Returns:
            `(step, arrays, loop)`, or None if there is no intact checkpoint.

        Raises:
            InputError: see `load`.

        """
        for part in sorted(self.folder.glob("*.orbax-checkpoint-tmp*")):
            name = visible(part.name.split(".")[0])
            log.warning("checkpoint %s was interrupted while it was written: trying the one before", name)
        if not self.read_only and mesh.process_shard()[0] == 0:
            step_folders.clear_odd_names(self.folder)
        found = False
        for step in self.steps():
            try:
                flat, loop = self.load(step, like)
                self.kept.best, self.begun = ([loop["best_step"]] if loop["best_step"] is not None else [],), step
                return step, flat, loop
            except DamagedError as error:
                log.warning("checkpoint %d is damaged (%s): trying the one before", step, error)
                self.discard(step)
                found = True
        self.history.begin()
        if found:
            log.warning("no intact checkpoint is left in %s: there is nothing to resume from", visible(self.folder))
        return None

    def discard(self, step: int) -> None:
        """Move a checkpoint to `damaged/<step>`, so that its step can be saved again; do nothing if `read_only`."""
        if self.read_only:
            return
        if mesh.process_shard()[0] == 0:
            step_folders.move_away(self.folder, str(step))
        mesh.barrier("discarded")
        self._reload()

    def _reload(self) -> None:
        if "manager" in vars(self):
            self.manager.reload()

    def wait(self) -> bool:
        """Wait for pending writes. Return False, with a warning, if one failed."""
        return self._attempt(self.manager.wait_until_finished) if "manager" in vars(self) else True

    def saved(self) -> int | None:
        """Wait for pending writes. Return the step of the last save if it succeeded, else the newest step or None."""
        self.wait()
        steps = self.steps()
        return self.begun if self.begun in steps else max(steps, default=None)

    def close(self) -> None:
        """Wait for pending writes, then release the lock."""
        if "manager" in vars(self) and self.wait():
            self.manager.close()
        if not self.read_only and mesh.process_shard()[0] == 0:
            with contextlib.suppress(OSError):
                self._recover()
        if self.held is not None:
            self.held.release()
            self.held = None

    def _replace(self, step: int) -> None:
        """Set a checkpoint aside until its replacement is written. If that never happens, `_recover` puts it back."""
        self.manager.wait_until_finished()
        if mesh.process_shard()[0] == 0:
            self._recover()
            step_folders.move(self.folder / str(step), self.set_aside / str(step))
        mesh.barrier("replaced")
        self.manager.reload()

    def _recover(self) -> None:
        step_folders.recover(self.folder, self.set_aside)

    def _attempt(self, action: Callable[[], Any], step: int | None = None) -> bool:
        """Do something that may fail to write. On failure, log it, and use a new manager the next time."""
        try:
            action()
        except Exception as error:  # TensorStore reports a full disk as a ValueError; and training must go on
            full = any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "No space left"))
            why = "no space is left on the disk" if full else reason(error)
            which = self.written if step is None or self.written is None else f"{self.written} or {step}"
            shown = step if which is None else which
            log.warning("checkpoint %s not written, %s (%s); training goes on", shown, why, visible(self.folder))
            self._let_go()
            return False
        self.written, self.begun = step, self.begun if step is None else step
        return True

    def _let_go(self) -> None:
        """Discard a manager whose save failed, and the files that it left unfinished."""
        manager = vars(self).pop("manager", None)
        self.written = None
        with contextlib.suppress(Exception):  # it reports the same failure again
            manager.close()
        for part in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._recover()


@contextlib.contextmanager
def reading(folder: str | pathlib.Path) -> Iterator[Checkpoints]:
    """Open the checkpoints of a run without changing anything.

    Args:
        folder: the folder of the checkpoints.

    Yields:
        The checkpoints.

    """
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


def _orbax() -> Any:
    """Import Orbax at the first save: the import takes as long as those of Flax and Optax together."""
    import orbax.checkpoint as ocp

    return ocp

"""Checkpoints through Orbax: latest and best, each with our own digests, because Orbax restores a flipped byte without complaint.

Format 3: item `state` holds `{path: array}`, item `loop` the JSON `{"format", "loop", "parts", "digest"}`. `parts` has for each
path `[dtype, shape, [[first, SHA-256], ...]]`, a digest for each part of the array as the devices held it, by where the part
begins, and `digest` is over `loop` and `parts`. Orbax makes both items visible by one renaming, when all is written. The rows of
`loop["history"]` are beside the checkpoints (see `history`); in format 2 they were in the record. Reading is in `stored`.
"""

import contextlib
import functools
import json
import logging
import pathlib
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, Tree, reason
from jaxcnn.parallel import mesh
from jaxcnn.train import stored
from jaxcnn.train.flat import compare, copies, digest, flatten, unflatten
from jaxcnn.train.history import History, coded, decoded
from jaxcnn.train.lock import lock
from jaxcnn.train.stored import DamagedError

FORMAT, OLDEST = 3, 2
STEP = re.compile("0|[1-9][0-9]{0,9}", re.ASCII)
__all__ = ["Checkpoints", "DamagedError", "digest", "flatten", "reading", "unflatten"]
log = logging.getLogger("jaxcnn")


def _together(parts: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Join what the processes hold."""
    everywhere = [json.loads(text) for text in mesh.gather_texts(json.dumps(parts))]
    return {
        path: [dtype, shape, sum((other[path][2] for other in everywhere), [])]
        for path, (dtype, shape, _) in parts.items()
    }


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
        alone: hold the folder's lock until `close`, so that no other process writes there.

    Raises:
        InputError: the folder cannot be made, is a link, or another process holds its lock.

    """

    def __init__(self, folder: str | pathlib.Path, keep_best: int = 1, read_only: bool = False, alone: bool = False):
        self.folder, self.keep_best, self.read_only, self.kept = (
            pathlib.Path(folder).absolute(),
            keep_best,
            read_only,
            _Kept(),
        )
        self.set_aside, self.alone, self.held = self.folder / "replaced", alone, None
        self.written, self.begun = None, None  # the step of a save that may be under way, and of the last one
        self.history = History(self.folder)
        if not read_only:
            trouble = mesh.broadcast_text(self._opened() if mesh.process_shard()[0] == 0 else "")
            if trouble:
                raise InputError(trouble)

    def _opened(self) -> str:
        """Make the folder and take its lock; why not, if that cannot be."""
        name = visible(self.folder)
        if self.folder.is_symlink():
            return f"workdir={name}: a link; give the folder that it leads to, {visible(self.folder.resolve())}"
        try:
            str(self.folder).encode()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.held = lock(self.folder) if self.alone else None
            self._recover()
        except UnicodeEncodeError:
            return f"workdir={name}: a name that is not UTF-8; give another"
        except OSError as error:
            return f"workdir={name}: cannot be written ({error.strerror or reason(error)}); give another"
        except InputError as error:
            return str(error)
        return ""

    @functools.cached_property
    def manager(self) -> Any:
        """Orbax's own, made when there is something to write: a new run trains before that."""
        options = _orbax().CheckpointManagerOptions(preservation_policy=self.kept, cleanup_tmp_directories=True)
        return _orbax().CheckpointManager(self.folder, options=options, item_names=("state", "loop"))

    def steps(self) -> list[int]:
        """Return the steps that are there, the newest first."""
        try:
            names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        except PermissionError as error:
            raise InputError(f"{visible(self.folder)}: may not be read ({error.strerror})") from error
        return sorted(
            (int(name) for name in names if STEP.fullmatch(name) and int(name) < stored.LARGEST), reverse=True
        )

    def save(self, step: int, state: Tree, loop: Mapping[str, Any], ranking: Sequence[int] = ()) -> bool:
        """Write state and loop record, and keep the first of `ranking` as well; returns when they are copied, while the disk works on.

        What cannot be written (no space, no permission, no folder) is said and left out: older checkpoints stay as they are.
        A step that is there already is replaced, and stays until it is. The rows of `loop["history"]` only grow from save to save.

        Returns:
            Whether this save could begin, and the one before it, which ends with this call, was written.

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
            arrays = {path: x for path, x in flat.items() if x.size}  # Orbax refuses what has no elements
            items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), loop=ocp.args.JsonSave(record))
            if not self.manager.save(step, args=items, force=True):
                raise OSError("Orbax left it out")

        return self._attempt(write, step)

    def _added(self, rows: Sequence[Mapping[str, Any]] | None) -> dict[str, Any] | None:
        """Write the new rows, and return their mark; a folder that was deleted or moved away is made again, with its lock."""
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
        if trouble := mesh.broadcast_text(trouble):  # all processes leave it out
            raise OSError(trouble)
        return mark if rows is None or mark else self.history.add(rows, write=False)

    def load(self, step: int, like: Tree = None, rows: bool = True) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Read `{path: array}` and the loop record of one step.

        Args:
            step: one of `steps()`.
            like: a tree of the form that is expected, which is then compared before any array is read; without it a checkpoint must
                not declare much more than its files hold.
            rows: read those of `loop["history"]`, and go on behind them.

        Raises:
            DamagedError: it is cut, or has changed, or is not what this library writes.
            InputError: it is of another format, of another form than `like`, or may not be read.

        """
        folder = self.folder / str(step)
        try:
            stored.weighed(folder)  # nothing but files and folders, before any is opened
            record = stored.read_record(folder, range(OLDEST, FORMAT + 1))
            if like is not None:
                compare(like, record["parts"])
            stored.check_sizes(folder, record["parts"], like is not None)
            flat = stored.read_arrays(folder / "state", record["parts"])
        except (InputError, DamagedError, MemoryError):
            raise
        except Exception as error:  # TensorStore raises a dozen kinds for cut and missing files
            if isinstance(error, PermissionError) or "PERMISSION_DENIED" in str(error):
                raise InputError(
                    f"checkpoint {step} in {visible(self.folder)} may not be read ({reason(error)})"
                ) from error
            raise DamagedError(reason(error)) from error
        return flat, self._with_rows(record["loop"]) if rows else record["loop"]

    def _with_rows(self, loop: dict[str, Any]) -> dict[str, Any]:
        """Put the rows where their mark is."""
        mark = loop.pop("history", None)
        self.history.begin()
        loop = decoded(loop)
        if isinstance(mark, list):  # format 2
            loop["history"] = mark
        elif mark is not None:
            loop["history"] = self.history.read(mark) or []
        return {"best_step": None, **loop}

    def newest(self, like: Tree = None) -> tuple[int, dict[str, np.ndarray], dict[str, Any]] | None:
        """Read the newest sound checkpoint, `(step, arrays, loop)`; damaged ones are named and set aside; `like` as for `load`."""
        for part in sorted(self.folder.glob("*.orbax-checkpoint-tmp*")):
            log.warning(
                "checkpoint %s was cut off while it was written: looking at the one before",
                visible(part.name.split(".")[0]),
            )
        self._clear_odd_names()
        found = False
        for step in self.steps():
            try:
                flat, loop = self.load(step, like)
                self.kept.best, self.begun = ([loop["best_step"]] if loop["best_step"] is not None else [],), step
                return step, flat, loop
            except DamagedError as error:
                log.warning("checkpoint %d is damaged (%s): looking at the one before", step, error)
                self.discard(step)
                found = True
        self.history.begin()
        if found:
            log.warning("no sound checkpoint is left in %s: nothing to go on from", visible(self.folder))
        return None

    def _clear_odd_names(self) -> None:
        """Move away what Orbax would take for a step, and no step can be: it would save none before that."""
        if self.read_only or mesh.process_shard()[0] != 0:
            return
        for path in list(self.folder.iterdir()) if self.folder.is_dir() else ():
            if path.name.isdecimal() and not (STEP.fullmatch(path.name) and int(path.name) < stored.LARGEST):
                log.warning("checkpoint %s is damaged (there is no such step): it is moved away", visible(path.name))
                self._move_away(path.name)

    def _move_away(self, name: str) -> None:
        try:
            _move(self.folder / name, self.folder / "damaged" / name)
        except OSError as error:
            log.warning("checkpoint %s stays where it is (%s)", visible(name), error.strerror)

    def discard(self, step: int) -> None:
        """Move one step's folder out of the way, to `damaged/<step>`, so that its number can be written again; not where only reading."""
        if self.read_only:
            return
        if mesh.process_shard()[0] == 0:
            self._move_away(str(step))
        mesh.barrier("discarded")
        self._reload()

    def _reload(self) -> None:
        if "manager" in vars(self):
            self.manager.reload()

    def wait(self) -> bool:
        """Wait for the disk; false, and said, if a save that was under way could not be written."""
        return self._attempt(self.manager.wait_until_finished) if "manager" in vars(self) else True

    def saved(self) -> int | None:
        """Wait for the disk, and return the step of the last save if it is there, else the newest one that is, if any."""
        self.wait()
        steps = self.steps()
        return self.begun if self.begun in steps else max(steps, default=None)

    def close(self) -> None:
        """Wait for the disk, then let go."""
        if "manager" in vars(self) and self.wait():
            self.manager.close()
        if not self.read_only and mesh.process_shard()[0] == 0:
            with contextlib.suppress(OSError):
                self._recover()
        if self.held is not None:
            self.held.release()
            self.held = None

    def _replace(self, step: int) -> None:
        """Set a step aside until its successor is written; should that never be, `_recover` puts it back."""
        self.manager.wait_until_finished()
        if mesh.process_shard()[0] == 0:
            self._recover()
            _move(self.folder / str(step), self.set_aside / str(step))
        mesh.barrier("replaced")
        self.manager.reload()

    def _recover(self) -> None:
        """Put back what was set aside and has no successor; the rest is not needed any more."""
        if self.set_aside.is_symlink():
            self.set_aside.unlink()
        for old in self.set_aside.glob("*"):
            new = self.folder / old.name
            if STEP.fullmatch(old.name) and not new.exists():
                old.rename(new)
        shutil.rmtree(self.set_aside, ignore_errors=True)

    def _attempt(self, action: Callable[[], Any], step: int | None = None) -> bool:
        """Do something with the disk; if it cannot be, say so, and begin with a new manager the next time."""
        try:
            action()
        except (
            Exception
        ) as error:  # TensorStore reports a full disk as a ValueError; and no save may cost what was trained
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
        """Forget a manager whose save failed, and what it left unfinished."""
        manager = vars(self).pop("manager", None)
        self.written = None
        with contextlib.suppress(Exception):  # it reports the same failure once more
            manager.close()
        for part in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._recover()


def _move(source: pathlib.Path, target: pathlib.Path) -> None:
    """Rename, in place of what is there; a link is moved or removed itself, and what it leads to stays."""
    for path in (target.parent, target):
        if path.is_symlink() or path.exists() and not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
    if source.exists() or source.is_symlink():
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        source.rename(target)


@contextlib.contextmanager
def reading(folder: str | pathlib.Path) -> Iterator[Checkpoints]:
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

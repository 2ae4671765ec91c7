"""The folder of a run on a command line: open, lock or find it, and check the flags beside --resume."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_type_hints

from typing_extensions import TypedDict

from jaxcnn import runs
from jaxcnn.cli.flags import MAY_CHANGE, PLACE, flag_of
from jaxcnn.core.schema import fitted
from jaxcnn.core.types import InputError
from jaxcnn.runs import folders


@contextlib.contextmanager
def named(flag: str) -> Iterator[None]:
    """Prefix library errors about a path with the flag that gave it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{flag} {error}") from error


def check_path(flag: str, path: str) -> None:
    """Refuse a path to which checkpoints cannot be written.

    Raises:
        InputError: the path is not UTF-8; the message names the flag.

    """
    with named(flag):
        folders.check_path(path)


def open_folder(content: Mapping[str, Any], workdir: str, resume: bool) -> pathlib.Path:
    """Make the folder of a run with its `config.json`, or check the one to resume; lock it for this process.

    Args:
        content: content of `config.json`.
        workdir: parent of the new folder, or the folder of the run to resume.
        resume: whether to resume a run.

    Raises:
        InputError: the folder cannot be written, belongs to a run on other data or to a finished run, or is in use by
            another process.

    """
    check_path("--workdir", workdir)
    if resume:
        with named("--resume:"):
            folders.again(pathlib.Path(workdir), content["data"])
        return pathlib.Path(workdir)
    with named("--workdir"):
        folder = folders.new_folder(workdir)
        folders.begin(folder, content, workdir)
    return folder


def find_unfinished(root: pathlib.Path) -> pathlib.Path:
    """Return the run to resume: the folder itself, or the newest run in it without a summary.

    Raises:
        InputError: there is no unfinished run.

    """
    if (root / "config.json").exists():
        if (root / "summary.json").exists():
            raise InputError(f"--resume: {root} is finished (it has summary.json)")
        return root
    found = sorted(p.parent for p in root.glob("*/config.json") if not (p.parent / "summary.json").exists())
    if not found:
        raise InputError(f"--resume: no unfinished run under {root}")
    return found[-1]


def resumed(folder: pathlib.Path, kind: type, parse: Callable[[Any], Any], **fixed: Any) -> Any:
    """Return the flags of the run to resume, updated by the flags beside --resume.

    Args:
        folder: folder of the run.
        kind: dataclass of the flags.
        parse: parses the command line with the given defaults, and checks it.
        **fixed: fields that do not come from the saved settings.

    Raises:
        InputError: the saved settings are not valid flags, or a flag would change the result.

    """
    hints = {k: v for k, v in get_type_hints(kind).items() if k not in PLACE}
    saved = runs.read_config(folder)["settings"]
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items() if k in hints}
    before = kind(**fitted(_typed(hints), values, str(folder / "config.json: settings")))
    config = parse(dataclasses.replace(before, **fixed))
    for field in sorted({f.name for f in dataclasses.fields(config)} - MAY_CHANGE):
        old, new = getattr(before, field), getattr(config, field)
        if old != new:
            raise InputError(
                f"--resume: {flag_of(field)} was {old} and is now {new}; resume without it, or start a new run"
            )
    return dataclasses.replace(config, **fixed)


def _typed(hints: dict[str, Any]) -> Any:
    """Return a type of dicts with these fields, all of them optional."""
    return TypedDict("Settings", hints, total=False)  # pyright: ignore[reportArgumentType] (it asks for a dict display)

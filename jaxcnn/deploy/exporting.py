"""Exporting a run: files in a format of another runtime, checked on real rows before they are called done."""

import contextlib
import datetime
import functools
import hashlib
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, Task
from jaxcnn.deploy import agreement, integers, program
from jaxcnn.deploy.exporters import Written
from jaxcnn.deploy.formats import ENDINGS, EXPORTERS, FIXED, FOLDERS, PAGES
from jaxcnn.deploy.program import Program
from jaxcnn.methods.quantise import GRIDS
from jaxcnn.runs import load_run, rows_to_measure
from jaxcnn.runs.load import TrainedRun

TOLERANCE = 1e-4  # of the largest output
AGREED = 0.99  # least agreement of detections, which change places where scores are almost equal
BATCHES = [1, 3, 16]  # rows of the first batches of the check, and of those that follow
MOST_BYTES = 2**28  # of the rows of the check
TOKENS = 2  # random integers are below this, so that any vocabulary has them


class Exported(NamedTuple):
    """What an export has written.

    Attributes:
        path: the program: a file, or for a SavedModel a folder.
        report: content of the JSON file beside it.

    """

    path: pathlib.Path
    report: dict[str, Any]


def export(
    run: str | os.PathLike | TrainedRun | Program,
    to: str,
    path: str | os.PathLike | None = None,
    *,
    preprocessing: str = "inside",
    batch: int | None = None,
    rows: int | Mapping[str, Any] = 64,
    tolerance: float | None = None,
    task: Task | None = None,
    runtime: str | os.PathLike | None = None,
    int8: bool = False,
    calibration: int | Mapping[str, Any] = integers.ROWS,
) -> Exported:
    """Export a run for another runtime, and check the result on rows before it is put in its place.

    Beside the program lies a JSON file of the same name with `.json` at its end: what the program expects and returns,
    the class names, the digests of the files, and the result of the check. An older export of the same name is
    replaced; if anything fails, it stays, and nothing else is left behind.

    Args:
        run: folder of a run, result of `load_run`, or a `Program`.
        to: `"stablehlo"` (JAX; CPU, CUDA and TPU in one file), `"onnx"`, `"openvino"`, `"savedmodel"`, `"litert"`;
            `"page"` or `"html"`: a page on which the network runs in a browser, without a server's program, as a folder
            for a web server or as one file that a browser opens from disk.
        path: where the program goes; its ending is that of the format. By default `exported/model` in the run's folder.
        preprocessing: whether scaling, resizing and normalising pixels is part of the program (`"inside"`), or what
            calls it does that (`"outside"`).
        batch: number of rows of a batch; None for any number, or 1 where the format needs a number.
        rows: how many rows of the run's own test data the check takes, at least 1; or the rows themselves, arrays
            `[N, ...]` by name, as the run was trained on them. Where the run's data cannot be read, random rows are
            taken, and the report says so.
        tolerance: largest difference that the check accepts, relative to the largest output, above 0; by default 1e-4.
            With `int8`, the largest share of rows whose class may differ, or where there are no classes the largest
            difference; by default 0.05.
        task: as in `load_run`.
        runtime: folder of npm's package onnxruntime-web, for `"page"` and `"html"`.
        int8: write a program that computes in 8-bit integers (`"onnx"` alone). Its check compares it with the run and
            with the simulation in JAX, and measures the accuracy of both where the rows have labels.
        calibration: how many of the run's training rows choose the grids of `int8`; or the rows themselves. Grids that
            the variables hold stay (`methods.quantise`).

    Returns:
        The path and the report.

    Raises:
        InputError: a value is out of range, the program has no form in this format, a package is missing, or the check
            fails.

    """
    tolerance = (integers.TOLERANCE if int8 else TOLERANCE) if tolerance is None else tolerance
    _check_options(to, preprocessing, batch, rows, tolerance)
    if runtime is not None and to not in PAGES:
        raise InputError(f"runtime={visible(runtime)}: only for {' and '.join(PAGES)}; leave it out")
    _check_int8(to, int8, calibration)
    folder = None if isinstance(run, TrainedRun | Program) else pathlib.Path(run)
    if folder is None and path is None:
        raise InputError("path=None: must be given, since the run has no folder here")
    loaded = load_run(folder, task) if folder is not None else run
    plain = loaded if isinstance(loaded, Program) else program.of_run(loaded, preprocessing)  # pyright: ignore[reportArgumentType]
    if folder is not None:
        plain = plain._replace(about={"run": folder.resolve().name, **plain.about})
    target = pathlib.Path(path) if path is not None else pathlib.Path(folder or ".") / "exported" / "model"
    outside = isinstance(loaded, TrainedRun) and preprocessing == "outside"
    made = _in_integers(loaded, plain, calibration, outside) if int8 else plain
    given, source = _rows(loaded, plain, rows)
    given = _prepared(loaded, given) if outside else given
    stem = _stem(target, to)
    _check_place(target.parent / stem, to)
    with _beside(target) as part:
        more = {"runtime": runtime} if to in PAGES else {}
        written = EXPORTERS[to](made, part, stem, batch, **more)
        report = _report(made, to, batch, written, part)
        size = batch or (1 if to in FIXED else None)
        report["check"] = _checked(plain, made, written, given, source, size, tolerance)
        last = f"{written.files[0]}.json"
        files.write_json(part / last, report)
        for name in (*written.files, last):
            _put(part / name, target.parent / name)
    return Exported(target.parent / written.files[0], report)


def _in_integers(loaded: Any, plain: Program, calibration: int | Mapping[str, Any], outside: bool) -> Program:
    rows = calibration if isinstance(calibration, Mapping) else {}
    if not rows and GRIDS not in plain.variables:
        if not isinstance(loaded, TrainedRun):
            raise InputError("calibration: a program has no data; give its training rows, calibration={'image': ...}")
        rows = integers.training_rows(loaded, int(calibration))  # pyright: ignore[reportArgumentType]
    return integers.quantised(plain, _prepared(loaded, rows) if outside and rows else rows)


def _prepared(loaded: Any, rows: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in program.prepared(loaded, rows).items()}


def _check_int8(to: str, int8: bool, calibration: Any) -> None:
    if int8 and to not in integers.FORMATS:
        raise InputError(f"int8=True: to={to!r} has no form in integers here; use {', '.join(integers.FORMATS)}")
    if isinstance(calibration, int) and not 1 <= calibration <= 2**16:
        raise InputError(f"calibration={calibration}: must be 1 to {2**16:,} training rows")


def _check_options(to: str, preprocessing: str, batch: Any, rows: Any, tolerance: float) -> None:
    if to not in EXPORTERS:
        raise InputError(f"to={visible(to)!r}: must be one of {', '.join(EXPORTERS)}")
    if preprocessing not in program.PREPROCESSING:
        raise InputError(f"preprocessing={preprocessing!r}: must be one of {', '.join(program.PREPROCESSING)}")
    if batch is not None and (not isinstance(batch, int) or not 1 <= batch <= 2**16):
        raise InputError(f"batch={batch}: must be 1 to {2**16:,}, or None for any number of rows")
    if isinstance(rows, int) and not 1 <= rows <= 2**16:
        raise InputError(f"rows={rows}: must be 1 to {2**16:,}")
    if not 0 < tolerance < np.inf:
        raise InputError(f"tolerance={tolerance}: must be above 0")


def _stem(target: pathlib.Path, to: str) -> str:
    """Return the name of the program without the ending of its format."""
    stem = target.name.removesuffix(ENDINGS.get(to, ""))
    if not stem or stem in (".", ".."):
        raise InputError(f"{visible(target)}: must end in a name for the program")
    return f"{stem}_{to}" if to in FOLDERS and target.name == "model" else stem


def _check_place(place: pathlib.Path, to: str) -> None:
    """Refuse to replace a folder that was not written by an export to this format, unless it is empty."""
    if to not in FOLDERS or not place.is_dir() or not any(place.iterdir()):
        return
    try:
        made = files.read_json(place.with_name(f"{place.name}.json"))["format"]
    except (InputError, OSError, KeyError, TypeError):
        made = None
    if made != to:
        raise InputError(f"{visible(place)}: is a folder that was not written by an export to {to}; give another path")


@contextlib.contextmanager
def _beside(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Make a folder beside a path, and remove it in the end."""
    part = target.parent / f".{secrets.token_hex(8)}.part"
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{visible(target)}: cannot be written ({program.why(error)}); give another path") from error
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _put(made: pathlib.Path, place: pathlib.Path) -> None:
    """Move a file or a folder to its place; what is there goes."""
    try:
        if place.is_dir() and not place.is_symlink():
            if not made.is_dir():
                raise InputError(f"{visible(place)}: is a folder; give another path")
            os.replace(place, made.parent / f"old_{place.name}")
        os.replace(made, place)
    except OSError as error:
        raise InputError(f"{visible(place)}: cannot be written ({program.why(error)}); give another path") from error


def _rows(loaded: Any, made: Program, rows: int | Mapping[str, Any]) -> tuple[dict[str, np.ndarray], str]:
    """Return rows for the check, and where they are from."""
    if not isinstance(rows, int):
        if lacking := [name for name in made.inputs if name not in rows]:
            raise InputError(f"rows: have no {lacking[0]!r}; the program reads {', '.join(made.inputs)}")
        return {name: np.asarray(rows[name]) for name in (*made.inputs, "label") if name in rows}, "given rows"
    random = "random rows"
    if isinstance(loaded, TrainedRun):
        try:
            found = rows_to_measure(loaded.config)
            data = found.data.take(np.arange(min(rows, found.data.size)))
            read = next(iter(data.once(data.size))).at(0)
            wanted = (*made.inputs, *(["label"] if "label" in read else []))
            return {name: np.asarray(read[name])[: data.size] for name in wanted}, f"{found.name}, {found.part}"
        except (InputError, OSError, AttributeError, KeyError) as error:
            random = f"random rows, since the run's data cannot be read ({program.why(error).split(';')[0]})"
    entries = loaded.config["build"] if isinstance(loaded, TrainedRun) else None
    shapes = dict(made.inputs)
    if entries and "image" in entries:
        shapes["image"] = jax.ShapeDtypeStruct(tuple(entries["image"]["shape"]), entries["image"]["dtype"])
    return {name: _random(x, min(rows, 16), name) for name, x in shapes.items()}, random


def _random(row: Any, count: int, name: str) -> np.ndarray:
    made, shape = np.random.default_rng(0), (count, *row.shape)
    dtype = np.dtype(row.dtype)
    if dtype == np.uint8:
        return made.integers(0, 256, shape, dtype)
    if dtype.kind in "iu":
        top = 1 + (TOKENS - 1) if name != "length" else 1
        return made.integers(1, top + 1, shape).astype(dtype)
    return made.random(shape, np.float32).astype(dtype)


def _report(made: Program, to: str, batch: int | None, written: Written, part: pathlib.Path) -> dict[str, Any]:
    """Return what is known before the check."""

    def rows(shapes: Mapping[str, Any]) -> dict[str, Any]:
        size = batch or written.about.get("batch", "any")
        return {k: {"shape": [size, *x.shape], "dtype": str(np.dtype(x.dtype))} for k, x in shapes.items()}

    return {
        "format": to, **made.about, "inputs": rows(made.inputs), "outputs": rows(made.outputs()), **written.about,
        "batch": batch or written.about.get("batch", "any"),
        "bytes": sum(path.stat().st_size for path in _files(part, written.files)),
        "sha256": {path.relative_to(part).as_posix(): _digest(path) for path in _files(part, written.files)},
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def _files(part: pathlib.Path, names: Sequence[str]) -> list[pathlib.Path]:
    """Return all files of these names, and in folders of these names."""
    found = [p for name in names for p in ([part / name] if (part / name).is_file() else (part / name).rglob("*"))]
    return sorted(p for p in found if p.is_file())


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(
    plain: Program, made: Program, written: Written, rows: Mapping[str, Any], source: str, batch: int | None,
    tolerance: float,
) -> dict[str, Any]:  # fmt: skip
    """Run the programs on the rows, and refuse the exported one if it differs."""
    label, rows = rows.get("label"), {name: rows[name] for name in plain.inputs}
    count = len(next(iter(rows.values())))
    ours = _outputs(plain, rows, batch or min(count, 16))
    if wrong := [name for name, x in ours.items() if x.dtype.kind == "f" and not np.isfinite(x).all()]:
        raise InputError(f"the run itself gives {wrong[0]} that are not finite for {source}; nothing was written")
    try:
        theirs = agreement.in_batches(written.run, rows, [batch] if batch else BATCHES)
    except Exception as error:  # of the other runtime
        raise InputError(f"the exported program does not run ({program.why(error)}); nothing was written") from error
    if lacking := [name for name in ours if name not in theirs]:
        raise InputError(f"the exported program has no output {lacking[0]!r}; nothing was written")
    if made is not plain:
        simulated = _outputs(made, rows, batch or min(count, 16))
        return {"rows": count, "source": source, **integers.check(ours, simulated, theirs, label, tolerance)}
    found = agreement.compare(ours, theirs)
    detects = "boxes" in found
    if detects and not found["boxes"]:
        raise InputError(
            f"the run finds no object in {source}: nothing was compared or written; give rows= with objects"
        )
    passed = found["agreement"] >= AGREED if detects else found["largest_difference"] <= tolerance
    if not passed:
        limit = f"agreement at least {AGREED}" if detects else f"a difference of {tolerance:g} at most"
        shown = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in found.items())
        fix = "" if detects else "; a run in bfloat16 becomes float32: give a larger tolerance, such as 0.01"
        raise InputError(f"the exported program differs from the run ({shown}; {limit}): nothing was written{fix}")
    return {"rows": count, "source": source, **found, "tolerance": tolerance}


def _outputs(made: Program, rows: Mapping[str, Any], size: int) -> agreement.Outputs:
    compiled = functools.partial(jax.jit(made.function), made.variables)
    return agreement.in_batches(lambda x: jax.tree.map(np.asarray, compiled(x)), rows, [size])

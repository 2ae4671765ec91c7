"""Exporting a run: files in a format of another runtime, checked on real rows before they are called done."""

import datetime
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, Task
from jaxcnn.deploy import agreement, integers, places, program
from jaxcnn.deploy.exporters import Written
from jaxcnn.deploy.formats import EXPORTERS, FIXED, PAGES
from jaxcnn.deploy.program import Program
from jaxcnn.deploy.rows import rows_for
from jaxcnn.methods.quantise import GRIDS
from jaxcnn.runs import load_run
from jaxcnn.runs.load import TrainedRun

TOLERANCE = 1e-4  # of the largest output
AGREED = 0.99  # least agreement of detections, which change places where scores are almost equal
BATCHES = [1, 3, 16]  # rows of the first batches of the check, and of those that follow


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
    data: str | None = None,
    data_dir: str | None = None,
) -> Exported:
    """Export a run for another runtime, and check the result on rows before it is put in its place.

    Beside the program lies a JSON file of the same name with `.json` at its end: what the program expects and returns,
    the class names, the digests of the files, and the result of the check. An older export of the same name and format
    is replaced; if anything fails, it stays, and nothing else is left behind. Other files are never replaced.

    Args:
        run: folder of a run, result of `load_run`, or a `Program`.
        to: `"stablehlo"` (JAX; CPU, CUDA and TPU in one file), `"onnx"`, `"openvino"`, `"savedmodel"`, `"litert"`;
            `"torch"`: a file of Python with an `nn.Module`, and its weights; `"page"` or `"html"`: a page on which the
            network runs in a browser, without a server's program, as a folder for a web server or as one file that a
            browser opens from disk.
        path: where the program goes; its ending is that of the format. A path that ends in a slash, or for a format of
            files an existing folder, is the folder in which it is called `model`. By default `exported/model` in the
            run's folder, or `exported/model_int8`.
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
        data: where the run's data are now, or for the check other data of the same classes; None for where they were.
        data_dir: where TFDS sets are prepared.

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
    place, stem = places.target(path, folder, to, int8)
    places.check(place, to, stem)
    outside = isinstance(loaded, TrainedRun) and preprocessing == "outside"
    given, source = rows_for(loaded, plain, rows, data, data_dir)
    given = _prepared(loaded, given) if outside else given
    made = _in_integers(loaded, plain, calibration, outside, data or data_dir) if int8 else plain
    with places.beside(place) as part:
        more = {"runtime": runtime} if to in PAGES else {}
        written = EXPORTERS[to](made, part, stem, batch, **more)
        report = _report(made, to, batch, written, part)
        size = batch or (1 if to in FIXED else None)
        report["check"] = _checked(plain, made, written, given, source, size, tolerance)
        about = f"{written.files[0]}.json"
        files.write_json(part / about, report)
        places.check(place, to, stem)  # again, after minutes
        places.put(part, place, (about, *written.files))
    return Exported(place / written.files[0], report)


def _in_integers(
    loaded: Any, plain: Program, calibration: int | Mapping[str, Any], outside: bool, data: str | None
) -> Program:
    rows = calibration if isinstance(calibration, Mapping) else {}
    if not rows and GRIDS not in plain.variables:
        if not isinstance(loaded, TrainedRun):
            raise InputError("calibration: a program has no data; give its training rows, calibration={'image': ...}")
        rows = integers.training_rows(loaded, int(calibration), place=data)  # pyright: ignore[reportArgumentType]
    return integers.quantised(plain, _prepared(loaded, rows) if outside and rows else rows)


def _prepared(loaded: Any, rows: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in program.prepared(loaded, rows).items()}


def _check_int8(to: str, int8: bool, calibration: Any) -> None:
    if int8 and to not in integers.FORMATS:
        raise InputError(f"int8=True: to={to!r} has no form in integers here; use {', '.join(integers.FORMATS)}")
    if not int8 and calibration != integers.ROWS:
        raise InputError(f"calibration={visible(calibration)[:80]}: only applies with int8; leave it out")
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
    detects, multilabel = set(agreement.FOUND) <= set(ours), plain.about.get("head") == "multilabel"
    if detects and not (ours["box_mask"] > 0).any():
        raise InputError(
            f"the run finds no object in {source}: nothing was compared or written; give more rows, or some with one"
        )
    if made is not plain:
        simulated = _outputs(made, rows, batch or min(count, 16))
        found = integers.check(ours, simulated, theirs, label, tolerance, multilabel)
        return {"rows": count, "source": source, **found}
    found = agreement.compare(ours, theirs, multilabel)
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

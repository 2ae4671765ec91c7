"""Exports networks or runs and measures how far the files are from them: `python -m experiments.benchmarks.export`.

A network by name has random weights of the size that trained ones have, so that each can be measured; its images are
photos of a folder, or noise. The folder of a run has trained weights, and the rows are test rows of its own data. A
line of JSON for each network and format has the largest difference over the largest output, how often the classes
agree, the bytes of the files, and the seconds that the export took, or what went wrong. Of a detector, it also has how
far the network in batches of one row is from itself in larger ones.
"""

import dataclasses
import functools
import pathlib
import tempfile
import time
import zlib
from typing import Any

import jax
import numpy as np

import jaxcnn as jc
from experiments import command
from jaxcnn.core import files
from jaxcnn.data.folder import read_image
from jaxcnn.deploy import agreement, images_in, program
from jaxcnn.deploy.formats import EXPORTERS, PAGES
from jaxcnn.deploy.rows import random_rows, rows_for
from jaxcnn.runs.load import TrainedRun, example

Rows = dict[str, np.ndarray]
FORMATS = [name for name in EXPORTERS if name not in PAGES]  # pages hold the ONNX file
AT_ONCE = 16  # rows of a batch
DENSE = {"unet": (128, 128, 3), "ssd300_vgg16": (300, 300, 3), "unet of volumes": (32, 32, 32, 1)}  # images
OPTIONS = {
    "text_cnn": {"num_classes": 2, "words": 1000}, "unet of volumes": {"num_classes": 2, "dims": 3,
    "widths": [16, 32, 64]}, "tcn": {}, "fusion": {"num_classes": 10}, "sound_cnn": {"num_classes": 10},
    "wave_cnn": {"num_classes": 10},
}  # fmt: skip
BOXES = ("deltas", "offsets", "distances")  # layers whose outputs are sides of boxes, which are small
AUDIO = {"audio": ((8000,), "float32"), "length": ((), "int32")}


@dataclasses.dataclass(frozen=True)
class Config:
    """Export networks or runs, and compare the files with them."""

    networks: tuple[str, ...] = ()
    """Names of networks, and folders of runs; by default all networks."""
    formats: tuple[str, ...] = ("onnx", "stablehlo")
    """Formats: onnx, stablehlo, openvino, savedmodel, litert, torch."""
    images: str = ""
    """Folder of photos for networks by name; by default noise. Runs have their own data."""
    rows: int = 4
    """Rows per network or run."""
    json: str = ""
    """Write all results to this file."""


def main(config: Config) -> list[dict[str, Any]]:
    """Measure, print a line for each network and format, and return them."""
    known = [*jc.models.NETWORKS, "unet of volumes"]
    for name in config.formats:
        if name not in FORMATS:
            raise jc.InputError(f"--formats {name}: must be one of {', '.join(FORMATS)}")
    for name in config.networks:
        if name not in known and not pathlib.Path(name).is_dir():
            raise jc.InputError(f"--networks {name}: no folder of a run; must be one, or one of {', '.join(known)}")
    if config.rows < 1:
        raise jc.InputError(f"--rows {config.rows}: must be at least 1")
    found: list[dict[str, Any]] = []

    def add(one: dict[str, Any]) -> None:
        found.append(one)
        print(files.to_json(one), flush=True)
        if config.json:
            files.write_json(config.json, found)

    for name in config.networks or known:
        jax.clear_caches()  # compiled programs hold the weights of earlier networks
        try:
            made, rows, about = _run(name, config.rows) if name not in known else _network(name, config)
            ours = _computed(made, rows)
            if "boxes" in ours:  # of several boxes that are almost as good, rounding chooses
                about = {**about, "itself": agreement.compare(ours, _computed(made, rows, 1))}
        except Exception as error:  # such as memory; the others are measured all the same
            add({"network": name, "error": program.why(error)})
            continue
        for to in config.formats:
            add({"network": name, "format": to, **about, **_measured(made, to, rows, ours)})
    return found


def _run(folder: str, count: int) -> tuple[program.Program, Rows, dict[str, Any]]:
    """Return the program of a run, test rows of its data, and what the result says of them."""
    loaded = jc.load_run(folder)
    made = program.of_run(loaded)
    rows, source = rows_for(loaded, made, count)
    if source.startswith("random"):
        raise jc.InputError(f"{source.removeprefix('random rows, since ')}; a run is measured on its own rows")
    about = {"model": loaded.config["build"]["model"]["name"], "step": loaded.step, "source": source}
    return made, {name: rows[name] for name in made.inputs}, about


def _network(name: str, config: Config) -> tuple[program.Program, Rows, dict[str, Any]]:
    """Return the program of a network with random weights, and photos or noise."""
    build = described(name)
    model, task = jc.runs.build(build)
    config_of = {"build": build, "classes": [], "source": None}
    made = program.of_run(
        TrainedRun(config_of, model, task, _variables(task, example(build)), 0),
        "outside" if "image" in build else "inside",
    )
    rows = random_rows(made.inputs, config.rows)
    rows = {name: np.resize(x, (config.rows, *x.shape[1:])) for name, x in rows.items()}
    if "image" in rows:
        rows["image"] = _images(config, rows["image"].shape[1:])
    return made, rows, {}


def described(name: str) -> dict[str, Any]:
    """Return how a run describes a network of this name, with a task that it suits."""
    table, models = name.split(" ")[0], jc.models
    detects, dense = table in models.DETECTORS, table in models.SEGMENTERS
    options = OPTIONS.get(name, {"num_classes": 5} if detects else {"num_classes": 2} if dense else {})
    model = models.NETWORKS[table](**options)
    shape = DENSE.get(name, (256, 256, 3) if detects else (128, 128, 3) if dense else ())
    shape = tuple(shape or getattr(model, "default_image", (224, 224, 3)))
    task, how, inputs = "classification", {}, {}
    if detects or dense or table in models.READERS:
        task = "detection" if detects else "segmentation" if dense else "sequence"
    if table in models.VIDEO:
        how = {"dims": 3}
    elif table in models.SERIES:
        task, how = "forecasting" if table == "tcn" else task, {"field": "series"}
        inputs = {"series": ((shape[0], 1 if table == "tcn" else shape[1]), "float32")}  # tcn also gets a mask
    elif table in models.TEXTS:
        how, inputs = {"field": "text"}, {"text": (shape, "int32")}
    elif table in models.SOUNDS:
        how, inputs = {"field": "audio", "also": ["length"]}, AUDIO
    elif table in models.FUSIONS:
        how, shape = {"field": "image", "also": ["audio", "length", "present"]}, (28, 28, 1)
        inputs = {**AUDIO, "present": ((2,), "float32")}
    entries = {key: {"shape": list(x), "dtype": dtype} for key, (x, dtype) in inputs.items()}
    image = {} if inputs and table not in models.FUSIONS else {"image": {"shape": list(shape), "dtype": "float32"}}
    made = {"model": {"name": table, "options": options}, "task": {"name": task, "options": how}}
    return {**made, **image, **({"inputs": entries} if entries else {})}


def _variables(task: Any, rows: Rows) -> Any:
    """Make variables without computing anything; a function of the names and shapes."""

    def one(path: Any, x: Any) -> np.ndarray:
        name = ".".join(str(getattr(key, "key", key)) for key in path)
        random = np.random.RandomState(zlib.crc32(name.encode()))
        if name.rsplit(".", 1)[-1] in ("var", "scale", "gamma", "layer_scale"):
            return random.uniform(0.5, 1.0, x.shape).astype(np.float32)
        size = np.sqrt(2 / np.prod(x.shape[:-1])) if x.ndim > 1 else 0.1
        size *= 0.05 if any(part in name for part in BOXES) else 1
        return (size * random.standard_normal(x.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(one, jax.eval_shape(lambda key: task.init(key, rows), jax.random.key(0)))


def _images(config: Config, shape: tuple[int, ...]) -> np.ndarray:
    """Return photos, scaled to -1..1, or noise of the same size."""
    if not config.images or len(shape) != 3:
        return np.random.RandomState(0).standard_normal((config.rows, *shape)).astype(np.float32)
    *size, channels = shape
    paths = images_in(config.images)
    paths = paths[:: max(len(paths) // config.rows, 1)][: config.rows]
    rows = [np.asarray(read_image(path, channels, (size[0], size[1])), np.float32) for path in paths]
    return np.stack(rows) / 127.5 - 1


def _computed(made: program.Program, rows: Rows, at_once: int = AT_ONCE) -> agreement.Outputs:
    compiled = functools.partial(jax.jit(made.function), made.variables)
    size = min(len(next(iter(rows.values()))), at_once)
    return agreement.in_batches(lambda x: jax.tree.map(np.asarray, compiled(x)), rows, [size])


def _measured(made: program.Program, to: str, rows: Rows, ours: Any) -> dict[str, Any]:
    """Export a program for batches of any size, and compare; what a runtime cannot do is an error of one line."""
    start, count = time.perf_counter(), len(next(iter(rows.values())))
    with tempfile.TemporaryDirectory() as folder:
        try:
            written = EXPORTERS[to](made, pathlib.Path(folder), "network", None)
            seconds = time.perf_counter() - start
            sizes = [written.about["batch"]] if "batch" in written.about else [1, min(max(count - 1, 1), AT_ONCE)]
            found = agreement.compare(ours, agreement.in_batches(written.run, rows, sizes))
        except Exception as error:  # of other runtimes, of many kinds
            return {"error": program.why(error)}
        paths = [pathlib.Path(folder, name) for name in written.files]
        inside = [part for path in paths for part in (path.rglob("*") if path.is_dir() else [path])]
        size = sum(path.stat().st_size for path in inside if path.is_file())
    return {**found, "rows": count, "bytes": size, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    command.run(main, Config, "benchmarks.export")

"""Exports every network and measures how far the files are from it: `python -m experiments.benchmarks.export`.

The weights are random numbers of the size that trained ones have, so that every network can be measured; images are
photos of a folder, or noise. A line of JSON for each network and format has the largest difference over the largest
output, how often the classes agree, the bytes of the file, and the seconds that the export took.
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
from jaxcnn.deploy.exporters import EXPORTERS

DENSE = {  # name: network, image
    "unet": (lambda: jc.models.unet(num_classes=2), (128, 128, 3)),
    "unet of volumes": (lambda: jc.models.unet(num_classes=2, dims=3, widths=(16, 32, 64)), (32, 32, 32, 1)),
}
FOUND = {name: (lambda made=made: made(num_classes=5), (256, 256, 3)) for name, made in jc.models.DETECTORS.items()}
FOUND["ssd300_vgg16"] = (FOUND["ssd300_vgg16"][0], (300, 300, 3))
BOXES = ("deltas", "offsets", "distances")  # layers whose outputs are sides of boxes, which are small


@dataclasses.dataclass(frozen=True)
class Config:
    """Export networks and compare the files with them."""

    networks: tuple[str, ...] = ()
    """Names of networks, by default all for images, U-Net and the detectors."""
    formats: tuple[str, ...] = ("onnx", "stablehlo")
    """Formats: onnx, stablehlo, openvino, savedmodel, litert."""
    images: str = ""
    """Folder of photos; by default noise."""
    rows: int = 4
    """Images per network."""
    json: str = ""
    """Write all results to this file."""


def main(config: Config) -> list[dict[str, Any]]:
    """Measure, print a line for each network and format, and return them."""
    known = {**dict.fromkeys(jc.models.MODELS), **DENSE, **FOUND}
    for name in (*config.networks, *config.formats):
        if name not in (*known, *EXPORTERS):
            raise jc.InputError(f"{name!r}: must be one of {', '.join((*known, *EXPORTERS))}")
    if config.rows < 1:
        raise jc.InputError(f"--rows {config.rows}: must be at least 1")
    found = []
    for name in config.networks or known:
        made = _program(name)
        x = {"image": _images(config, next(iter(made.inputs.values())).shape)}
        compiled = functools.partial(jax.jit(made.function), made.variables)
        ours = agreement.in_batches(lambda rows: jax.tree.map(np.asarray, compiled(rows)), x, [config.rows])  # noqa: B023 (used at once)
        for to in config.formats:
            found.append({"network": name, "format": to, **_measured(made, to, x, ours)})
            print(files.to_json(found[-1]), flush=True)
            if config.json:
                files.write_json(config.json, found)
    return found


def _program(name: str) -> program.Program:
    make, shape = (DENSE | FOUND).get(name, (None, None))
    model = jc.models.MODELS[name]() if make is None else make()
    shape = tuple(getattr(model, "default_image", (224, 224, 3))) if shape is None else shape
    variables = _variables(model, shape)
    made = program.of_model(model, variables, shape)
    if name not in FOUND:
        return made

    def function(variables: Any, batch: Any) -> Any:
        return model.detections(model.apply(variables, batch["image"], train=False))

    return made._replace(function=function)


def _variables(model: Any, shape: tuple[int, ...]) -> Any:
    """Make variables without computing anything; a function of the names and shapes."""
    image = np.zeros((1, *shape), np.float32)

    def one(path: Any, x: Any) -> np.ndarray:
        name = ".".join(str(getattr(key, "key", key)) for key in path)
        random = np.random.RandomState(zlib.crc32(name.encode()))
        if name.rsplit(".", 1)[-1] in ("var", "scale", "gamma", "layer_scale"):
            return random.uniform(0.5, 1.0, x.shape).astype(np.float32)
        size = np.sqrt(2 / np.prod(x.shape[:-1])) if x.ndim > 1 else 0.1
        size *= 0.05 if any(part in name for part in BOXES) else 1
        return (size * random.standard_normal(x.shape)).astype(np.float32)

    like = jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(one, like)


def _images(config: Config, shape: tuple[int, ...]) -> np.ndarray:
    """Return photos, scaled to -1..1, or noise of the same size."""
    if not config.images or len(shape) != 3:
        return np.random.RandomState(0).standard_normal((config.rows, *shape)).astype(np.float32)
    *size, channels = shape
    paths = images_in(config.images)
    paths = paths[:: max(len(paths) // config.rows, 1)][: config.rows]
    rows = [np.asarray(read_image(path, channels, (size[0], size[1])), np.float32) for path in paths]
    return np.stack(rows) / 127.5 - 1


def _measured(made: program.Program, to: str, x: dict[str, np.ndarray], ours: Any) -> dict[str, Any]:
    """Export a program for batches of any size, and compare."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            written = EXPORTERS[to](made, pathlib.Path(folder), "network", None)
            seconds = time.perf_counter() - start
            sizes = [written.about["batch"]] if "batch" in written.about else [1, max(len(x["image"]) - 1, 1)]
            found = agreement.compare(ours, agreement.in_batches(written.run, x, sizes))
        except jc.InputError as error:
            return {"error": str(error)}
        size = sum(p.stat().st_size for p in pathlib.Path(folder).rglob("*") if p.is_file())
    return {**found, "rows": len(x["image"]), "bytes": size, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    command.run(main, Config, "benchmarks.export")

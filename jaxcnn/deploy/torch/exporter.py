"""From a run to a file of Python with an `nn.Module`, and its weights."""

import importlib
import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.deploy.exporters import Written
from jaxcnn.deploy.program import PREPARED, Program, why
from jaxcnn.deploy.torch.layers import SMALL, small
from jaxcnn.deploy.torch.published import imported, published
from jaxcnn.deploy.torch.source import source
from jaxcnn.deploy.torch.twin import Twin, Unknown
from jaxcnn.runs.load import build
from jaxcnn.weights.by_path import flat
from jaxcnn.weights.tables import TABLES

TASKS = ("classification", "segmentation")
TAKEN = ("torch", "torchvision", "timm", "safetensors", "pathlib")  # a file of this name would hide the package
OWN = ", ".join(SMALL)


class Rendered(NamedTuple):
    """A run as it is in PyTorch: the text of the file of Python, and its twin."""

    text: str
    twin: Twin


def rendered(program: Program, stem: str) -> Rendered:
    """Return what `to_torch` writes for a program; for the library's own small networks, PyTorch is not needed.

    Args:
        program: the program of a run.
        stem: name of the files, without endings.

    Raises:
        InputError: the program has no form in PyTorch here, or the name hides a package.

    """
    build_of, about = program.build, program.about
    if build_of is None:
        raise InputError("a model without a run's description has no form in torch here; export it to onnx")
    _check(build_of, about, stem)
    name = build_of["model"]["name"]
    how = {k: v for k, v in build_of["task"]["options"].items() if k in PREPARED and v is not None}
    stored = tuple(program.inputs["image"].shape)
    size = how.get("size") if about["preprocessing"] == "inside" else None
    twin = _twin(name, build_of, program.variables, (*size, stored[2]) if size else stored)
    dense = about["task"] == "segmentation"
    last = next(iter(program.outputs().values())).shape[-1]
    returns = f"logits [B, {last}{', H, W' if dense else ''}]"
    return Rendered(source(twin, about, stored, returns, how if about["preprocessing"] == "inside" else {}), twin)


def to_torch(program: Program, folder: pathlib.Path, stem: str, batch: int | None) -> Written:
    """Write a file of Python with an `nn.Module`, and its weights as safetensors with PyTorch's names."""
    text, twin = rendered(program, stem)
    torch = imported("torch")
    names = f"{stem}.py", f"{stem}.safetensors"
    files.write_text(folder / names[0], text)
    _write(folder / names[1], twin, program.about)
    network = _loaded(folder / names[0], twin)
    output = next(iter(program.outputs()))

    def run(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        image = np.ascontiguousarray(np.asarray(inputs["image"]).transpose(0, 3, 1, 2))
        with torch.no_grad():
            found = network(torch.from_numpy(image)).numpy()
        return {output: np.moveaxis(found, 1, -1) if found.ndim > 2 else found}

    more = {} if twin.library == "torch" else {twin.library: importlib.import_module(twin.library).__version__}
    return Written(names, run, {"torch": torch.__version__, **more, "layout": "NCHW"})


def _check(build_of: Mapping[str, Any], about: Mapping[str, Any], stem: str) -> None:
    """Refuse runs that have no form in PyTorch here."""
    if about["task"] not in TASKS or len(build_of.get("image", {}).get("shape", ())) != 3:
        what = f"{about['task']} of {', '.join(build_of.get('inputs') or ['volumes'])}"
        what = about["task"] if about["task"] not in TASKS else what
        raise InputError(f"torch is for {' and '.join(TASKS)} of images, not {what}; use onnx")
    if build_of.get("views"):
        raise InputError("torch: the run averages over views of the images, which the file has not; use onnx")
    if stem in TAKEN or not stem.isidentifier():
        raise InputError(f"{visible(stem)}.py: not a name that Python imports beside torch; give another with --out")


def _twin(name: str, build_of: Mapping[str, Any], variables: Any, shape: tuple[int, ...]) -> Twin:
    model = build(dict(build_of))[0]
    kept = {part: variables[part] for part in ("params", "batch_stats") if part in variables}
    values = {path: np.asarray(x, np.float32) for path, x in flat(kept).items()}
    try:
        if name in SMALL:
            return small(name, model, values, variables, shape)
        return published(name, model, values, shape)
    except Unknown as error:
        raise InputError(f"{error}; torch is for what {_libraries()} have, and for {OWN}; use onnx") from error


def _libraries() -> str:
    return " and ".join(dict.fromkeys(library for tables in TABLES.values() for library in tables))


def _write(path: pathlib.Path, twin: Twin, about: Mapping[str, Any]) -> None:
    from safetensors.numpy import save

    texts = {k: v if isinstance(v, str) else files.to_json(v) for k, v in about.items()}
    tensors = {name: np.ascontiguousarray(x) for name, x in twin.tensors.items()}
    files.write_bytes(path, save(tensors, {"format": "pt", **texts}))


def _loaded(path: pathlib.Path, twin: Twin) -> Any:
    """Run the file that was written, and return its network."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_exported", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{visible(path)}: cannot be imported; give another name")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.load()
    except Exception as error:  # of another library, such as shapes that do not fit
        raise InputError(f"{twin.library} has no network with these options ({why(error)}); use onnx") from error


__all__ = ["Rendered", "rendered", "to_torch"]

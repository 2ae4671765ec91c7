"""What is exported: a pure function of arrays by name, its weights, and what a reader must know of it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError, Tree, reason
from jaxcnn.runs.described import entries_of, reading
from jaxcnn.runs.load import TrainedRun, build
from jaxcnn.tasks import detected, prepare
from jaxcnn.tasks.pixels import any_range
from jaxcnn.version import __version__

Array = jax.Array
Arrays = Mapping[str, Any]
PREPROCESSING = ("inside", "outside")
NAMES = {
    "classification": "logits", "embedding": "embedding", "forecasting": "forecast", "regression": "values",
    "segmentation": "logits", "sequence": "logits",
}  # fmt: skip
READING = ("resize", "crop_ratio", "rate", "standardise", "unit")  # how files become rows, see the readers of `data`
PREPARED = ("mean", "std", "size", "resize", "interpolation")  # options of `prepare` that a task has


class Program(NamedTuple):
    """A program to export.

    Attributes:
        function: from the variables and arrays `[B, ...]` by name to arrays `[B, ...]` by name; pure.
        variables: the weights.
        inputs: shape of a row and dtype of each input, by name.
        about: what the files say of it: version, task, class names, how pixels must be prepared.
        build: how a run describes its model and task; None for a program of another origin.

    """

    function: Callable[[Tree, Arrays], dict[str, Array]]
    variables: Tree
    inputs: dict[str, jax.ShapeDtypeStruct]
    about: dict[str, Any]
    build: Mapping[str, Any] | None = None

    def closed(self, batch: Arrays) -> dict[str, Array]:
        """Compute the outputs, with the weights as constants of the program."""
        return self.function(self.variables, batch)

    def outputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Return shape of a row and dtype of each output, by name."""
        found = jax.eval_shape(self.function, self.variables, self.batch(1))
        return {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in found.items()}

    def batch(self, rows: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """Return shape and dtype of each input for a batch of this many rows, a number or a symbolic dimension."""
        return {name: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype) for name, x in self.inputs.items()}


def of_model(model: Any, variables: Tree, shape: Sequence[int], dtype: Any = "float32") -> Program:
    """Return the program of a model alone, as it predicts.

    Args:
        model: a Linen module, called as `apply(variables, image, train=False)`.
        variables: its variables.
        shape: of a row, such as `[H, W, C]`.
        dtype: of a row.

    """

    def function(variables: Tree, batch: Arrays) -> dict[str, Array]:
        return _named(promote_float32(model.apply(variables, batch["image"], train=False)), "logits")

    row = jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
    about = {"jaxcnn": __version__, "task": "model", "preprocessing": "outside"}
    return Program(function, variables, {"image": row}, about)


def of_run(loaded: TrainedRun, preprocessing: str = "inside") -> Program:
    """Return the program of a run: what its task predicts.

    Args:
        loaded: result of `load_run`.
        preprocessing: `"inside"`: the program gets rows as the run was trained on, such as uint8 images, and scales,
            resizes and normalises them itself. `"outside"`: it gets what the network gets, float32 pixels that whoever
            calls it has prepared; `about` says how.

    Raises:
        InputError: an unknown value, or the run has no pixels to prepare.

    """
    if preprocessing not in PREPROCESSING:
        raise InputError(f"preprocessing={preprocessing!r}: must be one of {', '.join(PREPROCESSING)}")
    description = loaded.config["build"]
    entries = entries_of(description) if description else loaded.config["inputs"]
    rows = {name: jax.ShapeDtypeStruct(tuple(x["shape"]), _held(x["dtype"])) for name, x in entries.items()}
    task = description["task"]["name"] if description else "own"
    about: dict[str, Any] = {
        "jaxcnn": __version__, "task": task, "classes": list(loaded.config["classes"]), "step": loaded.step,
        "preprocessing": preprocessing if "image" in rows else "none",
    }  # fmt: skip
    how = (loaded.config.get("source") or {}).get("options", {})
    about["reading"] = {k: how[k] for k in READING if k in how}
    if task == "detection":
        about["reading"]["resize"] = reading(loaded.config)[0]
    about["reading"] = about["reading"] or None
    if loaded.config.get("words"):
        about["words"] = loaded.config["words"].split(" ")  # word i has the number i + 2; 0 pads, 1 is an unknown word
    if description:
        about["model"] = description["model"]["name"]
        about["head"] = description["task"]["options"].get("head", "softmax") if task == "classification" else None
    if preprocessing == "inside":
        about["pixels"] = "as stored: uint8 0..255, or floats 0..1" if "image" in rows else None
        function = functools.partial(_predicted, loaded.task.predict, task)
        return Program(function, loaded.variables, rows, _stated(about), description)
    if description is None or "image" not in rows:
        raise InputError("preprocessing='outside': only runs on images that config.json describes; use 'inside'")
    return _outside(loaded, description, rows, about)


def _outside(loaded: TrainedRun, description: Mapping[str, Any], rows: Any, about: dict[str, Any]) -> Program:
    """Return the program after the preparation of pixels."""
    if description.get("views"):
        raise InputError("preprocessing='outside': the run averages over views of the images; use 'inside'")
    options = description["task"]["options"]
    how = {k: options[k] for k in PREPARED if options.get(k) is not None}
    dims = {"dims": len(rows["image"].shape) - 1}
    left = {k: v for k, v in options.items() if k not in PREPARED}
    task = build({**description, "task": {**description["task"], "options": left}})[1]
    image = jax.eval_shape(functools.partial(prepare, **how, **dims), _abstract(rows["image"]))
    about["pixels"] = {"scale": 1 / 255 if rows["image"].dtype == jnp.uint8 else 1.0, "mean": 0.0, "std": 1.0, **how}
    about["stored"] = {"shape": list(rows["image"].shape), "dtype": str(rows["image"].dtype)}
    row = jax.ShapeDtypeStruct(image.shape[1:], image.dtype)
    function = functools.partial(_predicted, task.predict, description["task"]["name"])

    def trusting(variables: Tree, batch: Arrays) -> dict[str, Array]:
        with any_range():
            return function(variables, batch)

    return Program(trusting, loaded.variables, {**rows, "image": row}, _stated(about), description)


def prepared(loaded: TrainedRun, batch: Arrays) -> dict[str, Array]:
    """Return rows as a program with `preprocessing="outside"` gets them."""
    options = loaded.config["build"]["task"]["options"]
    how = {k: options[k] for k in PREPARED if options.get(k) is not None}
    return {**batch, "image": prepare(jnp.asarray(batch["image"]), **how, dims=np.ndim(batch["image"]) - 2)}


def _abstract(row: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *row.shape), row.dtype)


def _held(dtype: str) -> Any:
    """Return the dtype as the device holds it."""
    return jax.dtypes.canonicalize_dtype(dtype)


def _stated(about: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in about.items() if value is not None}


def _predicted(predict: Callable[..., Any], task: str, variables: Tree, batch: Arrays) -> dict[str, Array]:
    outputs = predict(variables, batch)
    if task == "detection":
        outputs = detected(outputs)
    return _named(outputs, NAMES.get(task, "outputs"))


def _named(outputs: Any, name: str) -> dict[str, Array]:
    """Return outputs by name; those of nested dicts have the names joined by dots."""
    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path(outputs):
        keys = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path]
        found[".".join(keys) or name] = x
    return found


def why(error: Exception) -> str:
    """Return the reason of an error in one short line."""
    return " ".join(reason(error).split())[:300]

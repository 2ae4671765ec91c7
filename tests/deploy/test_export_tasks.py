"""A run of each kind of task is exported to ONNX, checked on random rows that its inputs allow."""

import jax
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.deploy import program
from jaxcnn.deploy.rows import random_rows
from tests.fixtures import pseudo

IMAGE = {"image": {"shape": [8, 8, 1], "dtype": "uint8"}}
AUDIO = {"shape": [800], "dtype": "float32"}
LENGTH = {"shape": [], "dtype": "int32"}
CNN = {"name": "cnn", "options": {"num_classes": 4, "widths": [3, 4]}}
SOUND = {"name": "sound_cnn", "options": {"num_classes": 4, "widths": [3, 4], "rate": 2000, "time_masks": 0}}
LINES = {"num_classes": 4, "widths": [3, 4, 4, 5], "line_width": 6}
FUSION = {"num_classes": 4, "branches": {"image": CNN, "audio": SOUND}, "takes": {"audio": ["length"]}}
RUNS = {
    "classification": (CNN, {}, IMAGE),
    "embedding": (CNN, {"classes": 5}, IMAGE),
    "regression": (CNN, {}, IMAGE),
    "segmentation": ({"name": "unet", "options": {"num_classes": 4, "widths": [3, 4]}}, {},
                     {"image": {"shape": [9, 11, 1], "dtype": "uint8"}}),
    "sequence": ({"name": "text_line", "options": LINES}, {}, {"image": {"shape": [32, 48, 1], "dtype": "uint8"}}),
    "forecasting": ({"name": "tcn", "options": {"horizon": 3, "widths": [4, 4]}}, {},
                    {"inputs": {"series": {"shape": [12, 2], "dtype": "float32"}}}),
    "classification of sounds": (SOUND, {"field": "audio", "also": ["length"]},
                                 {"inputs": {"audio": AUDIO, "length": LENGTH}}),
    "classification of several inputs": (
        {"name": "fusion", "options": FUSION}, {"field": "image", "also": ["audio", "length", "present"]},
        {**IMAGE, "inputs": {"audio": AUDIO, "length": LENGTH, "present": {"shape": [2], "dtype": "float32"}}}),
}  # fmt: skip


def run_of(kind):
    """A run as `load_run` returns it, not trained."""
    model, options, rest = RUNS[kind]
    build = {"model": model, "task": {"name": kind.split()[0], "options": options}, **rest}
    network, task = jc.runs.build(build)
    like = jax.eval_shape(lambda key: task.init(key, jc.runs.load.example(build)), jax.random.key(0))
    config = {"build": build, "classes": ["a", "b", "c", "d"], "source": None}
    return jc.runs.load.TrainedRun(config, network, task, pseudo.like(like), 7)


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_of_each_task(kind, tmp_path):
    pytest.importorskip("onnxruntime")
    loaded = run_of(kind)
    made = jc.export(loaded, "onnx", tmp_path / "model", rows=5)
    check = made.report["check"]
    assert check["rows"] == 5 and check["largest_difference"] < 1e-5 and check["source"].startswith("random rows")
    assert made.report["batch"] == "any" and len(made.report["outputs"]) == 1


@pytest.mark.parametrize("shape, batch", [((46, 59, 1), None), ((46, 59, 1), 1), ((9, 11, 10, 1), None)])
def test_unet_of_odd_sides(shape, batch, tmp_path):
    """Its decoder repeats borders, along the axes that need it alone."""
    pytest.importorskip("onnxruntime")
    model = jc.models.unet(num_classes=2, dims=len(shape) - 1, widths=(3, 4, 5))
    made = program.of_model(model, pseudo.variables(model, shape), shape)
    report = jc.export(made, "onnx", tmp_path / "unet", rows=4, batch=batch).report
    assert report["check"]["largest_difference"] < 1e-5 and report["check"]["agreement"] == 1


def test_random_rows_are_what_each_input_allows():
    inputs = {"image": ((6, 40, 1), "uint8"), "audio": ((50,), "float32"), "series": ((9, 2), "float32"),
              "text": ((30,), "int32"), "length": ((), "int32"), "present": ((3,), "float32")}  # fmt: skip
    shapes = {name: jax.ShapeDtypeStruct(*one) for name, one in inputs.items()}
    found = random_rows(shapes, 16)
    assert all(x.shape == (16, *shapes[name].shape) and x.dtype == shapes[name].dtype for name, x in found.items())
    assert found["length"].min() >= 1 and found["length"].max() <= 9 and len(set(found["length"])) > 3
    assert set(np.unique(found["present"])) == {0, 1} and found["present"].any(1).all()
    lines = random_rows({name: shapes[name] for name in ("image", "length")}, 16)
    assert 9 < lines["length"].max() <= 40

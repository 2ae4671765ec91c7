"""int8 files: ONNX Runtime computes them in integers and agrees with the simulation; the export and its check."""

import collections
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import InputError, ops
from jaxcnn.cli.main import main
from jaxcnn.deploy import agreement, exporters, onnx, program, quantised
from jaxcnn.methods import quantise
from jaxcnn.ops.quantise import fake_quantise, fake_quantise_kernel
from tests.fixtures import pseudo

SMALL = {
    "cnn": ((28, 28, 1), {"widths": (8, 8, 16, 16)}, 4),
    "resnet20": ((16, 16, 3), {"width": 8}, 19),
    "speednet": ((16, 16, 3), {"widths": (8, 16)}, 4),
    "mobilenet_v2": ((32, 32, 3), {"width": 0.1}, 52),
    "resnet18": ((48, 48, 3), {"width": 8}, 20),
}


def images(shape, rows=48, seed=0):
    return {"image": np.random.default_rng(seed).standard_normal((rows, *shape)).astype(np.float32)}


def both(name):
    """A network's program and the one in integers."""
    shape, options, _ = SMALL[name]
    model = jc.models.MODELS[name](num_classes=10, **options)
    made = program.of_model(model, pseudo.variables(model, shape), shape)
    return made, quantised(made, images(shape, seed=1))


def outputs(made, x):
    return jax.tree.map(np.asarray, jax.jit(made.function)(made.variables, x))


def optimised(data, path):
    """The operations that ONNX Runtime makes of a file."""
    import onnx as package
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    options.add_session_config_entry(*onnx.EXACT)
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in package.load(str(path)).graph.node)


@pytest.mark.parametrize("name", SMALL)
def test_the_file_computes_in_integers_what_the_simulation_says(name, tmp_path):
    pytest.importorskip("onnxruntime")
    made, whole = both(name)
    graph = exporters.graph_of(whole, None)
    data = onnx.to_bytes(graph, {})
    x, convs = images(SMALL[name][0]), SMALL[name][2]
    theirs = onnx.run(onnx.session(data, threads=1), x)
    near = agreement.compare(outputs(whole, x), theirs)
    # a rounding that falls to the other side moves a value by a step, and more the more layers follow
    limit = 0.2 if name == "mobilenet_v2" else 0.05
    assert near["agreement"] > 0.9 and near["largest_difference"] < limit, near
    assert agreement.compare(outputs(made, x), theirs)["largest_difference"] < 0.25
    found = optimised(data, tmp_path / "optimised.onnx")
    assert found["QLinearConv"] == convs, found
    assert found["Conv"] == (1 if name == "speednet" else 0), found  # its whitening stays as it is
    if name == "resnet18":  # the last sum has no rounding behind it
        assert found["QLinearAdd"] == 7 and found["Add"] == 1, found
    if name == "speednet":
        assert found["FastGelu"] == 5, found
    held = [x.dtype for x in graph.constants.values() if x.ndim > 1]
    assert held.count(np.dtype(np.int8)) >= convs


def test_a_layer_equals_sums_of_integers_bit_for_bit(tmp_path):
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    read, made = np.array([0.02, 117], np.float32), np.array([0.03, 0], np.float32)
    kernel, bias = rng.standard_normal((3, 3, 6, 5)).astype(np.float32), rng.standard_normal(5).astype(np.float32)
    x = rng.uniform(-3, 3, (9, 8, 8, 6)).astype(np.float32)

    def function(_, batch):
        y = ops.conv(fake_quantise(batch["image"], read), fake_quantise_kernel(jnp.asarray(kernel)), padding="VALID")
        return {"y": fake_quantise(nn.relu(y + bias[None, None, None]), made)}

    row = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    data = onnx.to_bytes(exporters.graph_of(program.Program(function, {}, {"image": row}, {}), None), {})
    found = optimised(data, tmp_path / "optimised.onnx")
    del found["Transpose"]
    assert found == {"QLinearConv": 1, "QuantizeLinear": 1, "DequantizeLinear": 1}
    got = onnx.run(onnx.session(data, threads=1), {"image": x})["y"] / made[0]
    step = np.abs(kernel).max((0, 1, 2)) / np.float32(127)
    codes = np.clip(np.round(x / read[0]) + read[1], 0, 255).astype(np.int64) - int(read[1])
    places = np.lib.stride_tricks.sliding_window_view(codes, (3, 3), (1, 2))  # [B, H, W, C, 3, 3]
    total = np.einsum("bhwcij,ijck->bhwk", places, np.round(kernel / step).astype(np.int64))
    unit = read[0] * step
    total += np.round(bias / unit).astype(np.int64)
    want = np.clip(np.round(total.astype(np.float32) * (unit / made[0])), 0, 255)
    np.testing.assert_array_equal(np.round(got), want)
    assert len(np.unique(want)) > 100


def test_a_maximum_and_a_sum_of_it_stay_integers(tmp_path):
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    image, first, second = (np.array(grid, np.float32) for grid in ([0.02, 117], [0.03, 0], [0.1, 100]))
    kernels = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 3, 6, 5), (3, 3, 5, 5))]
    x = rng.uniform(-2, 2, (5, 9, 9, 6)).astype(np.float32)

    def function(_, batch):
        one, two = (fake_quantise_kernel(jnp.asarray(kernel)) for kernel in kernels)
        y = ops.max_pool(
            fake_quantise(nn.relu(ops.conv(fake_quantise(batch["image"], image), one)), first), 3, strides=2
        )
        z = fake_quantise(ops.conv(fake_quantise(y, first), two), second)
        return {"y": fake_quantise(nn.relu(z + y), first)}

    row = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    data = onnx.to_bytes(exporters.graph_of(program.Program(function, {}, {"image": row}, {}), None), {})
    found = optimised(data, tmp_path / "optimised.onnx")
    assert found["QLinearConv"] == 2 and found["QLinearAdd"] == 1 and found["QuantizeLinear"] == 1, found
    with ops.native_lowering():
        want = np.asarray(jax.jit(function)(None, {"image": x})["y"])
    got = onnx.run(onnx.session(data, threads=1), {"image": x})["y"]
    np.testing.assert_array_equal(np.round(got / first[0]), np.round(want / first[0]))


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_layers_that_share_a_kernel_run_on_every_processor(factor):
    """A kernel, or integers of it: ONNX Runtime may have to rewrite them for each layer."""
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    image, first = (np.array(grid, np.float32) for grid in ([0.02, 117], [0.1, 0]))
    kernel, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 3, 6, 6), (3, 9, 9, 6)))

    def function(_, batch):
        one, two = (fake_quantise_kernel(jnp.asarray(k)) for k in (kernel, np.float32(factor) * kernel))
        y = fake_quantise(nn.relu(ops.conv(fake_quantise(batch["image"], image), one)), first)
        return {"y": fake_quantise(nn.relu(ops.conv(y, two)), first)}

    row = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    graph = exporters.graph_of(program.Program(function, {}, {"image": row}, {}), None)
    kernels = [(name, k.dtype) for name, k in graph.constants.items() if k.ndim == 4 and k.dtype != np.float32]
    assert [dtype for _, dtype in kernels] == ([np.uint8] if factor == 1 else [np.int8, np.int8])
    zeros = [node.inputs[2] for node in graph.nodes if node.inputs[0] in dict(kernels)]
    assert len(zeros) == 2 and len(set(zeros)) == factor
    with ops.native_lowering():
        want = np.asarray(jax.jit(function)(None, {"image": x})["y"])
    got = onnx.run(onnx.session(onnx.to_bytes(graph, {}), threads=1), {"image": x})["y"]
    np.testing.assert_array_equal(np.round(got / first[0]), np.round(want / first[0]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A short run on the digits that scikit-learn contains, whose rows are read again."""
    splits = jc.data.digits(seed=0)
    build = {
        "model": {"name": "cnn", "options": {"num_classes": 10, "widths": [4, 8]}},
        "task": {"name": "classification", "options": {"mean": [0.3], "std": [0.4], "size": [12, 12]}},
        "image": {"shape": [8, 8, 1], "dtype": "uint8"},
    }  # fmt: skip
    task, tx = jc.runs.build(build)[1], jc.optim.adam(1e-2)
    state = jc.init_state(task, tx, splits.train.example())
    step = jc.compile_step(jc.make_train_step(task, tx), "jit")
    fitted = jc.fit(step, state, splits.train, batch_size=64, steps=60, log=None)
    place = tmp_path_factory.mktemp("integers") / "run"
    source = jc.runs.source("digits", {"seed": 0})
    jc.save_run(place, task, fitted, splits, batch_size=64, build=build, source=source)
    return place


@pytest.mark.parametrize("preprocessing", ["inside", "outside"])
def test_a_run_is_exported_in_integers_and_measured(folder, tmp_path, preprocessing, capsys):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "digits.onnx"
    given = ["export", str(folder), "--int8", "--out", str(out), "--rows", "359", "--preprocessing", preprocessing]
    assert main([*given, "--calibration", "100"]) == 0
    shown, report = json.loads(capsys.readouterr().out), json.loads((tmp_path / "digits.onnx.json").read_text())
    check = report["check"]
    assert report["session_options"] == {"session.x64quantprecision": "1"} and report["precision"] == "int8"
    assert report["calibration_rows"] == 100 and shown["rows"] == check["rows"] == 359
    assert check["agreement"] > 0.97 and check["simulation"]["agreement"] > 0.99
    plain = json.loads(
        jc.export(folder, "onnx", tmp_path / "float", rows=359).path.with_suffix(".onnx.json").read_text()
    )
    assert report["inputs"]["image"]["dtype"] == ("uint8" if preprocessing == "inside" else "float32")
    assert plain["check"].get("accuracy") is None and "precision" not in plain
    loaded = jc.load_run(folder)
    rows = jc.runs.read_data(loaded.config).test.arrays
    right = np.asarray(loaded.task.predict(loaded.variables, rows)).argmax(-1) == rows["label"]
    assert check["float32_accuracy"] == pytest.approx(right.mean()) and right.mean() > 0.6
    x = rows["image"] if preprocessing == "inside" else np.asarray(program.prepared(loaded, rows)["image"])
    theirs = onnx.run(onnx.session(out.read_bytes()), {"image": x})["logits"].argmax(-1) == rows["label"]
    assert check["accuracy"] == pytest.approx(theirs.mean(), abs=2 / 359)


def test_what_is_refused(folder, tmp_path, capsys):
    loaded = jc.load_run(folder)
    assert main(["export", str(folder), "--int8", "--to", "stablehlo"]) == 2
    assert "--int8: --to stablehlo has no form in integers" in capsys.readouterr().err
    with pytest.raises(InputError, match="calibration=0"):
        jc.export(loaded, "onnx", tmp_path / "a", int8=True, calibration=0)
    made = program.of_run(loaded)
    with pytest.raises(InputError, match="a program has no data"):
        jc.export(made, "onnx", tmp_path / "a", int8=True)
    with pytest.raises(InputError, match="have no 'image'"):
        quantised(made, {"text": np.zeros(3)})
    rows = {"image": np.zeros((4, 8, 8, 1), np.uint8)}
    grids = quantise.calibrate(made.function, made.variables, rows)["grids"]
    coarse = jax.tree.map(lambda grid: grid * np.array([300, 1], np.float32), grids)
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match="int8 program differs from float32"):
        jc.export(made._replace(variables={**made.variables, "grids": coarse}), "onnx", tmp_path / "a", int8=True)
    assert not list(tmp_path.iterdir())

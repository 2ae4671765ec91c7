"""`jaxcnn export` and `jc.export`: what the files hold, where they run, the check, and what is refused."""

import json
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import InputError, ops
from jaxcnn.cli.main import main
from jaxcnn.deploy import agreement, exporters, onnx, program, rows
from jaxcnn.deploy.exporters import Written
from jaxcnn.deploy.formats import EXPORTERS
from tests.fixtures import pseudo
from tests.models.test_models import SIDES, SIZE, ZOO

OPTIONS = {"mean": [0.1], "std": [0.3], "size": [10, 10]}
ALONE = """
import sys
import types
from jax import export, numpy as jnp
program = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
assert program.platforms == ("cpu", "cuda", "tpu") and not [m for m in sys.modules if m.startswith("jaxcnn")]
x = jnp.arange(5 * 64, dtype=jnp.uint8).reshape(5, 8, 8, 1)
print(program.call({"image": x})["logits"].ravel().tolist())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on the digits that scikit-learn contains, not trained, whose rows are read again."""
    train, valid, test = jc.data.digits(seed=0)
    shape = list(train.example()["image"].shape[1:])
    build = {
        "model": {"name": "cnn", "options": {"num_classes": 10, "widths": [3, 4]}},
        "task": {"name": "classification", "options": OPTIONS},
        "image": {"shape": shape, "dtype": "uint8"},
    }  # fmt: skip
    made = jc.runs.build(build)[1]
    variables = pseudo.variables(jc.models.cnn(widths=(3, 4)), (10, 10, 1))
    splits = jc.data.Splits(train, valid, test)
    place = tmp_path_factory.mktemp("export") / "run"
    jc.save_run(place, made, variables, splits, batch_size=2, build=build, source=jc.runs.source("digits", {"seed": 0}))
    return place


def test_the_check_reads_rows_of_all_classes(tmp_path):
    image = np.zeros((140, 8, 8, 1), np.uint8)
    data = jc.data.Resident({"image": image, "label": np.repeat(np.int32([0, 1]), 70)}, ("a", "b"))
    loaded = types.SimpleNamespace(config={})
    with pytest.MonkeyPatch.context() as patch:
        found = types.SimpleNamespace(data=data, name="x", part="test")
        patch.setattr(rows, "rows_to_measure", lambda *given, **options: found)
        made = types.SimpleNamespace(inputs={"image": None})
        label = rows._of_run(loaded, made, 64, None, None)[0]["label"]
    assert len(label) == 64 and 20 < label.sum() < 44


def left(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("to, ending", [("onnx", "onnx"), ("stablehlo", "stablehlo")])
def test_a_run_is_exported_and_checked_on_its_own_rows(folder, tmp_path, to, ending):
    made = jc.export(folder, to, tmp_path / "digits")
    assert left(tmp_path) == sorted([f"digits.{ending}", f"digits.{ending}.json"])
    report = json.loads((tmp_path / f"digits.{ending}.json").read_text())
    assert report == json.loads(json.dumps(made.report)) and report["batch"] == "any"
    check = report["check"]
    assert check["rows"] == 64 and check["source"] == "digits, test part" or check["source"].endswith("test part")
    assert 0 <= check["largest_difference"] < 1e-5 and check["agreement"] == 1
    assert report["classes"] == [str(i) for i in range(10)] and report["task"] == "classification"
    assert report["inputs"] == {"image": {"shape": ["any", 8, 8, 1], "dtype": "uint8"}}
    assert report["bytes"] == (tmp_path / f"digits.{ending}").stat().st_size
    images = np.arange(5 * 64, dtype=np.uint8).reshape(5, 8, 8, 1)
    loaded = jc.load_run(folder)
    ours = np.asarray(loaded.task.predict(loaded.variables, {"image": images}))
    if to == "onnx":
        session = onnx.session((tmp_path / "digits.onnx").read_bytes())
        assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == report["classes"]
        assert session.get_modelmeta().custom_metadata_map["preprocessing"] == "inside"
        theirs = onnx.run(session, {"image": images})["logits"]
    else:
        out = subprocess.run(
            [sys.executable, "-c", ALONE, str(made.path)], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        theirs = np.reshape(json.loads(out.stdout), ours.shape)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * np.abs(ours).max())


def test_preprocessing_outside_gets_what_the_network_gets(folder, tmp_path):
    made = jc.export(folder, "onnx", tmp_path / "digits", preprocessing="outside", rows=5)
    assert made.report["inputs"] == {"image": {"shape": ["any", 10, 10, 1], "dtype": "float32"}}
    assert made.report["pixels"] == {"scale": 1 / 255, **OPTIONS} and made.report["check"]["rows"] == 5
    loaded = jc.load_run(folder)
    images = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8, 1)
    ours = np.asarray(loaded.task.predict(loaded.variables, {"image": images}))
    given = {"image": np.asarray(program.prepared(loaded, {"image": images})["image"])}
    theirs = onnx.run(onnx.session(made.path.read_bytes()), given)["logits"]
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * np.abs(ours).max())


def test_a_check_that_fails_leaves_what_was_there(folder, tmp_path, monkeypatch):
    jc.export(folder, "onnx", tmp_path / "digits", rows=3)
    before = (tmp_path / "digits.onnx").read_bytes()

    def wrong(made, part, stem, batch):
        (part / "digits.onnx").write_bytes(b"wrong")
        return Written(("digits.onnx",), lambda x: {"logits": np.ones((len(x["image"]), 10), np.float32)}, {})

    monkeypatch.setitem(EXPORTERS, "onnx", wrong)
    with pytest.raises(InputError, match="differs from the run .*: nothing was written"):
        jc.export(folder, "onnx", tmp_path / "digits", rows=3)
    assert left(tmp_path) == ["digits.onnx", "digits.onnx.json"] and (tmp_path / "digits.onnx").read_bytes() == before
    monkeypatch.setitem(EXPORTERS, "onnx", lambda *_: Written(("digits.onnx",), lambda x: 1 / 0, {}))
    with pytest.raises(InputError, match="does not run"):
        jc.export(folder, "onnx", tmp_path / "other", rows=3)
    assert left(tmp_path) == ["digits.onnx", "digits.onnx.json"]


def test_a_folder_of_other_files_is_never_replaced(folder, tmp_path, monkeypatch):
    def writes(made, part, stem, batch):
        (part / stem).mkdir()
        (part / stem / "model").write_bytes(b"model")
        run = lambda x: {"logits": np.asarray(made.closed(x)["logits"])}
        return Written((stem,), run, {})

    monkeypatch.setitem(EXPORTERS, "savedmodel", writes)
    (tmp_path / "models").mkdir()
    jc.export(folder, "savedmodel", tmp_path / "models", rows=3)  # an empty folder, then one of the same format
    jc.export(folder, "savedmodel", tmp_path / "models", rows=3)
    assert left(tmp_path / "models") == ["model"]
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/thesis.txt").write_text("years")
    with pytest.raises(InputError, match="papers: is a folder that was not written by an export to savedmodel"):
        jc.export(folder, "savedmodel", tmp_path / "papers", rows=3)
    assert left(tmp_path / "papers") == ["thesis.txt"] and left(tmp_path) == ["models", "models.json", "papers"]


def test_detections_without_objects_are_no_check(tmp_path, monkeypatch):
    def function(variables, batch):
        count = len(batch["image"])
        found = {"boxes": jnp.zeros((count, 5, 4)), "scores": jnp.zeros((count, 5)), "box_mask": jnp.zeros((count, 5))}
        return {**found, "labels": jnp.zeros((count, 5), jnp.int32)}

    made = program.Program(function, {}, {"image": jax.ShapeDtypeStruct((4, 4, 3), np.float32)}, {})
    monkeypatch.setitem(EXPORTERS, "onnx", lambda made, part, stem, batch: Written((), made.closed, {}))
    with pytest.raises(InputError, match="finds no object in random rows"):
        jc.export(made, "onnx", tmp_path / "a")


def test_a_program_of_texts_says_which_number_a_word_has(tmp_path):
    build = {
        "model": {"name": "text_cnn", "options": {"num_classes": 2, "words": 5, "width": 4, "maps": 3}},
        "task": {"name": "classification", "options": {"field": "text"}},
        "inputs": {"text": {"shape": [5], "dtype": "int32"}},
    }  # fmt: skip
    made = jc.runs.build(build)[1]
    rows = {"text": np.ones((2, 5), np.int32), "label": np.zeros(2, np.int32)}
    data = jc.data.Resident(rows, ("bad", "good"), words=("good", "bad", "film"))
    jc.save_run(tmp_path / "run", made, made.init(jax.random.key(0), rows), data, batch_size=2, build=build)
    assert program.of_run(jc.load_run(tmp_path / "run")).about["words"] == ["good", "bad", "film"]


def test_rows_that_are_given_and_weights_that_are_not_finite(folder, tmp_path):
    loaded = jc.load_run(folder)
    rows = {"image": np.zeros((4, 8, 8, 1), np.uint8)}
    made = jc.export(loaded, "onnx", tmp_path / "digits", rows=rows, batch=3)
    assert made.report["check"]["source"] == "given rows" and made.report["inputs"]["image"]["shape"][0] == 3
    broken = loaded._replace(variables=jax.tree.map(lambda x: x * np.nan, loaded.variables))
    with pytest.raises(InputError, match="logits that are not finite"):
        jc.export(broken, "onnx", tmp_path / "broken", rows=rows)
    with pytest.raises(InputError, match="rows: have no 'image'"):
        jc.export(loaded, "onnx", tmp_path / "broken", rows={"label": np.zeros(3)})
    for some in ({"image": rows["image"][:0]}, {**rows, "label": np.zeros(2, np.int32)}):
        with pytest.raises(InputError, match="must be as many, at least one"):
            jc.export(loaded, "onnx", tmp_path / "broken", rows=some)
    with pytest.raises(InputError, match="path=None"):
        jc.export(loaded, "onnx")
    assert left(tmp_path) == ["digits.onnx", "digits.onnx.json"]


@pytest.mark.parametrize(
    "arguments, line",
    [
        ([], "RUN: give the folder"),
        (["RUN", "--to", "onxx"], "did you mean 'onnx'?"),
        (["RUN", "--to", "foo"], "must be one of stablehlo, onnx, litert, savedmodel, openvino, torch, page, html"),
        (["RUN", "--preprocessing", "in"], "did you mean 'inside'?"),
        (["RUN", "--batch", "-1"], "--batch -1"),
        (["RUN", "--rows", "0"], "export: --rows 0: must be 1"),
        (["RUN", "--tolerance", "0"], "export: --tolerance 0.0: must"),
        (["RUN", "--calibration", "0", "--int8"], "export: --calibration 0: must"),
        (["RUN", "--to", "stablehlo", "--int8"], "export: --int8: --to stablehlo has no form in integers"),
        (["RUN", "--runtime", "x"], "export: --runtime x: only for page and html"),
        (["RUN", "--to", "html"], "export: no --runtime: a page needs"),
        (["RUN", "--out", "out.tflite"], "export: --out out.tflite: .tflite is the ending of litert, not of onnx"),
        (["RUN", "--out", "OUT/..", "--to", "savedmodel"], "must end in a name"),
        (["RUN", "--data", "OUT/nowhere"], "nowhere: no such file or folder"),
        (["RUN", "--data-dir", "OUT"], ": only TFDS sets are looked for there; name other data with place= (--data"),
        (["RUN", "--out", "OUT/file/model"], "cannot be written"),
        (["nowhere"], "not a run's folder"),
    ],
)
def test_what_is_refused_on_the_command_line(folder, tmp_path, capsys, arguments, line):
    (tmp_path / "file").write_text("")
    given = [a.replace("RUN", str(folder)).replace("OUT", str(tmp_path)) for a in arguments]
    assert main(["export", *given]) == 2
    assert line in " ".join(capsys.readouterr().err.split()) and not (folder / "exported").exists()


def test_data_that_were_moved_are_named_by_a_flag(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    arrays = {f"x_{part}": rng.integers(0, 256, (40, 8, 8, 1), np.uint8) for part in ("train", "test")}
    arrays |= {f"y_{part}": np.arange(40) % 2 for part in ("train", "test")}
    np.savez(tmp_path / "rows.npz", **arrays)
    train, valid, test = jc.data.npz(tmp_path / "rows.npz", seed=0)
    build = {
        "model": {"name": "cnn", "options": {"num_classes": 2, "widths": [3, 4]}},
        "task": {"name": "classification", "options": {}}, "image": {"shape": [8, 8, 1], "dtype": "uint8"},
    }  # fmt: skip
    source = jc.runs.source("npz", {"path": str(tmp_path / "rows.npz"), "seed": 0})
    jc.save_run(
        tmp_path / "run", jc.runs.build(build)[1], pseudo.variables(jc.models.cnn(2, widths=(3, 4)), (8, 8, 1)),
        jc.data.Splits(train, valid, test), batch_size=2, build=build, source=source,
    )  # fmt: skip
    (tmp_path / "rows.npz").rename(tmp_path / "moved.npz")
    export = ["export", str(tmp_path / "run"), "--rows", "4"]
    assert main(export) == 0 and "random rows" in capsys.readouterr().out
    assert main([*export, "--int8"]) == 2
    assert "say where they are with --data PLACE" in " ".join(capsys.readouterr().err.split())
    assert main([*export, "--data", str(tmp_path / "moved.npz")]) == 0
    assert "test part" in capsys.readouterr().out
    assert main([*export, "--int8", "--data", str(tmp_path / "moved.npz"), "--tolerance", "1"]) == 0
    about = json.loads((tmp_path / "run/exported/model_int8.onnx.json").read_text())
    assert about["precision"] == "int8" and {"accuracy", "float32_accuracy"} <= set(about["check"])
    plain = json.loads((tmp_path / "run/exported/model.onnx.json").read_text())  # beside it, as it was
    assert "precision" not in plain and (tmp_path / "run/exported/model.onnx").is_file()


def test_help_names_all_formats(capsys):
    assert main(["export", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in EXPORTERS) and "--data-dir" in shown


def test_detections_are_matched_in_any_order_of_equal_scores():
    boxes = np.array([[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0, 0]]], np.float32)
    ours = {
        "boxes": boxes, "scores": np.array([[0.9, 0.9, 0]], np.float32), "labels": np.array([[1, 2, 0]]),
        "box_mask": np.array([[True, True, False]]),
    }  # fmt: skip
    turned = {name: x[:, [1, 0, 2]] for name, x in ours.items()}
    assert agreement.compare(ours, turned)["agreement"] == 1
    assert agreement.compare(ours, {**turned, "labels": ours["labels"]})["agreement"] == 0
    fewer = {**ours, "box_mask": np.array([[True, False, False]])}
    assert agreement.compare(ours, fewer)["agreement"] == pytest.approx(2 / 3)
    nan = {"logits": np.array([[np.nan, 1.0]])}
    assert agreement.compare({"logits": np.ones((1, 2))}, nan)["largest_difference"] == np.inf


@pytest.mark.slow
@pytest.mark.parametrize("to", ["openvino", "savedmodel", "litert"])
@pytest.mark.parametrize("preprocessing", ["inside", "outside"])
def test_other_formats(folder, tmp_path, to, preprocessing):
    pytest.importorskip("openvino" if to == "openvino" else "tensorflow")
    made = jc.export(folder, to, tmp_path / "digits", preprocessing=preprocessing)
    assert made.report["check"]["largest_difference"] < 1e-5 and made.report["batch"] == (
        1 if to == "litert" else "any"
    )
    again = jc.export(
        folder, to, tmp_path / "digits", preprocessing=preprocessing, batch=2, rows=5
    )  # replaces the first
    assert again.report["batch"] == 2 and not [name for name in left(tmp_path) if name.endswith(".part")]


WITHOUT = """
import sys
import types
from jaxcnn.deploy.exporters import _openvino
assert _openvino().Core and "openvino_telemetry" not in sys.modules
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__)
"""


@pytest.mark.slow
def test_openvino_is_imported_without_its_telemetry():
    pytest.importorskip("openvino")
    out = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "openvino.tools.ovc.telemetry_stub"


def differs(made, name, to="onnx", folder=None, rows=3):
    """Return what `compare` finds for a program and its export."""
    written = EXPORTERS[to](made, folder, name, None)
    x = {k: np.random.default_rng(0).random((rows, *v.shape), np.float32) for k, v in made.inputs.items()}
    ours = jax.tree.map(np.asarray, jax.jit(made.function)(made.variables, x))
    return agreement.compare(ours, agreement.in_batches(written.run, x, [1, 2]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_kind_of_network(name, tmp_path):
    model, side = ZOO[name](10), SIDES.get(name, SIZE)
    made = program.of_model(model, pseudo.variables(model, (side, side, 3)), (side, side, 3))
    for to in ("onnx", "stablehlo"):
        assert differs(made, "a", to, tmp_path)["largest_difference"] < 1e-4


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-5), ("float16", 1e-3)])
@pytest.mark.parametrize("activation", [jax.nn.gelu, jax.nn.silu, jax.nn.hard_swish, jnp.abs])
def test_openvino_pools_before_activations_that_fall(tmp_path, activation, dtype, limit):
    pytest.importorskip("openvino")
    kernel = np.random.default_rng(1).standard_normal((3, 3, 1, 8)).astype(np.float32)

    def function(_, batch):
        pooled = ops.max_pool(ops.conv(batch["x"], kernel).astype(dtype), 2)
        return {"y": activation(pooled.astype("float32"))}

    made = program.Program(function, {}, {"x": jax.ShapeDtypeStruct((8, 8, 1), np.float32)}, {})
    assert differs(made, "a", "openvino", tmp_path)["largest_difference"] < limit


def test_litert_refuses_sorts_at_once(tmp_path):
    shapes = {"x": jax.ShapeDtypeStruct((5,), np.float32)}
    for function, name in ((lambda x: jnp.sort(x, -1), "sort"), (lambda x: ops.top_k(x, 2)[0], "top_k")):
        made = program.Program(lambda _, batch, function=function: {"y": function(batch["x"])}, {}, shapes, {})
        with pytest.raises(InputError, match=f"^litert has no form of {name}, .*; export to onnx$"):
            jc.export(made, "litert", tmp_path / "a")
    assert not left(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", jc.models.DETECTORS)
def test_detectors(name, tmp_path):
    side = 300 if name == "ssd300_vgg16" else 128
    model = jc.models.DETECTORS[name](num_classes=3, **({"width": 0.25} if name == "ssd300_vgg16" else {}))
    variables = jax.tree_util.tree_map_with_path(
        lambda path, x: x * (0.05 if {"deltas", "offsets", "distances"} & {k.key for k in path} else 1),  # of boxes
        pseudo.variables(model, (side, side, 3)),
    )

    def function(variables, batch):
        return model.detections(model.apply(variables, batch["image"], train=False))

    made = program.Program(function, variables, {"image": jax.ShapeDtypeStruct((side, side, 3), np.float32)}, {})
    found = differs(made, "a", folder=tmp_path)
    assert found["agreement"] > 0.98 and found["boxes"] > 5
    nodes = [node.op for node in exporters.graph_of(made, None).nodes]
    assert nodes.count("NonMaxSuppression") == (2 if "faster" in name or "fasterrcnn" in name else 1)
    pytest.importorskip("tensorflow")
    found = differs(made, "b", "savedmodel", folder=tmp_path)
    assert found["agreement"] > 0.98 and found["boxes"] > 5


@pytest.mark.slow
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", ["unet", "fcn_resnet50", "deeplabv3_resnet50"])
def test_segmentation(name, dims, tmp_path):
    if name != "unet" and dims != 2:
        pytest.skip("networks of two dimensions")
    shape = (*[32] * dims, 3)
    options = {"dims": dims, "widths": (8, 16, 24)} if name == "unet" else {}
    model = jc.models.SEGMENTERS[name](num_classes=3, **options)
    made = program.of_model(model, pseudo.variables(model, shape), shape)
    assert differs(made, "a", folder=tmp_path)["largest_difference"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", [*jc.models.SERIES, *jc.models.VIDEO, *jc.models.READERS])
def test_series_videos_and_readers(name, tmp_path):
    model = jc.models.NETWORKS[name](num_classes=3) if name != "tcn" else jc.models.tcn()
    shape = {"c3d": (16, 112, 112, 3), "r2plus1d_18": (8, 32, 32, 3), "cnn3d": (8, 32, 32, 3)}.get(
        name, model.default_image
    )
    made = program.of_model(model, pseudo.variables(model, shape), shape)
    assert differs(made, "a", folder=tmp_path)["largest_difference"] < 1e-4

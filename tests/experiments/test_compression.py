"""The table of compressed networks: what is measured, what is refused, and a short run of all variants."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import jaxcnn as jc
from experiments import compression, compression_table
from experiments.compression import Config
from experiments.compression_table import Variant
from jaxcnn import InputError
from jaxcnn.core.files import to_json
from jaxcnn.deploy import program, quantised
from jaxcnn.report import compressed
from tests.fixtures import pseudo

CONFIG = Config("mnist", "digits", smoke=True, epochs=4, sparsities=(0.5,), low_rank=0.5, widths=(4, 8), calibration=16)


def test_a_table_has_what_onnx_runtime_answers_on_all_rows(tmp_path):
    pytest.importorskip("onnxruntime")
    model, shape = jc.models.cnn(num_classes=4, widths=(16, 32)), (12, 12, 1)
    made = program.of_model(model, pseudo.variables(model, shape), shape)
    rng = np.random.default_rng(0)
    image, label = rng.standard_normal((70, *shape)).astype(np.float32), rng.integers(0, 4, 70)
    test = jc.data.Resident({"image": image, "label": label.astype(np.int32)}, tuple("abcd"))
    whole = Variant(quantised(made, {"image": image[:32]}))
    names = {"float32": Variant(made, fold=False), "filters halved": whole, "filters halved, distilled": Variant(made)}
    found = compression_table.measured(names, test, 3)
    answers = np.asarray(jax.jit(made.function)(made.variables, {"image": image})["logits"]).argmax(-1)
    plain, small, folded = found["variants"].values()
    assert found["rows"] == 70 and plain["accuracy"] == folded["accuracy"] == pytest.approx((answers == label).mean())
    assert plain["agreement"] == folded["agreement"] == 1 and 0.8 < small["agreement"] <= 1
    assert small["bytes"] < folded["bytes"] <= plain["bytes"] and small["zipped"] < small["bytes"]
    assert plain["weights"] == 5 * 5 * 16 + 3 * 3 * 16 * 32 + 64 * 4
    assert all(0 < p50 <= p95 for one in found["variants"].values() for p50, p95 in (one["one"], one["many"]))
    made = compression_table.table([found, found])
    (tmp_path / "compression.json").write_text(to_json(compression_table.for_report(found)))
    shown, notes = compressed(tmp_path)
    assert not notes and [one["name"] for one in shown["variants"]] == list(names) and shown["rows"] == 70
    row = made["text"].splitlines()[2].split(" | ")
    assert row[0] == "| float32" and row[1] == f"{100 * plain['accuracy']:.2f} % ± 0.00" and len(made["table"]) == 3
    only = (found["right"]["filters halved, distilled"] & ~found["right"]["filters halved"]).sum()
    assert made["distillation"][0]["only_distilled"] == only


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"case": "minst"}, "did you mean 'mnist'"),
        ({"data": ""}, "DATA: give the data"),
        ({"seeds": 0}, "--seeds 0"),
        ({"seeds": 2, "run": "RUN"}, "--seeds 2"),
        ({"sparsities": (0.5, 1.0)}, "--sparsities 1.0"),
        ({"sparsities": (0.5, 0.5)}, "--sparsities 0.5 0.5: has a value twice"),
        ({"case": "imagenette"}, "--widths"),
        ({"calibration": 0}, "--calibration"),
        ({"low_rank": 2.0}, "--low-rank"),
    ],
)
def test_what_is_refused(changes, line):
    with pytest.raises(InputError, match=line):
        compression.main(dataclasses.replace(CONFIG, **changes))


def test_places_of_photos_in_an_archive():
    assert compression._inside("cifar/train/cat/1.jpg") == "train/cat/1.jpg"
    assert compression._inside("val/n01/a.JPEG") == "val/n01/a.JPEG"
    assert [compression._inside(name) for name in ("train/../1.jpg", "train/cat/notes.txt", "1.jpg")] == [None] * 3


def test_all_variants_are_trained_and_measured(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    config = dataclasses.replace(CONFIG, workdir=str(tmp_path))
    made = compression.main(config)
    names = [row["variant"] for row in made["table"]]
    assert names[:4] == ["float32", "float32, folded", "int8", "int8, trained with rounding"]
    assert names[4:] == [
        "50% of weights pruned", "filters halved", "filters halved, distilled", "filters halved, distilled, int8",
        "low rank",
    ]  # fmt: skip
    weights = {row["variant"]: row["seeds"][0]["weights"] for row in made["table"]}
    assert weights["50% of weights pruned"] <= 0.51 * weights["float32"]
    assert weights["filters halved"] < 0.4 * weights["float32"] and weights["low rank"] < weights["float32"]
    assert json.loads((tmp_path / "summary.json").read_text())["table"] == json.loads(json.dumps(made["table"]))
    assert (tmp_path / "table.md").read_text().strip() in capsys.readouterr().out
    before = sorted(p.stat().st_mtime for p in tmp_path.rglob("checkpoints/*"))
    again = compression.main(config)  # trains nothing
    assert sorted(p.stat().st_mtime for p in tmp_path.rglob("checkpoints/*")) == before
    assert [row["seeds"][0]["accuracy"] for row in again["table"]] == [r["seeds"][0]["accuracy"] for r in made["table"]]


def test_a_folder_of_other_settings_is_refused(tmp_path):
    splits = jc.data.digits(seed=0)
    base = compression.Base(
        SimpleNamespace(data=splits), SimpleNamespace(variables={"params": {"w": np.ones(3)}}), 1, None, tmp_path
    )
    config = compression.Config(case="mnist", data="x", workdir=str(tmp_path))
    compression.check_folder(config, tmp_path, base)
    compression.check_folder(dataclasses.replace(config, sparsities=(0.5,)), tmp_path, base)  # more variants
    with pytest.raises(jc.InputError, match="has variants of other settings"):
        compression.check_folder(dataclasses.replace(config, features=2.0), tmp_path, base)
    other = base._replace(loaded=SimpleNamespace(variables={"params": {"w": np.zeros(3)}}))
    ran = dataclasses.replace(config, run="RUN")
    with pytest.raises(jc.InputError, match="has variants of other settings"):
        compression.check_folder(ran, tmp_path, base)
    (tmp_path / "settings.json").unlink()
    compression.check_folder(ran, tmp_path, base)
    with pytest.raises(jc.InputError, match="has variants of other settings"):
        compression.check_folder(ran, tmp_path, other)

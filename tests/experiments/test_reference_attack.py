"""The attack of another library on an exported run: what is compared, what runs, and what is refused."""

import importlib.util
import json
import sys

import jax
import numpy as np
import pytest

import jaxcnn as jc
from experiments import reference_attack
from tests.experiments.test_video_experiments import blobs

# a stand-in for the library: one signed step, beside which `far` leaves the distance
TOOL = """
import torch

class AutoAttack:
    def __init__(self, model, norm, eps, version, n_classes, seed):
        assert norm == "Linf" and version == "standard" and n_classes == 10 and seed == 0
        self.model, self.eps = model, {times} * eps

    def __call__(self, images, labels):
        images = images.clone().requires_grad_(True)
        torch.nn.functional.cross_entropy(self.model(images), labels).backward()
        return (images + self.eps * images.grad.sign()).clamp(0, 1)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run as `experiments.robust` leaves it, of a tiny network."""
    folder = tmp_path_factory.mktemp("robust")
    (folder / "mnist").mkdir()
    data = str(blobs(folder / "mnist", 80, 20))
    build = {
        "model": {"name": "plain", "options": {"num_classes": 10, "widths": [3, 4], "kernel_size": 5, "pools": 2,
                                               "hidden": 8}},
        "task": {"name": "classification", "options": {}}, "image": {"shape": [28, 28, 1], "dtype": "uint8"},
    }  # fmt: skip
    splits, task = jc.data.idx(data), jc.runs.build(build)[1]
    variables = task.init(jax.random.key(0), splits.train.example())
    jc.save_run(
        folder / "run", task, variables, splits, batch_size=8, build=build, source=jc.runs.source("idx", {"path": data})
    )
    config = json.loads((folder / "run/config.json").read_text())
    config["experiment"] = "robust"
    config["settings"] |= {
        "name": "mnist", "method": "none", "epsilon": 0.1, "steps": 2, "restarts": 1, "auto_steps": 2,
        "targets": 2, "square_steps": 3, "eval_batch_size": 8,
    }  # fmt: skip
    (folder / "run/config.json").write_text(json.dumps(config))
    return folder / "run"


def config(run, **more):
    return reference_attack.Config(str(run), **more)


def test_rows_that_each_side_breaks_are_counted():
    ours, theirs = (
        np.repeat(values, [5, 2, 1, 2]) for values in ([True, True, False, False], [True, False, True, False])
    )
    found = reference_attack.compared(ours, theirs)
    assert found["difference_points"] == pytest.approx(10) and found["ours"]["accuracy"] == pytest.approx(0.7)
    assert (found["broken_by_ours_alone"], found["broken_by_reference_alone"]) == (1, 2)
    assert found["right_under_both"]["accuracy"] == pytest.approx(0.5)
    low, high = found["ours"]["interval"]
    assert 0.35 < low < 0.7 < high < 0.95


def test_an_exported_run_is_attacked_and_compared(run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    (tmp_path / "torchattacks.py").write_text(TOOL.replace("{times}", "1"))
    (tmp_path / "torchattacks-9.dist-info").mkdir()
    (tmp_path / "torchattacks-9.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchattacks\nVersion: 9\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    jc.export(run, "torch", rows=8)
    found = reference_attack.main(config(run, rows=18, batch_size=7))
    assert json.loads((run / "reference_attack.json").read_text()) == json.loads(json.dumps(found))
    assert found["count"] == 18 and found["logit_difference"] < 1e-5 and found["versions"]["torchattacks"] == "9"
    loaded = jc.load_run(run)
    rows = reference_attack.rows_of(config(run, rows=18), loaded).arrays
    image, label = np.asarray(rows["image"]) / np.float32(255), np.asarray(rows["label"])

    def right(x):
        return np.asarray(loaded.task.predict(loaded.variables, {"image": x})).argmax(1) == label

    def loss(x):
        return loaded.task.loss(
            loaded.variables["params"], jc.types.FrozenState({}), {"image": x, "label": label}, jax.random.key(0)
        )[0].total

    changed = np.clip(image + 0.1 * np.sign(jax.grad(loss)(image)), 0, 1)
    assert found["clean"]["accuracy"] == pytest.approx(right(image).mean())
    assert found["reference"]["accuracy"] == pytest.approx((right(image) & right(changed)).mean())
    gap = 100 * (found["ours"]["accuracy"] - found["reference"]["accuracy"])
    assert found["difference_points"] == pytest.approx(gap) and found["recorded"] is None
    (run / "robust.json").write_text(json.dumps({"count": 20, "worst": {"accuracy": 0.5}}))
    short = reference_attack.main(config(run, rows=18, ours=False))
    assert short["ours"]["accuracy"] == 0.5
    assert short["difference_points"] == pytest.approx(50 - 100 * short["reference"]["accuracy"])
    (tmp_path / "torchattacks.py").write_text(TOOL.replace("{times}", "2"))
    with pytest.raises(jc.InputError, match="changed a pixel by 0.2, beyond 0.1"):
        reference_attack.main(config(run, rows=4))


def test_only_the_file_that_the_library_writes_runs(run, tmp_path):
    """A file beside the run is compared with what this version writes, and never runs if it differs."""
    from jaxcnn.deploy import program
    from jaxcnn.deploy.torch import rendered

    made = program.of_run(jc.load_run(run))
    text = rendered(made._replace(about={"run": run.name, **made.about}), "network").text
    (tmp_path / "model.py").write_text(text + "\nraise SystemExit\n")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        jc.InputError, match="model.py: not what this version writes for this run; write it with jaxcnn"
    ):
        reference_attack.main(config(run, file=str(tmp_path / "model.py")))
    (tmp_path / "model.py").write_text(text)
    if importlib.util.find_spec("torchattacks") and importlib.util.find_spec("torch"):
        pytest.skip("the libraries are here")
    with pytest.raises(
        jc.InputError, match=r"(torch|torchattacks) is not installed there; .* -m pip install"
    ) as caught:
        reference_attack.main(config(run, file=str(tmp_path / "model.py")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "more, line",
    [
        ({"rows": 0}, "--rows 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"seed": -1}, "--seed -1"),
        ({"by": "foolbox"}, "--by 'foolbox'"),
        ({"file": "nowhere.py"}, "nowhere.py: no such file; write it with jaxcnn export"),
    ],
)
def test_bad_values_are_one_line(run, more, line):
    with pytest.raises(jc.InputError, match=line) as caught:
        reference_attack.main(config(run, **more))
    assert "\n" not in str(caught.value)


def test_other_runs_are_refused(run, tmp_path):
    from tests.serving import build, save

    with pytest.raises(jc.InputError, match="give one of python -m experiments.robust"):
        reference_attack.main(config(save(tmp_path / "run", build((24, 24, 3)))))
    with pytest.raises(jc.InputError, match="not a run's folder"):
        reference_attack.main(config(tmp_path))
    lines = "No module named 'art'", "No module named 'torch.nn'", "ValueError: x"
    wanted = "adversarial-robustness-toolbox is not", "torch is not installed", "--by torchattacks: failed in"
    for given, found in zip(lines, wanted, strict=True):
        assert found in reference_attack._reason(config("R"), sys.executable, f"ModuleNotFoundError: {given}")


def test_no_ours_needs_the_record(run, tmp_path):
    with pytest.raises(jc.InputError, match="robust.json: cannot be read; leave out --no-ours"):
        reference_attack.record_of(config(tmp_path, ours=False))

"""Sequences of tasks: each method in each scenario, resumed, measured, and bad flags in one line."""

import contextlib
import dataclasses
import json
import shutil
import types

import numpy as np
import pytest

import jaxcnn as jc
from experiments import continual
from jaxcnn.methods import continual as library

SIGNALS = types.SimpleNamespace(stop=lambda: False, while_training=contextlib.nullcontext)
PARAMETERS = 64 * 8 + 8 + 8 * 10 + 10
ROW = 64 + 4 + 4  # bytes of an image of 8x8, its label and its task


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr(continual, "NETWORKS", {"mnist": ("mlp", {"widths": [8]}), "cifar10": ("plain", {"width": 2})})


def config(tmp_path, **flags):
    small = {"kind": "mnist", "data": "digits", "steps": 2, "batch_size": 8, "fisher_rows": 8, "per_class": 2}
    return continual.Config(**small | {"devices": 1, "workdir": str(tmp_path)} | flags)


def test_a_sequence_and_its_resume(tmp_path, capsys):
    opened = []
    given = config(tmp_path, method="ewc", scenario="task", steps=20)
    found = continual.main(given, SIGNALS, opened)
    (folder,) = opened
    matrix = np.array(found["matrix"])
    assert matrix.shape == (5, 5) and found["rows"] == jc.data.digits().test.size
    assert found["accuracy"] == pytest.approx(matrix[-1].mean()) and found["memory_bytes"] == 2 * 4 * PARAMETERS
    scores = library.scores(matrix, found["start"])
    assert (found["forgetting"], found["forward"]) == (scores.forgetting, scores.forward)
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 6 and out[-2] == "after task 5: " + " ".join(f"{x:.4f}" for x in matrix[-1])
    assert json.loads((folder / "summary.json").read_text()) == found
    (folder / "summary.json").unlink()
    for name in ("task-4", "task-5"):
        shutil.rmtree(folder / name)
    again = continual.main(dataclasses.replace(given, resume=True, workdir=str(folder)), SIGNALS, [])
    assert again["matrix"] == found["matrix"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, size",
    [
        ("naive", 0), ("joint", None), ("si", 3 * 4 * PARAMETERS), ("lwf", 4 * PARAMETERS + 40), ("replay", 20 * ROW),
        ("derpp", 20 * (ROW + 40)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scenario", library.SCENARIOS)
def test_every_method(tmp_path, method, size, scenario):
    found = continual.main(config(tmp_path, method=method, scenario=scenario), SIGNALS, [])
    if scenario == "class":
        rows = jc.data.digits(validation_fraction=0.1).train.size
        assert found["memory_bytes"] == (rows * ROW if size is None else size)
    assert 0 <= found["accuracy"] <= 1 and -1 <= found["forgetting"] <= 1


@pytest.mark.slow
def test_replay_forgets_less_and_joint_training_least(tmp_path):
    scores = {
        method: continual.main(config(tmp_path, method=method, steps=100, per_class=20), SIGNALS, [])["accuracy"]
        for method in ("naive", "replay", "joint")
    }
    assert scores["naive"] < 0.35 and scores["replay"] > scores["naive"] + 0.2 and scores["joint"] > 0.7


@pytest.mark.parametrize(
    "flags, line",
    [
        ({"kind": "mnits"}, "KIND 'mnits': unknown; did you mean 'mnist'?"),
        ({"data": ""}, "DATA: give the data"),
        ({"scenario": "clas"}, "--scenario 'clas': unknown; did you mean 'class'?"),
        ({"method": "ecw"}, "--method 'ecw': unknown"),
        ({"steps": 0}, "--steps 0: must be at least 1"),
        ({"early_stopping": 2}, "--early-stopping 2: has no effect here; use --steps"),
        ({"strength": 5.0}, "--strength 5.0: has no effect here; --method ewc, si, lwf reads it"),
        ({"method": "replay", "alpha": 2.0}, "--alpha 2.0: has no effect here"),
        ({"per_task": 3}, "per_task=3: must divide the 10 classes"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"method": "lwf", "temperature": 0.0}, "temperature=0.0"),
        ({"predict": ("x.png",), "checkpoint": "x"}, "--evaluate and --predict"),
    ],
)
def test_bad_input(tmp_path, flags, line):
    with pytest.raises(jc.InputError) as caught:
        continual.main(config(tmp_path / "new", **flags), SIGNALS, [])
    assert line in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())

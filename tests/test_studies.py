"""Studies: a point is trained once however often the study is resumed, rates are chosen on validation data, bad input is one line."""

import contextlib
import dataclasses
import json
import shutil
import types

import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from experiments import attention, study

SIGNALS = types.SimpleNamespace(stop=lambda: False, while_training=contextlib.nullcontext)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, n in (("train", 10), ("test", 4)):
        for k, name in enumerate(("ant", "bee")):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(100 * k, 100 * k + 150, (12, 12, 3)).astype(np.uint8)).save(root / part / name / f"{i}.png")
    return root


def test_mean_and_deviation_over_seeds():
    found = study.spread([0.1, 0.2, 0.6])
    assert found["mean"] == pytest.approx(0.3) and found["deviation"] == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert study.spread([0.4]) == {"mean": 0.4, "deviation": 0.0}


def test_attention_against_plain(images, tmp_path, monkeypatch, capsys):
    networks = {"plain": {"model": "resnet20", "widths": (4,)}, "squeezed": {"model": "seresnet20", "widths": (4,)}}
    monkeypatch.setattr(attention, "NETWORKS", networks)
    config = attention.Config(
        dataset=str(images), seeds=2, rates=(1e-6, 0.1), epochs=1, max_steps=2, batch_size=8, devices=1, validation_fraction=0.2,
        workdir=str(tmp_path),
    )  # fmt: skip
    opened = []
    table = attention.main(config, SIGNALS, opened)["table"]
    (folder,) = opened
    assert [row["network"] for row in table] == list(networks) and table[0]["parameters"] < table[1]["parameters"]
    for row in table:
        assert row["learning_rate"] == min(row["validation_losses"], key=row["validation_losses"].get)
        point = networks[row["network"]]["model"], row["learning_rate"]
        runs = [next(folder.glob(f"{'-'.join(map(str, point))}-{seed}/*/summary.json")) for seed in (0, 1)]
        assert row["accuracies"] == [json.loads(path.read_text())["test"]["accuracy"] for path in runs]
        assert row["mean"] == pytest.approx(np.mean(row["accuracies"]))
    settings = jc.load_run(runs[0].parent).config["settings"]
    assert settings["label_smoothing"] == attention.cifar10.RESNET20["label_smoothing"] and settings["epochs"] == 1
    assert len(capsys.readouterr().out.splitlines()) == 3
    (folder / "summary.json").unlink()
    done = sorted(folder.glob("*/*/config.json"))
    assert len(done) == 2 * (2 + 1)  # networks; rates with the first seed, the second seed
    shutil.rmtree(runs[1].parents[1])
    again = attention.main(dataclasses.replace(config, resume=True, workdir=str(folder)), SIGNALS, [])["table"]
    left = set(done) & set(folder.glob("*/*/config.json"))
    assert len(left) == 5 and [row["accuracies"] for row in again] == [row["accuracies"] for row in table]


@pytest.mark.parametrize(
    "flags, line",
    [
        ({"seeds": 0}, "--seeds 0, 3 numbers for --rates: needs at least one of each"),
        ({"rates": (-1.0,)}, "learning_rate=-1.0: must be a positive number"),
        ({"evaluate": True, "checkpoint": "x"}, "--evaluate and --predict: give one of the runs"),
        ({"dataset": "nowhere/at/all"}, "nowhere/at/all"),
    ],
    ids=["seeds", "rates", "evaluate", "dataset"],
)
def test_bad_input(images, tmp_path, flags, line):
    with pytest.raises(jc.InputError) as caught:
        attention.main(attention.Config(**{"dataset": str(images), "workdir": str(tmp_path)} | flags), SIGNALS, [])
    assert line in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())

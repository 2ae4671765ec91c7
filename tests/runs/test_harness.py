"""The harness for any task: a regression and a custom task are trained, resumed, loaded elsewhere and reported."""

import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import report, runs
from jaxcnn.report.__main__ import command
from jaxcnn.runs.plan import check

ROOT = pathlib.Path(__file__).resolve().parents[2]
OWN = """
import jax.numpy as jnp
import numpy as np

import jaxcnn as jc


def part(n, seed):
    rng = np.random.default_rng(seed)
    level = rng.uniform(0, 1, n).astype(np.float32)
    return jc.data.Resident({"sound": rng.normal(0, 0.1, (n, 6)).astype(np.float32) + level[:, None], "level": level})


def loss(params, model_state, batch, key):
    outputs = predict({"params": params}, batch)
    return error(outputs, batch), (outputs, model_state)


def predict(variables, batch):
    return batch["sound"] @ variables["params"]["weight"]


def error(outputs, batch):
    return jc.metrics.mean((outputs - batch["level"]) ** 2, batch)


def init(key, batch):
    return {"params": {"weight": jnp.zeros(batch["sound"].shape[1])}}


def near(outputs, batch):
    return jc.metrics.mean(jnp.abs(outputs - batch["level"]) < 0.1, batch)


METRICS = {"loss": error, "count": jc.metrics.count, "near": near}
TASK = jc.Task(init, loss, predict, METRICS, headline=("near",), monitor=("near", "max"))
"""


def levels(n, seed, key="target"):
    """Images whose brightness is the number to learn."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(0, 1, n).astype(np.float32)
    image = rng.integers(0, 40, (n, 6, 6, 1)) + 200 * level[:, None, None, None]
    return jc.data.Resident({"image": image.astype(np.uint8), key: level})


DATA = jc.data.Splits(levels(96, 0), levels(32, 1), levels(40, 2))
BUILD = {
    "model": {"name": "mlp", "options": {"num_classes": 1, "widths": [8]}},
    "task": {"name": "regression", "options": {"center": 0.5, "scale": 0.3, "limits": [0, 1]}},
    "image": {"shape": [6, 6, 1], "dtype": "uint8"},
}  # fmt: skip


def adam(steps):
    return jc.optim.adamw(jc.optim.one_cycle(2e-2, steps=steps))


def plan(**options):
    task = runs.build(BUILD)[1]
    chosen = {"batch_size": 16, "steps": 12, "devices": 1, "name": "brightness", "build": BUILD} | options
    return runs.Plan(task, DATA, adam, **chosen)


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harness") / "run"
    return folder, jc.train_run(plan(), folder)


@pytest.fixture(scope="module")
def own():
    """The module of a user."""
    module = types.ModuleType("mine")
    exec(OWN, module.__dict__)
    return module


@pytest.fixture(scope="module")
def mine(own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine") / "run"
    data = jc.data.Splits(own.part(64, 0), own.part(32, 1), own.part(32, 2))
    made = runs.Plan(own.TASK, data, adam, batch_size=16, steps=12, devices=1, ema=0.5, name="level")
    return folder, jc.train_run(made, folder, show=False), data


def refused(match, call, *arguments, **options):
    with pytest.raises(jc.InputError, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_a_regression_leaves_what_a_classifier_leaves(regression):
    folder, summary = regression
    names = {p.name for p in folder.iterdir()}
    assert {"config.json", "metrics.jsonl", "summary.json", "curves.png", "predictions.png", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names) and "confusion_matrix.png" not in names
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines] == ["train", "validation"] * 2 + ["test"]
    assert all({"loss", "mae", "rmse", "r2", "count"} <= set(line) and "agreement" not in line for line in lines)
    assert summary["test"]["count"] == 40 == summary["test"]["agreement"].sum() and summary["test"]["mae"] < 0.25
    assert not any("accuracy" in name for name in summary["test"]) and "images_per_second" not in summary
    config = json.loads((folder / "config.json").read_text())
    assert config["task"] == {"headline": ["loss", "mae"], "monitor": ["loss", "min"], "figures": ["predictions"]}


def test_the_screen_and_the_result_show_the_headline(tmp_path, capsys):
    jc.train_run(plan(steps=6, headline=("r2", "mae")), tmp_path / "run")
    shown = capsys.readouterr().out.splitlines()
    assert re.match(
        r"step 6  train r2 \S+ mae \S+  validation r2 \S+ mae \S+  learning rate \S+  \S+ rows/s$", shown[-2]
    )
    assert re.match(rf"test r2 \S+ mae \S+ on 40 rows, {tmp_path}/run$", shown[-1])


def test_validations_come_as_often_as_is_said(tmp_path):
    folder = tmp_path / "run"
    jc.train_run(plan(steps=5, every=2, validations=0), folder, show=False)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if line["split"] == "validation"] == [2, 4, 5]


def test_a_headline_that_is_not_measured_is_said(tmp_path, capsys, caplog):
    jc.train_run(plan(steps=2, headline=("acuracy",)), tmp_path / "run")
    assert re.match(r"test loss \S+ on 40 rows", capsys.readouterr().out.splitlines()[-1])
    assert "headline: acuracy is not measured; the metrics are count, loss, mae" in caplog.text


def test_it_goes_on_where_it_was_cut_off(tmp_path, regression, caplog):
    calls = []
    signals = types.SimpleNamespace(
        stop=lambda: calls.append(1) or len(calls) > 2, while_training=contextlib.nullcontext
    )
    with pytest.raises(jc.StoppedError):
        jc.train_run(plan(), tmp_path / "run", signals=signals, show=False)
    assert not (tmp_path / "run" / "summary.json").exists()
    summary = jc.train_run(plan(), tmp_path / "run", show=False)
    assert summary["params_sha256"] == regression[1]["params_sha256"]
    again = jc.train_run(plan(), tmp_path / "run", show=False)
    assert again["params_sha256"] == summary["params_sha256"] and "is finished: it is not trained again" in caplog.text
    refused(
        "is finished, and its config.json has different settings; give another folder",
        jc.train_run,
        plan(seed=1),
        tmp_path / "run",
    )
    other = runs.Plan(
        runs.build(BUILD)[1], DATA._replace(train=levels(90, 5)), adam, batch_size=16, steps=12, devices=1
    )
    refused(
        "was trained on data .96, 32, 40., and this is data .90, 32, 40.: not the same data",
        jc.train_run,
        other,
        tmp_path / "run",
    )


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    refused("has checkpoints, but no config.json; give a new folder", jc.train_run, plan(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize(
    "options, line",
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"on_nan": "no"}, "on_nan='no': must be one of stop, skip, rollback"),
        ({"name": "a b"}, "name='a b': must begin with a letter"),
        ({"figures": {"../x": print}}, "figures: '../x' is also a file name"),
        ({"steps": -1}, "steps=-1: must be from 0 to"),
        ({"every": -1}, "every=-1: must be at least 0"),
    ],
)
def test_plans_that_cannot_be_trained(tmp_path, options, line):
    refused(line, jc.train_run, plan(**options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_described_run_needs_no_task(regression):
    loaded = jc.load_run(regression[0])
    values = runs.evaluate(loaded, DATA.test)
    assert values["mae"] == pytest.approx(regression[1]["test"]["mae"], rel=1e-5)
    outputs = runs.predict(loaded, {"image": DATA.test.arrays["image"]})
    assert np.abs(outputs[:, 0] - DATA.test.arrays["target"]).mean() == pytest.approx(values["mae"], rel=1e-5)
    refused("does not say how the data were read; say where", runs.evaluate, loaded)


def test_a_task_of_ones_own_is_loaded_in_another_process(mine, tmp_path):
    folder, summary, data = mine
    assert (folder / "curves.png").exists() and summary["best_step"] > 0
    (tmp_path / "mine.py").write_text(OWN)
    code = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]
import json, mine, jaxcnn as jc
from jaxcnn import runs
loaded = jc.load_run({str(folder)!r}, task=mine.TASK)
values = runs.evaluate(loaded, mine.part(32, 2))
print(json.dumps([values, runs.predict(loaded, mine.part(3, 2)).tolist(), loaded.step]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    values, outputs, step = json.loads(done.stdout.splitlines()[-1])
    assert values == pytest.approx(summary["test"]) and step == summary["best_step"] and len(outputs) == 3


def test_what_a_task_of_ones_own_needs_is_said(mine, own):
    folder, _, data = mine
    refused("its config.json does not describe the model and task, which are your own", jc.load_run, folder)
    refused(
        "the task cannot be made for its rows .level .., sound .6,..: .image.",
        jc.load_run,
        folder,
        runs.build(BUILD)[1],
    )
    wide = own.TASK._replace(init=lambda key, batch: {"params": {"weight": jnp.zeros(5)}})
    refused(
        r"does not fit the task: the checkpoint has params.weight float32\[6\], this model float32\[5\]",
        jc.load_run,
        folder,
        wide,
    )
    loaded = jc.load_run(folder, own.TASK)
    refused("does not say how the data were read; give evaluate the data set itself", runs.evaluate, loaded)
    assert loaded.model is None and loaded.config["build"] is None


@pytest.mark.parametrize("kind", ["fit", "state", "variables"])
def test_what_plain_fit_trained_is_saved(tmp_path, own, kind):
    data, tx = own.part(64, 0), jc.optim.adam(2e-2)
    run, ev = (
        jc.compile_step(jc.make_train_step(own.TASK, tx), "jit"),
        jc.compile_step(jc.make_eval_step(own.TASK), "jit"),
    )
    state = jc.init_state(own.TASK, tx, data.example())
    validate = lambda state: jc.evaluate(ev, state.variables, own.part(32, 1))
    options = {"validate": validate, "monitor": "near", "mode": "max", "log": None}
    fitted = jc.fit(run, state, data, batch_size=16, steps=8, every=4, **options)
    test = own.part(32, 2)
    values = jc.evaluate(ev, fitted.best.variables, test)
    trained = {"fit": fitted, "state": fitted.best, "variables": fitted.best.variables}[kind]
    summary = jc.save_run(tmp_path / "run", own.TASK, trained, data, batch_size=16, test=values, name="level")
    assert runs.evaluate(jc.load_run(tmp_path / "run", own.TASK), test) == pytest.approx(values)
    assert summary["train_rows"] == 64 and summary["test"]["near"] == values["near"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines] == ["train", "validation"] * (2 if kind == "fit" else 0) + ["test"]
    refused("has a run already", jc.save_run, tmp_path / "run", own.TASK, trained, data, batch_size=16)
    assert command([str(tmp_path / "run")]) == 0


def test_the_average_of_a_state_is_what_is_loaded(tmp_path, own):
    tx = jc.optim.adam(2e-2)
    state = jc.start_ema(jc.init_state(own.TASK, tx, own.part(1, 0).example()))
    state = state.replace(extras={"ema": jax.tree.map(lambda x: x + 3, state.variables)})
    jc.save_run(tmp_path / "run", own.TASK, state, own.part(8, 0), batch_size=4)
    assert float(jc.load_run(tmp_path / "run", own.TASK).variables["params"]["weight"][0]) == 3
    refused(
        "trained: int; must be the result of fit",
        jc.save_run,
        tmp_path / "no",
        own.TASK,
        3,
        own.part(8, 0),
        batch_size=4,
    )


def test_reports_of_any_task(regression, mine, capsys, tmp_path):
    out = tmp_path / "compare.html"
    assert command([str(regression[0]), str(mine[0]), "--out", str(out)]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert "report.html: mae 0." in first and "report.html: near 0." in second and "2 runs" in third
    made = json.loads((regression[0] / "report.json").read_text())
    assert made["diagnosis"]["verdict"] == "unjudged" and "verdict unjudged" in first
    assert made["kind"] == "general" and made["test"]["metrics"]["mae"] == pytest.approx(regression[1]["test"]["mae"])
    assert [one["title"] for one in made["figures"]] == ["predictions"]
    page = (regression[0] / "report.html").read_text()
    assert (
        all(text in page for text in ("Loss by epoch", "Mae by epoch", "data:image/png", "rmse"))
        and "Confusion" not in page
    )
    assert "| mae |" in (regression[0] / "MODEL_CARD.md").read_text()
    assert "mae" in out.read_text() and "not measured" in out.read_text() and "no paired test" in out.read_text()
    assert command([str(mine[0]), "--group", "x"]) == 2
    assert "--group: " in capsys.readouterr().err


def edited(run, change, name="config.json"):
    found = json.loads((run / name).read_text())
    change(found)
    (run / name).write_text(json.dumps(found))


def test_a_picture_that_is_none_is_a_note(regression, tmp_path):
    shutil.copytree(regression[0], tmp_path / "run")
    (tmp_path / "run" / "predictions.png").write_bytes(b"no picture")
    edited(tmp_path / "run", lambda c: c["task"].update(figures=["predictions", "../run/curves"]))
    made = report.general("run", report.read_finished(tmp_path / "run"), tmp_path / "run")
    assert made["figures"] == [] and "predictions.png cannot be read" in made["test"]["notes"][0]
    assert "../run/curves is left out" in made["test"]["notes"][1]


def test_nothing_that_a_general_run_says_is_live(mine, tmp_path, capsys):
    run, evil = tmp_path / "run", "<script>x</script>\x1b[2J\n# heading"
    shutil.copytree(mine[0], run)
    edited(
        run,
        lambda c: (
            c["task"].update(headline=["near", f"near{evil}"], figures=[evil]),
            c["settings"].update({evil: evil}),
        ),
    )
    edited(
        run, lambda s: (s["test"].update({f"near{evil}": 0.5, "count": 1e999}), s.update(strategy=evil)), "summary.json"
    )
    assert command([str(run), str(mine[0]), "--out", str(tmp_path / "compare.html")]) == 0
    said = capsys.readouterr().out
    pages = [(run / name).read_text() for name in ("report.html", "MODEL_CARD.md")] + [
        (tmp_path / "compare.html").read_text()
    ]
    assert len(said.splitlines()) == 3 and "\x1b" not in said
    for text in pages:
        assert "\x1b" not in text and not re.search(r"(?<!\\)<script|^# heading", text, re.M)


@pytest.mark.parametrize(
    "change, line",
    [
        (lambda c: c.update(inputs={}), "the run has neither .build. nor .inputs."),
        (lambda c: c["inputs"].update(x={"shape": [2**20, 2**20], "dtype": "uint8"}), "inputs.x.shape"),
        (lambda c: c["inputs"].update(x={"shape": [1], "dtype": "object"}), "inputs.x.dtype: 'object': must be one of"),
        (lambda c: c["task"].update(headline=["x"] * 51), "must have 50 metrics and pictures at most"),
    ],
)
def test_a_folder_that_nobody_vouches_for(mine, tmp_path, own, change, line):
    config = json.loads((mine[0] / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused(line, jc.load_run, tmp_path, own.TASK)


def test_a_recipe_of_a_regression(tmp_path, capsys):
    from PIL import Image

    from experiments import angle

    signals = types.SimpleNamespace(stop=lambda: False, while_training=contextlib.nullcontext)
    options = {"dataset": "digits", "model": "mlp", "workdir": str(tmp_path / "w"), "devices": 1}
    config = angle.Config(**options, **angle.PRESETS["smoke"])
    summary = angle.main(config, signals, [])
    assert re.match(r"test mae \S+ on \d+ images, ", capsys.readouterr().out.splitlines()[-1])
    path = summary["checkpoint"]
    whole = angle.main(angle.Config(evaluate=True, checkpoint=path), signals, [])
    assert whole["count"] == 359 and json.loads(capsys.readouterr().out)["mae"] == whole["mae"]
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    (found,) = angle.main(angle.Config(predict=(str(tmp_path / "x.png"),), checkpoint=path), signals, [])
    assert found["image"].endswith("x.png") and abs(found["outputs"][0]) < 90
    assert command([path]) == 0 and (pathlib.Path(path) / "predictions.png").exists()


def test_a_plan_whose_run_cannot_be_loaded_is_refused(own):
    made = runs.Plan(own.TASK, jc.data.Splits(*[own.part(8, i) for i in range(3)]), adam)
    task = {"name": "regression", "options": {}}
    build = {"model": {"name": "mlp", "options": {"num_classes": 1}}, "task": task}
    image = {"shape": (4, 4, 1), "dtype": "uint8"}
    for change, line in (
        ({"build": build}, "Plan: build: has neither .image. nor .inputs."),
        ({"build": build | {"image": image | {"dtype": "int8"}}}, "build.image.dtype: 'int8'"),
        ({"build": build | {"model": {"name": "nosuch", "options": {}}, "image": image}}, "build.model.name: 'nosuch'"),
        ({"task": own.TASK._replace(monitor="loss")}, "monitor='loss' of the task: must be a metric and its mode"),
    ):  # fmt: skip
        refused(line, check, dataclasses.replace(made, **change))
    check(dataclasses.replace(made, build=build | {"image": image}))


def test_average_weights_are_loaded_whatever_the_build_says(tmp_path):
    summary = jc.train_run(plan(ema=0.9), tmp_path / "run", show=False)
    again = runs.evaluate(jc.load_run(tmp_path / "run"), DATA.test)
    assert again["mae"] == pytest.approx(summary["test"]["mae"], rel=1e-6)

"""Studies: what is found, what ends early, what goes on after a kill, and which folders are refused."""

import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import warnings

import filelock
import jax
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import tune
from jaxcnn.cli import recipe, weights
from jaxcnn.cli import train as trained
from jaxcnn.cli import tune as command
from jaxcnn.cli.main import main
from jaxcnn.core.types import Interrupted
from jaxcnn.tune import cells, study
from tests.small import learning, rows

optuna = pytest.importorskip("optuna")
RATE = {"rate": optuna.distributions.FloatDistribution(1e-6, 1e-1, log=True)}


def plan_of(values, **changes):
    data, task = rows(48), learning(dropout=0.0)

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.constant(values["rate"]))

    options = {"batch_size": 16, "epochs": 4, "strategy": "jit"} | changes
    return jc.Plan(task, jc.data.Splits(data, data, data), optimizer, **options)


def test_the_best_rate_is_found_and_the_study_goes_on(tmp_path):
    lines = []
    one = tune.search(plan_of, RATE, tmp_path, trials=5, sampler="random", pruner="none", log=lines.append)
    assert len(one.rows) == len(lines) == 5 and {row["state"] for row in one.rows} == {"complete"}
    assert one.value == min(row["value"] for row in one.rows) and one.metric == ("loss", "min")
    values = sorted((row["rate"], row["value"]) for row in one.rows)
    assert values[0][1] > one.value and one.best["rate"] > 1e-4  # a tiny rate learns nothing
    assert one.importance == {"rate": pytest.approx(1)}
    more = tune.search(plan_of, RATE, tmp_path, trials=6, sampler="random", pruner="none")
    assert more.rows[:5] == one.rows and len(more.rows) == 6
    assert tune.search(plan_of, RATE, tmp_path, trials=6).rows == more.rows  # nothing is left to do
    other = jc.data.Splits(*[rows(48, seed=7)] * 3)
    with pytest.raises(jc.InputError, match="another identity: sha256 was"):
        tune.search(lambda values: dataclasses.replace(plan_of(values), data=other), RATE, tmp_path, trials=7)
    with pytest.raises(jc.InputError, match="another identity: epochs was 4 and is now 5"):
        tune.search(lambda values: plan_of(values, epochs=5), RATE, tmp_path, trials=7)


@pytest.mark.slow
def test_trials_that_are_worse_end_early(tmp_path):
    found = tune.search(plan_of, RATE, tmp_path, trials=12, sampler="random", pruner="halving")
    ended = [row for row in found.rows if row["state"] == "pruned"]
    assert ended and all(row["steps"] < 12 and row["value"] is None for row in ended)
    assert found.number not in {row["number"] for row in ended}


def test_a_trial_that_cannot_be_trained_fails_alone(tmp_path):
    def some(values):
        return plan_of(values, batch_size=0 if values["rate"] > 1e-3 else 16)

    lines = []
    found = tune.search(some, RATE, tmp_path, trials=4, sampler="random", pruner="none", log=lines.append)
    assert {row["state"] for row in found.rows} == {"complete", "failed"} and found.best["rate"] <= 1e-3
    assert any("batch_size=0" in line for line in lines)
    with pytest.raises(jc.InputError, match="no trial of the study succeeded: batch_size=0"):
        tune.search(lambda values: plan_of(values, batch_size=0), RATE, tmp_path / "none", trials=2)


def test_a_stop_leaves_a_trial_that_is_tried_again(tmp_path):
    calls = iter(range(1000))
    with pytest.raises(jc.StoppedError):
        tune.search(plan_of, RATE, tmp_path, trials=3, sampler="random", pruner="none", stop=lambda: next(calls) > 4)
    found = tune.search(plan_of, RATE, tmp_path, trials=3, sampler="random", pruner="none")
    assert len(found.rows) == 3 and len({row["rate"] for row in found.rows}) == 3


def test_a_stop_in_the_last_validation_leaves_the_trial_too(tmp_path, monkeypatch):
    asked, real = [], study.timed_evaluate

    def evaluate(*args, **options):
        asked.append(args)
        if len(asked) == 2:  # `fit` asks once before, for the names
            raise Interrupted
        return real(*args, **options)

    how = {"sampler": "random", "pruner": "none"}
    with monkeypatch.context() as patch, pytest.raises(jc.StoppedError):
        patch.setattr(study, "timed_evaluate", evaluate)
        tune.search(lambda values: plan_of(values, epochs=1), RATE, tmp_path, trials=1, **how)
    assert len(asked) == 2
    (row,) = tune.search(lambda values: plan_of(values, epochs=1), RATE, tmp_path, trials=1, **how).rows
    assert row["state"] == "complete"


def reports(*values, error=None):
    def measure(settings, report, stop):
        for i, value in enumerate(values):
            report({"validation/loss": value, "step": 10 * (i + 1)})
        if error:
            raise error

    return measure


def test_the_result_is_that_of_the_weights_that_are_kept(tmp_path):
    def found(name, best, *values):
        return tune.extend(reports(*values), ("loss", "min"), RATE, tmp_path / name, trials=1, best=best)

    assert found("best", True, 0.1, 5.0, np.nan).value == 0.1 and found("last", False, 0.1, 5.0).value == 5.0
    with pytest.raises(jc.InputError, match="no trial of the study succeeded"):
        found("nan", False, 0.1, np.nan)
    for best in (True, False):  # of the plan
        some = lambda values, best=best: plan_of(values | {"rate": 1.0}, epochs=8, best=best)
        one = tune.search(some, RATE, tmp_path / f"plan {best}", trials=1, pruner="none")
        seen: list[dict] = []
        study.train(some({}), seen.append, lambda: False)
        losses = [row["validation/loss"] for row in seen]
        assert one.value == pytest.approx(min(losses) if best else losses[-1])


def test_the_updates_of_trials_that_diverge_count(tmp_path):
    ends = iter([jc.DivergedError("the loss is nan", 91, 100)] * 2 + [None] * 9)
    measure = lambda *given: reports(0.5, np.nan, error=next(ends))(*given)
    found = tune.extend(measure, ("loss", "min"), RATE, tmp_path, trials=9, updates=215)
    assert [row["steps"] for row in found.rows] == [100, 100, 20] and found.updates == 220


def test_no_moment_lies_between_two_trials(tmp_path):
    running = []

    def log(line):
        one = optuna.load_study(study_name="study", storage=storage(tmp_path))
        running.append(sum(trial.state.name == "RUNNING" for trial in one.trials))

    tune.extend(reports(0.5), ("loss", "min"), RATE, tmp_path, trials=3, log=log)
    assert running == [1, 1, 0]


def storage(folder):
    journal = optuna.storages.journal
    return journal.JournalStorage(journal.JournalFileBackend(str(folder / "journal.log")))


def test_the_seed_draws_a_sequence_of_sobol_too(tmp_path):
    rates = [
        [row["rate"] for row in tune.extend(
            reports(0.5), ("loss", "min"), RATE, tmp_path / name, trials=4, sampler="qmc", seed=seed
        ).rows]
        for name, seed in (("a", 0), ("b", 1), ("c", 0))
    ]  # fmt: skip
    assert rates[0] == rates[2] and not set(rates[0]) & set(rates[1])


def test_a_sequence_of_sobol_goes_on_after_a_failure(tmp_path):
    calls = iter(range(100))

    def some(values):  # the first plan of a study only tells what is measured
        return plan_of(values, batch_size=0 if next(calls) == 1 else 16, epochs=1)

    space = RATE | {"kind": optuna.distributions.CategoricalDistribution(tuple("abcd"))}
    found = tune.search(some, space, tmp_path, trials=6, sampler="qmc", pruner="none")
    assert [row["state"] for row in found.rows] == ["failed"] + ["complete"] * 5
    assert len({row["rate"] for row in found.rows}) == 6 and len({row["kind"] for row in found.rows}) > 1


def test_a_study_ends_when_the_last_trial_elsewhere_does(tmp_path):
    how, began, free = {"sampler": "random", "pruner": "none"}, threading.Event(), threading.Event()

    def slow(values):
        if threading.current_thread() is not threading.main_thread():
            began.set()
            assert free.wait(60)
        return plan_of(values, epochs=1)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        one = pool.submit(tune.search, slow, RATE, tmp_path, trials=1, **how)
        assert began.wait(60)
        free.set()
        assert one.result(60).rows == tune.search(plan_of, RATE, tmp_path, trials=1, **how).rows


def test_the_last_trial_of_a_study_is_tried_again_too(tmp_path):
    how = {"sampler": "random", "pruner": "none"}
    with pytest.raises(jc.StoppedError):
        tune.search(plan_of, RATE, tmp_path, trials=1, stop=lambda: True, **how)
    assert len(tune.search(plan_of, RATE, tmp_path, trials=1, **how).rows) == 1


@pytest.mark.slow
def test_two_processes_extend_one_study(tmp_path):
    program = "from jaxcnn import tune; from tests.tune.test_study import RATE, plan_of; import sys; "
    program += "tune.search(plan_of, RATE, sys.argv[1], trials=8, sampler='random', pruner='none')"
    how = {"env": os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}}
    both = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], **how) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    found = tune.search(plan_of, RATE, tmp_path, trials=8)
    assert [row["number"] for row in found.rows] == list(range(8))
    assert len({row["rate"] for row in found.rows}) == 8


def test_the_command_searches_trains_and_tests_once(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["tune", "digits", "--smoke", "--trials", "1", "--model", "mlp"]
    assert main(command) == 0, capsys.readouterr().err
    (summary,) = tmp_path.glob("runs/*/summary.json")
    trials, result = json.loads((tmp_path / "study/trials.json").read_text()), json.loads(summary.read_text())
    assert len(trials["rows"]) == 1 and result["test"]["count"] == 64 and result["experiment"] == "train"
    settings = json.loads(summary.with_name("config.json").read_text())["settings"]
    assert settings["learning_rate"] == trials["best"]["learning_rate"]
    path = tmp_path / "study/study.json"
    stored = json.loads(path.read_text())
    assert stored["identity"]["flags"].pop("remat") is False  # a flag that an older program did not have
    stored["identity"] |= {"flags": stored["identity"]["flags"] | {"data": "elsewhere/digits"}}  # the same rows
    path.write_text(json.dumps(stored))
    capsys.readouterr()
    with filelock.FileLock(tmp_path / "study/final.lock"):  # another process trains
        assert main(command) == 0
        assert "another process trains and tests with these settings" in capsys.readouterr().out
        (tmp_path / "study/final-trial.json").write_text('{"number": 7}')
        assert main(command) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "is training with the settings of trial 7, but trial 0 is better now; run the command again" in said


@pytest.mark.slow
def test_the_command_answers_from_its_summary_and_reports_the_study(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["tune", "digits", "--smoke", "--trials", "2", "--search", "momentum", "ema", "--model", "mlp"]
    assert main(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "budget 2 trials of at most 1 epoch (about 4 updates), tpe with hyperband" in out
    assert "spent 2 trials, 8 updates" in out
    assert main(command) == 0
    assert "no trial was added: nothing is trained or tested again" in " ".join(capsys.readouterr().out.split())
    (path,) = tmp_path.glob("runs/*/summary.json")
    summary = json.loads(path.read_text())
    assert summary["test_reads"] == 1 and summary["study"]["name"] == "study" and summary["study"]["updates"] == 8
    settings = json.loads(path.with_name("config.json").read_text())
    assert (
        settings["settings"]["momentum"] == json.loads((tmp_path / "study/trials.json").read_text())["best"]["momentum"]
    )
    assert settings["build"]["ema"] == settings["settings"]["ema"]
    assert main(["report", str(path.parent)]) == 0
    page = (path.parent / "report.html").read_text()
    assert "Study study: 2 trials (2 complete)" in page and "Budget: 2 trials" in page
    assert "Study study: 2 trials" in (path.parent / "MODEL_CARD.md").read_text()


@pytest.mark.slow
def test_the_command_searches_cells(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "digits", "--smoke", "--trials", "3", "--search", "cell"]) == 0, capsys.readouterr().err
    assert "3 cells after 16 updates with shared weights" in " ".join(capsys.readouterr().out.split())
    (path,) = tmp_path.glob("runs/*/config.json")
    model = json.loads(path.read_text())["build"]["model"]
    best = json.loads((tmp_path / "study/trials.json").read_text())["best"]
    assert model["name"] == "cell" and model["options"]["operations"] == list(cells.operations_of(best))
    assert json.loads(path.with_name("summary.json").read_text())["study"]["updates"] == 16


@pytest.mark.parametrize("name, options", [("plain", {"depth": 2, "width": 8, "kernel_size": 5}), ("cnn", {})])
def test_flags_give_networks_their_form(name, options):
    config = trained.Train(model=name, **options)
    assert weights.form_of(config, name) == options
    made = jc.models.MODELS[name](3, **options)
    assert name == "cnn" or (made.channels == (8, 8) and made.kernel_size == 5)


def test_momentum_reaches_the_optimizer():
    grads = {"kernel": jax.numpy.ones((2, 2))}

    def moved(momentum):
        tx = recipe.adamw(trained.Train(learning_rate=1e-2, momentum=momentum))(10)
        state = tx.init(grads)
        for factor in (1.0, -1.0):  # the mean of the gradients decides which way the second update goes
            change, state = tx.update(jax.tree.map(lambda x, f=factor: f * x, grads), state, grads)
        return float(change["kernel"][0, 0])

    assert abs(moved(0.98)) < 0.1 * moved(0.0)


def test_test_rows_are_never_read(tmp_path):
    class Forbidden(jc.data.Resident):
        def once(self, *args, **kwargs):
            raise AssertionError("the test rows were read")

    def some(values):
        plan = plan_of(values)
        test = Forbidden(dict(plan.data.test.arrays), plan.data.test.classes)
        return jc.Plan(**{f: getattr(plan, f) for f in ("task", "optimizer", "batch_size", "epochs")},
                       data=plan.data._replace(test=test))  # fmt: skip

    assert np.isfinite(tune.search(some, RATE, tmp_path, trials=1).value)


@pytest.mark.parametrize(
    "change, line",
    [
        ({"space": {}}, "at least one setting"),
        ({"trials": 0}, "trials=0"),
        ({"seconds": -1}, "seconds=-1"),
        ({"trials": 2.5}, "trials=2.5: must be a whole number"),
        ({"space": ["rate"]}, r"space=\['rate'\]"),
        ({"space": {"value": RATE["rate"]}}, "space: value: is a column of the results"),
        ({"updates": 0}, "updates=0"),
        ({"sampler": "grid"}, "sampler='grid'"),
        ({"pruner": "median"}, "pruner='median'"),
        ({"seed": -1}, "seed=-1"),
        ({"space": {"rate": (0.1, 0.2)}}, "space: rate=.* must be one of optuna.distributions"),
        ({"space": {"rate": optuna.distributions.FloatDistribution(0.1, 0.2)}}, "another space"),
        ({"identity": "other rows"}, 'another identity: identity was .*"epochs": 4.* and is now "other rows"'),
        ({"identity": {"rows": object()}}, "identity: must be JSON values"),
    ],
)
def test_other_studies_and_bad_values_are_refused(tmp_path_factory, change, line):
    folder = tmp_path_factory.getbasetemp() / "one"
    if not (folder / "journal.log").exists():
        tune.search(plan_of, RATE, folder, trials=1)
    with pytest.raises(jc.InputError, match=line) as caught:
        tune.search(plan_of, **{"space": RATE, "folder": folder, "trials": 1} | change)
    assert "\n" not in str(caught.value)


def test_what_differs_is_named(tmp_path):
    extend = functools.partial(tune.extend, None, ("loss", "min"), RATE, tmp_path, trials=1)
    with pytest.raises(TypeError):
        extend(identity={"flags": {"epochs": 2, "seed": 1}})
    with pytest.raises(jc.InputError, match="another identity: epochs was 2 and is now 3; use the old value"):
        extend(identity={"flags": {"epochs": 3, "seed": 1}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Optuna, which goes on all the same
        kernels = {"kernel": optuna.distributions.CategoricalDistribution(((3, 3), (5, 5)))}
    with pytest.raises(jc.InputError, match=r"space: kernel: the choice \(3, 3\) must be text, a number"):
        tune.search(plan_of, kernels, tmp_path / "other", trials=1)
    (tmp_path / "file").touch()
    with pytest.raises(jc.InputError, match="is a file, not the folder of a study"):
        tune.search(plan_of, RATE, tmp_path / "file", trials=1)


def test_other_validation_rows_are_another_study(tmp_path):
    config, one, other = command.Tune(data="x"), rows(48), rows(48)
    other.arrays["label"] = 1 - other.arrays["label"] % 2
    same, changed = jc.data.Splits(one, one, one), jc.data.Splits(one, other, one)
    found = command.identity(config, same, tmp_path)
    assert found == command.identity(config, same, tmp_path) != command.identity(config, changed, tmp_path)
    del found["valid_sha256"]  # as in older studies
    (tmp_path / "study.json").write_text(json.dumps({"identity": found}))
    assert command.identity(config, same, tmp_path).keys() == found.keys()


def test_equal_settings_have_no_importance(tmp_path):
    """Where all trials that succeeded chose the same, and rounding alone tells them apart."""

    def measure(values, report, stop):
        if values["model"] == "big":
            raise jc.InputError("too big")
        report({"validation/loss": 0.3 + 1e-3 * next(count), "step": 1})

    count, choice = iter(range(99)), optuna.distributions.CategoricalDistribution(("big", "cnn"))
    found = tune.extend(measure, ("loss", "min"), {"model": choice}, tmp_path, trials=16, sampler="random")
    assert sum(row["state"] == "complete" for row in found.rows) >= 5 and found.importance == {}


def test_a_study_knows_only_min_and_max(tmp_path):
    with pytest.raises(jc.InputError, match="metric=.*: must be a name, and min or max"):
        tune.extend(None, ("loss", "minimize"), RATE, tmp_path, trials=1)


def test_a_damaged_journal_is_one_line(tmp_path):
    tune.search(plan_of, RATE, tmp_path, trials=1)
    path = tmp_path / "journal.log"
    path.write_bytes(b'{"op_code": 4, "nonsense"\n' + path.read_bytes())
    with pytest.raises(jc.InputError, match="is damaged"):
        tune.search(plan_of, RATE, tmp_path, trials=2)
    for old, new in (
        ('"directions":[1]', '"directions":[2]'), ('"steps":12', '"steps":-5'), ('"steps":12', '"steps":"abc"'),
        ('"values":[', '"values":[1e999,'), ('"param_value_internal":', '"param_value_internal":5'),
    ):  # fmt: skip
        tune.search(plan_of, RATE, tmp_path / new, trials=1, pruner="none")
        damaged = tmp_path / new / "journal.log"
        content = damaged.read_text().replace(" ", "")
        assert old in content, content
        damaged.write_text(content.replace(old, new))
        with pytest.raises(jc.InputError, match=r"journal.log: is damaged \("):
            tune.search(plan_of, RATE, tmp_path / new, trials=2)
    path.unlink()
    path.mkdir()
    with pytest.raises(jc.InputError, match="is a folder, not the journal of a study"):
        tune.search(plan_of, RATE, tmp_path, trials=2)


@pytest.mark.slow
def test_the_command_goes_on_after_a_kill_and_tests_once(tmp_path, capsys):
    command = [sys.executable, "-m", "jaxcnn", "tune", "digits", "--smoke", "--study", "study", "--workdir", "runs"]
    how = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}}
    process = subprocess.Popen([*command, "--trials", "5"], **how, stdout=subprocess.DEVNULL)
    journal = tmp_path / "study" / "journal.log"
    for _ in range(600):
        if journal.exists() and len(list((tmp_path / "study").glob("trial-*.lock"))) >= 2:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = list((tmp_path / "study").glob("trial-*.lock"))
    done = subprocess.run([*command, "--trials", "5"], **how, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    trials = json.loads((tmp_path / "study" / "trials.json").read_text())
    assert len(before) >= 2 and len(trials["rows"]) == 5 and (tmp_path / "study" / "trials.png").exists()
    (run,) = (tmp_path / "runs").glob("*/summary.json")
    assert json.loads(run.read_text())["test"]["count"] == 64


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--search", "moment"], "--search 'moment': unknown"),
        (["--search", "epochs"], "--search epochs: has no values to search"),
        (["--search", "cell", "--model", "cnn"], "--search cell: --model cnn fixes the network"),
        (["--model", "cnn", "--depth", "3"], "--depth 3: cnn has no such option"),
        (["--momentum", "1"], "--momentum 1.0: must be at least 0 and below 1"),
        (["--search", "dropout", "--dropout", "0.5"], "--dropout 0.5 fixes it"),
        (["--models", "resnet999"], "'resnet999': unknown"),
        (["--models", "cnn", "--model", "cnn"], "fixes the network"),
        (["--resume", "x"], "give --study again"),
        (["--sampler", "grid"], "sampler='grid'"),
        (["--minutes", "-1"], "--minutes -1: give at least 1 trial"),
        (["--search", "learning_rate="], "--search learning_rate=: has no values"),
        (["--search", "cell", "--pruner", "halving"], "--pruner halving: with --search cell, no trial can end early"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, capsys, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "digits", "--smoke", *arguments]) == 2
    error = capsys.readouterr().err
    assert line in error.replace("\n", " ").replace("         ", "") and "Traceback" not in error

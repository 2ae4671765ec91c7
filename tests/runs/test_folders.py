"""A run's folder: one process at a time, no links, complete at the end, with the results of the finished run."""

import errno
import json
import logging
import os
import pathlib
import shutil

import numpy as np
import pytest

import jaxcnn as jc
from experiments import cli, mnist, settings
from experiments.folders import open_folder
from jaxcnn import runs
from jaxcnn.cli import command
from jaxcnn.runs import folders, plots, results

fcntl = pytest.importorskip("fcntl")
ROWS = jc.data.Resident(
    {"image": np.zeros((4, 2, 2, 1), np.uint8), "label": np.zeros(4, np.int32)}, ("caf\udce9", "$5_$10")
)
SPLITS = jc.data.Splits(ROWS, ROWS, ROWS)
BUILD = {
    "model": {"name": "mlp", "options": {"num_classes": 2}}, "task": {"name": "classification", "options": {}},
    "image": {"shape": [2, 2, 1], "dtype": "uint8"},
}  # fmt: skip
PLAN = runs.Plan(runs.build(BUILD)[1], SPLITS, None, build=BUILD, dataset="some")
HEADLINE = PLAN.task.headline
PROGRAM = cli.program("mnist")


def opened(workdir, **flags):
    config = mnist.Config(workdir=str(workdir), **flags)
    return open_folder("mnist", config, PLAN, SPLITS, "0" * 64)


@pytest.fixture
def run(tmp_path):
    folder = opened(tmp_path)
    folders.release(folder)
    return folder


def test_names_of_any_bytes_are_kept(run):
    assert json.loads((run / "config.json").read_bytes())["classes"] == ["caf\udce9", "$5_$10"]
    assert opened(run, resume=True) == run
    folders.release(run)


def test_a_run_that_another_process_trains_is_refused(run):
    before = sorted(p.name for p in run.iterdir())
    with open(run / folders.LOCK, "r+b") as other:  # a lock belongs to an open file, not to a process
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(jc.InputError, match="another process trains into .*; wait until it has ended") as error:
            opened(run, resume=True)
        assert "\n" not in str(error.value) and sorted(p.name for p in run.iterdir()) == before
    assert opened(run, resume=True) == run
    folders.release(run)


def test_a_new_run_is_locked(tmp_path):
    folder = opened(tmp_path)
    with open(folder / folders.LOCK, "r+b") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    folders.release(folder)
    shutil.rmtree(folder)
    folders.release(folder)  # no harm


def test_a_run_that_was_finished_meanwhile_is_refused(run):
    (run / "summary.json").write_text("{}")
    with pytest.raises(jc.InputError, match="is finished"):
        opened(run, resume=True)


def test_where_there_are_no_locks_a_run_goes_on(tmp_path, monkeypatch, caplog):
    def no_lock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        assert opened(tmp_path)
    assert len(caplog.messages) == 1 and "cannot be locked (" in caplog.messages[0]


@pytest.mark.parametrize("name", ["checkpoints", "damaged", "replaced", "checkpoints/8", "checkpoints/8/state"])
def test_links_are_not_followed_for_saving(run, tmp_path, name):
    (tmp_path / "other").mkdir()
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).symlink_to(tmp_path / "other")
    with pytest.raises(jc.InputError, match=f"{name} is a link, which is not followed"):
        opened(run, resume=True)


def test_a_lock_that_is_a_link_is_replaced(run, tmp_path):
    (tmp_path / "other").write_text("precious")
    (run / folders.LOCK).unlink()
    (run / folders.LOCK).symlink_to(tmp_path / "other")
    folders.release(opened(run, resume=True))
    assert (tmp_path / "other").read_text() == "precious"


def test_a_disk_that_is_full_at_the_start(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders.files, "write_json", full)
    with pytest.raises(jc.InputError, match="--workdir .*: cannot be written .No space left on device.; give another"):
        opened(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_not_utf8_is_refused(tmp_path, monkeypatch):
    (tmp_path / "caf\udce9").mkdir()
    with pytest.raises(jc.InputError, match=r"--workdir .*caf\\udce9.* is not UTF-8; rename it"):
        opened(tmp_path / "caf\udce9" / "runs")
    monkeypatch.chdir(tmp_path / "caf\udce9")
    with pytest.raises(jc.InputError, match="is not UTF-8"):
        opened("runs")
    assert not list((tmp_path / "caf\udce9").iterdir())


def test_a_folder_that_is_gone_is_made_again(run, caplog):
    config = (run / "config.json").read_bytes()
    folders.restore(run, b"not needed")
    assert (run / "config.json").read_bytes() == config
    shutil.rmtree(run)
    folders.restore(run, config)
    assert (run / "config.json").read_bytes() == config and "deleted or moved" in caplog.text


def test_weights_that_are_not_saved_are_no_good_end(run):
    with pytest.raises(OSError, match="the weights are not saved: .* has no checkpoint of step 8"):
        folders.check_saved(run, 8)
    for part in ("state", "loop"):
        (run / "checkpoints" / "8" / part).mkdir(parents=True)
    folders.check_saved(run, 8)


VALUES = {"count": 5, "loss": 0.5, "accuracy": 0.8, "confusion": np.eye(3, dtype=np.int64)}


def test_arrays_that_are_large_have_a_file_of_their_own(tmp_path):
    matrix = np.zeros((500, 500), np.int64)
    matrix[3, 4] = 300
    values = results.tested(VALUES | {"large": matrix, "accuracies": np.array([np.nan, 1.0])})
    results.write(tmp_path, {"test": values, "loss": np.float32("nan")}, settings.Skipped())
    text = (tmp_path / "summary.json").read_text()
    summary = json.loads(text, parse_constant=pytest.fail)
    assert len(text) < 2000 and summary["test"]["confusion"] == np.eye(3).tolist() and summary["loss"] is None
    assert summary["test"]["accuracies"] == [None, 1] and "large" not in summary["test"]
    assert summary["test_arrays"] == {"file": "test_arrays.npz", "shapes": {"large": [500, 500]}}
    with np.load(tmp_path / "test_arrays.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["large"], matrix)
    assert (tmp_path / "test_arrays.npz").stat().st_size < 5000


def test_skipped_examples_are_listed(tmp_path):
    skipped = settings.Skipped()
    for i in range(30):
        skipped(f"{i}.png\n: cut", 2)
    results.write(tmp_path, {"test": {}}, skipped)
    assert (tmp_path / "skipped.txt").read_text().splitlines() == [f"{i}.png\\n: cut" for i in range(30)]
    assert len(json.loads((tmp_path / "summary.json").read_text())["skipped"]) == 20 and skipped.examples == 60


def test_a_test_loss_that_is_not_finite_is_said(tmp_path):
    line = results.line(VALUES | {"loss": float("nan")}, tmp_path, HEADLINE)
    assert line.startswith("test loss nan: the outputs are not finite") and "accuracy 0" not in line
    line = results.line(results.tested(VALUES, PLAN.task.shares), tmp_path, HEADLINE, "images")
    assert line.startswith("test accuracy 0.8000 (95 % interval 0.3")
    nothing = results.tested({"count": 0, "loss": 1.0, "accuracy": float("nan")}, PLAN.task.shares)
    assert nothing["accuracy_interval"] is None
    assert results.line(nothing, tmp_path, HEADLINE, "images").startswith("test accuracy nan on 0 images")
    assert results.line({"loss": 0.25, "count": 3}, tmp_path).startswith("test loss 0.2500 on 3 rows")


def test_a_finished_run_ends_well_when_a_signal_comes(run):
    code, line = command._stopped(PROGRAM, [run], 130, "outside training")
    assert code == 130 and f"--resume --workdir {run}" in line
    (run / "summary.json").write_text("{}")
    assert command._stopped(PROGRAM, [run], 130, "outside training")[0] == 0 and not command._continue(PROGRAM, [run])
    assert command._stopped(PROGRAM, [], 143, "outside training") == (
        143,
        "mnist: stopped outside training, nothing was begun",
    )


@pytest.mark.parametrize("name", ["plain", "with space", "caf\udce9's", "a\nb\\"])
def test_paths_are_quoted_as_a_shell_reads_them(name):
    import subprocess

    quoted = command.quoted(pathlib.Path(name))
    shown = subprocess.run(
        ["bash", "-c", f"printf %s {quoted}"], capture_output=True, check=True, env=dict(os.environ, LC_ALL="C")
    )
    assert shown.stdout == os.fsencode(name) and quoted.isprintable()


def test_the_summary_comes_before_the_plots(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(plots.files, "write_bytes", lambda path, data: order.append(path.name))
    monkeypatch.setattr(results.files, "write_json", lambda path, value: order.append(path.name))
    results.write(tmp_path, {"test": VALUES}, settings.Skipped())
    results.draw(tmp_path, [], VALUES, ("a", "b", "c"), HEADLINE, PLAN.task.figures)
    assert order == ["summary.json", "curves.png", "confusion_matrix.png"]


def test_settings_of_a_run_that_are_damaged_are_named(run, monkeypatch):
    config = json.loads((run / "config.json").read_text())
    config["settings"]["epochs"] = "many"
    (run / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("sys.argv", ["mnist", "--resume", "--workdir", str(run)])
    with pytest.raises(jc.InputError, match="settings: epochs.*not 'many'"):
        cli._parse(mnist.Config, "mnist", mnist.PRESETS)


@pytest.mark.parametrize(
    "error, code, part",
    [
        (RuntimeError("can't start new thread"), 1, "no more threads can be started"),
        (MemoryError(), 1, "out of memory at --batch-size 128"),
        (OSError(errno.ENOSPC, "No space left on device", "x\x1b[2J"), 2, "x\\x1b[2J: No space left on device"),
    ],
)
def test_errors_of_the_machine_are_one_line(error, code, part, capsys):
    assert command._said(error, PROGRAM, mnist.Config(), []) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line

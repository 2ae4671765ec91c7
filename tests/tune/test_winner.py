"""The final run of a study: trained and tested once, resumed, answered from its summary, counted if tested again."""

import json

import pytest

import jaxcnn as jc
from jaxcnn import report
from jaxcnn.cli import winner
from jaxcnn.cli.train import Train
from jaxcnn.report.study import study_as_html, study_as_markdown
from jaxcnn.tune import Trials

ABOUT = {
    "name": "first", "trials": {"complete": 2, "failed": 1}, "updates": 300, "seconds": 12.5,
    "budget": "3 trials, tpe", "metric": ["loss", "min"], "best": 1, "value": 0.5,
    "importance": {"dropout": 0.75, "augment": 0.25},
}  # fmt: skip


def trials(n=3, number=1):
    rows = [{"number": k, "state": "complete", "value": 0.5 + k, "steps": 9, "dropout": k / 10} for k in range(n)]
    rows[-1] |= {"state": "failed", "value": None, "error": "out of memory (99 <b>bytes</b>)"}
    shares = {"dropout": 0.75, "augment": 0.25}
    return Trials({"dropout": 0.1}, 0.5, number, ("loss", "min"), rows, shares, 300, 12.5)


def trainer(root, stop=False):
    """Pretends to train; the settings of each call, and the folder that it resumed."""
    calls = []

    def train(config, begun):
        folder = root / (config.resume or f"runs/{len(calls)}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"dropout": config.dropout}))
        calls.append((config.dropout, config.resume))
        begun(folder)
        if stop:
            raise jc.StoppedError(3)
        summary = {
            "test": {"accuracy": 0.75, "loss": 1.0, "count": 4}, "parameters": 1, "steps": 3, "epochs": 1, "seed": 0,
            "train_seconds": 1.0,
        }  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary))
        return summary

    return train, calls


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(folder):
        return {"task": {"headline": ["accuracy"]}, "settings": json.loads((folder / "config.json").read_text())}

    monkeypatch.setattr(winner.runs, "read_config", read)
    (tmp_path / "study").mkdir()
    return tmp_path


def final(place, train, found, dropout=0.1):
    return winner.final(Train(dropout=dropout), found, ABOUT, place / "study", train)


def test_a_finished_study_is_not_trained_or_tested_again(place, capsys):
    train, calls = trainer(place)
    first = final(place, train, trials())
    again = final(place, train, trials())
    assert len(calls) == 1 and again["test"] == first["test"] and first["test_reads"] == again["test_reads"] == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "no trial was added: nothing is trained or tested again" in out and "test accuracy 0.7500" in out
    more = final(place, train, trials(5))  # none of the new ones is better
    assert len(calls) == 1 and more["test_reads"] == 1
    assert "2 trials were added, and none is better" in " ".join(capsys.readouterr().out.split())
    assert len(json.loads((place / "runs/0/study.json").read_text())["rows"]) == 5


def test_a_second_look_at_the_test_rows_is_told_and_counted(place, capsys):
    train, calls = trainer(place)
    final(place, train, trials())
    capsys.readouterr()
    second = final(place, train, trials(5, number=3), dropout=0.3)
    out = " ".join(capsys.readouterr().out.split())
    assert [dropout for dropout, _ in calls] == [0.1, 0.3] and "the test rows were read once before" in out
    assert second["test_reads"] == 2
    assert json.loads((place / "runs/1/summary.json").read_text())["test_reads"] == 2
    third = final(place, train, trials(6, number=4), dropout=0.4)
    assert third["test_reads"] == 3 and "read 2 times before" in " ".join(capsys.readouterr().out.split())


def test_a_run_that_was_stopped_is_resumed(place, capsys):
    train, calls = trainer(place, stop=True)
    with pytest.raises(jc.StoppedError):
        final(place, train, trials())
    train, calls = trainer(place)
    found = final(place, train, trials())
    assert calls == [(0.1, "runs/0")] and found["test_reads"] == 1
    assert "is resumed" in capsys.readouterr().out
    with pytest.raises(jc.StoppedError):  # another winner starts a new run, and nothing was tested twice
        final(place, trainer(place / "x", stop=True)[0], trials(4, number=2))
    assert len(json.loads((place / "study/final.json").read_text())) == 2


def test_a_run_that_is_gone_was_tested_all_the_same(place):
    train, calls = trainer(place)
    final(place, train, trials())
    (place / "runs/0/summary.json").unlink()
    (place / "runs/0/config.json").unlink()
    assert final(place, train, trials())["test_reads"] == 2 and len(calls) == 2


def test_a_damaged_record_is_one_line(place):
    (place / "study/final.json").write_text('[{"folder": 3}]')
    with pytest.raises(jc.InputError, match="final.json: .*remove the file") as caught:
        final(place, trainer(place)[0], trials())
    assert "\n" not in str(caught.value)


def test_a_record_of_a_run_with_other_settings_is_one_line(place):
    train, calls = trainer(place)
    final(place, train, trials())
    (place / "runs/0/config.json").write_text('{"dropout": 0.3}')
    with pytest.raises(jc.InputError, match="0: named in final.json, but its dropout is not that of trial 1"):
        final(place, train, trials())
    assert len(calls) == 1


def test_a_report_shows_the_study(place):
    final(place, trainer(place)[0], trials())
    found, notes = report.study(place / "runs/0")
    assert found and not notes and found["budget"] == "3 trials, tpe" and len(found["pictures"]) == 1
    page = study_as_html({"study": found})
    card = study_as_markdown({"study": found}).replace("\\", "")
    for text in (page, card):
        assert "3 trials (2 complete, 1 failed), 300 updates, 12 s" in text and "0.7500" in text and "once" in text
    assert "data:image/png" in page and "out of memory (99 &lt;b&gt;" in page and "<b>bytes" not in page
    assert report.study(place) == (None, [])
    path = place / "runs/0/study.json"
    path.write_text(path.read_text().replace('"updates": 300', '"updates": "many"'))
    found, (note,) = report.study(place / "runs/0")
    assert found is None and "study.json is left out" in note and "many" in note

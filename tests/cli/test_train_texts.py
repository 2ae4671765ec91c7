"""Texts from the command line: training on a CSV file, prediction, explanation, the report, other data, refusals."""

import json

import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.cli.main import main

GOOD, BAD = (
    ("a great film", "great acting", "great and moving"),
    ("a tedious mess", "tedious and long", "such tedious acting"),
)


def reviews(path, times, seed=0, head="review,sentiment"):
    rng = np.random.default_rng(seed)
    rows = [
        f"{x} {rng.integers(1000)},{k}"
        for _ in range(times)
        for k, some in (("bad", BAD), ("good", GOOD))
        for x in some
    ]
    path.write_text("\n".join([head, *rows]) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    here = tmp_path_factory.mktemp("texts")
    flags = ("--epochs", "12", "--batch-size", "16", "--devices", "1", "--learning-rate", "5e-3")
    vectors = here / "own.txt"
    vectors.write_text("great 1 0 0 1\ntedious 0 1 1 0\n", "utf-8")
    where = ("--vectors", str(vectors), "--workdir", str(here / "runs"))
    assert main(["train", str(reviews(here / "reviews.csv", 16)), *where, *flags]) == 0
    return next((here / "runs").iterdir())


def answer(capsys, *arguments):
    assert main([*map(str, arguments)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def refused(capsys, *arguments):
    assert main([*map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_a_run_keeps_its_words_and_is_right(trained):
    config, summary = (json.loads((trained / f"{name}.json").read_text()) for name in ("config", "summary"))
    assert set(config["words"].split(" ")[:2]) == {"great", "tedious"}
    assert summary["test"]["accuracy"] == 1 and summary["test"]["count"] == 19
    assert config["build"]["inputs"]["text"]["shape"] == [4]
    assert jc.runs.evaluate(jc.load_run(trained))["accuracy"] == 1  # its own rows, read again


def test_texts_and_files_are_predicted(trained, tmp_path, capsys):
    (tmp_path / "x.txt").write_text("Tedious!", "utf-8")
    table = reviews(tmp_path / "more.csv", 7, 1)
    found = answer(capsys, "predict", trained, tmp_path / "x.txt", table, "--text", "a GREAT thing", "nosuchword")
    assert len(found) == 1 + 42 + 2 and found[0]["class"] == "bad" and found[-2]["class"] == "good"
    assert found[1]["file"].endswith("more.csv:2") and found[1]["class"] == "bad"
    assert found[-1]["probability"] < 0.95
    (tmp_path / "empty.txt").write_text(" ")
    assert "empty.txt: is empty" in refused(capsys, "predict", trained, tmp_path / "empty.txt")
    line = refused(capsys, "predict", trained, "--text", "good", str(tmp_path / "x.txt"))
    assert "is a file; give it before --text" in line
    assert "a text without a character" in refused(capsys, "predict", trained, "--text", " ")


def test_a_changed_training_text_changes_no_word_of_the_run(tmp_path, capsys):
    rows = [
        f"{x} {i},{k},{'test' if i > 12 else 'train'}"
        for i in range(16)
        for k, some in (("bad", BAD), ("good", GOOD))
        for x in some
    ]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["text,label,split", *rows]) + "\n", "utf-8")
    flags = ("--epochs", "12", "--batch-size", "16", "--devices", "1", "--learning-rate", "5e-3")
    assert main(["train", str(path), "--workdir", str(tmp_path / "runs"), *flags]) == 0
    run = next((tmp_path / "runs").iterdir())
    before = answer(capsys, "evaluate", run)[-1]
    path.write_text(
        path.read_text().replace("great film 1,", "film of other words 1,").replace("tedious mess 2,", "x y z 2,")
    )
    after = answer(capsys, "evaluate", run)[-1]
    assert before["accuracy"] == after["accuracy"] == 1 and before["loss"] == after["loss"]


def test_a_text_is_the_same_from_a_file_and_from_the_command_line(tmp_path):
    config = {"words": "", "build": {"inputs": {"text": {"shape": [12]}}}, "source": {"options": {"unit": "bytes"}}}
    row = jc.runs.single.text_row(config, "  good\n")["text"]
    np.testing.assert_array_equal(row, jc.runs.single.text_row(config, "good")["text"])


def test_words_are_explained(trained, capsys):
    found = answer(capsys, "explain", trained, "--text", "a great film", "a tedious film", "--target", "good")
    assert max(found[0]["words"], key=found[0]["words"].get) == "great" and "tedious" not in found[1]["words"]
    page = (trained / "explanations" / "texts.html").read_text()
    assert 'class="for"' in page and ">tedious</mark>" in page and "<script" not in page


def test_the_report_shows_texts_with_their_words(trained, capsys):
    assert main(["report", str(trained)]) == 0
    page = (trained / "report.html").read_text()
    assert "What each word speaks for" in page and "tedious" in page
    assert "<img" not in page.split('id="examples"')[1].split("</section>")[0]


def test_other_texts_are_measured_with_the_words_of_the_run(trained, tmp_path, capsys):
    other = reviews(tmp_path / "other.csv", 2, 3, "text,label")
    found = answer(capsys, "evaluate", trained, other)[0]
    assert found["count"] == 12 and found["accuracy"] == 1
    np.savez(tmp_path / "a.npz", image=np.zeros((4, 8, 8, 1), np.uint8), label=np.arange(4) % 2)
    assert "is not measured on such data (npz)" in refused(capsys, "evaluate", trained, tmp_path / "a.npz")


def test_flags_that_do_not_apply(tmp_path, capsys):
    table = reviews(tmp_path / "a.csv", 2)
    for flags, line in (
        (("--image-size", "64"), "--image-size 64: applies to images, and these are texts"),
        (("--augment", "photos"), "--augment photos: applies to images"),
        (("--model", "resnet18"), "--model resnet18: is not for texts; use one of text_cnn"),
        (("--text-column", "nosuch"), "no column 'nosuch'"), (("--unit", "letters"), "--unit 'letters': unknown"),
        (("--vectors", str(tmp_path / "nosuch.txt")), "nosuch.txt: cannot be read"),
    ):  # fmt: skip
        assert line in refused(capsys, "train", table, "--workdir", tmp_path / "runs", *flags)
    for flags in (("--vectors", "x.txt"), ("--unit", "bytes"), ("--label-column", "x"), ("--text-column", "x")):
        line = refused(capsys, "train", "digits", *flags, "--workdir", tmp_path / "runs")
        assert f"{' '.join(flags)}: applies to texts" in line


def test_texts_are_described(tmp_path, capsys):
    assert main(["data", str(reviews(tmp_path / "a.csv", 4))]) == 0
    out = capsys.readouterr().out
    assert "rows of 4 words, " in out and "bad" in out and "good" in out


def test_a_damaged_vocabulary_is_refused(trained, tmp_path):
    import shutil

    folder = shutil.copytree(trained, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    for changed in (config["words"] + " more", config["words"].rsplit(" ", 1)[0] + " great"):
        (folder / "config.json").write_text(json.dumps(config | {"words": changed}))
        with pytest.raises(jc.InputError, match="words; must be those of the model"):
            jc.load_run(folder)


def test_a_bad_line_costs_no_other(trained, tmp_path, capsys):
    (tmp_path / "x.csv").write_text(
        "review,sentiment\na great film,good\n,bad\ntedious,bad\nsuch acting,good\n", "utf-8"
    )
    found = answer(capsys, "predict", trained, tmp_path / "x.csv", "--on-bad-example", "skip")
    assert [one["file"].rpartition(":")[2] for one in found] == ["2", "4", "5"]
    assert found[1]["class"] == "bad"


def test_what_would_be_lost_or_is_for_others_is_refused(trained, tmp_path, capsys):
    said = refused(capsys, "predict", trained, "--text", "a great film", "--text", "tedious")
    assert "--text: given 2 times; give it once, followed by all its values" in said
    said = refused(capsys, "predict", trained, "--text", "great", "--least-score", "0.9")
    assert "--least-score 0.9: only applies to detection; leave it out" in said
    assert "FILES: an empty name was given" in refused(capsys, "predict", trained, "")
    said = refused(capsys, "train", reviews(tmp_path / "x.csv", 2), "--task", "multilabel", "--workdir", tmp_path)
    assert "no 0/1 columns, which --task multilabel needs" in said
    said = refused(capsys, "train", tmp_path / "x.csv", "--lr-find", "--learning-rate", "0.1", "--workdir", tmp_path)
    assert "--learning-rate 0.1: --lr-find chooses the rate itself; give only one of them" in said
    said = refused(capsys, "export", trained, "--to", "stablehlo", "--calibration", "7")
    assert "--calibration 7: only applies with" in said
    assert "--csv" in refused(capsys, "predict", trained, "--text", "great", "--csv", tmp_path)


def test_texts_are_no_part_of_the_page(trained, tmp_path, capsys):
    text = "<img src=x onerror=alert(1)> great & <script>alert(2)</script>"
    assert main(["explain", str(trained), "--text", text, "--output", str(tmp_path)]) == 0
    page = (tmp_path / "texts.html").read_text()
    assert "<img" not in page and "<script" not in page and "&lt;img" in page


def test_columns_of_a_table_have_names_of_their_own(tmp_path):
    from jaxcnn.cli.predict import write

    one = {"file": "a.txt", "class": "p", "probability": 0.6, "probabilities": {"file": 0.4, "p": 0.6}}
    write(str(tmp_path / "x.csv"), [one])
    assert (tmp_path / "x.csv").read_text().splitlines()[0] == "file,class,probability,class file,class p"


def test_a_run_of_several_labels_has_a_report(tmp_path, capsys):
    lines = [f"{'goal ' * a}{'bank ' * b}the {i},{a},{b}" for i in range(40) for a, b in [(i % 2, i // 2 % 2)]]
    (tmp_path / "x.csv").write_text("\n".join(["text,sport,money", *lines]) + "\n", "utf-8")
    assert main(["train", str(tmp_path / "x.csv"), "--smoke", "--workdir", str(tmp_path / "runs")]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert f"next: jaxcnn report {run}" in capsys.readouterr().out
    assert main(["report", str(run)]) == 0 and (run / "report.html").exists()

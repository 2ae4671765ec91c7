"""`jaxcnn search`: an index of a folder, the nearest images, duplicates, and what is refused in one line."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from jaxcnn.cli.main import main

CLASSES = ("bee", "cat", "dog")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Photos of three colours, a copy among them, and the folders of two runs that are not trained."""
    root, rng = tmp_path_factory.mktemp("search"), np.random.default_rng(0)
    for k, name in enumerate(CLASSES):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 60, (20, 30, 3))
            pixels[..., k] += 150 + 10 * i
            Image.fromarray(pixels.astype(np.uint8)).save(root / "photos" / name / f"{i}.png")
    shutil.copy(root / "photos/cat/1.png", root / "photos/dog/copy.png")
    for name, task in (("classifier", "classification"), ("embedder", "embedding")):
        build = {
            "model": {"name": "cnn", "options": {"num_classes": 3, "widths": [3, 4]}},
            "task": {"name": task, "options": {"classes": 3} if task == "embedding" else {}},
            "image": {"shape": [24, 24, 3], "dtype": "uint8"},
        }  # fmt: skip
        made = jc.runs.build(build)[1]
        rows = {"image": np.zeros((2, 24, 24, 3), np.uint8), "label": np.zeros(2, np.int32)}
        variables = made.init(jax.random.key(0), rows)
        data = jc.data.Resident(rows, CLASSES)
        jc.save_run(root / name, made, variables, data, batch_size=2, build=build)
    return root


def answer(capsys, *arguments):
    assert main(["search", *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")], " ".join(err.split())


def refused(capsys, *arguments):
    assert main(["search", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return err.strip().splitlines()[-1]


@pytest.mark.parametrize("run", ["classifier", "embedder"])
def test_an_index_is_made_extended_and_searched(here, tmp_path, capsys, run):
    index, photos = tmp_path / "a.safetensors", here / "photos"
    lines, err = answer(capsys, here / run, "--add", photos / "bee", "--index", index)
    assert not lines and "3 images, 3 of them new" in err
    image = photos / "cat/1.png"
    lines, err = answer(capsys, here / run, image, "--add", photos, "--index", index, "--k", 3)
    # the folder of the first time is a part of the second, so that only the others are new
    assert "10 images, 7 of them new" in err and lines[0]["file"] == str(image)
    best = lines[0]["nearest"]
    assert len(best) == 3 and best[0]["file"] == str(image) and best[0]["name"] == "cat"
    assert best[0]["score"] == pytest.approx(1, abs=1e-5) and best[1]["file"].endswith("copy.png")
    lines, _ = answer(capsys, here / run, "--duplicates", 0.99999, "--index", index)
    assert {frozenset(line["files"]) for line in lines} >= {frozenset((str(image), str(photos / "dog/copy.png")))}
    other = "embedder" if run == "classifier" else "classifier"
    line = refused(capsys, here / other, image, "--index", index)
    assert "the index is of another run" in line and "make it with this one" in line


def test_a_file_that_was_replaced_is_read_again(here, tmp_path, capsys, monkeypatch):
    shutil.copytree(here / "photos", tmp_path / "photos")
    index, run = tmp_path / "a.safetensors", here / "embedder"
    answer(capsys, run, "--add", tmp_path / "photos", "--index", index)
    monkeypatch.chdir(tmp_path)
    _, err = answer(capsys, run, "--add", "photos", "--index", index)
    assert "10 images, 0 of them new, 0 read again" in err
    image = tmp_path / "photos/bee/0.png"
    shutil.copy(here / "photos/dog/2.png", image)
    lines, err = answer(capsys, run, "photos/bee/0.png", "--add", "photos", "--index", index, "--k", 2)
    assert "10 images, 0 of them new, 1 read again" in err
    assert str(image) in {one["file"] for one in lines[0]["nearest"]} and lines[0]["nearest"][0]["score"] > 0.99999


def test_duplicates_in_a_folder_need_no_index(here, tmp_path, capsys):
    lines, err = answer(capsys, here / "classifier", here / "photos", "--duplicates", 0.999999)
    assert lines[0]["score"] > 0.9999 and "of 10 images" in err
    assert any(sorted(line["files"])[1].endswith("copy.png") for line in lines)


def test_what_is_refused(here, tmp_path, capsys):
    run, photos, index = here / "embedder", here / "photos", tmp_path / "a.safetensors"
    answer(capsys, run, "--add", photos, "--index", index)
    one = photos / "cat/1.png"
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "bad.safetensors").write_bytes(b"\0" * 30)
    cases = [
        ((run, one), "--index: give a file"),
        ((run, "--index", index), "FILES: give images to search for"),
        ((run, one, "--index", index, "--k", 11), "--k 11: must be at most 10"),
        ((run, one, "--index", index, "--k", 0), "--k 0: must be at least 1"),
        ((run, one, "--index", tmp_path / "none.safetensors"), "no such index; make it with"),
        ((run, one, "--index", tmp_path / "bad.safetensors"), "no sound safetensors file"),
        ((run, "--add", tmp_path / "empty", "--index", index), "no images in this folder"),
        ((run, "--add", tmp_path / "gone", "--index", index), "no such folder"),
        ((run, tmp_path / "empty", "--index", index), "no images in this folder"),
        ((run, tmp_path / "bad.png", "--index", index), "bad.png"),
        ((run, one, "--index", "x.bin"), "an index is a .safetensors file"),
        ((run, one, "--duplicates", 2), "--duplicates 2.0: a cosine, must be in 0..1"),
        ((here / "photos", one, "--index", index), "not a run's folder"),
    ]
    for arguments, message in cases:
        line = refused(capsys, *arguments)
        assert message in line, line
    lines, err = answer(capsys, run, tmp_path / "bad.png", one, "--index", index, "--on-bad-example", "skip")
    assert len(lines) == 1 and "left out" in err

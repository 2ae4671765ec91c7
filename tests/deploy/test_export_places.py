"""Where exports go: only an older export is replaced, and the files of one are moved in together or not at all."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import InputError
from jaxcnn.deploy import places, program
from jaxcnn.deploy.exporters import Written
from jaxcnn.deploy.formats import EXPORTERS, files_of

SHAPE = {"image": jax.ShapeDtypeStruct((4,), np.float32)}
MADE = program.Program(lambda variables, x: {"logits": x["image"] * variables}, jnp.ones(()), SHAPE, {})


@pytest.fixture
def write(monkeypatch):
    """Export a program with exporters that write a counted line into each file."""
    count = [0]

    def exporter(to):
        def write(made, part, stem, batch):
            count[0] += 1
            for name in files_of(to, stem):
                if to in ("savedmodel", "page"):
                    (part / name).mkdir()
                    name += "/inside"
                (part / name).write_text(f"{count[0]}")
            return Written(files_of(to, stem), lambda x: {"logits": np.asarray(x["image"])}, {})

        return write

    for to in EXPORTERS:
        monkeypatch.setitem(EXPORTERS, to, exporter(to))
    return lambda to, path: jc.export(MADE, to, path, rows=2)


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch", "savedmodel"])
def test_an_older_export_is_replaced_and_nothing_else(write, tmp_path, to):
    for count in ("1", "2"):
        write(to, tmp_path / "a")
        found = content(tmp_path)
        assert len(found) == len(files_of(to, "a")) + 1
        assert all(text == count for name, text in found.items() if not name.endswith(".json"))
    for name in [name for name in found if to != "savedmodel"]:
        mine = tmp_path / f"of_mine_{name}"
        mine.mkdir()
        (mine / name).write_text("years")
        with pytest.raises(InputError, match=f"{name}: is a file that was not written by an export to {to}"):
            write(to, mine / "a")
        assert content(mine) == {name: "years"}


def test_side_files_and_reports_of_others_stay(write, tmp_path):
    for to, name in (("openvino", "weights.bin"), ("torch", "weights.safetensors"), ("onnx", "weights.onnx.json")):
        (tmp_path / name).write_text('{"sha256": ["weights"], "format": "onnx"}')
        with pytest.raises(InputError, match=f"{name}: is a file that was not written"):
            write(to, tmp_path / "weights")
    write("onnx", tmp_path / "b")
    about = json.loads((tmp_path / "b.onnx.json").read_text())
    (tmp_path / "b.onnx.json").write_text(json.dumps({**about, "sha256": {}}))  # names no file
    with pytest.raises(InputError, match="b.onnx: is a file"):
        write("onnx", tmp_path / "b")
    assert len(content(tmp_path)) == 5


def test_a_file_that_was_put_into_an_exported_folder_stays(write, tmp_path):
    write("savedmodel", tmp_path / "a")
    (tmp_path / "a/notes.txt").write_text("years")
    with pytest.raises(InputError, match="a: is a folder that was not written by an export to savedmodel"):
        write("savedmodel", tmp_path / "a")
    assert content(tmp_path)["a/notes.txt"] == "years"


@pytest.mark.parametrize("failing", ["a.xml.json", "a.xml", "a.bin"])
@pytest.mark.parametrize("older", [False, True])
def test_a_failed_move_brings_everything_back(write, tmp_path, monkeypatch, failing, older):
    if older:
        write("openvino", tmp_path / "a")
    before, move = content(tmp_path), os.replace

    def fails(source, target):
        if target == tmp_path / failing and ".part" in str(source):
            raise OSError(28, "No space left on device")
        move(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(InputError, match=f"{failing}: cannot be written .*No space left"):
        write("openvino", tmp_path / "a")
    assert content(tmp_path) == before and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_what_cannot_be_moved_back_is_kept_and_named(write, tmp_path, monkeypatch):
    write("onnx", tmp_path / "a")
    before, move = content(tmp_path), os.replace

    def fails(source, target):
        if os.path.basename(target) == "a.onnx" and "/." in str(source):
            raise OSError(5, "Input/output error")
        move(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(InputError, match="what was there before is in .*old"):
        write("onnx", tmp_path / "a")
    kept = [p for p in tmp_path.iterdir() if p.name.endswith(".old")]
    assert (kept[0] / "a.onnx").read_text() == before["a.onnx"]


def test_names(tmp_path):
    (tmp_path / "dir").mkdir()
    cases = [
        ("onnx", None, False, "exported", "model"), ("onnx", None, True, "exported", "model_int8"),
        ("page", None, False, "exported", "model_page"),
        ("onnx", "dir", False, "dir", "model"), ("onnx", "new/", False, "new", "model"),
        ("onnx", "dir", True, "dir", "model_int8"), ("savedmodel", "dir", False, "", "dir"),
        ("savedmodel", "new/", False, "new", "model_savedmodel"), ("onnx", "a.ONNX", False, "", "a"),
        ("onnx", "a.v1.2", False, "", "a.v1.2"), ("openvino", "a.xml", False, "", "a"),
    ]  # fmt: skip
    for to, given, int8, folder, stem in cases:
        path = None if given is None else f"{tmp_path}/{given}"
        assert places.target(path, tmp_path, to, int8) == (tmp_path / folder, stem), given
    for to, given, ending in (
        ("onnx", "a.tflite", "litert"),
        ("savedmodel", "a.onnx", "onnx"),
        ("torch", "a.XML", "op"),
    ):
        with pytest.raises(InputError, match=f"is the ending of {ending}"):
            places.target(tmp_path / given, tmp_path, to, False)

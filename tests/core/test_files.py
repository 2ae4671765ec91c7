"""Files that are not trusted: only regular files are read, up to a limit, and writing is all or nothing."""

import json
import os

import numpy as np
import pytest
from typing_extensions import TypedDict

from jaxcnn.core import files, schema, text
from jaxcnn.core.types import InputError


def test_a_write_replaces_a_link_and_never_what_it_points_to(tmp_path):
    (tmp_path / "victim").write_text("old")
    (tmp_path / "made.json").symlink_to(tmp_path / "victim")
    files.write_json(tmp_path / "made.json", {"a": 1})
    assert (tmp_path / "victim").read_text() == "old"
    assert json.loads((tmp_path / "made.json").read_text()) == {"a": 1}
    assert not (tmp_path / "made.json").is_symlink()


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        files.write_text(tmp_path / "a", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_file_that_is_appended_to_is_no_link(tmp_path):
    (tmp_path / "victim").write_text("old")
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError), files.appending(tmp_path / "log"):
        pass
    for line in (b"1\n", b"2\n"):
        with files.appending(tmp_path / "new") as file:
            file.write(line)
    assert (tmp_path / "new").read_bytes() == b"1\n2\n"


@pytest.mark.parametrize("read", [files.read_bytes, files.read_text, files.read_json])
def test_a_pipe_and_a_folder_are_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        read(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        read(tmp_path)


def test_limits_count(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 11)
    assert files.read_bytes(tmp_path / "a", 11) == b"x" * 11
    with pytest.raises(InputError, match="11 bytes, more than the 10"):
        files.read_bytes(tmp_path / "a", 10)


@pytest.mark.parametrize("content", [b"[" * 200_000, b"\xff\xfe", b"{", b"", b"1" * 5000])
def test_damaged_json_is_one_line(tmp_path, content):
    (tmp_path / "a\n.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        files.read_json(tmp_path / "a\n.json")
    assert "\n" not in str(caught.value)


def test_written_json_is_strict_and_old_json_is_read(tmp_path):
    values = {"a": float("nan"), "b": np.float32("inf"), "c": np.arange(3), 4: (1.5, None)}
    files.write_json(tmp_path / "a", values)
    got = json.loads((tmp_path / "a").read_text(), parse_constant=pytest.fail)
    assert got == {"a": None, "b": None, "c": [0, 1, 2], "4": [1.5, None]}
    (tmp_path / "old").write_text('{"loss": NaN}')
    assert np.isnan(files.read_json(tmp_path / "old")["loss"])


def test_names_of_other_bytes_are_written(tmp_path):
    files.write_text(tmp_path / "a", os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "a").read_text() == r"caf\udce9"


def test_what_acts_on_a_terminal_or_in_a_page_is_made_visible():
    assert text.visible("café 北京 a b") == "café 北京 a b"
    assert text.visible("a\x1b[31m\n\u202e\u2028" + os.fsdecode(b"\xe9")) == r"a\x1b[31m\n\u202e\u2028\udce9"
    assert text.html("<b a='\"'>\n") == r"&lt;b a=&#x27;&quot;&#x27;&gt;\n"
    assert text.markdown("[a](b) `c` <i>") == r"\[a\]\(b\) \`c\` \<i\>"


class Row(TypedDict):
    step: int
    loss: float | None


def test_a_value_that_does_not_fit_is_named_with_its_place():
    assert schema.fitted(dict[str, Row], {"a": {"step": 1, "loss": 2}}, "f") == {"a": {"step": 1, "loss": 2}}
    for value, match in (
        ({"a": {"step": "1", "loss": None}}, r"f: a\.step: .*integer, not '1'"),
        ({"a": {"loss": None}}, r"f: a\.step: field required"),
        ([], "f: the whole: .*dict.*, not "),
        ({"a": {"step": True, "loss": 1.0}}, "a.step"),
    ):
        with pytest.raises(InputError, match=match) as caught:
            schema.fitted(dict[str, Row], value, "f")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [".", "/", "folder"])
def test_a_folder_is_never_written_as_a_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_bytes(name, b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]

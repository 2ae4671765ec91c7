"""What reports say of the files that were exported from a run, and of reports of exports that are damaged."""

import hashlib
import json

import pytest

from jaxcnn.report import exported
from jaxcnn.report.exported import exported_as_html, exported_as_markdown

CONTENT = b"an exported program"


def write(folder, name="model.onnx", content=CONTENT, **more):
    """Write a file and its report, as an export leaves them."""
    place = folder / "exported"
    place.mkdir(exist_ok=True)
    (place / name).write_bytes(content)
    check = {"rows": 64, "source": "digits, test part", "largest_difference": 3e-7, "agreement": 1.0, "tolerance": 1e-4}
    about = {
        "format": "onnx", "bytes": len(content), "sha256": {name: hashlib.sha256(content).hexdigest()},
        "made": "2026-11-29T10:00:00+00:00", "check": check, "classes": ["0", "1"],
    } | more  # fmt: skip
    (place / f"{name}.json").write_text(json.dumps(about))


def test_files_are_listed_with_their_digests_and_whether_they_are_the_same(tmp_path):
    write(tmp_path)
    write(tmp_path, "other.onnx", check={"rows": 3, "source": "random rows", "largest_difference": 0.5})
    (tmp_path / "exported" / "other.onnx").write_bytes(b"another program")
    write(tmp_path, "gone.onnx")
    (tmp_path / "exported" / "gone.onnx").unlink()
    found, notes = exported(tmp_path)
    assert not notes and [one["files"][0]["name"] for one in found] == ["gone.onnx", "model.onnx", "other.onnx"]
    assert [one["files"][0]["state"] for one in found] == ["missing", "unchanged", "changed"]
    assert [one["agreement"] for one in found] == [1.0, 1.0, None] and found[1]["largest_difference"] == 3e-7
    whole = exported_as_markdown({"exported": found})
    assert hashlib.sha256(CONTENT).hexdigest() in whole and "3.0e-07" in whole and "random rows" in whole
    shown = exported_as_html({"exported": found})
    assert all(f"exported/{one['name']}" in shown and one["files"][0]["state"] in shown for one in found)
    assert [one["name"] for one in found] == ["gone.onnx", "model.onnx", "other.onnx"] and "3.0e-07" in shown
    assert exported(tmp_path / "nowhere") == ([], [])


@pytest.mark.parametrize(
    "change, line",
    [
        ("{", "not JSON"),
        ("[]", "input should be"),
        (json.dumps({"format": "onnx"}), "field required"),
        (None, "check.rows: input should be a valid integer"),
    ],
)
def test_a_damaged_report_is_a_note(tmp_path, change, line):
    write(tmp_path, check={"rows": "64", "source": "", "largest_difference": 0.0})
    if change is not None:
        (tmp_path / "exported" / "model.onnx.json").write_text(change)
    found, notes = exported(tmp_path)
    assert found == [] and len(notes) == 1
    assert notes[0].startswith("exported/model.onnx.json is left out: ") and line in notes[0]


def test_names_that_lead_out_of_the_folder_are_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    write(
        tmp_path, sha256={"../secret": digest, str(tmp_path / "secret"): digest, "a\0b": digest, "model.onnx": digest}
    )
    found, _ = exported(tmp_path)
    assert [one["state"] for one in found[0]["files"]] == ["missing"] * 3 + ["unchanged"]


def test_what_stands_in_a_report_is_no_markup(tmp_path):
    write(tmp_path, format="<script>alert(1)</script> | x")
    found, _ = exported(tmp_path)
    assert "<script" not in exported_as_html({"exported": found})
    shown = exported_as_markdown({"exported": found})
    assert "<script>" not in shown.replace("\\<script\\>", "") and "\\| x" in shown


def test_integers_and_weights_of_another_step_are_named(tmp_path):
    check = {"rows": 9, "source": "test part", "largest_difference": 0.1, "agreement": 0.99}
    measured = check | {"accuracy": 0.9701, "float32_accuracy": 0.9712}
    write(tmp_path, "int8.onnx", precision="int8", check=measured, step=7)
    write(tmp_path, step=9)
    write(tmp_path, "older.onnx")  # says nothing of its step
    found, notes = exported(tmp_path, 9)
    assert not notes and [one["other_step"] for one in found] == [7, None, None]
    shown = [line for line in exported_as_markdown({"exported": found}).splitlines() if "exported/" in line]
    assert "| onnx, int8 |" in shown[0] and "unchanged, but of step 7, not the measured one" in shown[0]
    assert "0.9701 (float32: 0.9712)" in shown[0].replace("\\", "")
    assert "| onnx |" in shown[1] and "| unchanged |" in shown[1] and "| unchanged |" in shown[2]
    page = exported_as_html({"exported": found})
    assert "onnx, int8" in page and "0.9701 (float32: 0.9712)" in page and page.count("but of step 7") == 1
    assert [one["other_step"] for one in exported(tmp_path)[0]] == [None] * 3

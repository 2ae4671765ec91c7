"""What reports show of the table of smaller networks, and of a table that is damaged."""

import json

import pytest

from jaxcnn.report import compressed
from jaxcnn.report.compressed import compressed_as_html, compressed_as_markdown

ONE = {
    "name": "int8 | <b>", "accuracy": 0.9912, "agreement": 0.5, "weights": 1234, "bytes": 4096, "zipped": 2048,
    "one": [0.25, 0.5], "many": [None, None],
}  # fmt: skip
TABLE = {"rows": 10_000, "runtime": "ONNX Runtime 1.0", "variants": [ONE]}


def test_variants_are_lines_of_the_report(tmp_path):
    assert compressed(tmp_path) == (None, [])
    (tmp_path / "compression.json").write_text(json.dumps(TABLE))
    found, notes = compressed(tmp_path)
    assert found == TABLE and not notes
    page, card = compressed_as_html({"compression": found}), compressed_as_markdown({"compression": found})
    for text in ("99.12 %", "50.00 %", "1,234", "0.25, 0.5", "10,000"):
        assert text in page and text in card
    assert "int8 | &lt;b&gt;" in page and "int8 \\| " in card
    (tmp_path / "compression.json").write_text(json.dumps({**TABLE, "variants": [ONE] * 101}))
    found, notes = compressed(tmp_path)
    assert len(found["variants"]) == 100 and "1 more variants" in notes[0]


@pytest.mark.parametrize(
    "content, line", [("{", "not JSON"), ("[]", "input should be"), (json.dumps({**TABLE, "rows": "9"}), "rows: input")]
)
def test_a_damaged_table_is_a_note(tmp_path, content, line):
    (tmp_path / "compression.json").write_text(content)
    found, notes = compressed(tmp_path)
    assert found is None and notes[0].startswith("compression.json is left out: ") and line in notes[0]

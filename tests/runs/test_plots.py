"""Plots: names are plain text, many classes get a different plot, and a failure to draw gives one line."""

import logging

import numpy as np
import pytest
from PIL import Image

from jaxcnn.runs import plots
from jaxcnn.tasks import figures

NAMES = ("$5_$10", "$\\frac{", "caf\udce9\x1b[31m\n", "x" * 300, "漢字", "", "a&b<c>")


def test_names_are_drawn_as_plain_text(tmp_path, caplog):
    counts = np.eye(len(NAMES), dtype=int) * 3
    assert plots.draw(tmp_path / "x.png", figures.confusion_matrix, counts, NAMES), caplog.messages
    assert np.asarray(Image.open(tmp_path / "x.png").convert("L")).std() > 5
    shown = [label.get_text() for label in figures.confusion_matrix(counts, NAMES).axes[0].get_xticklabels()]
    assert shown == ["$5_$10", "$\\frac{", "caf\\udce9\\x1b[31m\\n", "x" * 21 + "...", "漢字", "", "a&b<c>"]


@pytest.mark.parametrize("classes", [21, 200, 201, 1999])
def test_many_classes_are_another_picture(tmp_path, classes):
    counts = np.diag(np.arange(classes))
    figure = figures.confusion_matrix(counts, [f"${k}" for k in range(classes)])
    (image,) = figure.axes[0].get_images()
    assert max(image.get_array().shape) <= 200 and max(figure.get_size_inches()) < 18
    assert len(figure.axes) == (3 if classes > 200 else 2)
    assert plots.draw(tmp_path / "x.png", lambda: figure) and (tmp_path / "x.png").stat().st_size < 300_000


def test_groups_add_up(rng):
    counts = rng.integers(0, 9, (23, 23))
    found = figures.grouped(counts, 6)  # of four classes each, the last of three
    assert found.shape == (6, 6) and found[1, 5] == counts[4:8, 20:].sum() and found.sum() == counts.sum()


def test_what_cannot_be_drawn_is_one_line(tmp_path, caplog):
    def plot():
        raise ValueError("of two\nlines")

    with caplog.at_level(logging.WARNING, "jaxcnn"):
        assert not plots.draw(tmp_path / "x.png", plot)
        assert not plots.draw(tmp_path / "no folder" / "x.png", plots.curves, [])
    assert [("of two lines" in line, "not drawn" in line) for line in caplog.messages] == [(True, True), (False, True)]
    assert not list(tmp_path.iterdir())


def test_a_plot_is_not_written_through_a_link(tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / "x.png").symlink_to(tmp_path / "other")
    assert plots.draw(
        tmp_path / "x.png", plots.curves, [{"split": "train", "epoch": 1, "loss": float("nan"), "accuracy": None}]
    )
    assert (tmp_path / "other").read_text() == "precious" and not (tmp_path / "x.png").is_symlink()

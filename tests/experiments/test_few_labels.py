"""Few labels: bad flags before anything is read, and the table of several seeds."""

import dataclasses
import json

import pytest

import jaxcnn as jc
from experiments import few_labels


@pytest.mark.parametrize(
    "flags, line",
    [
        ({"data": ""}, "DATA: give the archive or the folder"),
        ({"methods": ("probe", "magic")}, "--methods 'magic': unknown"),
        ({"methods": ()}, "--methods 0: must be at least 1"),
        ({"labels": (10, 0)}, "--labels 0: must be at least 1"),
        ({"acquisition": "best"}, "--acquisition 'best': unknown"),
        ({"epochs": 9}, "--epochs 9: has no effect here; use the numbers of updates"),
        ({"rounds": 0}, "--rounds 0: must be at least 1"),
        ({"labels": (10, 10)}, "--labels 10 10: has a value twice"),
        ({"methods": ("scratch", "scratch")}, "--methods scratch scratch: has a value twice"),
        ({"threshold": 2.0}, "--threshold 2.0"),
        ({"evaluate": True}, "give one of the runs in the folder"),
    ],
)
def test_bad_flags_are_one_line(flags, line):
    config = dataclasses.replace(few_labels.Config(data="/nowhere"), **flags)
    with pytest.raises(jc.InputError) as caught:
        few_labels.main(config, None, [])
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_the_table_has_means_deviations_and_the_longest_training(tmp_path, capsys):
    config = few_labels.Config(labels=(10, 25), methods=("scratch", "active"), seeds=2)
    points = [
        {"method": method, "per_class": n, "seed": seed, "accuracy": n / 100 + 0.02 * seed, "minutes": 1.0 + seed}
        for method in config.methods
        for n in config.labels
        for seed in range(2)
    ]
    found = few_labels.report(tmp_path, config, points)
    assert found == json.loads((tmp_path / "summary.json").read_text()) and (tmp_path / "curve.png").stat().st_size
    row = found["table"][0]
    assert row["mean"] == pytest.approx([0.11, 0.26]) and row["minutes"] == [2.0, 2.0]
    assert row["deviation"] == pytest.approx([0.02 / 2**0.5] * 2)
    assert "0.1100 +- 0.0141 (2.0)" in capsys.readouterr().out

"""Time series: the distances that the network must be better than, and runs as a user starts them."""

import json
import zipfile

import numpy as np
import pytest

import jaxcnn as jc
from experiments import faces, forecast, series
from tests.experiments.test_experiments import folder, run


def wheel(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def waves(rows, seed):
    rng, lines = np.random.default_rng(seed), ["@classLabel true 1 2", "@data"]
    for i in range(rows):
        x = np.sin(np.arange(24) / (2 + 2 * (i % 2))) + 0.1 * rng.normal(size=24)
        lines.append(f"{','.join(f'{v:.4f}' for v in x)}:{i % 2 + 1}")
    return "\n".join(lines)


def air():
    """Seven hundred weeks of a table like that of the carbon dioxide, with gaps."""
    days = np.datetime64("1990-01-06") + 7 * np.arange(700)
    values = np.sin(np.arange(700) * 2 * np.pi / 52) + np.arange(700) / 300
    lines = [f"{d},{v if i % 50 else ''}" for i, (d, v) in enumerate(zip(days, values, strict=True))]
    return "\n".join(["date,co2", *lines])


def test_the_nearest_series():
    a, b = np.array([[0.0, 1, 2, 2], [5, 5, 5, 5]]), np.array([[0.0, 0, 1, 2], [5, 5, 5, 4]])
    np.testing.assert_allclose(series.warped(a, b)[0, 0], 0)  # the same shape, one step later
    np.testing.assert_allclose(series.warped(a, b)[1, 1], 1)
    rows = {"series": np.concatenate([a, b])[..., None].astype(np.float32), "label": np.array([0, 1, 0, 1])}
    part = jc.data.Resident(rows)
    assert series.nearest(jc.data.Splits(part.take([0, 1]), part.take([1]), part.take([2, 3]))) == {
        "nearest": 1.0, "nearest_dtw": 1.0,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["series", "forecast"])
def test_a_run(name, tmp_path):
    if name == "series":
        where = "aeon/datasets/data/ItalyPowerDemand/ItalyPowerDemand"
        files = {f"{where}_TRAIN.ts": waves(20, 0), f"{where}_TEST.ts": waves(8, 1), "aeon/x.py": ""}
        (tmp_path / "new.csv").write_text("1,2,3,5\n4,3,2\n")
    else:
        files = {"statsmodels/datasets/co2/co2.csv": air()}
        (tmp_path / "new.csv").write_text(files["statsmodels/datasets/co2/co2.csv"])
    flags = ["--unpacked", tmp_path / "data", "--workdir", tmp_path / "runs"]
    out, _ = run(wheel(tmp_path / "a.whl", files), "--smoke", *flags, name=name)
    path, values = folder(tmp_path / "runs"), json.loads(out.strip().splitlines()[-1])
    assert values == json.loads((path / f"{name}.json").read_text())
    wanted = {"accuracy", "nearest", "nearest_dtw"} if name == "series" else {"mae", "naive_mae", "mase_by_step"}
    assert wanted <= values.keys()
    out, _ = run("--evaluate", "--checkpoint", path, name=name)
    again = json.loads(out.strip().splitlines()[-1])
    key = "accuracy" if name == "series" else "mae"
    assert again[key] == pytest.approx(values[key], rel=1e-4)
    out, _ = run("--predict", tmp_path / "new.csv", "--checkpoint", path, name=name)
    lines = [json.loads(line) for line in out.strip().splitlines()]
    if name == "series":
        assert len(lines) == 2 and set(lines[0]["probabilities"]) == {"1", "2"}
    else:
        assert list(lines[0]["quantiles"]) == ["0.1", "0.5", "0.9"] and len(lines[0]["quantiles"]["0.5"]) == 52


@pytest.mark.parametrize("module", [series, faces])
def test_without_held_out_rows_nothing_stops_early(module):
    with pytest.raises(jc.InputError, match="--early-stopping 2: has no effect here; give --epochs"):
        module.plan(module.Config(early_stopping=2))


def test_only_known_files_are_unpacked():
    assert series.place("aeon/datasets/data/ArrowHead/ArrowHead_TEST.ts") == "ArrowHead/ArrowHead_TEST.ts"
    assert series.place("aeon/datasets/data/GunPoint/GunPoint_TEST.ts") is None
    assert forecast.place("statsmodels/datasets/co2/co2.csv") == "co2.csv" and forecast.place("co2/co2.csv") is None

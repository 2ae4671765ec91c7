"""Small networks on one core: the Pareto front, the table, energy counters, what is refused, and a short run."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments import edge, edge_worker
from jaxcnn import InputError


def row(name, ms, accuracy, mj=None):
    return {
        "network": name, "file": "ONNX int8", "accuracy": accuracy, "rows": 10, "flop": 2_500_000, "bytes": 4096,
        "ms": [ms, 2 * ms], "mib": 3.0, "mj": mj,
    }  # fmt: skip


def test_the_front_is_what_nothing_beats(tmp_path):
    rows = [row("a", 1.0, 0.5), row("b", 2.0, 0.4), row("c", 2.0, 0.7), row("d", 3.0, 0.7), row("e", 1.0, 0.5)]
    assert edge.front(rows) == [0, 2, 4]
    lines = edge.table(rows).splitlines()
    assert lines[2].startswith("| **a** | ONNX int8 | 50.00 % | 2.5 | 4 | 1, 2 | 3 | not measurable |")
    assert lines[3].startswith("| b |") and "no energy counters" in lines[-1]
    assert "no energy counters" not in edge.table([row("a", 1.0, 0.5, 0.25)])
    edge.draw(rows, tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as picture:
        assert picture.size == (960, 600)


def test_energy_is_the_sum_of_the_processors(tmp_path):
    assert edge_worker.energy(tmp_path) is None
    for name, used in (("intel-rapl:0", "2000000"), ("intel-rapl:1", "500000"), ("intel-rapl:0:0", "9")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(used)
    assert edge_worker.energy(tmp_path) == 2.5
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("")
    assert edge_worker.energy(tmp_path) is None


@pytest.mark.parametrize("changes, line", [
    ({"data": ""}, "DATA: give the data"), ({"networks": ()}, "--networks: name at least one"),
    ({"networks": ("resnet21",)}, "--networks 'resnet21'"), ({"images": 20}, "--images 20: must be at least 21"),
    ({"epochs": 0}, "--epochs 0"), ({"learning_rate": 0.0}, "--learning-rate 0.0"),
])  # fmt: skip
def test_refused(changes, line):
    with pytest.raises(InputError, match=line):
        edge.check(edge.Config(**{"data": "x"} | changes))


@pytest.mark.slow
def test_files_are_measured_in_their_own_process(tmp_path):
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 12)):
        for k in range(2):
            (tmp_path / "data" / part / f"c{k}").mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 100, (32, 32, 3)) + 100 * k
                Image.fromarray(image.astype(np.uint8)).save(tmp_path / "data" / part / f"c{k}" / f"{i}.png")
    config = edge.Config(
        data=str(tmp_path / "data"), networks=("tutorial",), workdir=str(tmp_path / "runs"), smoke=True, images=22,
        calibration=8,
    )  # fmt: skip
    made = edge.main(config)
    assert [one["file"] for one in made["rows"]] == list(edge.FILES)
    whole, small, lite = made["rows"]
    assert small["bytes"] < 0.5 * whole["bytes"] and whole["rows"] == 24 and whole["flop"] > 1e6
    assert whole["accuracy"] == lite["accuracy"] and all(0 < one["ms"][0] <= one["ms"][1] for one in made["rows"])
    assert json.loads((tmp_path / "runs" / "edge.json").read_text())["rows"] == json.loads(json.dumps(made["rows"]))
    assert (tmp_path / "runs" / "front.png").exists() and "tutorial" in (tmp_path / "runs" / "table.md").read_text()

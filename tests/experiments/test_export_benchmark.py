"""`python -m experiments.benchmarks.export`: every network is described, runs are measured on their own rows."""

import json

import pytest

import jaxcnn as jc
from experiments.benchmarks import export
from jaxcnn.runs.described import check_build
from tests.fixtures import pseudo


@pytest.mark.parametrize("name", [*jc.models.NETWORKS, "unet of volumes"])
def test_every_network_has_a_description_that_a_run_could_have(name):
    build = export.described(name)
    check_build(build, name)
    jc.runs.build(build)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    build = {
        "model": {"name": "cnn", "options": {"num_classes": 10, "widths": [3, 4]}},
        "task": {"name": "classification", "options": {}}, "image": {"shape": [8, 8, 1], "dtype": "uint8"},
    }  # fmt: skip
    variables = pseudo.variables(jc.models.cnn(widths=(3, 4)), (8, 8, 1))
    splits, source = jc.data.Splits(*jc.data.digits(seed=0)), jc.runs.source("digits", {"seed": 0})
    task = jc.runs.build(build)[1]
    place = tmp_path_factory.mktemp("benchmark") / "run"
    jc.save_run(place, task, variables, splits, batch_size=2, build=build, source=source)
    return str(place)


def test_runs_and_networks_and_what_other_runtimes_raise(run, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise RuntimeError("failed to deserialize\nportable artifact")

    monkeypatch.setitem(export.EXPORTERS, "savedmodel", fails)
    table = tmp_path / "found.json"
    config = export.Config(("sound_cnn", run), ("savedmodel", "stablehlo"), rows=40, json=str(table))
    found = export.main(config)
    assert found == json.loads(table.read_text()) and len(capsys.readouterr().out.splitlines()) == 4
    assert [one.get("error") for one in found] == ["failed to deserialize portable artifact", None] * 2
    assert all(one["agreement"] == 1 and one["rows"] == 40 for one in (found[1], found[3]))
    assert found[3]["source"].endswith("test part") and found[3]["model"] == "cnn" and "source" not in found[1]


def test_a_run_without_its_data_is_an_error_and_the_next_is_measured(run, tmp_path, monkeypatch):
    def gone(*_, **__):
        raise jc.InputError("no such folder")

    monkeypatch.setattr("jaxcnn.deploy.rows.rows_to_measure", gone)
    found = export.main(export.Config((run, "lenet5"), ("stablehlo",), json=str(tmp_path / "found.json")))
    assert "no such folder" in found[0]["error"] and found[1]["largest_difference"] < 1e-4
    for config, line in (
        (export.Config((str(tmp_path / "no"),)), "--networks .*: no folder of a run"),
        (export.Config(formats=("html",)), "--formats html: must be one of"), (export.Config(rows=0), "--rows 0"),
    ):  # fmt: skip
        with pytest.raises(jc.InputError, match=line):
            export.main(config)

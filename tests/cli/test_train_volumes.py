"""Volumes from the command line: training, other data, labels in the geometry of the file, the report, and refusals."""

import json

import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.cli import layouts, recipe
from jaxcnn.cli.main import main
from jaxcnn.data import dense_format, read_nifti, read_volume

nibabel = pytest.importorskip("nibabel")
from tests.data.volumes_on_disk import make_volumes, write  # noqa: E402 (needs nibabel)

SHAPES = [(8, 9, 10), (10, 8, 8), (8, 10, 9), (9, 9, 9)] * 2
FEW = ("--max-steps", "2", "--batch-size", "2", "--devices", "1")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return make_volumes(tmp_path_factory.mktemp("volumes") / "a", SHAPES)


@pytest.fixture(scope="module")
def trained(here):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipe.VOLUMES, "widths", [4, 8])
        assert main(["train", str(here), "--workdir", str(here.parent / "runs"), *FEW]) == 0
    return next((here.parent / "runs").iterdir())


def answer(capsys, *arguments):
    assert main([*map(str, arguments)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def refused(capsys, *arguments):
    assert main([*map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_the_data_say_what_they_are(here, tmp_path, capsys):
    found = layouts.look(str(here))
    assert (found.kind, found.task, dense_format(here)) == ("volumes", "segmentation", "volumes")
    make_volumes(tmp_path / "parts" / "train", SHAPES[:1], images="images", labels="labels")
    assert dense_format(tmp_path / "parts") == "volumes"
    assert main(["data", str(here), "--output", str(tmp_path / "e.png")]) == 0
    said = capsys.readouterr().out
    assert "10 x 10 x 10 x 1" in said and "slices of volumes" in said and (tmp_path / "e.png").stat().st_size > 2000


def test_a_run_and_its_measurements(trained, here, tmp_path, capsys):
    config, summary = jc.runs.read_config(trained), json.loads((trained / "summary.json").read_text())
    assert config["build"]["model"]["options"]["dims"] == 3 and config["source"]["name"] == "volumes"
    assert {"iou", "dice", "dice_per_class"} <= summary["test"].keys()
    own = answer(capsys, "evaluate", trained, "--devices", 1)[0]
    assert own["own_test_data"] and own["iou"] == summary["test"]["iou"]
    other = make_volumes(tmp_path / "b", [(9, 8, 10), (7, 7, 12)])
    found = answer(capsys, "evaluate", trained, other, "--devices", 1)[0]
    assert not found["own_test_data"] and found["count"] == 2


def test_labels_have_the_geometry_of_the_file(trained, tmp_path, capsys):
    affine = np.array([[-2.0, 0, 0, 5], [0, 0, 1.5, 3], [0, 1, 0, 9], [0, 0, 0, 1]])  # axes in another order
    voxels = np.random.default_rng(0).random((9, 7, 12)).astype(np.float32)
    write(tmp_path / "x.nii.gz", voxels, affine)
    found = answer(capsys, "predict", trained, tmp_path / "x.nii.gz", "--out", tmp_path / "out")[0]
    made = nibabel.load(found["labels"])
    assert made.shape == (9, 7, 12) and np.allclose(made.affine, affine)
    loaded, shape = jc.load_run(trained), tuple(jc.runs.read_config(trained)["build"]["image"]["shape"])
    voxels = read_volume(tmp_path / "x.nii.gz")
    assert max(voxels.shape) > max(shape)  # larger than the rows: nothing is cut
    row = jc.data.centred(voxels, tuple(map(max, shape, voxels.shape)))
    best = np.asarray(loaded.task.predict(loaded.variables, {"image": row[None]}))[0].argmax(-1)
    labels = read_nifti(found["labels"]).voxels
    np.testing.assert_array_equal(labels, jc.data.centred(best.astype(np.uint8), labels.shape))
    counts = np.bincount(labels.ravel(), minlength=3)
    assert list(found["millilitres"].values()) == pytest.approx(counts * 3.0 / 1000, abs=1e-3)


def test_the_report_has_slices(trained, capsys):
    assert main(["report", str(trained)]) == 0
    made = json.loads((trained / "report.json").read_text())
    assert len(made["worst"]) == 2 and all(one["true"].startswith("data:image/png") for one in made["worst"])
    assert [line["class"] for line in made["per_class"]] == ["0", "1", "2"]


@pytest.mark.parametrize("flags, message", [
    (("--model", "fcn_resnet50"), "is not for segmentation of volumes; use one of unet"),
    (("--augment", "digits"), "volumes are not turned"),
    (("--resize", "pad"), "only image files are resized"),
])  # fmt: skip
def test_flags_that_do_not_fit(flags, message, here, tmp_path, capsys):
    assert message in refused(capsys, "train", here, "--workdir", tmp_path, *FEW, *flags)


def test_a_volume_is_explained_in_python(trained, here, capsys):
    said = refused(capsys, "explain", trained, here / "imagesTr" / "v0.nii.gz")
    assert "a run on volumes; use jaxcnn.explain.at_pixel" in said

"""Pixels, voxels and boxes: archives, their scores, the baselines, lines of a lane, and a run as a user starts it."""

import io
import json
import pathlib
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import jaxcnn as jc
from experiments import archives, baselines, blood_cells, hippocampus, lanes, membrane, pixels, roads
from tests.experiments.test_experiments import folder, run


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def cells(seed, side=48):
    """Bright cells with dark membranes between them: an image, and a mask that is 0 on membranes."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, side, (12, 2))
    places = np.indices((side, side)).reshape(2, -1).T
    nearest = np.linalg.norm(places[:, None] - centres, axis=-1).argmin(1).reshape(side, side)
    edge = ndimage.maximum_filter(nearest, 3) != ndimage.minimum_filter(nearest, 3)
    image = np.where(edge, 70, 170) + rng.normal(0, 25, (side, side))
    return image.clip(0, 255), np.where(edge, 0, 255)


@pytest.fixture(scope="module")
def membranes(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "membrane.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("LICENSE", "MIT")
        archive.writestr("membrane/test/0.png", encoded(cells(99)[0]))
        for i in range(30):
            for kind, x in zip(("image", "label"), cells(i), strict=True):
                archive.writestr(f"membrane/train/{kind}/{i}.png", encoded(x))
    return path


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    """Classes in bands of their own colour, with unlabelled pixels."""
    path, rng = tmp_path_factory.mktemp("data") / "camvid.zip", np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for part, count in (("train", 4), ("val", 2), ("test", 3)):
            for i in range(count):
                mask = np.repeat(np.arange(12), 3)[:, None] * np.ones((36, 48), int)
                image = np.stack([20 * mask, 250 - 20 * mask, 90 + 0 * mask], -1) + rng.integers(0, 9, (36, 48, 3))
                archive.writestr(f"CamVid/{part}/00_{i}.png", encoded(image.clip(0, 255)))
                archive.writestr(f"CamVid/{part}annot/00_{i}.png", encoded(mask))
            archive.writestr(f"CamVid/{part}_subset.txt", "names")
    return path


def test_slices_go_to_their_parts(membranes, tmp_path):
    config = membrane.Config(data=str(membranes), unpacked=str(tmp_path))
    splits = membrane.load(config)
    assert [part.size for part in splits] == [20, 4, 6]
    numbers = [[int(pathlib.Path(name).stem) for name in part.names] for part in splits]
    assert numbers == [list(range(20)), [20, 21, 22, 23], [24, 25, 26, 27, 28, 29]]
    np.testing.assert_array_equal(splits.test.arrays["mask"][2], cells(26)[1] // 255)
    before = (tmp_path / "test/masks/26.png").stat().st_mtime_ns
    (tmp_path / "val/images/21.png").unlink()
    again = membrane.load(config)  # what is there stays, what is missing comes back
    assert (tmp_path / "test/masks/26.png").stat().st_mtime_ns == before and again.valid.size == 4
    assert membrane.load(membrane.Config(data=str(tmp_path))).train.size == 20


def test_tar_archives(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name in ("hippocampus/imagesTr/hippocampus_001.nii.gz", "hippocampus/labelsTr/._x", "../../evil"):
            info = tarfile.TarInfo(name)
            info.size = 5
            archive.addfile(info, io.BytesIO(b"hello"))
        link = tarfile.TarInfo("hippocampus/imagesTr/hippocampus_002.nii.gz")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    archives.unpack(tmp_path / "a.tar.gz", tmp_path / "out", hippocampus.place)
    found = [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert found == ["imagesTr/hippocampus_001.nii.gz"]


def test_scores_of_the_hippocampus():
    true = np.zeros((2, 6, 6, 6), np.uint8)
    true[:, 1:3, 1:5, 1:5], true[:, 3:5, 1:5, 1:5], true[:, 5] = 1, 2, 255
    found = np.where(true == 255, 1, true)
    spacing = np.array([[2.0, 1, 1], [1, 1, 1]])
    assert hippocampus.scores(found, true, spacing) == {
        "dice": 1.0, "dice_anterior": 1.0, "dice_posterior": 1.0, "hausdorff95": 0.0, "volumes": 2,
    }  # fmt: skip
    found[0, 1] = 0  # half of the anterior part of one volume
    worse = hippocampus.scores(found, true, spacing)
    assert worse["dice_anterior"] == pytest.approx((2 / 3 + 1) / 2) and worse["dice_posterior"] == 1
    assert worse["hausdorff95"] == pytest.approx(2.0 / 4)


@pytest.mark.parametrize("model", blood_cells.OPTIONS)
def test_detectors_of_blood_cells_are_described(model):
    body = {"name": "resnet18", "options": {"width": 32}}
    options = blood_cells.OPTIONS[model] | {"backbone": body, "num_classes": 3}
    build = {
        "model": {"name": model, "options": options}, "task": {"name": "detection", "options": {}},
        "image": {"shape": [240, 320, 3], "dtype": "uint8"},
    }  # fmt: skip
    jc.runs.check_build(json.loads(json.dumps(build)), "here", 3)
    found, task = jc.runs.build(build)
    assert found.backbone.width == 32 and task.monitor == ("ap50", "max")


def test_files_of_blood_cells():
    place = blood_cells.place
    assert place("BCCD/JPEGImages/BloodImage_00001.jpg") == "JPEGImages/BloodImage_00001.jpg"
    assert place("BCCD/ImageSets/Main/val.txt") == "ImageSets/Main/val.txt"
    assert place("BCCD/ImageSets/Main/../x.txt") is None and place("test.csv") is None


def test_streets_go_to_their_parts(streets, tmp_path):
    splits = roads.load(roads.Config(data=str(streets), unpacked=str(tmp_path)))
    assert [part.size for part in splits] == [4, 2, 3] and splits.train.classes == roads.CLASSES
    assert np.unique(splits.test.arrays["mask"]).tolist() == list(range(12))


@pytest.mark.parametrize("make, message", [
    (lambda p: "", "DATA: give the archive or the folder, as in python -m experiments.membrane DATA"),
    (lambda p: p / "nothing.zip", "cannot be unpacked"),
    (lambda p: (p / "bad.zip").write_bytes(b"PK\3\4 no") and p / "bad.zip", "cannot be unpacked"),
    (lambda p: zipfile.ZipFile(p / "other.zip", "w").close() or p / "other.zip", "has none of the files"),
])  # fmt: skip
def test_wrong_archives_are_one_line(make, message, tmp_path):
    with pytest.raises(jc.InputError, match=message) as error:
        membrane.load(membrane.Config(data=str(make(tmp_path)), unpacked=str(tmp_path / "out")))
    assert "\n" not in str(error.value)


def test_scores_of_membranes():
    masks = np.stack([cells(i)[1] // 255 for i in range(4)])
    truth = 1.0 - masks
    perfect = membrane.scores(0.2 * truth[:2], masks[:2], 0.2 * truth[2:], masks[2:])
    assert perfect["rand_f"] == 1 and perfect["iou"] == 0 and perfect["threshold"] < 0.2
    leaky = truth.copy()
    leaky[:, ::2] = 0
    worse = membrane.scores(leaky[:2], masks[:2], leaky[2:], masks[2:])
    assert worse["rand_f"] < 0.6 and 0.4 < worse["iou"] < 0.6
    assert worse["accuracy"] == pytest.approx(1 - truth[2:][:, ::2].sum() / truth[2:].size)


def test_scores_of_roads():
    masks = np.array([[[0, 0, 3, 3, 11, 11]]])
    found = roads.scores(np.array([[[0, 1, 3, 3, 5, 0]]]), masks)
    assert found["iou"] == pytest.approx((0.5 + 0 + 1) / 3) and found["road"] == 1 and found["accuracy"] == 0.75
    assert found["iou_per_class"]["sky"] == 0.5 and np.isnan(found["iou_per_class"]["car"])


def test_baselines_of_membranes(membranes, tmp_path, capsys):
    config = baselines.Config("membrane", str(membranes), str(tmp_path), trees=5, pixels=2000, patch=5)
    found = baselines.main(config)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["method"] for line in lines] == ["threshold", "forest"]
    for name, least in (("threshold", 0.7), ("forest", 0.7)):
        assert found[name]["iou"] > least and found[name]["accuracy"] > 0.85
    sigma, level = found["threshold"]["sigma"], found["threshold"]["level"]
    gray = [cells(i)[0].astype(np.uint8).astype(np.float32) for i in range(24, 30)]
    test = np.stack([ndimage.gaussian_filter(x, sigma) if sigma else x for x in gray]) < level
    truth = np.stack([cells(i)[1] for i in range(24, 30)]) == 0
    assert found["threshold"]["iou"] == pytest.approx((test & truth).sum() / (test | truth).sum(), rel=1e-3)


def test_baseline_of_roads(streets, tmp_path):
    found = baselines.main(baselines.Config("roads", str(streets), str(tmp_path), trees=5, pixels=2000))["forest"]
    assert found["iou"] > 0.95 and found["accuracy"] > 0.95


@pytest.mark.parametrize("options, message", [
    ({"name": "cells"}, "NAME 'cells': must be one of membrane, roads"),
    ({"name": "roads", "patch": 4}, "the side of a patch odd"),
    ({"name": "roads", "trees": 0}, "at least 1"),
])  # fmt: skip
def test_wrong_baselines_are_one_line(options, message):
    with pytest.raises(jc.InputError, match=message):
        baselines.main(baselines.Config(**options))


def test_lines_of_a_lane():
    rng = np.random.default_rng(0)
    image, road = rng.normal(90, 6, (120, 160, 3)), np.zeros((120, 160), bool)
    road[50:] = True
    y = np.arange(55, 115)
    for slope, offset in ((0.8, 60.0), (-0.6, 110.0)):
        for shift in (-1, 0, 1):
            image[y, (slope * y + offset).round().astype(int) + shift] = 220 + rng.normal(0, 5, (60, 3))
    image[80:83, 20:140] = 230  # a stop line
    image[5:45, 30:33] = 250  # a bright pole beside the road
    found = lanes.lines(image.clip(0, 255).astype(np.uint8), road)
    steep = sorted((line.slope, line.offset) for line in found)
    np.testing.assert_allclose(steep, [(-0.6, 110), (0.8, 60)], rtol=0.05, atol=2)
    assert all(line.top >= 50 and line.bottom > 100 for line in found)
    picture = lanes.drawn(np.zeros((120, 160, 3), np.uint8), found)
    assert (picture[100, round(0.8 * 100 + 60)] == (255, 0, 255)).all() and (picture[10] == 0).all()
    assert lanes.lines(np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), bool)) == []
    assert lanes.lines(np.zeros((40, 40, 3), np.uint8), np.ones((40, 40), bool)) == []


@pytest.mark.parametrize("name", ["membrane", "roads"])
def test_a_run(name, membranes, streets, tmp_path):
    data = membranes if name == "membrane" else streets
    flags = ["--unpacked", tmp_path / "data", "--workdir", tmp_path / "runs"]
    out, _ = run(data, "--smoke", "--views", *flags, name=name)
    path = folder(tmp_path / "runs")
    values = json.loads(out.strip().splitlines()[-1])
    assert values == json.loads((path / f"{name}.json").read_text()) and 0 <= values["accuracy"] <= 1
    out, _ = run("--evaluate", "--checkpoint", path, "--limit-examples", 2, name=name)
    again = json.loads(out.strip().splitlines()[-1])
    assert again["accuracy"] == pytest.approx(values["accuracy"])
    image = next((tmp_path / "data/test/images").iterdir())
    run("--predict", image, "--checkpoint", path, name=name)
    mask = np.asarray(Image.open(path / "predictions" / f"{image.stem}.mask.png"))
    shown = np.asarray(Image.open(path / "predictions" / f"{image.stem}.overlay.png"))
    assert mask.shape == shown.shape[:2] and mask.max() < len(roads.CLASSES) and shown.shape[2] == 3
    assert pixels.Config().views

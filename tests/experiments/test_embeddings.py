"""Faces and characters: archives, splits without leaks, smoke runs, and what is refused."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from experiments import faces, few_shot
from tests.experiments.test_experiments import folder, run


def encoded(pixels, kind):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    """Eight people with six images each, of one brightness per person."""
    path, rng = tmp_path_factory.mktemp("data") / "orl.zip", np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("orl_faces/README", "faces")
        for person in range(1, 9):
            for i in range(1, 7):
                pixels = 25 * person + rng.integers(0, 20, (56, 46))
                archive.writestr(f"orl_faces/s{person}/{i}.pgm", encoded(pixels, "PPM"))
    return path


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("data") / "omniglot.zip", np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for alphabet in ("Alpha", "Beta", "Gamma"):
            for k in range(1, 6):
                for i in range(1, 18):
                    ink = rng.random((20, 20)) > 0.1
                    name = f"images_background_small1/{alphabet}/character{k:02}/{k:04}_{i:02}.png"
                    archive.writestr(name, encoded(255 * ink, "PNG"))
    return path


@pytest.mark.parametrize("tune", [False, True])
def test_faces_of_the_test_are_not_learned(portraits, tmp_path, tune):
    for protocol in faces.PROTOCOLS:
        config = faces.Config(data=str(portraits), unpacked=str(tmp_path), protocol=protocol, split=3, tune=tune)
        parts = faces.split(config, faces.load(config))
        train, test = set(parts.train.names), set(parts.test.names)
        assert not train & test and parts.train.arrays["image"].shape[1:] == (56, 46, 1)
        if protocol == "people":
            assert not set(parts.train.label.tolist()) & set(parts.test.label.tolist())
            assert (len(train), len(test)) == ((24, 12) if tune else (36, 12))
        else:
            assert (np.bincount(parts.train.label) == (2 if tune else 3)).all()
            assert (np.bincount(parts.test.label) == (1 if tune else 3)).all()
        real = faces.split(faces.dataclasses.replace(config, tune=False), faces.load(config))
        assert not tune or not test & set(real.test.names)  # settings are not chosen on the test rows
        assert set(parts.valid.names) == (test if tune else train)


@pytest.mark.slow
def test_faces_of_a_trained_network(portraits, tmp_path):
    flags = ("--unpacked", tmp_path / "data", "--workdir", tmp_path / "runs", "--smoke")
    out, _ = run(portraits, *flags, "--protocol", "people", name="faces")
    path = folder(tmp_path / "runs")
    values = json.loads(out.strip().splitlines()[-1])
    assert values == json.loads((path / "faces.json").read_text()) and 0 <= values["eer"] <= 1 and values["count"] == 12
    out, _ = run("--evaluate", "--checkpoint", path, name="faces")
    assert json.loads(out.strip().splitlines()[-1])["eer"] == pytest.approx(values["eer"])


def people(root, count, images):
    for person in range(count):
        (root / f"p{person}").mkdir(parents=True)
        for i in range(images):
            pixels = np.random.default_rng([person, i]).integers(0, 255, (40, 40, 3))
            (root / f"p{person}" / f"{i}.png").write_bytes(encoded(pixels, "PNG"))
    return root


def test_other_folders_of_faces(tmp_path):
    few = people(tmp_path / "few", 3, 1)
    with pytest.raises(jc.InputError, match="p0: has 1 images; each person needs at least 4"):
        faces.load(faces.Config(data=str(few)))
    with pytest.raises(jc.InputError, match="class"):
        faces.load(faces.Config(data=str(people(tmp_path / "one", 1, 4))))
    config = faces.Config(data=str(people(tmp_path / "three", 3, 4)), protocol="people")
    with pytest.raises(jc.InputError, match="3 people: --protocol people needs at least 6"):
        faces.split(config, faces.load(config))
    (tmp_path / "empty").mkdir()
    with pytest.raises(jc.InputError):
        faces.load(faces.Config(data=str(tmp_path / "empty")))


def test_the_alphabet_of_the_test_is_not_learned(characters, tmp_path):
    config = few_shot.Config(data=str(characters), unpacked=str(tmp_path), test="Beta", ways=4, queries=2)
    train, valid, test = few_shot.splits(config)
    groups = [set((np.asarray(part.held["group"]) % 1000).tolist()) for part in (train, valid, test)]
    assert groups == [{0}, {2}, {1}] and len(np.unique(train.held["label"])) == 20
    image = train.held["image"]
    np.testing.assert_array_equal(image[85], np.rot90(image[0]))  # 5 characters of 17 images come before
    assert test.ways == 5 and test.queries == 15 and image.mean() < 60  # white on black
    refit = few_shot.splits(few_shot.dataclasses.replace(config, refit=True))[0]
    assert set((np.asarray(refit.held["group"]) % 1000).tolist()) == {0, 2}
    mixed = few_shot.splits(few_shot.dataclasses.replace(config, one_alphabet=False))[0]
    assert set(mixed.held["group"].tolist()) == {0}


@pytest.mark.slow
def test_characters_of_a_trained_network(characters, tmp_path):
    flags = ("--unpacked", tmp_path / "data", "--workdir", tmp_path / "runs", "--smoke")
    out, _ = run(characters, *flags, name="few_shot")
    path = folder(tmp_path / "runs")
    values = json.loads(out.strip().splitlines()[-1])
    assert values == json.loads((path / "few_shot.json").read_text()) and values["episodes"] == 4
    summary = json.loads((path / "summary.json").read_text())
    assert values["accuracy"] == pytest.approx(summary["test"]["accuracy"], abs=0.02)  # on the host, and compiled


@pytest.mark.parametrize("options, message", [
    ({"test": "Delta"}, "--test"),
    ({"limit_examples": 3}, "--limit-examples 3: episodes are drawn; give --episodes"),
    ({"side": 8}, "--side 8"),
])  # fmt: skip
def test_wrong_flags_are_one_line(characters, tmp_path, options, message):
    with pytest.raises(jc.InputError, match=message):
        few_shot.plan(few_shot.Config(data=str(characters), unpacked=str(tmp_path), **options))

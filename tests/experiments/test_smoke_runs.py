"""Smoke runs, as a user starts them, of experiments whose other tests start none; the data are invented."""

import json
import zipfile

import numpy as np
import pytest

from experiments import archives, mednist
from tests.experiments.test_embeddings import encoded
from tests.experiments.test_experiments import folder, run
from tests.experiments.test_spoken_digits import tones
from tests.experiments.test_video_experiments import blobs

pytestmark = pytest.mark.slow


def reviews(place):
    for name, word in (("pos", "fine"), ("neg", "dull")):
        lines = [f"a {word} film number {i % 7}" for i in range(120)]
        (place / f"rt-polarity.{name}").write_text("\n".join(lines), "latin-1")
    return place


def pictures(place, classes, parts=("",), side=32, channels=3, kind="jpeg"):
    rng, path = np.random.default_rng(0), place / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for part in parts:
            for k, name in enumerate(classes):
                for i in range(16):
                    pixels = (20 * k + rng.integers(0, 60, (side, side, channels))).squeeze()
                    archive.writestr(f"{part}{name}/{i:04}.{kind}", encoded(pixels, "JPEG"))
    return path


def medical(place):
    return pictures(place, mednist.CLASSES, side=64, channels=1)


def photos(place):
    return pictures(place, archives.PHOTOS, ("train/", "test/"), kind="jpg")


def heard(place):
    pytest.importorskip("soundfile")
    return tones(place)


# name of the experiment, where its data come from, further flags, and what its last line has
CASES = {
    "sentiment": ("sentiment", (reviews,), (), None),
    "mednist": ("mednist", (medical,), (), "ece"),
    "inspection mednist": ("inspection", ("mednist", medical), ("--normal", "Hand"), "auroc"),
    "inspection scratches": ("inspection", ("scratches", photos), (), "auroc"),
    "digit_strings": ("digit_strings", (blobs,), (), "exact_match"),
    "fusion": ("fusion", (lambda place: blobs(place, 2500, 500), heard), (), "both"),
    "fusion alone": ("fusion", (lambda place: blobs(place, 2500, 500), heard), ("--only", "sound"), "sound"),
    "cross_modal": ("cross_modal", (photos, heard), ("--per-class", 2), None),
    "robust mnist": ("robust", ("mnist", blobs), (), None),
    "robust with noise": ("robust", ("mnist", blobs), ("--method", "noise"), None),
    "robust cifar10": ("robust", ("cifar10", photos), ("--method", "fast"), None),
    "private_mnist": ("private_mnist", (blobs,), (), "accuracy"),
    "federated": ("federated", (blobs,), ("--method", "scaffold", "--partition", "classes"), "accuracy"),
    "continual mnist": ("continual", ("mnist", "digits"), ("--method", "derpp"), None),
    "continual cifar10": ("continual", ("cifar10", photos), ("--scenario", "domain", "--method", "si"), None),
    "few_labels": ("few_labels", (photos,), ("--methods", "probe", "fixmatch", "active"), None),
    "studies.search": ("studies.search", (photos,), (), None),
}
UNPACKED = ("sentiment", "mednist", "inspection", "fusion", "cross_modal", "robust", "continual", "few_labels")
UNPACKED += ("studies.search",)


@pytest.mark.parametrize("case", CASES)
def test_smoke(case, tmp_path):
    name, data, flags, key = CASES[case]
    (tmp_path / "given").mkdir()
    data = [one if isinstance(one, str) else one(tmp_path / "given") for one in data]
    flags = [*flags, *(["--unpacked", tmp_path / "data"] if name in UNPACKED else [])]
    out, errors = run(*data, "--smoke", "--workdir", tmp_path / "runs", *flags, name=name)
    path = folder(tmp_path / "runs")
    assert (path / "summary.json").exists()
    if key:
        values = json.loads(out.strip().splitlines()[-1])
        assert 0 <= values[key] <= 1 and values == json.loads((path / f"{name}.json").read_text())
    if name == "robust":
        values = json.loads((path / "robust.json").read_text())
        assert values["worst"]["accuracy"] <= min(one["accuracy"] for one in values["attacks"].values())
        assert set(values["checks"]["by_steps"]) == {"1", "10", "40", "100"}
        assert ("collapsed" in values["overfitting"]) == ("noise" not in flags)
        certified = json.loads((path / "certified.json").read_text())
        assert certified == values["certified"] and (certified["sigma"], certified["count"]) == (0.25, 2)
        again, _ = run("--evaluate", "--checkpoint", path, "--rows", 8, "--checked", 0, "--square-steps", 2,
                       "--steps", 1, "--auto-steps", 1, name=name)  # fmt: skip
        assert json.loads(again.strip().splitlines()[-1])["count"] == 8
        flags = ("--no-attack", "--certify", 1, "--sigma", 0.5, "--certify-samples", 8)
        run("--evaluate", "--checkpoint", path, *flags, name=name)
        assert json.loads((path / "certified.json").read_text())["sigma"] == 0.5
    if name == "federated":
        lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
        assert [line["step"] for line in lines if line["split"] == "validation"] == [2] and values["rounds"] == 2
    if name == "private_mnist":
        assert values["epsilon"] <= 3.0 and values["noise"] > 0 and "--seed 0 can be guessed" in errors
        assert json.loads((path / "summary.json").read_text())["train"]["epsilon"] == pytest.approx(values["epsilon"])
    if name == "fusion":
        assert ("image" in values) == (case == "fusion")
        again, _ = run("--evaluate", "--checkpoint", path, "--limit-examples", 16, name=name)
        assert json.loads((path / "fusion.json").read_text()) == values  # it prints, and nothing else
        assert json.loads(again.strip().splitlines()[-1])[key] == pytest.approx(values[key])


@pytest.mark.slow
def test_finished_folds_are_kept_and_other_settings_refused(tmp_path):
    data, flags = reviews(tmp_path), ("--smoke", "--fold", "-1", "--unpacked", tmp_path / "data")
    first, _ = run(data, *flags, "--workdir", tmp_path / "runs", name="sentiment")
    path = folder(tmp_path / "runs")
    values = json.loads(first.strip().splitlines()[-1])
    assert len(values["folds"]) == 10 and values == json.loads((path / "summary.json").read_text())
    (path / "summary.json").unlink()
    resumed = ("--resume", "--workdir", path)
    again, _ = run(data, *flags, *resumed, name="sentiment")
    assert json.loads(again.strip().splitlines()[-1]) == values
    (path / "summary.json").unlink()
    _, error = run(data, *flags, *resumed, "--maps", 5, name="sentiment", code=2)
    assert "maps" in error

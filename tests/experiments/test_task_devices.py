"""Experiments beyond pictures: the same on one device and on eight, and after a kill as without one."""

import pathlib

import pytest

import jaxcnn as jc
from experiments import (
    defects,
    digit_strings,
    faces,
    few_shot,
    forecast,
    fusion,
    inspection,
    mednist,
    moving_digits,
    sentiment,
    series,
    spoken_digits,
    track_digits,
    voxels,
)  # fmt: skip
from jaxcnn import runs
from tests.experiments import agreement
from tests.experiments.test_series_experiments import air, waves, wheel

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
DATA = {
    "sentiment": ("mr",), "spoken_digits": ("fsdd/fsdd_recordings.zip",), "faces": ("orl_faces/orl_faces.zip",),
    "few_shot": ("omniglot_small1/images_background_small1.zip",), "voxels": ("modelnet_voxels32",),
    "moving_digits": ("mnist",), "track_digits": ("mnist",), "mednist": ("mednist_subset/mednist_subset.zip",),
    "digit_strings": ("mnist",), "inspection": ("mednist_subset/mednist_subset.zip",),
    "scratches": ("cifar10_jpeg/cifar10_jpeg.tar.gz",), "fusion": ("mnist", "fsdd/fsdd_recordings.zip"),
}  # fmt: skip
pytestmark = pytest.mark.slow


def data(name, place):
    """Where the data of an experiment are; those of time series are invented."""
    if name == "series":
        files = {
            f"x/ItalyPowerDemand/ItalyPowerDemand_{part}.ts": waves(24, i) for i, part in enumerate(("TRAIN", "TEST"))
        }
        return [wheel(place / "series.whl", files)]
    if name == "forecast":
        return [wheel(place / "forecast.whl", {"statsmodels/datasets/co2/co2.csv": air()})]
    found = [SHARED / path for path in DATA[name]]
    return found if all(path.exists() for path in found) else pytest.skip("no shared data")


def config(module, name, place, **options):
    if hasattr(module.Config, "unpacked"):
        options["unpacked"] = str(place / name)
    path, *others = map(str, data(name, place))
    return module.Config(data=path, **({"sounds": others[0]} if others else {}), **options)


def inspected(kind, normal, name):
    def plan(place):
        made = config(inspection, name, place, kind=kind, normal=normal, widths=(4, 8), limit_examples=24)
        return inspection.plan(made, defects.load(made))

    return plan


def voxel_plan(place):
    made = config(voxels, "voxels", place, widths=(2, 2))
    parts = voxels.parts(made)
    rows = [jc.data.Resident(voxels.joined([one[part][:16] for one in parts])) for part in ("pool", "valid", "test")]
    change = jc.augment.compose(jc.augment.pad_crop(2), voxels.turned_at_random)
    task = voxels.Network(made).task
    return runs.Plan(task, jc.data.Splits(*rows), lambda steps: None, wrap=lambda step: jc.augmented(step, change))


def tracked(place):
    made = config(track_digits, "track_digits", place, clips=16, frames=3, width=4)
    return track_digits.plan(made, track_digits.load(made))


def planned(module, name, **options):
    return lambda place: module.plan(config(module, name, place, **options))


CASES = {
    "sentiment": planned(sentiment, "sentiment", fold=0, width=8, maps=4),
    "spoken_digits": planned(spoken_digits, "spoken_digits", widths=(4, 8)),
    "spoken_digits wave_cnn": planned(spoken_digits, "spoken_digits", model="wave_cnn"),
    "series": planned(series, "series", filters=2),
    "forecast": planned(forecast, "forecast", widths=(4, 4), context=60),
    "faces": planned(faces, "faces", height=34, vector=8),
    "faces contrastive": planned(faces, "faces", height=34, vector=8, loss="contrastive"),
    "few_shot": planned(few_shot, "few_shot", ways=4, queries=1, width=4, side=16, episodes=4),
    "voxels": voxel_plan,
    "moving_digits cnn3d": planned(moving_digits, "moving_digits", clips=96),
    "moving_digits cnn_gru": planned(moving_digits, "moving_digits", clips=96, model="cnn_gru"),
    "track_digits": tracked,
    "mednist": planned(mednist, "mednist"),
    "digit_strings": planned(digit_strings, "digit_strings", strings=32, test_strings=16),
    "inspection mednist": inspected("mednist", "Hand", "inspection"),
    "inspection scratches": inspected("scratches", "automobile", "scratches"),
    "fusion": planned(fusion, "fusion", widths=(4, 4), vector=8),
}
KILLED = {
    "sentiment": (), "spoken_digits": (), "series": (), "forecast": (), "faces": (), "few_shot": (),
    "moving_digits": ("--model", "cnn_gru"), "track_digits": (), "mednist": (), "digit_strings": (),
    "inspection": ("--normal", "Hand"), "fusion": (),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("unpacked")


def plan(name, place):
    return agreement.shortened(CASES[name](place))


test_training_agrees, test_evaluation_agrees = agreement.tests_of(CASES, plan, rates={"digit_strings": 1e-4})


@pytest.mark.parametrize("name", KILLED)
def test_killed_and_resumed(name, place, tmp_path):
    before = ["mednist"] if name == "inspection" else []
    unpacked = ["--unpacked", place / name] if name not in ("moving_digits", "track_digits", "digit_strings") else []
    flags = [*before, *data(name, place), "--smoke", "--epochs", 6, "--max-steps", 12, "--checkpoint-seconds", 0.2]
    agreement.resumes_after_a_kill(name, [*flags, *unpacked, *KILLED[name]], tmp_path)

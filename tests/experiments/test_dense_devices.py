"""Dense experiments on real data: the same on one device and on eight, and after a kill as without one."""

import pathlib

import pytest

from experiments import blood_cells, hippocampus, membrane, roads
from tests.experiments import agreement

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
UNET = {"widths": (4, 8, 8), "crop": 32, "batch_size": 8}
CASES = {
    "membrane": (membrane, "membrane/membrane.zip", UNET),
    "roads": (roads, "camvid_every6th/camvid_every6th.zip", UNET),
    "hippocampus": (hippocampus, "hippocampus/hippocampus.tar", {**UNET, "crop": 16}),
    **{
        name: (blood_cells, "bccd/bccd_voc.zip", {"model": name, "width": 4, "height": 96, "batch_size": 8})
        for name in blood_cells.OPTIONS
    },
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("unpacked")


def archive_of(name):
    path = SHARED / CASES[name][1]
    return path if path.exists() else pytest.skip("no shared data")


def plan(name, place):
    module, _, options = CASES[name]
    path = str(archive_of(name))
    return agreement.shortened(
        module.plan(module.Config(data=path, unpacked=str(place / name), limit_examples=24, **options))
    )


test_training_agrees, test_evaluation_agrees = agreement.tests_of(CASES, plan, ("faster_rcnn", "ssd"))


@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed(name, place, tmp_path):
    experiment = CASES[name][0].__name__.split(".")[-1]
    more = ["--model", name] if experiment == "blood_cells" else []
    flags = [
        archive_of(name), "--smoke", "--epochs", 6, "--max-steps", 12, "--limit-examples", 4, "--unpacked",
        place / experiment, "--checkpoint-seconds", 0.2, *more,
    ]  # fmt: skip
    agreement.resumes_after_a_kill(experiment, flags, tmp_path)

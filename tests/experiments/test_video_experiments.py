"""Moving digits, voxels and tracks: the data that are made, what a single frame tells, and runs by the command line."""

import gzip
import io
import struct

import jax
import numpy as np
import pytest

import jaxcnn as jc
from experiments import digit_clips, moving_digits, track_digits, voxels
from tests.experiments.test_experiments import run


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    return blobs(tmp_path_factory.mktemp("mnist"))


def blobs(folder, train=60, test=20):
    """Write blobs instead of digits, in the files of MNIST."""
    rng = np.random.default_rng(0)
    for part, n in (("train", train), ("t10k", test)):
        image = np.zeros((n, 28, 28), np.uint8)
        high, wide = rng.integers(8, 22, (2, n))
        for i in range(n):
            image[i, 14 - high[i] // 2 : 14 + high[i] // 2, 14 - wide[i] // 2 : 14 + wide[i] // 2] = 150 + i % 100
        raw = struct.pack(">IIII", 0x803, n, 28, 28) + image.tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(raw)
        raw = struct.pack(">II", 0x801, n) + bytes(i % 10 for i in range(n))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(raw)
    return folder


def test_parts_show_different_digits(mnist):
    found = digit_clips.digits(str(mnist), "moving_digits")
    assert [len(found[part][0]) for part in digit_clips.PARTS] == [50, 10, 20]
    assert found["test"][0].shape == (20, 14, 14)


def test_a_single_frame_says_nothing_and_the_motion_all():
    """Every place is as likely for each direction, and each frame is the one before, moved by the same step."""
    sprite = np.zeros((1, 14, 14), np.uint8)
    sprite[0, 3, 5] = 255  # one pixel, whose place is that of the digit
    data = moving_digits.clips(sprite, 64_000, 3, 0).arrays
    assert np.bincount(data["label"]).tolist() == [8000] * 8
    place = data["image"][..., 0].reshape(64_000, 3, -1).argmax(-1)
    for t in range(3):
        counts = np.stack([np.bincount(place[data["label"] == k, t], minlength=32 * 32) for k in range(8)])
        expected = 8000 / 1024
        assert abs(((counts - expected) ** 2 / expected).sum() / (8 * 1023) - 1) < 0.06  # chi-squared per degree
    step = np.diff(np.stack(np.divmod(place, 32), -1), axis=1)
    step = (step + 16) % 32 - 16
    assert (step[:, 0] == step[:, 1]).all() and set(np.abs(step).max((1, 2)).tolist()) == {1, 2, 3}
    ways = np.array(list(moving_digits.WAYS.values()))
    np.testing.assert_array_equal(np.sign(step[:, 0]), ways[data["label"]])


def test_clips_do_not_depend_on_the_seed_of_training(mnist):
    one, other = (moving_digits.load(moving_digits.Config(data=str(mnist), clips=48, seed=seed)) for seed in (0, 1))
    np.testing.assert_array_equal(one.test.arrays["image"], other.test.arrays["image"])
    single = moving_digits.load(moving_digits.Config(data=str(mnist), clips=48, frames=1)).train.arrays["image"]
    assert single.shape == (48, 1, 32, 32, 1)


def test_boxes_are_around_the_ink(mnist):
    config = track_digits.Config(data=str(mnist), clips=16, frames=30, digits=1)
    image, boxes = track_digits.load(config)["test"]
    for frames, where in zip(image, boxes, strict=True):
        for frame, (box,) in zip(frames, where, strict=True):
            y, x = np.nonzero(frame >= track_digits.INK)
            assert box.tolist() == [y.min(), x.min(), y.max() + 1, x.max() + 1]
    assert (np.abs(np.diff(boxes[:, :, 0], axis=1)) <= 2).all()


def test_perfect_detections_are_followed(mnist):
    config = track_digits.Config(data=str(mnist), clips=64, frames=24, digits=2)
    _, boxes = track_digits.load(config)["test"]
    perfect = boxes.astype(float), np.ones(boxes.shape[:3])
    got = track_digits.scored(perfect, boxes, 0.5, track_digits.TRACKERS[0])
    assert got.mota > 0.95 and got.objects == 8 * 24 * 2
    half = boxes.astype(float), np.ones(boxes.shape[:3]) * (np.arange(24) % 2)[:, None]
    kept = track_digits.scored(half, boxes, 0.5, {**track_digits.TRACKERS[0], "report_missed": True, "max_missed": 2})
    assert kept.mota > track_digits.scored(half, boxes, 0.5, track_digits.TRACKERS[0]).mota


def grids(folder, name, change=lambda x: x):
    found = np.zeros((100, 32, 32, 32), np.uint8)
    found[:, 10:20, 10:20, : 10 if name == "chair" else 20] = 1
    buffer = io.BytesIO()
    np.save(buffer, change(found))
    (folder / f"{name}.npy.gz").write_bytes(gzip.compress(buffer.getvalue(), 1))


def test_voxels_have_the_vertical_first_and_parts_do_not_overlap(tmp_path):
    for name in voxels.CLASSES:
        grids(tmp_path, name)
    chair, _ = voxels.parts(voxels.Config(data=str(tmp_path), per_class=10))
    assert {part: len(rows) for part, rows in chair.items()} == {"test": 50, "valid": 40, "pool": 10}
    assert chair["test"][0, :10, 10:20, 10:20].min() == 255 and chair["test"][0].sum() == 255 * 1000
    with pytest.raises(jc.InputError, match="--per-class 11: must be 1 to 10"):
        voxels.parts(voxels.Config(data=str(tmp_path), per_class=11))


def test_turns_keep_every_voxel():
    image = np.random.default_rng(0).integers(0, 255, (64, 2, 3, 3, 1)).astype(np.uint8)
    found = np.asarray(voxels.turned_at_random(jax.random.key(0), {"image": image})["image"])
    seen = set()
    for before, after in zip(image, found, strict=True):
        views = [np.rot90(x, k, (1, 2)) for x in (before, before[:, ::-1]) for k in range(4)]
        seen |= {i for i, view in enumerate(views) if (view == after).all()}
        assert any((view == after).all() for view in views)
    assert seen == set(range(8))


@pytest.mark.parametrize(
    "change, line",
    [
        (lambda x: x.astype(np.float32), r"float32 of shape .100, 32, 32, 32.; must be uint8 0 or 1"),
        (lambda x: x[:, :16], r"must be uint8 0 or 1, 32 a side"),
        (lambda x: 2 * x, r"must be uint8 0 or 1, 32 a side"),
    ],
)
def test_wrong_grids_are_refused_in_one_line(change, line, tmp_path):
    grids(tmp_path, "chair", change)
    with pytest.raises(jc.InputError, match=line):
        voxels.grids(tmp_path / "chair.npy.gz")
    (tmp_path / "chair.npy.gz").write_bytes((tmp_path / "chair.npy.gz").read_bytes()[:500])
    with pytest.raises(jc.InputError, match="chair.npy.gz: not a readable .npy.gz file"):
        voxels.grids(tmp_path / "chair.npy.gz")


def test_large_files_are_not_unpacked_whole(tmp_path, monkeypatch):
    grids(tmp_path, "chair")
    monkeypatch.setattr(voxels, "LIMIT", 1000)
    with pytest.raises(jc.InputError, match="unpacks to more than 1,000 bytes"):
        voxels.grids(tmp_path / "chair.npy.gz")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cnn3d", "cnn_gru"])
def test_a_run_of_moving_digits(model, mnist, tmp_path):
    out, _ = run(mnist, "--smoke", "--model", model, "--workdir", tmp_path, name="moving_digits")
    assert "test accuracy" in out
    (made,) = tmp_path.iterdir()
    out, _ = run(mnist, "--evaluate", "--checkpoint", made, "--clips", 96, name="moving_digits")
    assert '"count": 16' in out


@pytest.mark.slow
def test_a_run_of_tracks(mnist, tmp_path):
    out, _ = run(mnist, "--smoke", "--workdir", tmp_path, name="track_digits")
    assert '"mota": ' in out and '"idf1": ' in out


@pytest.mark.slow
def test_a_run_of_voxels(tmp_path):
    for name in voxels.CLASSES:
        grids(tmp_path, name)
    out, _ = run(tmp_path, "--smoke", name="voxels")
    assert '"network - linear"' in out


def test_data_must_be_given():
    for call in (
        lambda: moving_digits.load(moving_digits.Config()),
        lambda: track_digits.load(track_digits.Config()),
        lambda: voxels.parts(voxels.Config()),
    ):
        with pytest.raises(jc.InputError, match="DATA: give the folder of"):
            call()

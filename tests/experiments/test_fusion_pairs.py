"""Pairs of images and sounds, and photos before spectrograms: parts, noise, what is paired, and what is refused."""

import numpy as np
import pytest

import jaxcnn as jc
from experiments import cross_modal, fusion
from tests.experiments.test_spoken_digits import tones
from tests.experiments.test_video_experiments import blobs


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    pytest.importorskip("soundfile")
    top = tmp_path_factory.mktemp("pairs")
    return {"data": str(blobs(top, 2600, 500)), "sounds": str(tones(top)), "unpacked": str(top / "unpacked")}


@pytest.fixture(scope="module")
def held(given):
    return fusion.digits(fusion.Config(**given))


def numbered(held):
    """Images and sounds that say which they are: gray values, and samples."""
    image = np.arange(len(held.image), dtype=np.uint32)
    image = np.stack([image % 256, image // 256], -1).astype(np.uint8)[:, None, None]
    audio = np.broadcast_to(np.arange(1, len(held.audio) + 1)[:, None] / 100, (len(held.audio), 8)).astype(np.float32)
    return held._replace(image=image, audio=audio, length=np.full(len(held.audio), 8, np.int32))


def found(batch):
    """The numbers of the images and of the sounds in a batch without noise."""
    image = batch["image"][:, 0, 0].astype(int)
    return image[:, 0] + 256 * image[:, 1], (100 * batch["audio"][:, 0]).round().astype(int) - 1


def test_parts_are_those_of_the_official_splits(held):
    assert {part: (len(x.seen), len(x.heard)) for part, x in held.items()} == {
        "train": (2167, 12), "valid": (433, 12), "test": (500, 12),
    }  # fmt: skip
    assert set(held["train"].heard.tolist()) == {0, 1, 2} and len(set(held["train"].seen.tolist())) == 10
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        sounds = [{x.tobytes() for x in held[part].audio} for part in (a, b)]
        assert not sounds[0] & sounds[1]


def test_an_image_occurs_once_in_a_test_and_pairs_have_one_label(held):
    clean = fusion.Config(noise=0.0, snr=100.0)
    test = numbered(held["test"])
    rows = fusion.rows(test, clean, 2, 10)
    assert rows.size == 120
    batch = rows.read(np.arange(120))
    images, sounds = found(batch)
    assert len(set(images.tolist())) == 120 and np.bincount(sounds).tolist() == [10] * 12
    np.testing.assert_array_equal(test.seen[images], batch["label"])
    np.testing.assert_array_equal(test.heard[sounds], batch["label"])
    some = rows.take(np.array([7, 99])).read(np.arange(2))
    np.testing.assert_array_equal(found(some)[0], images[[7, 99]])
    with pytest.raises(jc.InputError, match="fewer than 100 for each of 4 sounds"):
        fusion.rows(test, clean, 2, 100)


def test_training_draws_new_images_and_noise_and_a_test_does_not(held):
    config = fusion.Config()
    train = fusion.rows(held["train"], config, 0, 0)
    one, other = (train.read_train(np.arange(12), np.full((12, 2), k)) for k in (0, 1))
    assert (one["label"] == other["label"]).all() and (one["label"] == held["train"].heard).all()
    assert (one["image"] != other["image"]).mean() > 0.3 and (one["audio"] != other["audio"]).mean() > 0.1
    again = train.read_train(np.arange(12), np.full((12, 2), 0))
    test = fusion.rows(held["test"], config, 2, 1)
    for name in one:
        np.testing.assert_array_equal(one[name], again[name])
        np.testing.assert_array_equal(test.read(np.arange(4))[name], test.read(np.arange(6))[name][:4])


def test_noise_has_the_strength_that_is_given():
    rng, tone = np.random.default_rng(0), 0.01 * np.sin(np.arange(8000)).astype(np.float32)
    image, audio = fusion.noisy(np.full((400, 400, 1), 128, np.uint8), tone, 0.1, -5.0, rng)
    assert image.std() / 255 == pytest.approx(0.1, rel=0.02)
    power = np.mean(np.square(audio - tone)) / np.mean(np.square(tone))
    assert 10 * np.log10(power) == pytest.approx(5.0, abs=0.2)
    _, loud = fusion.noisy(image, 60 * tone, 0.1, -20.0, rng)
    assert np.abs(loud).max() == pytest.approx(1)
    _, silent = fusion.noisy(image, 0 * tone, 0.1, -5.0, rng)
    assert not silent.any()


def test_behind_the_end_of_a_sound_is_silence(held):
    batch = fusion.rows(held["test"], fusion.Config(), 2, 1).read(np.arange(12))
    for audio, length in zip(batch["audio"], batch["length"], strict=True):
        assert audio[:length].any() and not audio[length:].any() and length < len(audio)


def test_rows_with_some_inputs(held):
    rows = fusion.rows(held["test"], fusion.Config(only="sound"), 2, 1)
    assert (rows.read(np.arange(3))["present"] == [0, 1]).all()
    three = fusion.given(rows, list(fusion.INPUTS))
    assert three.size == 36
    batch = three.read(np.array([0, 12, 24, 25]))
    assert batch["present"].tolist() == [[1, 1], [1, 0], [0, 1], [0, 1]]
    for i in (1, 2):
        np.testing.assert_array_equal(batch["audio"][0], batch["audio"][i])


@pytest.mark.parametrize("options, line", [
    ({"data": ""}, "DATA: give the place"), ({"sounds": ""}, "SOUNDS: give the place"),
    ({"only": "smell"}, "--only 'smell'"), ({"noise": -1.0}, "--noise -1.0"), ({"snr": 200.0}, "--snr 200.0"),
    ({"absent": 1.5}, "absent=1.5"), ({"vector": 0}, "--vector 0"),
    ({"only": "sound", "absent": 0.2}, "--absent 0.2: has no effect here; pairs lose an input with --only both alone"),
])  # fmt: skip
def test_wrong_flags_of_fusion(given, options, line):
    with pytest.raises(jc.InputError, match=line):
        fusion.plan(fusion.Config(**given | options))


@pytest.mark.parametrize("options, line", [
    ({"sounds": ""}, "SOUNDS: give the archive"), ({"per_class": (5, 1)}, "--per-class 1: must be at least 2"),
    ({"per_class": (50,)}, "per_class=50: class '0' has only 4"), ({"seeds": 0}, "--seeds 0"),
    ({"model": "cn"}, "--model 'cn'"), ({"weights": "/nowhere"}, "/nowhere"),
])  # fmt: skip
def test_wrong_flags_of_cross_modal_are_said_before_pretraining(given, tmp_path, options, line):
    config = cross_modal.Config(**given | {"data": "", "workdir": str(tmp_path / "w"), "per_class": (2,)} | options)
    with pytest.raises(jc.InputError, match=line):
        cross_modal.main(config, None, [])
    assert not (tmp_path / "w").exists()


def test_spectrograms_are_images(given):
    splits = cross_modal.spectrograms(cross_modal.Config(**given))
    rows = splits.test.arrays
    assert rows["image"].shape == (12, 40, 64, 3) and rows["image"].dtype == np.uint8
    np.testing.assert_array_equal(rows["image"][..., 0], rows["image"][..., 2])
    heights = [np.median(rows["image"][rows["label"] == k][:, :, 3].mean((0, 2)).argmax()) for k in range(3)]
    assert heights[0] > heights[1] > heights[2]  # a higher tone is nearer to the top


def test_gains_are_paired_by_seed():
    scores = {"scratch": (0.5, 0.7), "head": (0.6, 0.6), "all": (0.8, 0.9)}
    points = [
        {"train": m, "per_class": 5, "seed": i, "accuracy": x} for m, s in scores.items() for i, x in enumerate(s)
    ]
    head, whole = cross_modal.gains(points)
    assert (head["train"], whole["train"]) == ("head", "all") and head["above"] == 1 and whole["above"] == 2
    assert head["mean"] == pytest.approx(0.0) and whole["mean"] == pytest.approx(0.25)

"""Augmentations of sounds: what they do to samples and lengths, padding that stays 0, and masks of spectrograms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, augment

KEY = jax.random.key(2)
LENGTH = np.array([200, 1, 120, 60, 200, 77], np.int32)
MAKE = {
    "time_shift": functools.partial(augment.time_shift, 30), "gain": augment.gain, "add_noise": augment.add_noise,
    "speed": augment.speed,
}  # fmt: skip


def batch(samples=200, seed=0):
    audio = 0.5 * np.random.default_rng(seed).uniform(-1, 1, (6, samples)).astype(np.float32)
    audio = np.where(np.arange(samples) < LENGTH[:, None], audio, 0).astype(np.float32)
    return {"audio": audio, "length": LENGTH, "label": np.arange(6)}


@functools.cache
def changed(name, key=2):
    return jax.tree.map(np.asarray, jax.jit(MAKE[name]())(jax.random.key(key), batch()))


@pytest.mark.parametrize("name", MAKE)
def test_what_is_behind_the_end_stays_0(name):
    out, before = changed(name), batch()
    assert out["length"].dtype == np.int32 and ((out["length"] >= 1) & (out["length"] <= 200)).all()
    assert not out["audio"][np.arange(200) >= out["length"][:, None]].any()
    assert out["audio"].shape == (6, 200) and np.abs(out["audio"]).max() <= 1 and out["audio"].dtype == np.float32
    assert not np.array_equal(out["audio"], before["audio"]) and (out["label"] == before["label"]).all()
    assert not np.array_equal(out["audio"], changed(name, 3)["audio"])


@pytest.mark.parametrize("name", MAKE)
def test_pmap_draws_what_jit_draws(name):
    parts = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), batch())
    split = jax.pmap(MAKE[name](), axis_name="data", in_axes=(None, 0), devices=jax.devices()[:2])(KEY, parts)
    for entry in ("audio", "length"):
        whole = np.asarray(split[entry]).reshape(6, *split[entry].shape[2:])
        np.testing.assert_allclose(whole, changed(name)[entry], atol=1e-6)


@pytest.mark.parametrize("name", MAKE)
def test_without_lengths_and_another_field(name):
    audio = batch()["audio"]
    out = MAKE[name](field="sound")(KEY, {"sound": audio, "audio": audio})
    assert set(out) == {"sound", "audio"} and out["audio"] is audio and out["sound"].shape == audio.shape
    with pytest.raises(InputError, match="field='song': must be an entry of the batch"):
        MAKE[name](field="song")(KEY, {"audio": audio})
    with pytest.raises(InputError, match="dtype int16: must be floats"):
        MAKE[name]()(KEY, {"audio": audio.astype(np.int16)})
    with pytest.raises(InputError, match=r"length of shape \(2,\)"):
        MAKE[name]()(KEY, {"audio": audio, "length": LENGTH[:2]})


def test_shifts_move_samples():
    out, before = changed("time_shift"), batch()
    moves = set()
    for i in range(6):
        sound = before["audio"][i, : LENGTH[i]]
        found = out["audio"][i, : out["length"][i]]
        fits = [
            far
            for far in range(-30, 31)
            if np.array_equal(found, np.pad(sound, (max(far, 0), 0))[max(-far, 0) : 200 + max(-far, 0)])
        ]
        assert fits, i
        moves.add(fits[0])
    assert len(moves) > 3 and min(moves) < 0 < max(moves)
    out = augment.time_shift(0)(KEY, before)
    np.testing.assert_array_equal(out["audio"], before["audio"])


def test_gain_in_decibels():
    before, out = batch(), augment.gain((6.0206, 6.0206))(KEY, batch())
    np.testing.assert_allclose(out["audio"], 2 * before["audio"], atol=1e-5)
    loud = augment.gain((40, 40))(KEY, before)["audio"]
    assert np.abs(loud).max() == 1


@pytest.mark.parametrize("snr", [20.0, pytest.param(0.0, marks=pytest.mark.slow)])
def test_noise_has_its_ratio(snr):
    rng, length = np.random.default_rng(0), np.array([20_000, 12_000, 5000], np.int32)
    audio = 0.05 * rng.standard_normal((3, 20_000)).astype(np.float32)
    audio[2] = 0
    audio = np.where(np.arange(20_000) < length[:, None], audio, 0)
    out = np.asarray(augment.add_noise((snr, snr))(KEY, {"audio": audio, "length": length})["audio"])
    for x, y, n in zip(audio[:2], out, length, strict=False):
        ratio = 10 * np.log10(np.square(x[:n]).mean() / np.square(y[:n] - x[:n]).mean())
        assert abs(ratio - snr) < 0.3
    assert not out[2].any()


SLOW = [pytest.param(factor, marks=pytest.mark.slow) for factor in (0.5, 1.0, 2.0)]


@pytest.mark.parametrize("factor", [0.8, 1.25, *SLOW])
def test_speed_resamples(factor):
    """A tone of 0.05 turns per sample gets `factor` times as many, and its length is divided by it."""
    place, length = np.arange(600), np.array([400], np.int32)
    audio = np.where(place < 400, 0.5 * np.sin(2 * np.pi * 0.05 * place), 0).astype(np.float32)[None]
    out = augment.speed((factor, factor))(KEY, {"audio": audio, "length": length})
    assert out["length"][0] == min(int(399 / factor) + 1, 600)
    wanted = 0.5 * np.sin(2 * np.pi * 0.05 * factor * place)
    inside = slice(20, int(out["length"][0]) - 20 if factor >= 0.8 else 560)
    np.testing.assert_allclose(out["audio"][0, inside], wanted[inside], atol=5e-3)


def test_faster_sounds_do_not_alias():
    high = 0.5 * np.cos(2 * np.pi * 0.4 * np.arange(400)).astype(np.float32)[None]  # beyond half the new rate
    out = np.asarray(augment.speed((2, 2))(KEY, {"audio": high})["audio"])
    assert np.abs(out[0, 20:180]).max() < 0.03


def masked(frames=None, **options):
    x = jnp.ones((64, 40, 16))
    ends = None if frames is None else jnp.full(64, frames)
    return np.asarray(jax.jit(lambda key: augment.mask_spectrogram(key, x, ends, **options))(KEY)) == 0


def test_masks_of_spectrograms():
    time, bands = masked(mel_masks=0, time_masks=1, time_width=7), masked(time_masks=0, mel_masks=1, mel_width=5)
    for hidden, axis, most in ((time, 2, 7), (bands, 1, 5)):
        lines = hidden.all(axis)
        assert (hidden == np.expand_dims(lines, axis)).all()  # whole lines
        counts = lines.sum(1)
        assert counts.max() == most and counts.min() == 0 and len(set(counts)) == most + 1
        assert (np.abs(np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(int))).sum(1) <= 2).all()  # one stretch
        assert lines.any(0).mean() > 0.9  # anywhere
    short = masked(frames=10, mel_masks=0, time_masks=1, time_width=30, share=0.5)
    assert not short[:, 10:].any() and short.all(2).sum(1).max() == 5
    assert not masked(time_masks=0, mel_masks=0).any()


def test_masks_as_an_augmentation():
    x = np.ones((4, 12, 8), np.float32)
    out = augment.spec_augment(time_width=5)(KEY, {"spectrogram": x, "frames": np.full(4, 6)})["spectrogram"]
    assert (np.asarray(out) == 0).any() and out.shape == x.shape
    with pytest.raises(InputError, match="field='spectrogram'"):
        augment.spec_augment()(KEY, {"audio": x})
    with pytest.raises(InputError, match=r"shape \(4, 12\): must be \[batch, frames, bands"):
        augment.mask_spectrogram(KEY, x[..., 0])


@pytest.mark.parametrize(
    "make, line",
    [
        (lambda: augment.time_shift(-1), "samples=-1"), (lambda: augment.time_shift(0.5), "samples=0.5"),
        (lambda: augment.gain((6, -6)), r"decibels=\(6, -6\)"), (lambda: augment.gain(6), "decibels=6"),
        (lambda: augment.add_noise((0, np.inf)), "snr="), (lambda: augment.speed((0, 1)), r"factor=\(0, 1\)"),
        (lambda: augment.speed((1, 9)), r"factor=\(1, 9\)"),
        (lambda: augment.spec_augment(time_width=-1), "time_width=-1"),
        (lambda: augment.spec_augment(share=2.0), "share=2.0"),
    ],
)  # fmt: skip
def test_refused(make, line):
    with pytest.raises(InputError, match=line):
        make()

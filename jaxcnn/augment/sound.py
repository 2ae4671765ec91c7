"""Transforms of sounds on the device, `"audio"` with `"length"`, and masks over spectrograms (SpecAugment).

A sound ends at its length, or with the row if the batch has no `"length"`; what is behind the end stays 0.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.augment.core import Range, Transform, check_field, check_range, uniform
from jaxcnn.core.collectives import draw
from jaxcnn.core.types import Batch, InputError, check_numbers, check_whole, is_integer
from jaxcnn.ops.spectrogram import check_audio

Array = jax.Array
TAPS = 8  # samples on each side that a resampled one is made from, at half the rate or above
QUIETEST = 1e-20  # mean square of a silent sound


def time_shift(samples: int, *, field: str = "audio") -> Transform:
    """Move each sound by a random number of samples; its length follows.

    A sound that moves later begins with silence, and what leaves the row is lost. A sound that moves earlier loses its
    beginning, but never its last sample.

    Args:
        samples: the furthest move, to either side.
        field: the entry of the batch that holds the sounds.

    Returns:
        A transform of `audio` `[B, T]` in -1..1 and `length` `[B]`, if the batch has it.

    Raises:
        InputError: a negative number of samples.

    """
    check_whole("samples", samples, 0)

    def change(key: Array, batch: Batch) -> Batch:
        audio, length = _sounds(batch, field)
        far = jnp.floor(draw(uniform, key, length.shape) * (2 * samples + 1)).astype(jnp.int32) - samples
        far = jnp.where(length > 0, jnp.clip(far, 1 - length, audio.shape[1] - 1), 0)
        source = jnp.arange(audio.shape[1])[None] - far[:, None]
        moved = jnp.take_along_axis(audio, source.clip(0, audio.shape[1] - 1), 1)
        moved = jnp.where((source >= 0) & (source < length[:, None]), moved, 0)
        return _with(batch, field, moved, jnp.minimum(length + far, audio.shape[1]))

    return change


def gain(decibels: Range = (-6.0, 6.0), *, field: str = "audio") -> Transform:
    """Make each sound louder or softer by a random number of decibels; what leaves -1..1 is clipped.

    Args:
        decibels: smallest and largest gain.
        field: the entry of the batch that holds the sounds.

    Raises:
        InputError: an invalid range.

    """
    check_range("decibels", decibels, -100, 100)

    def change(key: Array, batch: Batch) -> Batch:
        audio, length = _sounds(batch, field)
        factor = 10 ** (_between(key, length, decibels) / 20)
        return {**batch, field: (audio * factor[:, None].astype(audio.dtype)).clip(-1, 1)}

    return change


def add_noise(snr: Range = (5.0, 30.0), *, field: str = "audio") -> Transform:
    """Add white Gaussian noise to each sound at a random signal-to-noise ratio; silent sounds stay silent.

    Args:
        snr: smallest and largest ratio of the powers of sound and noise, in decibels.
        field: the entry of the batch that holds the sounds.

    Returns:
        A transform of `audio` `[B, T]`; what leaves -1..1 is clipped.

    Raises:
        InputError: an invalid range.

    """
    check_range("snr", snr, -100, 100)

    def change(key: Array, batch: Batch) -> Batch:
        audio, length = _sounds(batch, field)
        ratios, noises = jax.random.split(key)
        inside = _inside(audio, length)
        power = jnp.where(inside, jnp.square(audio), 0).sum(1) / jnp.maximum(length, 1)
        loudness = jnp.sqrt(power * 10 ** (-_between(ratios, length, snr) / 10))[:, None]
        noisy = audio + loudness.astype(audio.dtype) * draw(jax.random.normal, noises, audio.shape).astype(audio.dtype)
        changed = inside & (power > QUIETEST)[:, None]
        return {**batch, field: jnp.where(changed, noisy.clip(-1, 1), audio)}

    return change


def speed(factor: Range = (0.9, 1.1), *, field: str = "audio") -> Transform:
    """Play each sound faster or slower by a random factor (Ko et al., 2015); tempo, pitch and length follow.

    Sounds are resampled with a windowed sinc, low-pass filtered where they become faster. What a slower sound has
    beyond the end of the row is lost.

    Args:
        factor: smallest and largest speed; 2 halves the length.
        field: the entry of the batch that holds the sounds.

    Returns:
        A transform of `audio` `[B, T]` and of `length` `[B]`, if the batch has it.

    Raises:
        InputError: a factor outside 0.25 to 4.

    Reference: Ko et al., Audio augmentation for speech recognition, Interspeech 2015.

    """
    check_range("factor", factor, 0.25, 4)
    reach = math.ceil(TAPS * max(factor[1], 1))

    def change(key: Array, batch: Batch) -> Batch:
        audio, length = _sounds(batch, field)
        chosen = _between(key, length, factor)
        inside = jnp.where(_inside(audio, length), audio, 0)
        # positions as a whole number and a rest: float32 alone has no digits left for the rest in long sounds
        place = jnp.arange(audio.shape[1], dtype=jnp.int32)[None]
        extra = (chosen - 1)[:, None] * place.astype(jnp.float32)
        whole = place + jnp.floor(extra).astype(jnp.int32)
        rest = extra - jnp.floor(extra)
        cutoff = jnp.minimum(1, 1 / chosen)[:, None]
        last = audio.shape[1] - 1
        # sines and cosines of each sample's rest and of each tap, once; differences of angles cost no further ones
        wave, bell = jnp.pi * cutoff, jnp.pi * cutoff / TAPS
        sines, cosines = jnp.sin(wave * rest), jnp.cos(wave * rest)
        bells = jnp.sin(bell * rest), jnp.cos(bell * rest)

        def add(tap: Any, total: Array) -> Array:
            at, away = whole + tap, tap - rest
            sine = jnp.sin(wave * tap) * cosines - jnp.cos(wave * tap) * sines
            near = jnp.abs(away) < 1e-3
            sinc = jnp.where(near, 1, sine / jnp.where(near, 1, wave * away))
            window = 0.5 + 0.5 * (jnp.cos(bell * tap) * bells[1] + jnp.sin(bell * tap) * bells[0])
            window = jnp.where(jnp.abs(away) * cutoff < TAPS, window, 0)
            found = jnp.take_along_axis(inside, at.clip(0, last), 1)
            return total + jnp.where((at >= 0) & (at <= last), found, 0) * (cutoff * sinc * window)

        made = jax.lax.fori_loop(-reach, reach + 1, add, jnp.zeros(audio.shape, jnp.float32))
        ended = jnp.floor((length - 1) / chosen).astype(jnp.int32) + 1
        ended = jnp.clip(ended, jnp.minimum(length, 1), audio.shape[1])
        made = jnp.where(_inside(audio, ended), made.clip(-1, 1), 0).astype(audio.dtype)
        return _with(batch, field, made, ended)

    return change


def spec_augment(
    *,
    time_masks: int = 2,
    time_width: int = 10,
    mel_masks: int = 2,
    mel_width: int = 8,
    share: float = 0.5,
    field: str = "spectrogram",
) -> Transform:
    """Mask random stretches of time and bands of spectrograms; see `mask_spectrogram`, which models apply themselves.

    Args:
        time_masks: as in `mask_spectrogram`.
        time_width: as there.
        mel_masks: as there.
        mel_width: as there.
        share: as there.
        field: the entry of the batch that holds the spectrograms; `"frames"` `[B]`, if the batch has it, says how many
            frames are not padding.

    Raises:
        InputError: a value out of range.

    """
    options = {
        "time_masks": time_masks, "time_width": time_width, "mel_masks": mel_masks, "mel_width": mel_width,
        "share": share,
    }  # fmt: skip
    check_masks(**options)

    def change(key: Array, batch: Batch) -> Batch:
        check_field(batch, field)
        return {**batch, field: mask_spectrogram(key, batch[field], batch.get("frames"), **options)}

    return change


def mask_spectrogram(
    key: Array,
    spectrogram: Array,
    frames: Array | None = None,
    *,
    time_masks: int = 2,
    time_width: int = 10,
    mel_masks: int = 2,
    mel_width: int = 8,
    share: float = 0.5,
) -> Array:
    """Set random stretches of time and random bands to 0, the mean of normalised spectrograms: SpecAugment.

    The paper's third part, warping in time, is left out; `speed` and `time_shift` change time before the transform.

    Args:
        key: random key.
        spectrogram: `[B, frames, bands, ...]`, normalised to a mean of 0.
        frames: how many frames of each row are not padding, `[B]`; None for all.
        time_masks: number of stretches.
        time_width: frames of the longest stretch; each has 0 to this many, all equally likely.
        mel_masks: number of bands.
        mel_width: widest band.
        share: longest stretch as a share of the frames, in 0..1.

    Raises:
        InputError: a value out of range, or a spectrogram of another rank.

    Reference: Park et al., 2019, arXiv:1904.08779.

    """
    check_masks(time_masks, time_width, mel_masks, mel_width, share)
    if spectrogram.ndim < 3:
        raise InputError(f"spectrogram of shape {tuple(spectrogram.shape)}: must be [batch, frames, bands, ...]")
    rows, count, bands = spectrogram.shape[:3]
    ends = jnp.full(rows, count) if frames is None else frames
    drawn = draw(uniform, key, (rows, 2, time_masks + mel_masks))
    kept = jnp.ones((rows, count, bands), bool)
    for i in range(time_masks + mel_masks):
        in_time = i < time_masks
        size = (ends if in_time else jnp.full(rows, bands)).astype(jnp.float32)
        most = jnp.minimum(time_width, jnp.floor(share * size)) if in_time else jnp.minimum(mel_width, size)
        width = jnp.floor(drawn[:, 0, i] * (most + 1))
        first = jnp.floor(drawn[:, 1, i] * (size - width + 1))
        place = jnp.arange(count if in_time else bands)[None]
        masked = (place >= first[:, None]) & (place < (first + width)[:, None])
        kept &= ~(masked[:, :, None] if in_time else masked[:, None, :])
    return jnp.where(kept.reshape(*kept.shape, *(1,) * (spectrogram.ndim - 3)), spectrogram, 0)


def check_masks(time_masks: int, time_width: int, mel_masks: int, mel_width: int, share: float) -> None:
    """Refuse masks of a negative number or size."""
    given = {"time_masks": time_masks, "time_width": time_width, "mel_masks": mel_masks, "mel_width": mel_width}
    check_numbers(share=share)
    if not all(is_integer(n) and n >= 0 for n in given.values()) or not 0 <= share <= 1:
        shown = ", ".join(f"{name}={n}" for name, n in given.items())
        raise InputError(f"{shown}, share={share}: must be whole numbers of at least 0, and share from 0 to 1")


def _sounds(batch: Batch, field: str) -> tuple[Array, Array]:
    """Return the sounds of a batch `[B, T]` and their lengths `[B]`."""
    check_field(batch, field)
    audio = jnp.asarray(batch[field])
    check_audio(audio)
    length = jnp.asarray(batch.get("length", jnp.full(audio.shape[0], audio.shape[1], jnp.int32)))
    if length.shape != audio.shape[:1] or not jnp.issubdtype(length.dtype, jnp.integer):
        raise InputError(
            f"length of shape {tuple(length.shape)} and dtype {length.dtype}: must be {audio.shape[:1]}, integers"
        )
    return audio, length.astype(jnp.int32)


def _with(batch: Batch, field: str, audio: Array, length: Array) -> Batch:
    """Return the batch with other sounds, and their lengths if it has any."""
    known = {"length": length.astype(jnp.asarray(batch["length"]).dtype)} if "length" in batch else {}
    return {**batch, field: audio, **known}


def _inside(audio: Array, length: Array) -> Array:
    return jnp.arange(audio.shape[1])[None] < length[:, None]


def _between(key: Array, length: Array, bounds: Range) -> Array:
    """Draw a number between bounds for each row."""
    return bounds[0] + draw(uniform, key, length.shape) * (bounds[1] - bounds[0])

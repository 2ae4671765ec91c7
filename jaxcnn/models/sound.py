"""Networks for sound: a CNN on mel spectrograms, and a CNN on the samples themselves (Dai et al., 2016).

Both take `"audio"` `[B, T]` with the keyword `length` `[B]`. Whatever a row holds behind the end of its sound changes
nothing: it is set to 0 before each convolution, and norms and poolings leave it out.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.augment.sound import check_masks, mask_spectrogram
from jaxcnn.core.precision import policy, promote_float32
from jaxcnn.core.types import InputError
from jaxcnn.layers import BatchNorm, ConvNorm, Dense, Dropout, Network, check_dropout
from jaxcnn.ops.spectrogram import check_audio, frame_count, mel_filters

Array = jax.Array
Normalise = Literal["clip", "bands", "running"]
EVEN = 1e-5  # added to variances


class Sounds(Network):
    """A network whose input is sound: `features` and `head` with the keyword `length`."""

    default_image = (8000,)

    def features(
        self, x: Array, *, length: Array | None = None, train: bool = False, row_mask: Array | None = None
    ) -> dict[str, Array]:
        """Return a dict from name to array."""
        raise TypeError(f"{type(self).__name__} defines no features()")

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]`; NaN where a length is impossible."""
        logits = self.logits(self.drop(promote_float32(features["pooled"]), train=train))
        return jnp.where(features["possible"][:, None], logits, jnp.nan)

    def __call__(
        self, x: Array, *, length: Array | None = None, train: bool = False, row_mask: Array | None = None
    ) -> Array:
        """Map `[B, T]` to logits `[B, num_classes]`.

        Args:
            x: samples, floats in -1..1.
            length: samples of each row that are sound, int `[B]`, 1 to T; another number makes the logits of its row
                NaN. None if all samples are sound.
            train: whether to train.
            row_mask: `[B]`, 0 for padding.

        """
        return self.head(self.features(x, length=length, train=train, row_mask=row_mask), train=train)


def sounding(x: Array, length: Array | None, row_mask: Array | None) -> tuple[Array, Array, Array]:
    """Return sounds with zeros behind their ends, their lengths, and which lengths are possible, `[B]`.

    Raises:
        InputError: audio that is not floating-point `[B, T]`, or lengths that are not integers `[B]`.

    """
    check_audio(x)
    if length is None:
        return x, jnp.full(x.shape[0], x.shape[1], jnp.int32), jnp.ones(x.shape[0], bool)
    if length.shape != x.shape[:1] or not jnp.issubdtype(length.dtype, jnp.integer):
        raise InputError(
            f"length of shape {tuple(length.shape)} and dtype {length.dtype}: must be {x.shape[:1]}, integers"
        )
    possible = (length >= 1) & (length <= x.shape[1])
    possible = possible if row_mask is None else possible | (row_mask == 0)
    length = length.clip(1, x.shape[1]).astype(jnp.int32)
    return jnp.where(jnp.arange(x.shape[1])[None] < length[:, None], x, 0), length, possible


def _inside(count: int, ends: Array) -> Array:
    """Return which of `count` places lie before an end, `[B, count]`."""
    return jnp.arange(count)[None] < ends[:, None]


def _kept(x: Array, ends: Array) -> Array:
    """Set what is behind the end to 0; the first axis after the row is time."""
    inside = _inside(x.shape[1], ends)
    return jnp.where(inside.reshape(*inside.shape, *(1,) * (x.ndim - 2)), x, 0)


def _counted(x: Array, ends: Array, row_mask: Array | None) -> Array:
    """Return the places that count in a norm, `[B, time]`."""
    inside = _inside(x.shape[1], ends)
    return inside if row_mask is None else inside & (row_mask != 0)[:, None]


def _pooled(x: Array, window: int) -> Array:
    """Max pooling of all axes whose last window may hang over the end; values are at least 0, as zeros behind it."""
    pads = [(0, -n % window) for n in x.shape[1:-1]]
    return ops.max_pool(x, window, padding=pads)


class SoundCNN(Sounds):
    """See `sound_cnn`."""

    num_classes: int = 10
    rate: int = 8000
    n_fft: int = 256
    hop: int = 80
    n_mels: int = 40
    low: float = 0.0
    high: float | None = None
    form: Literal["htk", "slaney"] = "htk"
    normalise: Normalise = "clip"
    widths: Sequence[int] = (32, 64, 128)
    dropout: float = 0.0
    time_masks: int = 0
    time_width: int = 10
    mel_masks: int = 0
    mel_width: int = 8
    dtype: Any = None

    def setup(self) -> None:
        """Make the layers."""
        self.norm = BatchNorm() if self.normalise == "running" else None
        self.convs = [
            [ConvNorm(width, (3, 3), dtype=self.dtype, name=f"stage{i}_conv{j}") for j in (1, 2)]
            for i, width in enumerate(self.widths, 1)
        ]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes)

    def features(
        self, x: Array, *, length: Array | None = None, train: bool = False, row_mask: Array | None = None
    ) -> dict[str, Array]:
        """Return `spectrogram` `[B, frames, bands, 1]`, normalised, `stage1` and so on, and `pooled` `[B, C]`.

        Args:
            x: `[B, T]`, floats in -1..1.
            length: as in `__call__`.
            train: whether to train; random stretches and bands are then masked, if any are to be.
            row_mask: `[B]`, 0 for padding.

        """
        x, length, possible = sounding(x, length, row_mask)
        image, frames = self.spectrogram(x, length, train=train, row_mask=row_mask)
        if train and (self.time_masks or self.mel_masks):
            widths = {"time_width": self.time_width, "mel_width": self.mel_width}
            count = {"time_masks": self.time_masks, "mel_masks": self.mel_masks}
            image = mask_spectrogram(self.make_rng("dropout"), image, frames, **count, **widths)
        return {**self.of_spectrogram(image, frames, train=train, row_mask=row_mask), "possible": possible}

    def spectrogram_of(self, x: Array, length: Array | None = None) -> tuple[Array, Array]:
        """Return the spectrograms of sounds as in prediction, and their frames; what is behind an end is left out."""
        x, length, _ = sounding(x, length, None)
        return self.spectrogram(x, length)

    def spectrogram(
        self, x: Array, length: Array, *, train: bool = False, row_mask: Array | None = None
    ) -> tuple[Array, Array]:
        """Return normalised mel spectrograms `[B, frames, bands, 1]`, and the frames of each row, `[B]`."""
        options: dict[str, Any] = {"rate": self.rate, "n_fft": self.n_fft, "hop": self.hop, "n_mels": self.n_mels}
        bands = ops.log_mel(x, **options, low=self.low, high=self.high, form=self.form)
        frames = frame_count(length, n_fft=self.n_fft, hop=self.hop)
        inside = _inside(bands.shape[1], frames)
        if self.norm is not None:
            bands = self.norm(bands, train=train, mask=_counted(bands, frames, row_mask))
        else:
            axes = (1,) if self.normalise == "bands" else (1, 2)
            weight = jnp.broadcast_to(inside[..., None], bands.shape).astype(bands.dtype)
            count = weight.sum(axes, keepdims=True)
            bands = bands - (bands * weight).sum(axes, keepdims=True) / count
            bands = bands * jax.lax.rsqrt((jnp.square(bands) * weight).sum(axes, keepdims=True) / count + EVEN)
        return jnp.where(inside[..., None], bands, 0)[..., None], frames

    def of_spectrogram(
        self, image: Array, frames: Array | None = None, *, train: bool = False, row_mask: Array | None = None
    ) -> dict[str, Array]:
        """Return the features of spectrograms `[B, frames, bands, 1]`; see `spectrogram` and `explain.on_spectrogram`.

        Args:
            image: normalised spectrograms.
            frames: frames of each row that are sound, `[B]`; None for all.
            train: whether to train.
            row_mask: `[B]`, 0 for padding.

        """
        rows = image.shape[0]
        ends = jnp.full(rows, image.shape[1], jnp.int32) if frames is None else frames
        y = _kept(image, ends).astype(policy(self.dtype, image).compute)
        out = {"spectrogram": image}
        for i, convs in enumerate(self.convs, 1):
            for conv in convs:
                y = _kept(conv(y, train=train, row_mask=_counted(y, ends, row_mask)), ends)
            out[f"stage{i}"] = y
            if i < len(self.convs):
                y, ends = _pooled(y, 2), -(-ends // 2)
        pooled = ops.global_avg_pool(y, _inside(y.shape[1], ends))
        return {**out, "pooled": pooled, "possible": jnp.ones(rows, bool)}


class WaveCNN(Sounds):
    """See `wave_cnn`."""

    num_classes: int = 10
    widths: Sequence[int] = (128, 128, 256, 512)
    window: int = 80
    stride: int = 4
    pool: int = 4
    dropout: float = 0.0
    dtype: Any = None

    def setup(self) -> None:
        """Make the layers."""
        first = ConvNorm(
            self.widths[0], (self.window,), self.stride, padding="VALID", dtype=self.dtype, name="conv1"
        )  # padded by hand: `"SAME"` would move the windows with the length of the row
        rest = [ConvNorm(n, (3,), dtype=self.dtype, name=f"conv{i}") for i, n in enumerate(self.widths[1:], 2)]
        self.convs = [first, *rest]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes)

    def features(
        self, x: Array, *, length: Array | None = None, train: bool = False, row_mask: Array | None = None
    ) -> dict[str, Array]:
        """Return `conv1` `[B, T / 4, C]`, `conv2` and so on, each before its pooling, and `pooled` `[B, C]`."""
        x, length, possible = sounding(x, length, row_mask)
        before = (self.window - self.stride) // 2
        after = self.window - self.stride - before + (-x.shape[1] % self.stride)
        y = jnp.pad(x, ((0, 0), (before, after)))[..., None].astype(policy(self.dtype, x).compute)
        ends, out = -(-length // self.stride), {}
        for i, conv in enumerate(self.convs, 1):
            steps = self.stride if i == 1 else 1
            count = -(-x.shape[1] // steps) if i == 1 else y.shape[1]
            inside = _inside(count, ends)
            counted = inside if row_mask is None else inside & (row_mask != 0)[:, None]
            y = _kept(conv(y, train=train, row_mask=counted), ends)
            out[f"conv{i}"] = y
            if i < len(self.convs):
                y, ends = _pooled(y, self.pool), -(-ends // self.pool)
        pooled = ops.global_avg_pool(y, _inside(y.shape[1], ends))
        return {**out, "pooled": pooled, "possible": possible}


def sound_cnn(num_classes: int = 10, rate: int = 8000, **options: Any) -> SoundCNN:
    """Convolutions over the mel spectrogram of a sound, and the mean over its time.

    A stage is two convolutions of 3x3 with BatchNorm, in the manner of VGG (Simonyan and Zisserman, 2014,
    arXiv:1409.1556); max pooling halves time and bands between the stages. The input is `"audio"` `[B, T]` in -1..1,
    with `length` `[B]`.

    Args:
        num_classes: number of logits.
        rate: samples per second of the sounds.
        **options: `n_fft` and `hop` (samples of a frame and of its step, 256 and 80), `n_mels` (bands, 40), `low` and
            `high` (of the bands, Hz), `form` (of `ops.mel_filters`), `normalise` (`"clip"`: each sound to mean 0 and
            variance 1, which makes loudness irrelevant; `"bands"`: each band of each sound, which also removes the
            colour of a microphone; `"running"`: each band by running statistics), `widths` (channels of the stages, 32,
            64 and 128), `dropout` (0), `time_masks`, `time_width`, `mel_masks` and `mel_width` (SpecAugment in
            training, see `augment.mask_spectrogram`; no masks by default), `dtype`.

    Raises:
        InputError: a value out of range.

    """
    made = SoundCNN(num_classes, rate, **options)
    if made.normalise not in ("clip", "bands", "running"):
        raise InputError(f"normalise={made.normalise!r}: must be 'clip', 'bands' or 'running'")
    if not made.widths or min(made.widths) < 1 or made.rate < 1:
        raise InputError(f"widths={made.widths}, rate={made.rate}: must be at least 1")
    check_dropout(made.dropout)
    check_masks(made.time_masks, made.time_width, made.mel_masks, made.mel_width, 1)
    frame_count(1, n_fft=made.n_fft, hop=made.hop)
    mel_filters(made.rate, made.n_fft, made.n_mels, made.low, made.high, made.form)
    return made


def wave_cnn(num_classes: int = 10, **options: Any) -> WaveCNN:
    """Convolutions over the samples of a sound, and the mean over its time: M5 of Dai et al. (2016, arXiv:1610.00087).

    By default the four layers of M5, 0.5 million parameters for sounds at 8,000 Hz. It differs in its pooling, whose
    last window may be incomplete, so that short sounds keep a frame.

    Args:
        num_classes: number of logits.
        **options: `widths` (channels of the layers, 128, 128, 256 and 512), `window` and `stride` (samples, of the
            first layer, 80 and 4), `pool` (window of the poolings, 4), `dropout` (0), `dtype`.

    Raises:
        InputError: a value out of range.

    """
    made = WaveCNN(num_classes, **options)
    if not made.widths or min(made.widths) < 1 or not 1 <= made.stride <= made.window or made.pool < 2:
        raise InputError(
            f"widths={made.widths}, window={made.window}, stride={made.stride}, pool={made.pool}: must be at least 1, "
            "the stride at most the window, and pool at least 2"
        )
    check_dropout(made.dropout)
    return made

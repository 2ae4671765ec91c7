"""Explanations of sounds over time and frequency: the explainers of images, applied to a network's spectrogram."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.core.types import InputError, Tree

Array = jax.Array


class OnSpectrogram:
    """A network for sound whose input is its own spectrogram; see `on_spectrogram`."""

    def __init__(self, model: Any, frames: Array | None) -> None:
        """Take a network, and the frames of each row that are sound."""
        self.model, self.frames = model, frames

    def features(self, image: Array) -> None:
        """Mark that there are features, as explainers ask; `apply` computes them."""

    def head(self, features: Any) -> None:
        """Mark that there is a head, as explainers ask; `apply` computes it."""

    def apply(self, variables: Tree, given: Any, *, method: str = "__call__", train: bool = False, **_: Any) -> Any:
        """Return features of spectrograms `[B, frames, bands, 1]`, or logits of these or of features."""
        if method == "head":
            return self.model.apply(variables, given, train=train, method="head")
        # copies made by an explainer, such as noisy ones, lie behind each other
        frames = self.frames if self.frames is None else jnp.tile(self.frames, given.shape[0] // self.frames.shape[0])
        found = self.model.apply(variables, given, frames, train=train, method="of_spectrogram")
        return found if method == "features" else self.model.apply(variables, found, train=train, method="head")


def on_spectrogram(
    model: Any, variables: Tree, audio: Array, length: Array | None = None
) -> tuple[OnSpectrogram, Array]:
    """Return a network that takes spectrograms, and those of some sounds, for all explainers.

    `grad_cam(*given)` with `given = (network, variables, image)` shows when and in which bands a network hears a class,
    and `integrated_gradients(*given).relevance` and `lrp(*given).relevance` divide its logit among them. The maps are
    `[B, frames, bands]`: time runs down, and the first column is the lowest band.

    Args:
        model: a network with a spectrogram, such as `models.sound_cnn`.
        variables: variables of the model.
        audio: `[B, T]`, floats in -1..1.
        length: samples of each row that are sound, `[B]`; None for all.

    Returns:
        `(network, image)`; the image is `[B, frames, bands, 1]`, normalised, 0 behind the end.

    Raises:
        InputError: the network has no spectrogram.

    """
    if not hasattr(model, "of_spectrogram"):
        raise InputError(
            f"{type(model).__name__} has no spectrogram: explain a network that has one, such as models.sound_cnn"
        )
    audio = jnp.asarray(audio)
    ends = jnp.full(audio.shape[0], audio.shape[1], jnp.int32) if length is None else jnp.asarray(length)
    image, frames = model.apply(variables, audio, ends, method="spectrogram_of")
    return OnSpectrogram(model, frames), image

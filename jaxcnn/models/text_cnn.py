"""TextCNN (Kim, 2014, arXiv:1408.5882): convolutions over word vectors, and the maximum of each over the text."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError
from jaxcnn.layers import Conv, Dense, Dropout, Network

Array = jax.Array


class Vectors(nn.Module):
    """A vector for each number of a word, zero for padding."""

    words: int
    width: int
    frozen: bool = False
    scale: float = 0.25
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map int `[B, T]` to `[B, T, width]`; a number that is no word gives NaN."""
        init = nn.initializers.uniform(2 * self.scale)
        table = self.param("vectors", lambda *given: init(*given) - self.scale, (self.words, self.width), jnp.float32)
        table = jax.lax.stop_gradient(table) if self.frozen else table
        found = jnp.take(table, x, axis=0, mode="fill", fill_value=jnp.nan)
        found = jnp.where((x < 0)[..., None], jnp.nan, found)  # which `take` counts from the end
        return jnp.where((x == 0)[..., None], 0, found).astype(self.dtype or jnp.float32)


class TextCNN(Network):
    """See `text_cnn`."""

    num_classes: int = 2
    words: int = 20_000
    width: int = 300
    windows: Sequence[int] = (3, 4, 5)
    maps: int = 100
    vectors: str = "trained"
    scale: float = 0.25
    dropout: float = 0.5
    dtype: Any = None

    default_image = (64,)

    def setup(self) -> None:
        """Make the layers."""
        kinds = {"trained": (False,), "frozen": (True,), "both": (False, True)}[self.vectors]
        self.channels = [
            Vectors(self.words, self.width, frozen, self.scale, self.dtype, name="frozen" if frozen else "trained")
            for frozen in kinds
        ]
        self.convs = [
            Conv(self.maps, (n,), padding=((n - 1, n - 1),), dtype=self.dtype, name=f"window{n}") for n in self.windows
        ]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes)

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `vectors` `[B, T, width]`, `window3` `[B, T + 2, maps]` and so on, and `pooled`."""
        del train, row_mask
        if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise InputError(f"text of shape {x.shape} and dtype {x.dtype}: must be [batch, words], integers")
        length = (x > 0).sum(1)
        channels = [vectors(x) for vectors in self.channels]
        out, pooled = {"vectors": channels[0]}, []
        for n, conv in zip(self.windows, self.convs, strict=True):
            y = nn.relu(sum(conv(channel) for channel in channels))
            seen = jnp.arange(y.shape[1])[None] < (length + n - 1)[:, None]  # windows that touch a word
            out[f"window{n}"] = jnp.where(seen[..., None], y, 0)
            pooled.append(out[f"window{n}"].max(1))  # at least 0, as ReLU is
        return {**out, "pooled": jnp.concatenate(pooled, -1)}

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]`."""
        return self.logits(self.drop(promote_float32(features["pooled"]), train=train))

    def __call__(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> Array:
        """Map int `[B, T]` to logits `[B, num_classes]`."""
        return self.head(self.features(x, train=train, row_mask=row_mask), train=train)


def text_cnn(num_classes: int = 2, words: int = 20_000, **options: Any) -> TextCNN:
    """TextCNN of Kim (2014), for numbers of words or of bytes, int `[B, T]`; 0 is padding.

    Args:
        num_classes: number of logits.
        words: how many numbers there are: those of `data.words.vocabulary` and two more, or 257 for bytes.
        **options: `width` (of the vectors, 300), `windows` (words that a kernel sees, 3, 4 and 5), `maps` (kernels per
            window, 100), `vectors` (`"trained"`, `"frozen"`, or `"both"`, two channels of the same vectors of which one
            is trained), `scale` (vectors begin uniform in -scale..scale; 0.25, as in the paper's program, which suits
            vectors of others beside them; with random vectors alone, 0.05 is right more often), `dropout` (0.5),
            `dtype`.

    """
    made = TextCNN(num_classes, words, **options)
    if made.vectors not in ("trained", "frozen", "both"):
        raise InputError(f"vectors={made.vectors!r}: must be 'trained', 'frozen' or 'both'")
    if min(made.words, made.width, made.maps, *made.windows) < 1 or not made.windows:
        raise InputError("words, width, maps and windows: must be at least 1")
    if not 0 < made.scale < float("inf"):
        raise InputError(f"scale={made.scale}: must be positive")
    return made


def with_vectors(variables: Any, vectors: Any, found: Any) -> dict[str, Any]:
    """Return the variables of a `text_cnn` whose words begin with vectors that others have trained.

    Words without such a vector keep their random one, which is the same in both channels of `vectors="both"`.

    Args:
        variables: variables of the network.
        vectors: `[words - 2, width]`, from `data.vectors.read_vectors`.
        found: bool `[words - 2]`, whether a word has a vector.

    Raises:
        InputError: the shape is not that of the network's table.

    """
    params = {**variables["params"]}
    names = [name for name in ("trained", "frozen") if name in params]
    table = params[names[0]]["vectors"]
    if vectors.shape != (table.shape[0] - 2, table.shape[1]):
        want = (table.shape[0] - 2, table.shape[1])
        raise InputError(f"vectors {vectors.shape}: must be {want}, the network's words and their width")
    table = table.at[2:].set(jnp.where(jnp.asarray(found)[:, None], vectors, table[2:]))
    return {**variables, "params": {**params, **{name: {"vectors": table} for name in names}}}

"""A network of several inputs, such as an image and a sound: a branch for each, joined before the last layer.

In training, an input of a row can be left out at random, so that the network also answers where one is absent
(ModDrop, Neverova et al., 2014, arXiv:1501.00102). Here one input of a row is left out at a time, and what is joined
also says which are there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.core.collectives import draw
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError, align
from jaxcnn.layers import Dense, Dropout, Network, check_dropout
from jaxcnn.models.adapt import accepted
from jaxcnn.models.cnn_gru import cnn_gru
from jaxcnn.models.series import inception_time, series_resnet
from jaxcnn.models.sound import sound_cnn, wave_cnn
from jaxcnn.models.text_cnn import text_cnn
from jaxcnn.models.video import c3d, cnn3d, r2plus1d_18
from jaxcnn.models.zoo import MODELS, Body, backbone

Array = jax.Array
# networks that can be a branch by name; their logits are its vector
BRANCHES = {
    **MODELS, "c3d": c3d, "cnn3d": cnn3d, "cnn_gru": cnn_gru, "inception_time": inception_time,
    "r2plus1d_18": r2plus1d_18, "series_resnet": series_resnet, "sound_cnn": sound_cnn, "text_cnn": text_cnn,
    "wave_cnn": wave_cnn,
}  # fmt: skip
USUAL = {"image": "cnn", "audio": {"name": "sound_cnn", "options": {"num_classes": 64}}}
RESERVED = ("present", "row_mask", "train", "method", "mutable", "rngs", "capture_intermediates", "joined")


class Fusion(Network):
    """See `fusion`."""

    num_classes: int = 10
    branches: Any = None
    takes: Any = None
    absent: float = 0.0
    dropout: float = 0.0
    dtype: Any = None

    def setup(self) -> None:
        """Make the layers."""
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, dtype=self.dtype)

    def features(
        self,
        x: Array,
        *,
        present: Array | None = None,
        train: bool = False,
        row_mask: Array | None = None,
        **entries: Array,
    ) -> dict[str, Array]:
        """Return the vector of each branch by its name, and `joined` `[B, F]`, the vectors and which are there.

        Where an input is absent, its vector is 0. Rows without an input, or with another value in `present` than 0 and
        1, are NaN in `joined`.
        """
        first, *others = self.branches
        self._check(entries, x, present)
        there, known = _presence(present, x.shape[0], len(self.branches), row_mask)
        if train and self.absent:
            there = left_out(self.make_rng("dropout"), there, self.absent)
        counted = there if row_mask is None else there & (row_mask != 0)[:, None]
        out, given = {}, {first: x} | {name: entries[name] for name in others}
        for i, (name, branch) in enumerate(self.branches.items()):
            own = given[name]
            own = jnp.where(align(there[:, i], own), own, jnp.zeros_like(own))
            also = {key: entries[key] for key in self.takes.get(name, ())}
            options = accepted(branch, {"train": train, "row_mask": counted[:, i].astype(jnp.float32)})
            vector = promote_float32(branch(own, **also, **options))
            if vector.ndim != 2:
                raise InputError(f"branches[{name!r}]: returned {vector.shape}; must return one vector per row, [B, F]")
            out[name] = jnp.where(there[:, i, None], nn.relu(vector), 0)
        joined = jnp.concatenate([*out.values(), there.astype(jnp.float32)], -1)
        return {**out, "joined": jnp.where(known[:, None], joined, jnp.nan)}

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]`."""
        return promote_float32(self.logits(self.drop(features["joined"], train=train)))

    def __call__(
        self,
        x: Array,
        *,
        present: Array | None = None,
        train: bool = False,
        row_mask: Array | None = None,
        **entries: Array,
    ) -> Array:
        """Map the inputs of the branches to logits `[B, num_classes]`.

        Args:
            x: the input of the first branch, `[B, ...]`.
            present: `[B, branches]`, 1 where a row has the input of a branch and 0 where not, in their order; what the
                arrays hold there changes nothing. None if all are there. The logits of rows without any are NaN.
            train: whether to train; inputs are then left out at random.
            row_mask: `[B]`, 0 for padding.
            **entries: the inputs of the other branches by their names, and what `takes` names.

        Raises:
            InputError: an entry is missing, unknown or has another number of rows, or `present` has another shape.

        """
        found = self.features(x, present=present, train=train, row_mask=row_mask, **entries)
        return self.head(found, train=train)

    def _check(self, entries: Mapping[str, Any], x: Array, present: Array | None) -> None:
        """Refuse entries that no branch takes, and those that are missing."""
        wanted = {*list(self.branches)[1:], *(key for keys in self.takes.values() for key in keys)}
        if wrong := sorted(wanted ^ entries.keys()):
            line = "is missing" if wrong[0] in wanted else "is taken by no branch"
            raise InputError(f"{wrong[0]!r} {line}: the branches of this network take {', '.join(sorted(wanted))}")
        if uneven := [name for name in sorted(entries) if entries[name].shape[:1] != x.shape[:1]]:
            got = entries[uneven[0]].shape
            raise InputError(f"{uneven[0]!r} of shape {tuple(got)}: must have {x.shape[0]} rows, as the first input")
        if present is not None and present.shape != (x.shape[0], len(self.branches)):
            want = (x.shape[0], len(self.branches))
            raise InputError(f"present of shape {tuple(present.shape)}: must be {want}, a column for each branch")


def _presence(present: Array | None, rows: int, count: int, row_mask: Array | None) -> tuple[Array, Array]:
    """Return which inputs are there, bool `[B, count]`, and which rows can be answered, `[B]`."""
    if present is None:
        return jnp.ones((rows, count), bool), jnp.ones(rows, bool)
    there = present == 1
    known = (there | (present == 0)).all(-1) & there.any(-1)
    return there, known if row_mask is None else known | (row_mask == 0)


def left_out(key: Array, there: Array, chance: float) -> Array:
    """Leave out one input of some rows, never the last one.

    Args:
        key: the same on every device.
        there: which inputs are there, bool `[B, count]`.
        chance: of a row with two or more inputs to lose one of them, each with the same chance.

    Returns:
        Which inputs are left, bool `[B, count]`.

    """
    drawn = draw(jax.random.uniform, key, (there.shape[0], there.shape[1] + 1))
    lost = jnp.where(there, drawn[:, :-1], 2).argmin(-1)
    loses = (drawn[:, -1] < chance) & (there.sum(-1) > 1)
    return there & ~(loses[:, None] & jax.nn.one_hot(lost, there.shape[1], dtype=bool))


def fusion(
    num_classes: int = 10,
    branches: Mapping[str, Body] | None = None,
    takes: Mapping[str, Sequence[str]] | None = None,
    **options: Any,
) -> Fusion:
    """A branch for each of several inputs, whose vectors are joined and go through one linear layer.

    `tasks.classification(model, field="image", also=("audio", "length", "present"))` trains the default network:
    `field` is the first branch, and `also` has the other branches, what `takes` names, and `present`, if rows lack
    inputs.

    Args:
        num_classes: number of logits.
        branches: dict from the name of an input to its network, two or more. A network maps `[B, ...]` to `[B, F]`; it
            is a Linen module, a name in `models.BRANCHES`, or `{"name": NAME, "options": {...}}`, and its
            `num_classes` is the length of its vector. By default `cnn` for `"image"` and `sound_cnn` for `"audio"`.
        takes: dict from the name of an input to further entries that its network takes as keywords, such as
            `{"audio": ["length"]}`, which is the default if `branches` is not given.
        **options: `absent` (chance that one of a row's inputs is left out in training, 0), `dropout` before the last
            layer (0), `dtype` (of the last layer; networks have their own).

    Raises:
        InputError: a value out of range, or a name that cannot be used.

    """
    takes = {"audio": ["length"]} if branches is None and takes is None else dict(takes or {})
    found: dict[str, Body] = {**(USUAL if branches is None else branches)}
    if len(found) < 2:
        raise InputError(f"branches: {len(found)} networks; must have at least two, or use the network itself")
    extra = [key for keys in takes.values() for key in keys]
    for name in (*found, *extra):
        if not name.isidentifier() or name in RESERVED or hasattr(Fusion, name):
            raise InputError(f"{name!r}: cannot be the name of an input; use another, such as 'image'")
    if wrong := [name for name in takes if name not in found] or [name for name in extra if name in found]:
        raise InputError(f"takes: {wrong[0]!r} does not fit the branches {', '.join(found)}; name each entry once")
    made = {name: backbone(network, BRANCHES, "jaxcnn.models.BRANCHES") for name, network in found.items()}
    model = Fusion(num_classes, made, {name: tuple(keys) for name, keys in takes.items()}, **options)
    if not 0 <= model.absent <= 1:
        raise InputError(f"absent={model.absent}: must be in 0..1")
    check_dropout(model.dropout)
    return model

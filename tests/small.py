"""A small network with every layer that is difficult on several devices, and rows to train it on."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxcnn as jc
from jaxcnn.layers import ConvNorm, Dense, Dropout, Network
from jaxcnn.parallel.compile import IndexedChunk


class Small(Network):
    num_classes: int = 4
    dropout: float = 0.0

    def setup(self):
        self.conv = ConvNorm(8, (3, 3), strides=2)
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes)

    def features(self, x, *, train=False, row_mask=None):
        return {"stem": self.conv(x, train=train, row_mask=row_mask)}

    def head(self, features, *, train=False):
        x = features["stem"]
        return self.logits(self.drop(x.reshape(x.shape[0], -1), train=train))


class Plain(Network):
    """Without batch norm and dropout, for sums that must be linear in the rows."""

    num_classes: int = 4

    def setup(self):
        self.logits = Dense(self.num_classes)

    def features(self, x, *, train=False, row_mask=None):
        return {"flat": nn.relu(x.reshape(x.shape[0], -1))}

    def head(self, features, *, train=False):
        return self.logits(features["flat"])


def rows(n=96, classes=4, seed=0, size=8):
    """Images whose class can be learned: a bright quarter under noise."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n).astype(np.int32)
    image = rng.integers(0, 120, (n, size, size, 1))
    half = size // 2
    for i, k in enumerate(label):
        image[i, half * (k // 2) : half * (k // 2) + half, half * (k % 2) : half * (k % 2) + half] += 100
    return jc.data.Resident({"image": image.astype(np.uint8), "label": label}, tuple("abcd"[:classes]))


def task(**options):
    return jc.tasks.classification(Small(**options), mean=0.3, std=0.3)


def chunk(batches):
    """The given batches as one dispatch of resident data."""
    size = len(next(iter(batches[0].values())))
    arrays = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    index = np.arange(len(batches) * size, dtype=np.int32).reshape(len(batches), size)
    return IndexedChunk(arrays, index, None, np.int32(len(batches)))


def distance(a, b):
    """|a - b| / |a| over all leaves together."""
    flat = lambda tree: jnp.concatenate(
        [jnp.ravel(jnp.asarray(x, jnp.float32)) for x in jax.tree.leaves(jax.device_get(tree))]
    )
    a, b = flat(a), flat(b)
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a))


def learning(**options):
    """A task that is traced and compiled in no time."""
    choice = {k: options.pop(k) for k in ("dropout", "dtype", "widths") if k in options}
    model = jc.models.mlp(num_classes=4, **{"widths": (8,), "dropout": 0.3} | choice)
    return jc.tasks.classification(model, **{"mean": 0.3, "std": 0.3} | options)


@functools.cache
def compiled(rate=1e-2):
    """A training step and where it begins, which tests share."""
    made, tx = learning(), jc.optim.sgd(jc.optim.constant(rate))
    return jc.compile_step(jc.make_train_step(made, tx), "jit"), jc.init_state(made, tx, rows().example())


def fit(workdir=None, steps=2, rate=1e-2, run=None, state=None, data=None, **options):
    """Train it for a moment."""
    made, first = compiled(rate)
    return jc.fit(run or made, state or first, data or rows(), batch_size=16, steps=steps, workdir=workdir, **options)

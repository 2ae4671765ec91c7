"""What counts or measures in pixels, steps or rows is a whole number, of Python or NumPy; nothing cuts a fraction."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn import augment, layers, metrics, models, ops
from jaxcnn.core.types import whole_numbers
from jaxcnn.methods import attacks, clients, continual, federated, replay, scaffold, smoothing, transfer

IMAGE = jnp.zeros((2, 8, 8, 4))
ROWS = {"image": np.zeros((4, 8, 8, 1), np.uint8), "label": np.array([0, 0, 1, 1], np.int32)}
DATA = jc.data.Resident(ROWS, classes=("a", "b"))
KEY = jax.random.key(0)
ROW = {"image": np.zeros((1, 4, 4, 1), np.float32)}


def two_logits(variables, batch):
    return batch["image"].reshape(-1, 16)[:, :2]


CALLS = {
    "strides": lambda n: ops.conv(IMAGE, jnp.zeros((3, 3, 4, 4)), strides=n),
    "strides of each axis": lambda n: ops.conv(IMAGE, jnp.zeros((3, 3, 4, 4)), strides=(2, n)),
    "padding": lambda n: ops.conv(IMAGE, jnp.zeros((3, 3, 4, 4)), padding=((n, 1), (1, 1))),
    "groups": lambda n: ops.conv(IMAGE, jnp.zeros((3, 3, 2, 4)), groups=n),
    "pool": lambda n: ops.max_pool(IMAGE, n),
    "sizes": lambda n: ops.adaptive_avg_pool(IMAGE, (n, 2)),
    "n_mels": lambda n: ops.log_mel(jnp.zeros((1, 800)), rate=8000, n_mels=n),
    "features of Conv": lambda n: layers.Conv(n, (3, 3)).init(KEY, IMAGE),
    "kernel_size": lambda n: layers.Conv(4, (n, n)).init(KEY, IMAGE),
    "features of Dense": lambda n: layers.Dense(n).init(KEY, IMAGE),
    "groups of GroupNorm": lambda n: layers.GroupNorm(n).init(KEY, IMAGE),
    "num_classes": lambda n: models.mlp(num_classes=n),
    "size": lambda n: augment.random_resized_crop(n),
    "window": lambda n: augment.pad_crop(1, size=n)(KEY, {"image": IMAGE}),
    "pixels": lambda n: augment.cutout(n),
    "ops": lambda n: augment.rand_augment(n),
    "time_masks": lambda n: augment.spec_augment(time_masks=n),
    "size of a task": lambda n: jc.tasks.prepare(IMAGE, size=(n, 4)),
    "accumulate": lambda n: jc.accumulate(n),
    "devices": lambda n: jc.compile_step(lambda carry, batch: (carry, {}), "sharded", n),
    "batch_size": lambda n: jc.collect(lambda variables, batch: batch["label"], {}, DATA, batch_size=n),
    "seed": lambda n: jc.data.Resident(ROWS, seed=n),
    "k": lambda n: metrics.top_k(n),
    "bins": lambda n: metrics.calibration(n),
    "steps of an attack": lambda n: attacks.pgd(0.1, steps=n),
    "rows_per_client": lambda n: federated.federated(optax.sgd(0.1), n),
    "count": lambda n: clients.iid(8, n),
    "capacity": lambda n: replay.reservoir([], 0, [0, 1, 2], n),
    "votes of a certificate": lambda n: smoothing.counter(two_logits, 0.5)({}, ROW, KEY, n),
    "epochs of scaffold": lambda n: scaffold.scaffold(0.1, 4, epochs=n),
    "beams": lambda n: ops.ctc_beam(jnp.zeros((1, 3, 4)), n),
    "groups of group DRO": lambda n: jc.methods.group_dro(jc.tasks.classification(models.mlp(2)), n),
    "count of shards": lambda n: clients.shards(ROWS["label"], n, each=1),
    "magnitude": lambda n: augment.rand_augment(2, n),
    "per_task": lambda n: continual.divided(4, n),
    "per_class": lambda n: transfer.few_shot_subset(DATA, n),
}


@pytest.mark.parametrize("name", CALLS)
def test_fractions_and_truths_are_refused_and_integers_of_numpy_taken(name):
    CALLS[name](np.int64(2))
    for value in (2.5, 2.0, True, "2", np.float32(2)):
        with pytest.raises(jc.InputError, match="whole number|integer|pairs"):
            CALLS[name](value)


def test_one_number_or_one_for_each_axis():
    assert whole_numbers("size", 3, 2) == whole_numbers("size", np.array([3, 3]), 2) == (3, 3)
    assert whole_numbers("size", jnp.array([3, 3]), 2) == whole_numbers("size", jnp.int32(3), 2) == (3, 3)
    for wrong in ((3,), (3, 3, 3), (3, None), None, np.array([3.0, 3.0])):
        with pytest.raises(jc.InputError, match="must be a whole number, at least 1, or 2 of them"):
            whole_numbers("size", wrong, 2)
    with pytest.raises(jc.InputError, match=r"size=\(3, 0\): must be at least 1"):
        whole_numbers("size", (3, 0), 2)


def test_a_message_is_one_short_line():
    for value in (np.zeros((3, 3)), "x" * 300, [[2, 2]] * 50):
        with pytest.raises(jc.InputError) as caught:
            whole_numbers("size", value, 2)
        assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 150


def test_devices_come_in_any_iterable_and_an_image_without_rows_is_named():
    step = lambda carry, batch: (carry, {})  # noqa: E731
    for two in (jax.devices()[:2], iter(jax.devices()[:2]), np.array(jax.devices()[:2])):
        assert jc.compile_step(step, "sharded", two).parts == 2
    with pytest.raises(jc.InputError, match="spatial axes"):
        layers.Conv(4, (3, 3)).init(KEY, IMAGE[0])
    with pytest.raises(jc.InputError, match="kernel_size=3: must have a number for each axis"):
        layers.Conv(4, 3).init(KEY, IMAGE)


def test_a_network_keeps_numbers_of_numpy_as_those_of_python():
    assert type(models.mlp(num_classes=np.int64(3)).num_classes) is int

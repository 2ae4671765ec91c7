"""A text or a list where a number belongs is refused in one line that names it, and numbers of NumPy are taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import augment, losses, metrics, ops
from jaxcnn.explain import lrp
from jaxcnn.methods import attacks, clients, federated, membership, prune, self_supervised, smoothing
from jaxcnn.methods.square import square
from tests.small import Plain

LOGITS, LABEL = jnp.zeros((4, 2)), jnp.zeros(4, jnp.int32)
MODEL, IMAGE = jc.models.mlp(2, widths=(4,)), jnp.ones((1, 4, 4, 1))
VARIABLES = MODEL.init(jax.random.key(0), IMAGE)
CALLS = {
    "probability": lambda x: augment.sometimes(augment.flip, x),
    "degrees": lambda x: augment.affine(degrees=x),
    "share": lambda x: square(0.1, share=x),
    "gamma": lambda x: losses.sigmoid_focal_loss(LOGITS, jnp.zeros((4, 2)), gamma=x),
    "beta": lambda x: losses.smooth_l1(LOGITS, LOGITS, beta=x),
    "delta": lambda x: losses.huber(LOGITS[:, 0], LOGITS[:, 0], delta=x),
    "temperature": lambda x: self_supervised.simclr(Plain(), augment.flip, temperature=x),
    "strength": lambda x: self_supervised.standard_views(8, strength=x),
    "epsilon": lambda x: lrp(MODEL, VARIABLES, IMAGE, 0, epsilon=x),
    "noise": lambda x: attacks.noisy_fgsm(0.1, noise=x),
    "sigma": lambda x: smoothing.gaussian_noise(x),
    "clip": lambda x: federated.federated(jc.optim.sgd(0.1), 4, clip=x),
    "alpha": lambda x: clients.dirichlet(np.zeros(8), 2, x),
    "fpr": lambda x: membership.highest_tpr(1.0, 1e-5, x),
    "final": lambda x: prune.gradual(lambda state, batch: (state, {}), x, begin=0, end=2),
    "decay": lambda x: jc.with_ema(lambda state, batch: (state, {}), x),
    "z": lambda x: metrics.wilson_interval(0.5, 10, x),
    "low": lambda x: ops.mel_filters(8000, 256, 8, low=x),
    "fraction": lambda x: jc.data.stratified(np.arange(8) % 2, x, seed=0),
    "tau": lambda x: jc.protocol.logit_adjustment(np.arange(8) % 2, 2, tau=x),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_number_is_refused(name):
    CALLS[name](np.float32(0.25))
    for value in ("0.25", [0.25, 0.5], None, True):
        with pytest.raises(jc.InputError, match=f"^{name}=.*: must be a number") as caught:
            CALLS[name](value)
        assert "\n" not in str(caught.value)


def test_groups_and_labels_of_several_kinds_are_refused():
    label = np.arange(4) % 2
    for wrong in (["a", None, "b", "a"], ["a", 1, "b", 2], np.array([1, None, 2, 3], object)):
        for call in (lambda x: jc.protocol.grouped(label, x, 0.5, 0), clients.by_group, lambda x: clients.shards(x, 1)):
            with pytest.raises(jc.InputError, match="kind|missing"):
                call(np.array(wrong, object))
    assert len(clients.by_group(np.array([2, 1, 2, 3], object))) == 3
    assert len(jc.protocol.grouped(label, np.array([2, 1, 2, 3], object), 0.5, 0)[0]) > 0
    with pytest.raises(jc.InputError, match="seed=-1"):
        metrics.bootstrap_interval(np.mean, np.arange(4), seed=-1)

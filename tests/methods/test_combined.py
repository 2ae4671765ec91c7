"""Wrappers around wrappers: each keeps what the inner one does or refuses it, and so for tasks of another kind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn.methods import (
    active,
    adversarial,
    attacked,
    attacks,
    consolidation,
    continual,
    mart,
    private,
    replay,
    trades,
)
from tests.small import Plain, rows

GROUPS = ((0, 1), (2, 3))
TASK = jc.tasks.classification(Plain())
TABLE = continual.head_table(GROUPS)
DATA = rows(8)
EWC = functools.partial(consolidation.ewc, strength=100.0)
KNOWN = TASK.init(jax.random.key(0), DATA.example())
weak = jc.augment.flip


RECOMPUTING = {
    "heads": lambda task: continual.heads(task, TABLE),
    "group_dro": lambda task: jc.methods.group_dro(task, 2),
    "derpp": lambda task: replay.derpp(task, 0.5, 1.0),
    "fixmatch": lambda task: jc.methods.fixmatch(task, weak, weak),
    "mart": lambda task: mart(task, attacks.fgsm(0.1)),
}
ADDING = {
    "ewc": EWC,
    "lwf": consolidation.lwf,
    "trades": lambda task: trades(task, 0.1),
    "distilled": lambda task: jc.methods.distilled(task, TASK, KNOWN),
}


@pytest.mark.parametrize("outer", RECOMPUTING)
@pytest.mark.parametrize("inner", ADDING)
def test_what_a_wrapper_adds_is_not_lost_in_another(outer, inner):
    with pytest.raises(
        jc.InputError, match=rf"^{outer}: recomputes .* would drop the loss of {inner}; wrap in the other order"
    ):
        RECOMPUTING[outer](ADDING[inner](TASK))
    between = (
        lambda task: adversarial(task, attacks.fgsm(0.1)),
        lambda task: task._replace(loss=jc.transfer.keep_stats(task.loss)),
        lambda task: task._replace(loss=jc.transfer.stop_gradient_on(task.loss, [".*conv"])),
        jc.methods.quantise.quantised,
    )
    for keeping in between:
        with pytest.raises(jc.InputError, match=f"would drop the loss of {inner}"):
            RECOMPUTING[outer](keeping(ADDING[inner](TASK)))
    ADDING[inner](RECOMPUTING[outer](TASK))


@pytest.mark.parametrize("inner", ADDING)
def test_a_head_alone_does_not_lose_what_is_added(inner):
    with pytest.raises(jc.InputError, match=f"^head_task: recomputes .* would drop the loss of {inner}"):
        jc.transfer.head_task(Plain(), ADDING[inner](TASK), (8, 8, 1))


def test_what_changes_the_input_or_the_weights_is_not_lost():
    attack = attacks.fgsm(0.1)
    once, rounded = adversarial(TASK, attack), jc.methods.quantise.quantised(TASK)
    for make in (
        lambda: adversarial(once, attack), lambda: mart(once, attack), lambda: trades(once, 0.1),
        lambda: jc.transfer.head_task(Plain(), once, (8, 8, 1)),
        lambda: jc.transfer.head_task(Plain(), rounded, (8, 8, 1)),
    ):  # fmt: skip
        with pytest.raises(jc.InputError, match="would lose or repeat what (adversarial|quantised) changes"):
            make()
    other = jc.tasks.classification(Plain(), field="crop")
    for make in (
        lambda: adversarial(other, attack),
        lambda: attacked(other, {"fgsm": attack}),
        lambda: trades(other, 0.1),
    ):
        with pytest.raises(jc.InputError, match="changes the entry 'image', and the task reads 'crop'"):
            make()


def test_two_that_recompute_the_loss_cannot_be_nested():
    with pytest.raises(jc.InputError, match="fixmatch does the same, so use only one of them"):
        RECOMPUTING["group_dro"](RECOMPUTING["fixmatch"](TASK))


@pytest.mark.parametrize("outer", ["mart", "fixmatch"])
def test_all_classes_are_not_those_of_a_head(outer):
    with pytest.raises(jc.InputError, match=f"^{outer}: compares all classes"):
        RECOMPUTING[outer](RECOMPUTING["heads"](TASK))


def test_heads_inside_keep_what_is_added_outside():
    data = continual.sequence(DATA, GROUPS, "task")
    batch = {name: jnp.asarray(x) for name, x in data.arrays.items()}
    task = EWC(RECOMPUTING["heads"](TASK))
    state = jc.init_state(task, optax.sgd(0.1), data.example())
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), state.params)
    state = consolidation.ewc_after_task(state, ones)
    moved = jax.tree.map(lambda x: x + 1.0, state.params)
    plain = RECOMPUTING["heads"](TASK).loss(moved, {}, batch, jax.random.key(0))[0].compute()
    found = task.loss(moved, state.model_state, batch, jax.random.key(0))[0].compute()
    assert found - plain == pytest.approx(50 * sum(x.size for x in jax.tree.leaves(moved)), rel=1e-5)


def test_attacks_are_measured_together():
    once = attacked(TASK, {"fgsm": attacks.fgsm(0.1)})
    with pytest.raises(jc.InputError, match="measures attacks already; give all of them at once"):
        attacked(once, {"pgd": attacks.pgd(0.1)})


@pytest.mark.parametrize("make", [
    lambda task: adversarial(task, attacks.fgsm(0.1)), lambda task: trades(task, 0.1), RECOMPUTING["mart"],
    RECOMPUTING["fixmatch"], RECOMPUTING["heads"], consolidation.lwf,
    lambda task: attacked(task, {"fgsm": attacks.fgsm(0.1)}),
    lambda task: active.dropout_samples(task, KNOWN, DATA, 2),
    lambda task: consolidation.fisher(task, KNOWN, DATA),
])  # fmt: skip
@pytest.mark.parametrize("task, line", [
    (jc.tasks.regression(Plain()), "no accuracy of classes"),
    (jc.tasks.embedding(Plain(), classes=4), "no accuracy of classes"),
    (jc.tasks.embedding(Plain(), classes=4, loss="prototypical"), "no accuracy of classes"),
    (jc.tasks.classification(Plain(), head="multilabel"), "several labels per row"),
], ids=["regression", "embedding", "prototypical", "multilabel"])  # fmt: skip
def test_tasks_of_another_kind_are_refused(make, task, line):
    with pytest.raises(jc.InputError, match=line):
        make(task)


@pytest.mark.parametrize("loss", ["triplet", "contrastive", "prototypical", "simclr"])
def test_private_training_refuses_losses_that_compare_rows(loss):
    if loss == "simclr":
        task = jc.methods.simclr(Plain(), jc.methods.standard_views(8), width=4)
    else:
        task = jc.tasks.embedding(Plain(), classes=4, loss=loss)
    with pytest.raises(jc.InputError, match="a row's own gradient is 0; use a loss of single rows"):
        jc.make_train_step(task, optax.sgd(0.1), private.private(1.0, 1.0, 8))
    jc.make_train_step(jc.tasks.embedding(Plain(), classes=4), optax.sgd(0.1), private.private(1.0, 1.0, 8))


def test_epsilon_is_not_reported_for_training_that_is_not_private():
    with pytest.raises(jc.InputError, match="the step is not private"):
        private.with_epsilon(jc.make_train_step(TASK, optax.sgd(0.1)), float)


@pytest.mark.parametrize("call, line", [
    (lambda: attacked(TASK, [attacks.pgd(0.1)]), "attacks: must be a dictionary from names to attacks"),
    (lambda: attacked(TASK, {"pgd": "pgd"}), "attacks: must be a dictionary from names to attacks"),
    (lambda: attacks.fgsm(0.1)(lambda x: x.reshape(len(x), -1)[:, :1], DATA.arrays["image"] / np.float32(255),
                               np.zeros(8, int), jax.random.key(0)), r"must be \[B, K\] with K >= 2; for one logit z"),
    (lambda: replay.per_class(np.zeros((3, 2), int), 1), r"label of shape \(3, 2\)"),
    (lambda: jc.tasks.classification(Plain(), logit_adjustment={0: 1.0}), "must be 4 finite numbers"),
    (lambda: jc.tasks.classification(Plain(), class_weights={0: 1.0}), "give them in a list, in the order"),
    (lambda: jc.tasks.classification(Plain(), class_weights=[1, np.nan, 1, 1]), "must be 4 finite numbers"),
    (lambda: jc.tasks.classification(Plain(), class_weights=[0] * 4), "not all 0"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(call, line):
    with pytest.raises(jc.InputError, match=line):
        call()


@pytest.mark.parametrize("call", [
    lambda value: trades(TASK, value), lambda value: trades(TASK, 0.1, beta=value), lambda value: attacks.pgd(value),
    lambda value: EWC(TASK, strength=value), lambda value: jc.methods.group_dro(TASK, 2, rate=value),
    lambda value: replay.derpp(TASK, value, 1.0), lambda value: jc.methods.fixmatch(TASK, weak, weak, weight=value),
    lambda value: private.private(value, 1.0, 8), lambda value: jc.methods.distilled(TASK, TASK, KNOWN, weight=value),
    lambda value: jc.protocol.class_weights([0, 1], 2, power=value),
])  # fmt: skip
@pytest.mark.parametrize("value", ["0.1", None, True, attacks.fgsm, np.zeros(2)])
def test_what_is_no_number_is_named(call, value):
    with pytest.raises(jc.InputError, match="must be a number$"):
        call(value)

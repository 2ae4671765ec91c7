"""Distillation against its formula, the teacher that stays, and layers of low rank against singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

import jaxcnn as jc
from jaxcnn import InputError
from jaxcnn.methods import distilled, factorised
from tests.fixtures import pseudo
from tests.small import Plain, rows, task


@pytest.fixture(scope="module")
def pair():
    data = rows(12)
    batch = {k: jnp.asarray(v) for k, v in data.arrays.items()} | {"row_mask": jnp.array([1.0] * 9 + [0.0] * 3)}
    student, teacher = jc.tasks.classification(Plain()), task()
    return student, student.init(jax.random.key(0), batch), teacher, teacher.init(jax.random.key(1), batch), batch


def log_softmax(x):
    return np.asarray(scipy.special.log_softmax(np.asarray(x, np.float64), -1))


def test_the_loss_is_the_one_of_the_paper(pair):
    student, variables, teacher, known, batch = pair
    made = distilled(student, teacher, known, temperature=3.0, weight=0.7)
    state = {"teacher": known}
    mean, (outputs, after) = made.loss(variables["params"], state, batch, jax.random.key(0))
    ours, theirs = log_softmax(outputs / 3), log_softmax(teacher.predict(known, batch) / 3)
    soft = (np.exp(theirs) * (theirs - ours)).sum(-1)[:9].mean()
    hard = -log_softmax(outputs)[np.arange(9), np.asarray(batch["label"])[:9]].mean()
    assert mean.compute() == pytest.approx(0.3 * hard + 0.7 * 9 * soft, rel=1e-4) and mean.weight == 9
    jax.tree.map(np.testing.assert_array_equal, after["teacher"], known)
    same = distilled(teacher, teacher, known, weight=1.0)
    state = {"batch_stats": known["batch_stats"], "teacher": known}
    kept = jc.transfer.keep_stats(same.loss)(known["params"], state, batch, jax.random.key(0))[0]
    assert abs(kept.compute()) < 1e-5  # a network teaches itself nothing


def test_class_weights_leave_the_teacher_its_share(pair):
    """The divergence is a mean over rows, whatever the task's own weights sum to."""
    _, variables, teacher, known, batch = pair
    losses = []
    for weights in ([1.0] * 4, [8.0] * 4):
        student = jc.tasks.classification(Plain(), class_weights=weights)
        made = distilled(student, teacher, known, weight=1.0)
        mean, _ = made.loss(variables["params"], {"teacher": known}, batch, jax.random.key(0))
        losses.append(float(mean.compute()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_features_of_other_widths_are_compared(pair):
    *_, batch = pair
    networks = [jc.models.cnn(num_classes=4, widths=widths) for widths in ((4, 6), (8, 8))]
    tasks = [jc.tasks.classification(model, size=(16, 16)) for model in networks]
    known = [t.init(jax.random.key(i), batch) for i, t in enumerate(tasks)]
    state = {"batch_stats": known[0]["batch_stats"], "teacher": known[1]}

    def loss(**options):
        made = distilled(tasks[0], tasks[1], known[1], **options)
        return jc.transfer.keep_stats(made.loss)(known[0]["params"], state, batch, jax.random.key(0))[0].compute()

    x = jc.tasks.prepare(batch["image"], size=(16, 16))
    maps = []
    for model, variables in zip(networks, known, strict=True):
        each = np.square(model.apply(variables, x, method="features")["stage1"]).mean(-1).reshape(12, -1)
        maps.append(each / np.sqrt(np.square(each).sum(-1, keepdims=True)))
    want = np.square(maps[0] - maps[1]).sum(-1)[:9].mean()
    assert loss(features=5.0, names=["stage1"]) - loss() == pytest.approx(5 * want, rel=1e-3)
    with pytest.raises(InputError, match="'stage9' is not a feature of both"):
        loss(features=1.0, names=["stage9"])


def test_a_student_learns_from_the_teacher_alone(pair):
    student, variables, teacher, known, batch = pair
    made, tx = distilled(student, teacher, known, weight=1.0), optax.adam(1e-2)
    data = rows(12)
    state = jc.init_state(made, tx, data.example())
    assert jax.tree.structure(state.model_state["teacher"]) == jax.tree.structure(known)
    step = jc.compile_step(jc.make_train_step(made, tx), "jit")
    fitted = jc.fit(step, state, data, batch_size=12, steps=40, every=20, log=None)
    losses = [row["train/loss"] for row in fitted.history]
    assert losses[1] < 0.7 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, fitted.state.model_state["teacher"], known)


@pytest.mark.parametrize(
    "options, line",
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"weight": 1.5}, "weight=1.5"),
        ({"features": -1.0}, "features=-1.0"),
        ({"names": ("stem",)}, "give features="),
    ],
)
def test_what_is_refused(pair, options, line):
    student, variables, teacher, known, batch = pair
    with pytest.raises(InputError, match=line):
        distilled(student, teacher, known, **options)
    with pytest.raises(InputError, match="distilled: the task has several labels per row"):
        distilled(jc.tasks.classification(Plain(), head="multilabel"), teacher, known)
    with pytest.raises(InputError, match="the task has no accuracy of classes"):
        distilled(student, jc.tasks.regression(Plain()), known)
    with pytest.raises(InputError, match="no teacher"):
        distilled(student, teacher, known).loss(variables["params"], {}, batch, None)
    other = jc.tasks.classification(Plain(num_classes=7))
    with pytest.raises(InputError, match=r"\[12, 4\] and \[12, 7\]"):
        distilled(other, teacher, known).loss(
            other.init(jax.random.key(0), batch)["params"], {"teacher": known}, batch, jax.random.key(0)
        )


def test_low_rank_is_the_best_approximation_and_trains():
    model = jc.models.cnn(num_classes=4, widths=(8, 16))
    variables = pseudo.variables(model, (16, 16, 1))
    small, parts = factorised(model, variables, 0.6)
    before, after = (v["params"]["stages_0"]["conv"] for v in (variables, parts))
    whole = before["kernel"].reshape(-1, 16)
    left, sizes, right = np.linalg.svd(whole, full_matrices=False)
    rank = int(np.searchsorted(np.cumsum(sizes**2), 0.6 * (sizes**2).sum())) + 1
    assert (
        after["down"].shape == (3, 3, 8, rank)
        and after["up"].shape == (1, 1, rank, 16)
        and set(after) == {"down", "up"}
    )
    best = (left[:, :rank] * sizes[:rank]) @ right[:rank]
    np.testing.assert_allclose(after["down"].reshape(-1, rank) @ after["up"][0, 0], best, atol=1e-5)
    assert "kernel" in parts["params"]["stem"]["conv"]  # of one channel: two parts would have more weights
    x = np.random.default_rng(0).standard_normal((2, 16, 16, 1)).astype(np.float32)
    replaced = jax.tree.map(lambda x: x, variables)
    replaced["params"]["stages_0"]["conv"]["kernel"] = best.reshape(3, 3, 8, 16)
    replaced["params"]["logits"] = {**variables["params"]["logits"]}
    if "down" in parts["params"]["logits"]:
        logits = parts["params"]["logits"]
        replaced["params"]["logits"]["kernel"] = logits["down"] @ logits["up"]
    want, got = model.apply(replaced, x, train=False), small.apply(parts, x, train=False)
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
    t, tx, data = jc.tasks.classification(small, size=(16, 16)), optax.adam(1e-2), rows(32)
    state = jc.init_state(t, tx, data.example(), variables=parts)
    assert jax.tree.structure(t.init(jax.random.key(0), data.example())) == jax.tree.structure(parts)
    fitted = jc.fit(jc.compile_step(jc.make_train_step(t, tx), "jit"), state, data, batch_size=16, steps=4, log=None)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), parts, fitted.state.variables)
    assert min(jax.tree.leaves(moved)) > 0
    with pytest.raises(InputError, match="'nosuch' is no layer"):
        factorised(model, variables, 0.6, keep=["nosuch"])
    with pytest.raises(jc.InputError, match="layers in two parts, which cannot be rounded"):
        parts = factorised(model, variables, 0.6)[1]
        jc.methods.quantise.calibrate(lambda *given: None, parts, {"image": np.zeros((2, 8, 8, 1))})
    assert factorised(model, variables, 0.6, keep=["logits"])[1]["params"]["logits"].keys() == {"kernel", "bias"}
    with pytest.raises(InputError, match="energy=0"):
        factorised(model, variables, 0)
    with pytest.raises(InputError, match="no layer has fewer"):
        factorised(model, variables, 1.0)


def test_layers_without_a_form_of_low_rank_are_named():
    model = jc.models.unet(num_classes=2, widths=(8, 16))
    variables, x = pseudo.variables(model, (16, 16, 1)), np.zeros((1, 16, 16, 1), np.float32)
    small, parts = factorised(model, variables, 0.3)
    with pytest.raises(InputError, match=r"up_0: \w+ cannot be factorised; give keep=\('up_0',\)"):
        small.apply(parts, x, train=False)
    small, parts = factorised(model, variables, 0.3, keep=["up_0"])
    assert small.apply(parts, x, train=False).shape == (1, 16, 16, 2)

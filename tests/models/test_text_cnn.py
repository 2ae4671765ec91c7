"""TextCNN: its logits are torch's, padding changes nothing, words without a number give NaN, and trained vectors."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.data import words
from jaxcnn.models.text_cnn import text_cnn, with_vectors

FOUND = json.loads((pathlib.Path(__file__).parents[1] / "fixtures" / "text_cnn.json").read_text())
TEXT = jnp.array(FOUND["text"])


@pytest.fixture(scope="module")
def small():
    """A network with torch's weights."""
    model = text_cnn(2, 7, width=3, maps=2, windows=(2, 3))
    params = {"trained": {"vectors": FOUND["table"]}, "logits": {"kernel": FOUND["dense"], "bias": FOUND["bias"]}}
    params |= {f"window{n}": {"kernel": FOUND[f"kernel{n}"], "bias": FOUND[f"bias{n}"]} for n in (2, 3)}
    params = jax.tree.map(jnp.float32, params, is_leaf=lambda x: isinstance(x, list))
    made = jax.eval_shape(model.init, jax.random.key(0), TEXT)["params"]
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)
    return model, {"params": params}


def test_logits_are_those_of_torch(small):
    model, variables = small
    np.testing.assert_allclose(model.apply(variables, TEXT), FOUND["logits"], rtol=1e-5, atol=1e-5)


def test_padding_changes_nothing_and_numbers_that_are_no_words_give_nan(small):
    model, variables = small
    logits = model.apply(variables, TEXT)
    np.testing.assert_allclose(model.apply(variables, jnp.pad(TEXT, ((0, 0), (0, 4)))), logits, rtol=1e-6)
    for wrong in (-1, 7):
        bad = np.isnan(model.apply(variables, TEXT.at[0, 1].set(wrong))).any(1)
        assert bad.tolist() == [True, False, False]
    with pytest.raises(jc.InputError, match=r"text of shape \(3, 5\) and dtype float32: must be"):
        model.apply(variables, TEXT.astype(jnp.float32))


def test_which_vectors_learn():
    label = jnp.array([0, 1, 0])
    for kind, learns in (("trained", {"trained"}), ("frozen", set()), ("both", {"trained"})):
        model = text_cnn(2, 7, width=3, maps=2, vectors=kind)
        task = jc.tasks.classification(model, field="text")
        variables = task.init(jax.random.key(0), {"text": TEXT})
        batch = {"text": TEXT, "label": label}
        loss = lambda params, batch=batch, task=task: task.loss(params, {}, batch, jax.random.key(1))[0].total
        found = jax.jit(jax.grad(loss))(variables["params"])
        tables = {name for name in ("trained", "frozen") if name in found}
        assert {name for name in tables if np.abs(found[name]["vectors"]).max() > 0} == learns
        assert all(not found[name]["vectors"][0].any() for name in tables)  # padding


def test_trained_vectors_replace_those_of_their_words():
    model = text_cnn(2, 5, width=2, vectors="both")
    variables = model.init(jax.random.key(0), TEXT[:, :2] % 5)
    vectors, found = np.array([[1, 2], [0, 0], [3, 4]], np.float32), np.array([True, False, True])
    params = with_vectors(variables, vectors, found)["params"]
    for name in ("trained", "frozen"):
        table = params[name]["vectors"]
        assert (table[2] == vectors[0]).all() and (table[4] == vectors[2]).all()
        assert (table[3] == variables["params"]["trained"]["vectors"][3]).all()  # the same in both
    with pytest.raises(jc.InputError, match=r"vectors \(3, 5\): must be \(3, 2\)"):
        with_vectors(variables, np.zeros((3, 5)), found)


def test_options_are_checked():
    for options, line in (({"vectors": "nosuch"}, "vectors='nosuch': must be"), ({"maps": 0}, "must be at least 1")):
        with pytest.raises(jc.InputError, match=line):
            text_cnn(2, 7, **options)


def test_the_word_that_decides_has_the_largest_weight():
    known = ("good", "bad", "the", "film")
    rows = words.encode(["the good film", "the bad film", "good", "bad film"] * 4, known, 4)
    data = jc.data.Resident({"text": rows, "label": np.array([1, 0, 1, 0] * 4)}, ("no", "yes"))
    task = jc.tasks.classification(text_cnn(2, 6, width=8, maps=8, windows=(1, 2), dropout=0.0), field="text")
    tx = jc.optim.adamw(jc.optim.constant(0.03))
    run = jc.compile_step(jc.make_train_step(task, tx), "jit", devices=1)
    fitted = jc.fit(run, jc.init_state(task, tx, data.example(), seed=0), data, batch_size=8, steps=40)
    spans = words.spans("the good film", "words", 4)
    found = jc.explain.erasure(task.predict, fitted.state.variables, rows[0], spans, 1)
    assert [word for word, _ in found] == ["the", "good", "film"]
    assert max(found, key=lambda pair: pair[1])[0] == "good"
    odds = lambda text: np.diff(task.predict(fitted.state.variables, {"text": jnp.array([text])})[0])[0]
    assert found[1][1] == pytest.approx(odds(rows[0]) - odds([4, 1, 5, 0]), abs=1e-4)


def test_a_label_among_several_is_explained_by_its_own_logit():
    weights = np.array([[0.0, 0, 0], [1, -2, 3], [0, 5, -1], [4, 1, 0]], np.float32)
    predict = lambda variables, batch: jnp.asarray(weights)[batch["text"]].sum(1)
    spans, row = [("one", 0, 1), ("two", 1, 2), ("three", 2, 3)], np.array([1, 2, 3])
    for target in range(3):
        found = jc.explain.erasure(predict, None, row, spans, target, fill=0, head="multilabel")
        assert [weight for _, weight in found] == pytest.approx(weights[row, target].tolist())
    for target in (-1, 3, 1.0):
        with pytest.raises(jc.InputError, match=f"target={target}: must be a class from 0 to 2"):
            jc.explain.erasure(predict, None, row, spans, target)

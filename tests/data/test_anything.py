"""A caller's data (dicts of arrays, pairs, sequences, generators) give the same rows as the library's own classes."""

import chex
import jax
import numpy as np
import pytest

import jaxcnn as jc
from tests.data.test_data import refused
from tests.small import rows
from tests.train.test_loop import setting

ARRAYS = {name: np.asarray(x) for name, x in rows(48).arrays.items()}


def fitted(data, workdir=None, steps=6, **options):
    run, state, _ = setting()
    return jc.fit(run, state, data, batch_size=16, steps=steps, every=3, workdir=workdir, log=None, **options)


def same(a, b):
    chex.assert_trees_all_equal(jax.device_get(a.state.params), jax.device_get(b.state.params))


def close(a, b):
    """Equal but for rounding: batches of a generator have a `row_mask`, and so another program."""
    chex.assert_trees_all_close(jax.device_get(a.state.params), jax.device_get(b.state.params), atol=1e-6)


def in_order(start=0):
    """The library's own order, as a generator."""
    data = jc.data.Resident(ARRAYS)
    while True:
        yield {name: np.asarray(x) for name, x in data.chunk(16, start, 1, 1).at(0).items()}
        start += 1


class Pairs:
    """What PyTorch calls a map-style data set."""

    def __len__(self):
        return 48

    def __getitem__(self, i):
        if not 0 <= i < 48:
            raise IndexError(i)
        return tuple(x[i] for x in ARRAYS.values())


NAMES = tuple(ARRAYS)


def test_arrays_sequences_and_generators_train_the_same():
    straight = fitted(jc.data.Resident(ARRAYS))
    same(straight, fitted(ARRAYS))
    same(straight, fitted({name: x.tolist() if name == "label" else x for name, x in ARRAYS.items()}))
    same(straight, fitted(jc.data.dataset(Pairs(), names=NAMES, workers=2)))
    close(straight, fitted(jc.data.Batches(in_order)))
    close(straight, fitted(jc.data.Batches(lambda: in_order())))


@pytest.mark.parametrize("make", [in_order, lambda: in_order()], ids=["from a number", "from the beginning"])
def test_a_generator_resumes_exactly(tmp_path, caplog, make):
    straight = fitted(jc.data.Batches(in_order))
    fitted(jc.data.Batches(make), tmp_path, steps=3)
    same(straight, fitted(jc.data.Batches(make), tmp_path))
    assert ("3 batches are generated again" in caplog.text) is (make is not in_order)


def test_every_row_of_a_generator_is_measured_once():
    _, state, _ = setting()
    t = jc.tasks.classification(jc.models.mlp(num_classes=4))
    variables = t.init(jax.random.key(0), {"image": ARRAYS["image"][:1]})
    ev = jc.compile_step(jc.make_eval_step(t))

    def make():
        for a, b in ((0, 20), (20, 21), (21, 48)):
            yield {name: ARRAYS[name][a:b] for name in ("image", "label")}

    whole = jc.evaluate(ev, variables, {name: ARRAYS[name] for name in ("image", "label")}, batch_size=16)
    parts = jc.evaluate(ev, variables, jc.data.Batches(make), batch_size=16)
    assert parts["count"] == whole["count"] == 48
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5) and parts["accuracy"] == whole["accuracy"]
    first = jc.evaluate(ev, variables, jc.data.Batches(make, size=20), batch_size=16)
    assert first["count"] == 20
    outputs, kept = jc.collect(t.predict, variables, jc.data.Batches(make), keep=("label",), batch_size=16)
    np.testing.assert_array_equal(kept["label"], ARRAYS["label"])
    assert outputs.shape == (48, 4)
    pair = jc.evaluate(ev, variables, (ARRAYS["image"], ARRAYS["label"]), batch_size=48)
    assert pair["count"] == 48


def test_short_batches_are_padded():
    def make():
        yield {name: x[:16] for name, x in ARRAYS.items()}
        yield {name: x[16:21] for name, x in ARRAYS.items()}

    history = fitted(jc.data.Batches(make), steps=4).history
    assert sum(row["train/count"] for row in history) == 2 * 21


def test_nested_arrays():
    nested = {
        "image": ARRAYS["image"],
        "boxes": {"yxyx": np.zeros((48, 3, 4), np.float32), "label": np.zeros((48, 3), np.int32)},
    }
    data = jc.data.Resident(nested)
    assert data.size == 48 and data.take([3, 4]).arrays["boxes"]["yxyx"].shape == (2, 3, 4)
    assert data.chunk(16, 0, 2, 4).at(1)["boxes"]["label"].shape == (16, 3)
    read = jc.data.dataset([{"image": np.ones((2, 2, 1)), "boxes": {"yxyx": np.zeros((3, 4))}}] * 5)
    assert read.chunk(4, 0, 1, 1).at(0)["boxes"]["yxyx"].shape == (4, 3, 4)
    refused("arrays of different lengths", jc.data.Resident, {**nested, "boxes": {"yxyx": np.zeros((4, 4))}})


def test_a_step_of_ones_own_sees_nested_batches():
    def step(state, batch):
        return state.replace(step=state.step + 1), {"n": jc.Count(batch["boxes"]["label"].sum().astype(np.float32))}

    arrays = {"boxes": {"label": np.ones((12, 2), np.float32)}}
    for strategy, devices in (("jit", 1), ("sharded", 2), ("pmap", 2)):
        run = jc.compile_step(step, strategy, devices)
        _, state, _ = setting()
        (row,) = jc.fit(run, state, arrays, batch_size=4, steps=3, log=None).history
        assert row["train/n"] == 24


@pytest.mark.parametrize(
    ("words", "data"),
    [
        ("data of type int: give a data set", 3),
        ("data of type Splits: give a part of it, such as its train", jc.data.Splits(ARRAYS, ARRAYS, ARRAYS)),
        ("arrays={}", {}),
        ("batch_size=16: must be from 1 to the 2", (np.zeros((2, 4, 4, 1), np.uint8), [0, 1])),
        ("make: batch 0 is list: must be a dict of arrays", jc.data.Batches(lambda: [[1, 2]])),
        ("make: gives no batch", jc.data.Batches(lambda: [])),
        (
            "make: batch 0 has arrays of 2, 3 rows",
            jc.data.Batches(lambda: [{"image": np.zeros((2, 4)), "label": [0, 1, 2]}]),
        ),
        ("row 0: image: has dtype <U1; must be numbers", jc.data.Batches(lambda: [{"image": ["a"]}])),
    ],
)
def test_what_is_no_data(words, data):
    refused(words, fitted, data)


def test_sequences_that_do_not_fit():
    refused(
        "row 1 has an array of shape .3,., and row 0 one of .2,.",
        jc.data.dataset([(np.zeros(2), 0), (np.zeros(3), 1)]).read,
        np.arange(2),
    )
    refused("row 0 has 1 entries for the names image, label", jc.data.dataset([(np.zeros(2),)]).example)
    refused("row 0 is int: must be a dict of arrays", jc.data.dataset([1, 2]).example)
    refused("no length", jc.data.dataset, iter([1]))
    refused("there are none", jc.data.dataset, [])
    refused(
        "batch 0 has 20 rows, more than batch_size=16",
        fitted,
        jc.data.Batches(lambda: [{k: x[:20] for k, x in ARRAYS.items()}]),
    )


def test_an_argument_with_a_default_is_the_callers_own():
    def make(shuffled=False):
        assert shuffled is False
        return in_order()

    same(fitted(jc.data.Batches(in_order)), fitted(jc.data.Batches(make)))

"""Sequences: loss and decoders against sums over all paths, edit distances, and the strings that are refused."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn.metrics import character_error_rate, edit_distance, exact_match
from jaxcnn.tasks import decoded, sequence

COLUMNS, SYMBOLS = 4, 2


def strings(*rows, longest=None):
    longest = longest or max(map(len, rows))
    return np.array([[*row, *[-1] * (longest - len(row))] for row in rows], np.int32)


def text(row):
    return tuple(int(x) for x in row if x >= 0)


def collapsed(path):
    """A path of numbers, 0 for the blank, as the string that it gives."""
    return tuple(k - 1 for k, _ in itertools.groupby(path) if k)


@functools.cache
def enumerated():
    """Logits of five rows, and of each row the probability of every string, by adding up all paths."""
    logits = np.random.default_rng(0).normal(0, 1.5, (5, COLUMNS, SYMBOLS + 1)).astype(np.float32)
    shares = np.asarray(jax.nn.softmax(logits, -1), np.float64)
    found = [{} for _ in logits]
    for path in itertools.product(range(SYMBOLS + 1), repeat=COLUMNS):
        for row, total in zip(shares, found, strict=True):
            key = collapsed(path)
            total[key] = total.get(key, 0) + row[np.arange(COLUMNS), list(path)].prod()
    return logits, found


def test_the_loss_is_the_sum_over_all_paths():
    logits, found = enumerated()
    for string in ((), (0,), (1,), (0, 1), (0, 0), (1, 1, 0)[:2], (1, 0, 1), (0, 1, 0, 1)):
        symbols = np.tile(strings(string, longest=4), (5, 1))
        expected = [-np.log(row[string]) for row in found]
        np.testing.assert_allclose(jc.losses.ctc(logits, symbols), expected, rtol=1e-4)


def test_the_loss_of_impossible_strings_is_nan():
    logits = jnp.zeros((6, COLUMNS, SYMBOLS + 1))
    bad = strings((0, 0, 1, 1), (0, 2), (-2, 0), (0,), (0, 1, 0, 1), (0, 1, 0, 0))
    bad[3] = [0, -1, 1, -1]  # goes on after the end
    assert np.isnan(jc.losses.ctc(logits, bad)).tolist() == [True, True, True, True, False, True]


@pytest.mark.parametrize("beams", [1, 15, 40])
def test_enough_beams_find_the_most_probable_string(beams):
    logits, found = enumerated()
    read = jax.jit(functools.partial(jc.ops.ctc_beam, beams=beams))(logits)
    assert sum(map(len, found)) == 5 * 15  # strings of two symbols that four columns can show
    for symbols, score, row in zip(read.symbols, read.log_probability, found, strict=True):
        assert float(score) <= np.log(row[text(symbols)]) + 1e-4  # what was dropped is missing
        if beams > 1:
            assert text(symbols) == max(row, key=row.get)
            assert float(score) == pytest.approx(np.log(row[text(symbols)]), abs=1e-4)


def test_a_beam_search_adds_up_paths_where_the_best_path_misleads():
    shares = jnp.log(jnp.array([[[0.6, 0.4], [0.6, 0.4]]]))  # the blank twice: 0.36; a symbol in any way: 0.64
    assert text(decoded(shares).symbols[0]) == () and text(decoded(shares, 4).symbols[0]) == (0,)
    assert float(decoded(shares, 4).log_probability[0]) == pytest.approx(np.log(0.64), abs=1e-5)
    assert decoded(shares, 4).symbols.shape == (1, 2)
    longest = jc.ops.ctc_beam(jnp.full((1, 6, 3), 0.0).at[0, ::2, 1].set(9.0).at[0, 1::2, 2].set(9.0), 4, longest=3)
    assert longest.symbols.shape == (1, 3)


def test_greedy_reading_by_hand():
    path = np.array([[1, 1, 0, 1, 2, 2, 0], [0, 0, 0, 0, 0, 0, 0], [0, 3, 0, 3, 3, 0, 0]])
    read = jax.jit(decoded)(10.0 * jax.nn.one_hot(path, 4))
    assert [text(row) for row in read.symbols] == [(0, 0, 1), (), (2, 2)] and read.symbols.shape == (3, 7)
    broken = (
        jax.jit(decoded)(jnp.full((1, 3, 4), jnp.nan)),
        jax.jit(decoded, static_argnums=1)(jnp.full((1, 3, 4), jnp.nan), 3),
    )
    assert all(np.isnan(one.log_probability).all() for one in broken)


def distance(a, b):
    """The plain table of Levenshtein's distance."""
    before = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
        before = row
    return before[-1]


def test_edit_distance_equals_the_plain_table(rng):
    pairs = [[tuple(rng.integers(0, 3, rng.integers(0, n + 1))) for n in (7, 5)] for _ in range(80)]
    first, second = strings(*(a for a, _ in pairs), longest=7), strings(*(b for _, b in pairs), longest=5)
    assert edit_distance(first, second).tolist() == [distance(a, b) for a, b in pairs]


def test_metrics_by_hand_and_without_padding():
    path = np.array([[1, 0, 2, 0], [1, 2, 0, 2], [2, 2, 2, 2], [0, 0, 0, 0]])  # 01, 011, 1, nothing
    logits = 10.0 * jax.nn.one_hot(path, 3)
    batch = {"symbols": strings((0, 1), (0, 1), (0, 0, 0), (1,)), "row_mask": jnp.array([1.0, 1, 1, 0])}
    for beams in (1, 8):
        assert exact_match(beams)(logits, batch).compute() == pytest.approx(1 / 3)
        assert character_error_rate(beams)(logits, batch).compute() == pytest.approx((0 + 1 + 3) / 7)
    logits = logits.at[3].set(jnp.nan)
    assert exact_match()(logits, batch).compute() == pytest.approx(1 / 3)
    assert np.isnan(exact_match()(logits, {"symbols": batch["symbols"]}).compute())
    assert np.isnan(character_error_rate()(logits, {"symbols": batch["symbols"]}).compute())


def lines(count=8, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (count, 8, 32, 1)).astype(np.uint8)
    symbols = rng.integers(0, 3, (count, 3)).astype(np.int32)
    symbols[::2, 2] = -1
    return {"image": image, "symbols": symbols}


@functools.cache
def shared(length):
    """One compiled evaluation for strings of one length."""
    return jax.jit(jc.make_eval_step(tiny()))


def tiny(**options):
    return sequence(jc.models.text_line(3, widths=(4, 4, 4, 4), line_width=8), **options)


@pytest.mark.slow
def test_it_is_the_same_everywhere():
    task, rows = tiny(), lines()
    tx, weight = optax.sgd(0.05), np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32)
    batch, found = {**rows, "row_mask": weight}, {}
    for strategy in ("jit", "sharded", "pmap"):
        run = jc.compile_step(jc.make_train_step(task, tx), strategy, jax.devices()[: 1 if strategy == "jit" else 4])
        data = jc.data.Batches(lambda start: itertools.repeat(batch))
        state = jc.init_state(task, tx, data.example())
        fitted = jc.fit(run, state, data, batch_size=8, steps=6, every=3, log=None)
        found[strategy] = jax.tree.leaves(jax.tree.map(np.asarray, fitted.state.params))
    for strategy in ("sharded", "pmap"):
        for a, b in zip(found["jit"], found[strategy], strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_padding_rows_change_nothing():
    task, rows = tiny(), lines()
    variables = jax.jit(task.init)(jax.random.key(0), rows)
    few = {name: x[:5] for name, x in rows.items()}
    padded = {"image": rows["image"], "symbols": rows["symbols"].copy(), "row_mask": (np.arange(8) < 5) * 1.0}
    padded["symbols"][5:] = 99
    ev = jax.jit(jc.make_eval_step(task))
    values = [jc.types.compute(ev(variables, batch)[1]) for batch in (few, padded)]
    assert values[0] == pytest.approx(values[1], rel=1e-5) and values[0]["count"] == 5
    assert set(values[0]) == {"loss", "count", "exact_match", "character_error_rate"}

    @jax.jit
    def gradient(batch):
        state = {"batch_stats": variables["batch_stats"]}
        return jax.grad(lambda p: task.loss(p, state, batch, jax.random.key(0))[0].total)(variables["params"])

    grads = [gradient(batch) for batch in (few, padded)]
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


BAD = [
    (strings((0, 3, 1)), "'symbols' of row 0 has 3: symbols are 0 to 2, and -1 after the end"),
    (strings((0, -2, 1)), "'symbols' of row 0 has -2: symbols are 0 to 2"),
    (strings((0, -1, 1)), "'symbols' of row 0 goes on after a -1: -1 marks the end; move it there"),
    (strings((), longest=2), "'symbols' of row 0 is empty: leave the row out, or give allow_empty=True"),
    (strings((0, 0, 0, 0, 0, 1)), "'symbols' of row 0 needs 10 columns, one per symbol .* but the model has 8; give"),
    (np.zeros((1, 2), np.float32), r"'symbols' of shape \(1, 2\), float32: must be integers \[N, L\]"),
    (np.zeros(1, np.int32), r"'symbols' of shape \(1,\), int32: must be integers \[N, L\]"),
]


@pytest.mark.parametrize("symbols, line", BAD)
def test_bad_strings_are_refused_in_one_line_and_are_nan_in_a_program(symbols, line):
    task, image = tiny(), lines(1)["image"]
    with pytest.raises(jc.InputError, match=line) as error:
        task.check({"image": image, "symbols": symbols})
    assert "\n" not in str(error.value)
    task.check({"image": image[:1], "symbols": symbols, "row_mask": np.zeros(1)} if symbols.dtype == np.int32 and
               symbols.ndim == 2 else {"image": image, "symbols": strings((0,))})  # fmt: skip
    if symbols.ndim == 2 and symbols.dtype == np.int32:
        batch = {"image": image, "symbols": symbols}
        variables = jax.eval_shape(task.init, jax.random.key(0), batch)
        variables = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), variables)
        values = shared(batch["symbols"].shape[1])(variables, batch)[1]
        assert np.isnan(values["loss"].compute())


def test_other_things_are_refused():
    with pytest.raises(jc.InputError, match="the batch has no 'symbols', only image; name the strings 'symbols'"):
        tiny().check({"image": lines(1)["image"]})
    with pytest.raises(jc.InputError, match="num_classes=None: must be at least 1, the number of symbols"):
        sequence(object())
    with pytest.raises(jc.InputError, match="must be .B, T, 1 . K., the blank and K symbols"):
        decoded(jnp.zeros((2, 3)))
    with pytest.raises(jc.InputError, match="beams=0: must be at least 1"):
        decoded(jnp.zeros((1, 3, 2)), 0)
    with pytest.raises(jc.InputError, match="beams=0: must be at least 1"):
        exact_match(0)
    with pytest.raises(jc.InputError, match="must be at least 8 pixels high and wide"):
        tiny().init(jax.random.key(0), {"image": np.zeros((1, 4, 32, 1), np.uint8)})
    with pytest.raises(jc.InputError, match="with at least four widths"):
        jc.models.text_line(3, widths=(4, 4, 4))
    tiny(allow_empty=True).check({"image": lines(1)["image"], "symbols": strings((), longest=2)})


class Echo(nn.Module):
    """Its logits are its input."""

    num_classes: int = 2

    @nn.compact
    def __call__(self, x, *, length):
        return x + self.param("shift", nn.initializers.zeros, ())


def test_columns_after_the_end_of_a_series_are_blank(rng):
    series = rng.normal(0, 2, (3, 6, 3)).astype(np.float32)
    length, symbols = np.array([6, 3, 4], np.int32), strings((0, 1), (1, 0), (1,))
    task = sequence(Echo(), field="series", also=("length",))
    batch = {"series": series, "length": length, "symbols": symbols}
    task.check(batch)
    variables = {"params": {"shift": jnp.zeros(())}}
    values = jax.jit(jc.make_eval_step(task))(variables, batch)[1]
    alone = [float(jc.losses.ctc(series[i : i + 1, :n], symbols[i : i + 1])[0]) for i, n in enumerate(length)]
    assert values["loss"].compute() == pytest.approx(np.mean(alone), rel=1e-4)
    read = jax.jit(lambda v, b: decoded(task.predict(v, b)).symbols)(variables, batch)
    best = [collapsed(row[:n].argmax(-1)) for row, n in zip(series, length, strict=True)]
    assert [text(row) for row in read] == best
    with pytest.raises(jc.InputError, match="row 1 needs 3 columns, .* but the model has 2"):
        task.check({**batch, "length": np.array([6, 2, 4]), "symbols": strings((0, 1), (1, 1), (1,))})

"""The promises of every data set to the loop: the order of rows, reading each row once, and splits."""

import dataclasses
import math
import os

import jax
import numpy as np
import pytest

from jaxcnn.core.types import InputError, reason
from jaxcnn.data import Indexed, Resident, cache, npz, stratified
from jaxcnn.data.checking import checked, labelled
from jaxcnn.data.core import sides
from jaxcnn.data.splitting import check_fraction, cut
from jaxcnn.parallel.compile import IndexedChunk

SIZE = 23


def refused(match, fn, *args, **options):
    """The call is refused, in one line that holds `match`."""
    with pytest.raises(InputError, match=match) as caught:
        fn(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def arrays(size=SIZE):
    """Images that are their row number all over."""
    row = np.arange(size)
    return {
        "image": np.broadcast_to(row[:, None, None, None], (size, 2, 2, 1)).astype(np.uint8),
        "label": (row % 3).astype(np.int32),
    }


def resident(size=SIZE, capacity=4):
    return Resident(arrays(size), ("a", "b", "c"), capacity=capacity)


def placed(size=SIZE, capacity=4):
    return resident(size, capacity).put(jax.device_put)


def indexed(size=SIZE, capacity=4):
    whole = arrays(size)
    return Indexed(
        lambda index: {name: x[index] for name, x in whole.items()}, size, ("a", "b", "c"), capacity=capacity
    )


def rows(chunk):
    """Row numbers of a chunk's batches, `[count, width]`, and which of them are real."""
    batches = [{name: np.asarray(x) for name, x in chunk.at(k).items()} for k in range(int(chunk.count))]
    assert all((b["image"] == b["image"][:, :1, :1, :1]).all() and b["label"].dtype == np.int32 for b in batches)
    number = np.stack([b["image"][:, 0, 0, 0] for b in batches])
    assert (np.stack([b["label"] for b in batches]) == number % 3).all()
    return number, np.stack([b.get("row_mask", np.ones(len(b["label"]), np.float32)) for b in batches])


def trained(data, batch_size, start, count, capacity=None):
    return rows(data.chunk(batch_size, start, count, capacity or count))[0]


def check_training_order(data):
    """Endless permutations, a function of (seed, batch size, number) alone; shared with the TFDS stream's tests."""
    size = data.size
    order = trained(data, 7, 0, size).reshape(7, size)
    assert (np.sort(order) == np.arange(size)).all()  # 7 epochs, batches reach over their borders
    assert len({tuple(epoch) for epoch in order}) == 7
    again, other = dataclasses.replace(data), dataclasses.replace(data, seed=data.seed + 1)
    assert (trained(again, 7, 0, size).reshape(7, size) == order).all()
    assert (trained(other, 7, 0, size).reshape(7, size) != order).any()
    batches = order.reshape(size, 7)
    cuts = [(0, 1), (0, 5), (5, 1), (6, 3), (7, 2), (9, size - 9), (3, 4)]  # also again, within, and back
    for start, count in cuts:
        assert (trained(data, 7, start, count, count + 2) == batches[start : start + count]).all()
    assert (trained(dataclasses.replace(data), 7, size - 4, 3) == batches[size - 4 : size - 1]).all()  # a resume


def check_once(data):
    """Every row comes once and in the same order for any batch size; padding is marked; all chunks have one shape."""
    order = np.concatenate([rows(chunk)[0].reshape(-1) for chunk in data.once(1)])
    assert (np.sort(order) == np.arange(data.size)).all()
    for batch_size in (1, 7, data.size, 128):
        for multiple in (1, 3, 8):
            chunks = list(data.once(batch_size, multiple))
            read = [rows(chunk) for chunk in chunks]
            number, row_mask = (np.concatenate([part[i] for part in read]) for i in (0, 1))
            width = math.ceil(min(batch_size, data.size) / multiple) * multiple
            assert number.shape == row_mask.shape == (math.ceil(data.size / batch_size), width)
            assert (number[row_mask > 0] == order).all() and set(np.unique(row_mask)) <= {0.0, 1.0}
            assert row_mask.dtype == np.float32 and all(c.count.dtype == np.int32 for c in chunks)
            assert len({len(_leaf(c)) for c in chunks}) == 1 and len(_leaf(chunks[0])) <= data.capacity


def _leaf(chunk):
    return chunk.index if isinstance(chunk, IndexedChunk) else chunk.batches["image"]


@pytest.mark.parametrize("make", [resident, indexed])
def test_training_order(make):
    check_training_order(make())


@pytest.mark.parametrize("make", [resident, placed, indexed])
def test_once(make):
    check_once(make())
    assert (np.concatenate([rows(c)[0].reshape(-1) for c in make().once(1)]) == np.arange(SIZE)).all()


def test_kinds_agree():
    assert (trained(resident(), 5, 3, 9) == trained(indexed(), 5, 3, 9)).all()
    for a, b in zip(resident().once(5, 3), indexed().once(5, 3), strict=True):
        assert all((x == y).all() for x, y in zip(rows(a), rows(b), strict=True))


@pytest.mark.parametrize("make", [resident, indexed])
def test_batch_larger_than_the_set(make):
    assert (np.sort(trained(make(5), 15, 0, 1)) == np.repeat(np.arange(5), 3)).all()


@pytest.mark.parametrize("make", [resident, indexed])
def test_chunk_is_filled_to_its_capacity(make):
    chunk = make().chunk(4, 0, 3, 8)
    assert len(_leaf(chunk)) == 8 and int(chunk.count) == 3


@pytest.mark.parametrize("make", [resident, indexed])
def test_take(make):
    part = make().take(np.array([20, 4, 9, 4])).take(np.array([2, 0]))
    assert part.size == 2 and part.classes == ("a", "b", "c")
    assert next(rows(c)[0].tolist() for c in part.once(2)) == [[9, 20]]


@pytest.mark.parametrize("make", [resident, indexed])
def test_a_set_without_rows_has_no_chunks(make):
    assert list(make().take(np.zeros(0, int)).once(4, 8)) == []


@pytest.mark.parametrize("make", [resident, indexed])
def test_example_is_the_first_row(make):
    example = make().take(np.array([5])).example()
    assert example["image"].shape == (1, 2, 2, 1) and example["image"].max() == 5 and example["label"].tolist() == [2]


def test_only_resident_rows_are_placed():
    placed = []
    put = lambda tree: placed.append(tree) or {name: x + 1 for name, x in tree.items()}
    assert resident().put(put).arrays["label"][0] == 1 and len(placed) == 1
    indexed().put(put)
    assert len(placed) == 1


def test_streaming_reads_only_what_is_asked():
    asked, whole = [], arrays(200)
    data = Indexed(
        lambda index: asked.append(len(index)) or {name: x[index] for name, x in whole.items()}, 200, capacity=3
    )
    data.take(np.arange(100)), data.put(lambda tree: tree)
    assert asked == []
    data.chunk(5, 17, 2, 3)
    assert asked == [10]
    once = data.once(8)
    next(once)
    assert asked == [10, 24]
    assert len(list(once)) == 8 and max(asked) == 24


def test_few_rows_and_more_share_a_shape():
    """So validation and test run one compiled program."""
    shapes = {
        _leaf(next(make(size, capacity=8).once(5))).shape for make in (resident, indexed) for size in (26, 33, 38, 100)
    }
    assert len(shapes) == 1


def test_a_chunk_is_a_copy():
    """On a CPU it may become the device's own memory, while the reader fills its buffer again."""
    buffer = {"image": np.zeros((4, 2, 2, 1), np.uint8)}
    data = Indexed(lambda index: buffer, 4)
    assert not np.shares_memory(data.chunk(4, 0, 1, 1).batches["image"], buffer["image"])
    assert not np.shares_memory(next(data.once(4)).batches["image"], buffer["image"])


def test_kept_arrays(tmp_path):
    whole, key = arrays(), ["a set", 1]
    assert cache.load(tmp_path / "new", key) is None
    cache.store(tmp_path / "new", key, whole)
    (file,) = (tmp_path / "new").iterdir()
    found = cache.load(tmp_path / "new", key)
    assert all((found[name] == x).all() and found[name].dtype == x.dtype for name, x in whole.items()) and set(
        found
    ) == set(whole)
    assert cache.load(tmp_path / "new", ["a set", 2]) is None
    raw = file.read_bytes()
    for damaged in (raw[: len(raw) // 2], raw[:200] + bytes([raw[200] ^ 1]) + raw[201:], b""):
        file.write_bytes(damaged)
        assert cache.load(tmp_path / "new", key) is None
    cache.store(tmp_path / "new", key, whole)
    assert (cache.load(tmp_path / "new", key)["label"] == whole["label"]).all()


def test_kept_arrays_stay_within_bounds(tmp_path):
    for i in range(4):
        cache.store(tmp_path, i, {"x": np.zeros(1000, np.uint8)}, limit=3000)
        for age, file in enumerate(sorted(tmp_path.iterdir(), key=lambda p: p.stat().st_mtime_ns)):
            os.utime(file, (age, age))
    assert [cache.load(tmp_path, i) is not None for i in range(4)] == [False, False, True, True]
    cache.store(tmp_path, "large", {"x": np.zeros(2000, np.uint8)}, limit=3000)
    assert cache.load(tmp_path, "large") is None
    (tmp_path / "file").write_text("")
    cache.store(tmp_path / "file", 1, {"x": np.zeros(1)})  # cannot be written: no error


def test_order_of_rows_is_fixed_forever():
    """A resumed run reads on in an order that an earlier version began."""
    assert trained(resident(), 6, 2, 2).tolist() == [[0, 12, 16, 13, 7, 5], [17, 14, 9, 1, 15, 15]]


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1, 0.29, 0.5, 0.9])
@pytest.mark.parametrize("sizes", [(50, 50, 50), (2000, 3, 3, 3, 3, 3, 3, 3, 3), (1, 1, 1, 1, 97), (7, 60, 33)])
def test_split_keeps_the_share_of_every_class(sizes, fraction):
    label = np.random.default_rng(3).permutation(np.repeat(np.arange(len(sizes)), sizes))
    for seed in range(20):
        rest, share = stratified(label, fraction, seed)
        assert sorted([*rest, *share]) == list(range(len(label)))
        assert (np.diff(rest) > 0).all() and (np.diff(share) > 0).all() and len(share) == round(fraction * len(label))
        count = np.bincount(label[share], minlength=len(sizes))
        assert (count < sizes).all()  # a class of one row is learned, not measured
        if all(size * (1 - fraction) >= 1 for size in sizes):
            assert (np.abs(count - fraction * np.array(sizes)) < 1).all()


@pytest.mark.parametrize("sizes", [(20, 1), (2, 2, 2), (1, 1, 9), (30, 2, 1)])
def test_two_cuts_leave_each_class_a_training_row(sizes):
    label = np.repeat(np.arange(len(sizes)), sizes)
    data = Resident({"image": np.zeros((len(label), 1, 1, 1), np.uint8), "label": label}, tuple("abc"[: len(sizes)]))
    for seed in range(20):
        train, test, left = cut(data, label, 0.3, seed)
        train, valid, left = cut(train, left, 0.3, seed)
        assert set(left.tolist()) == set(range(len(sizes))) and train.size + test.size + valid.size == len(label)


def test_splits_of_ordinary_sets_stay_what_they_were():
    label = np.random.default_rng(3).permutation(np.repeat(np.arange(3), (7, 9, 4)))
    assert [stratified(label, 0.3, seed)[1].tolist() for seed in (0, 1)] == [
        [1, 5, 6, 9, 13, 19],
        [0, 3, 4, 14, 15, 16],
    ]


def test_a_cut_without_rows_is_refused():
    refused("f=0.4: cuts no row, because each class has only one", cut, resident(3), np.arange(3), 0.4, 0, "f")


def test_split_is_seeded():
    label = np.arange(90) % 3
    a, b, c = (stratified(label, 0.3, seed)[1].tolist() for seed in (0, 0, 1))
    assert a == b != c


def test_split_draws_every_row_equally():
    counts = np.zeros(40)
    for seed in range(1000):
        counts[stratified(np.repeat([0, 1], (10, 30)), 0.25, seed)[1]] += 1
    assert 190 < counts.min() and counts.max() < 310  # 250 +- 14 each


def test_cut():
    rest, share, label = cut(resident(30), arrays(30)["label"], 0.2, 0)
    assert (rest.size, share.size) == (24, 6) and np.bincount(share.arrays["label"]).tolist() == [2, 2, 2]
    assert (label == rest.arrays["label"]).all()
    assert cut(resident(), arrays()["label"], 0.0, 0)[1].size == 0


@pytest.mark.parametrize(
    ("fraction", "rows", "match"),
    [
        (-0.1, 9, "f=-0.1: must be at least 0 and below 1"),
        (1.0, 9, "f=1.0: must be"),
        (math.nan, 9, "f=nan: must be"),
        (0.01, 9, "f=0.01: cuts no row out of 9; give more"),
        (0.99, 9, "f=0.99: cuts every row out of 9; give less"),
    ],
)
def test_bad_fraction(fraction, rows, match):
    refused(match, check_fraction, "f", fraction, rows)


@pytest.mark.parametrize(
    ("image", "label", "match"),
    [
        (np.zeros((3, 4), np.uint8), [0, 1, 1], r"images of shape \(3, 4\)"),
        (np.zeros((0, 4, 4), np.uint8), [], r"images of shape \(0, 4, 4, 1\)"),
        (np.zeros((3, 0, 4), np.uint8), [0, 1, 1], r"images of shape \(3, 0, 4, 1\)"),
        (np.zeros((3, 4, 4), np.int32), [0, 1, 1], "dtype int32; must be uint8 0..255 or float 0..1"),
        (np.full((3, 4, 4), 1.5), [0, 1, 1], "float images from 1.5 to 1.5"),
        (np.full((3, 4, 4), -0.5), [0, 1, 1], "float images from -0.5"),
        (np.full((3, 4, 4), np.nan), [0, 1, 1], "float images from nan"),
        (np.zeros((3, 4, 4), np.uint8), [0.0, 1.0, 1.0], "labels of dtype float64"),
        (
            np.zeros((3, 4, 4), np.uint8),
            [0, 1],
            r"labels of dtype int64 and shape \(2,\); must be integers of shape \(3,\)",
        ),
        (np.zeros((3, 4, 4), np.uint8), [0, 1, 2], "label 2 is out of range; with 2 classes labels are 0 to 1"),
        (np.zeros((3, 4, 4), np.uint8), [0, -1, 1], "label -1 is out of range"),
        (
            np.zeros((3, 3, 8, 8), np.uint8),
            [0, 1, 1],
            r"images of shape \(3, 3, 8, 8\): channels must come last.*transpose\(0, 2, 3, 1\)",
        ),
        (np.zeros((3, 1, 28, 28), np.uint8), [0, 1, 1], r"images of shape \(3, 1, 28, 28\): channels must come last"),
    ],
)
def test_bad_arrays(image, label, match):
    refused(f"^here: .*{match}", labelled, image, np.array(label), ("a", "b"), "here")


def test_labelled():
    data = labelled(np.linspace(0, 1, 3 * 16).reshape(3, 4, 4), np.array([0, 1, 0], np.uint8), ("a", "b"), "here")
    assert data.arrays["image"].shape == (3, 4, 4, 1) and data.arrays["image"].dtype == np.float32
    assert data.arrays["label"].dtype == np.int32


def test_sides():
    assert sides(None) is None and sides(5) == (5, 5) and sides((5, 6)) == (5, 6) and sides(np.int64(5)) == (5, 5)
    refused("size=0: must be at least 1", sides, 0)
    refused(r"size=\(4, -1\): must be at least 1", sides, (4, -1))


def test_reason_is_one_short_line():
    assert reason(ValueError("two\nlines")) == "two lines"
    assert reason(ValueError()) == "ValueError"
    assert len(reason(ValueError("x" * 1000))) == 203


def test_rows_are_used_in_place_on_a_cpu(rng):
    """A copy would take as much memory again as the data set."""
    rows = Resident(
        {"image": rng.integers(0, 256, (5000, 5, 5, 1), np.uint8), "label": np.arange(5000, dtype=np.int32)}
    )
    some = rows.take(rng.permutation(5000)[:4000])
    placed = some.put(jax.device_put)
    for name, x in some.arrays.items():
        assert placed.arrays[name].unsafe_buffer_pointer() == x.ctypes.data
        np.testing.assert_array_equal(x, rows.arrays[name][some.arrays["label"]])


@pytest.mark.parametrize("batch_size", [8, 10])
def test_shares_are_the_columns_of_the_whole(batch_size):
    data = indexed()
    read = lambda chunk: {name: np.asarray(x) for name, x in chunk.batches.items()}
    for make in (lambda *s: data.chunk(batch_size, 3, 2, 4, 4, *s), lambda *s: next(data.once(batch_size, 4, *s))):
        whole, parts = read(make()), [read(make((i, 2))) for i in range(2)]
        assert (parts[0].keys() == whole.keys()) and ("row_mask" in whole or batch_size % 4 == 0)
        for name, x in whole.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts], 1), x)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        (
            {"image": np.zeros((20, 2, 2, 1), np.uint8), "label": np.arange(10)},
            "different lengths .20 of 'image', 10 of 'label'.: each must",
        ),
        ({"image": np.zeros((20, 2, 2, 1), np.uint8), "label": np.arange(20), "group": np.arange(21)}, "21 of 'group'"),
        ({"image": np.zeros((20, 2, 2, 1), np.uint8), "label": jax.numpy.arange(10)}, "10 of 'label'"),
        ({}, "arrays={}: a data set needs at least one array"),
        ({"image": np.zeros((2, 2)), "label": np.int32(3)}, "'label' is one value: every array must be"),
        ({"image": np.zeros((2, 2)), "label": 3}, "'label' is one value"),
        (
            {"image": np.zeros((2, 2)), "name": np.array(["a", "b"])},
            "'name' has dtype <U1: must be an array of numbers",
        ),
        ({"image": np.array([np.zeros(2), np.zeros(3)], object), "label": np.arange(2)}, "'image' has dtype object"),
    ],
)
def test_arrays_that_do_not_belong_together(arrays, match):
    refused(match, Resident, arrays)


def test_lists_are_arrays():
    data = Resident({"image": [[[[1]]], [[[2]]]], "label": [0, 1]})
    assert data.size == 2 and next(data.once(2)).at(0)["label"].tolist() == [0, 1]


def test_rows_are_checked_as_they_are_read():
    """Those that a chunk holds, and nothing of the room that it has left."""
    seen = []
    data = checked(indexed(), lambda rows: seen.append({name: x.shape for name, x in rows.items()}))
    check_once(data)
    del seen[:]
    data.chunk(4, 0, 3, 8), data.put(jax.device_put).chunk(4, 0, 1, 8, 8)
    assert seen[0] == {"image": (12, 2, 2, 1), "label": (12,)} and seen[1]["row_mask"] == (8,)
    assert (data.size, data.classes, data.capacity, data.take(np.array([1])).size) == (SIZE, ("a", "b", "c"), 4, 1)
    held = resident()
    assert checked(held, lambda rows: seen.append(len(rows))) is held and seen[-1] == 2
    known = dataclasses.replace(indexed(), label=np.arange(SIZE))
    refused("no", checked, known, lambda rows: (_ for _ in ()).throw(InputError("no")))


@pytest.mark.parametrize(
    ("label", "match"),
    [
        (
            np.arange(200) % 10 * 10 + 1,
            r"10 different labels \(1, 11, ..., 91\) would make 92 classes, 82 of them without a row; number them 0",
        ),
        (np.arange(200) % 2 * 33, r"2 different labels \(0, 33\) would make 34 classes"),
    ],
)
def test_labels_with_more_gaps_than_classes(label, match, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(
        path,
        x_train=np.zeros((200, 4, 4), np.uint8),
        y_train=label,
        x_test=np.zeros((4, 4, 4), np.uint8),
        y_test=label[:4],
    )
    refused(match, npz, path)


def test_a_class_without_rows_is_said(tmp_path, caplog):
    image, path = np.random.default_rng(0).integers(0, 256, (41, 4, 4)).astype(np.uint8), tmp_path / "a.npz"
    for label, line in (
        (np.arange(40) % 10 + 1, ["no row of class 0; labels up to 10 make 11 classes, numbered from 0"]),
        (np.arange(40) % 3, []),
    ):
        # a test part need not have every class
        np.savez(path, x_train=image[:40], y_train=label, x_test=image[40:], y_test=label[:1])
        caplog.clear()
        npz(path)
        assert [m.split(": ", 1)[1] for m in caplog.messages] == line

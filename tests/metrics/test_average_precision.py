"""Average precision as sums agrees with that of all boxes, whatever the padding, batches and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import InputError
from jaxcnn.core.types import Task
from jaxcnn.metrics import average_precision, coco_scores
from tests.fixtures import make_detection as fixture

K, B, M, N, SIDE = 5, 4, 150, 8, 320.0
METRIC = average_precision(K)
measured = jax.jit(METRIC)
NAMES = ("ap", "ap50", "ap75")


def packed(predictions, truths, images=B):
    """Detections and a batch of fixed sizes, from lists of images; what is padding is NaN and -1."""
    found = {"boxes": np.full((images, M, 4), np.nan, np.float32), "scores": np.full((images, M), np.nan, np.float32)}
    found |= {"labels": np.full((images, M), -1), "box_mask": np.zeros((images, M), np.float32)}
    true = {"boxes": np.full((images, N, 4), np.nan, np.float32), "box_label": np.full((images, N), 3)}
    true |= {"box_mask": np.zeros((images, N), np.float32), "box_crowd": np.ones((images, N), np.float32)}
    true["row_mask"] = (np.arange(images) < len(truths)).astype(np.float32)
    found["box_mask"][len(truths) :] = 1  # of padded rows
    for i, (p, t) in enumerate(zip(predictions, truths, strict=True)):
        p = {name: np.asarray(x) for name, x in p.items()}
        order = np.argsort(-p["scores"], kind="stable")
        n, m = len(order), len(t["boxes"])
        found["boxes"][i, :n] = p["boxes"][order][:, [1, 0, 3, 2]] / SIDE
        found["scores"][i, :n], found["labels"][i, :n], found["box_mask"][i, :n] = (
            p["scores"][order],
            p["labels"][order],
            1,
        )
        true["boxes"][i, :m] = np.reshape(t["boxes"], (m, 4))[:, [1, 0, 3, 2]] / SIDE
        true["box_label"][i, :m], true["box_mask"][i, :m] = t["labels"], 1
        true["box_crowd"][i, :m] = t.get("iscrowd", np.zeros(m))
    return found, true


def total(states):
    return jax.tree.map(lambda *x: np.sum([np.asarray(v) for v in x], 0), *states)


def test_it_agrees_with_all_boxes():
    """The cases have crowds, absent classes, empty images and more than 100 boxes, but no equal scores."""
    cases = [fixture.make_case(seed) for seed in range(120) if seed % 3]
    states, differ = [measured(*packed(*case)) for case in cases], []
    for case, state in zip(cases, states, strict=True):
        exact, values = coco_scores(*case), state.compute()
        differ.append([values[name] - exact[name] for name in NAMES])
        np.testing.assert_array_equal(np.isnan(differ[-1]), np.isnan([exact[name] for name in NAMES]))
    differ = np.abs(differ)
    assert (np.nan_to_num(differ) < 1e-9).mean() > 0.98
    assert np.nanmax(differ) < 5e-3  # two boxes in one bin, of only a few
    exact = coco_scores([p for case in cases for p in case[0]], [t for case in cases for t in case[1]])
    values = total(states).compute()
    np.testing.assert_allclose([values[name] for name in NAMES], [exact[name] for name in NAMES], rtol=0, atol=5e-4)
    for label, value in exact["ap_by_class"].items():
        np.testing.assert_allclose(values["ap_by_class"][label], value, rtol=0, atol=1e-3)
    assert values["precision50_by_class"].shape == (K, 101) and np.isnan(values["ap_by_class"][0])
    np.testing.assert_allclose(values["precision50_by_class"].mean(-1), values["ap50_by_class"])


def test_by_hand():
    """Two objects: the first box is exact, the second overlaps by 0.6, so it is right up to a threshold of .6."""
    truth = {"boxes": [[0, 0, 10, 10], [20, 20, 30, 30]], "labels": [4, 4]}
    found = {"boxes": [[0, 0, 10, 10], [20, 20, 30, 26]], "scores": [0.9, 0.8], "labels": [4, 4]}
    values = measured(*packed([found], [truth])).compute()
    half = 51 / 101  # recalls 0 to .5 of 101
    assert values["ap50"] == pytest.approx(1) and values["ap75"] == pytest.approx(half)
    assert values["ap"] == values["ap_by_class"][4] == pytest.approx((3 + 7 * half) / 10)


def test_equal_scores_are_in_any_order():
    """One right and one wrong box of the same score: half of the wrong one comes first, in whichever order."""
    truth = {"boxes": [[0, 0, 10, 10]], "labels": [1]}
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]])
    for order in ([0, 1], [1, 0]):
        found = {"boxes": boxes[order], "scores": [0.5, 0.5], "labels": [1, 1]}
        assert measured(*packed([found], [truth])).compute()["ap50"] == pytest.approx(1 / 1.5)


def test_nothing_found_is_0_and_nothing_to_find_is_nan():
    empty = {"boxes": np.zeros((0, 4)), "scores": [], "labels": np.zeros(0, int)}
    truth = {"boxes": [[0, 0, 50, 50]], "labels": [1]}
    assert measured(*packed([empty], [truth])).compute()["ap"] == 0
    values = measured(*packed([{**truth, "scores": [0.5]}], [{"boxes": [], "labels": []}])).compute()
    assert np.isnan([values[n] for n in NAMES]).all()
    found, true = packed([empty], [truth])
    none = {name: x[:, :0] for name, x in true.items() if name != "row_mask"} | {"row_mask": true["row_mask"]}
    assert int(measured(found, none).truths.sum()) == 0  # neither boxes nor detections: sizes of 0
    assert measured({name: x[:, :0] for name, x in found.items()}, true).compute()["ap"] == 0


def test_nan_is_seen_and_unknown_classes_do_not_count():
    truth = {"boxes": [[0, 0, 50, 50]], "labels": [1]}
    found, true = packed([{**truth, "scores": [0.5]}], [truth])
    more = {**true, "box_label": true["box_label"].copy(), "box_mask": true["box_mask"].copy()}
    more["box_mask"][0, 1], more["box_label"][0, 1] = 1, 255
    assert measured(found, more).compute()["ap"] == 1
    for name in ("boxes", "scores"):
        broken = {**found, name: found[name].copy()}
        broken[name][0, 0] = np.nan
        assert np.isnan(measured(broken, true).compute()["ap"])
    more["box_label"][0, 1] = 2  # its box is NaN
    assert np.isnan(measured(found, more).compute()["ap"])


def test_masks_may_be_absent():
    truth = {"boxes": [[0, 0, 50, 50], [0, 0, 0, 0]], "labels": [1, 1]}
    found, true = packed([{**truth, "scores": [0.5, 0.4]}], [truth], 1)
    found = {name: x[:, :1] for name, x in found.items() if name != "box_mask"}
    state = measured(found, {"boxes": true["boxes"][:, :2], "box_label": true["box_label"][:, :2]})
    assert state.truths.tolist() == [0, 1, 0, 0, 0] and state.compute()["ap"] == 1


@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_parts_add_up_on_eight_devices(strategy):
    cases = [fixture.make_case(seed) for seed in range(8)]
    images = [image for case in cases for image in zip(*case, strict=True)]
    found, true = packed([p for p, _ in images], [t for _, t in images], len(images))
    whole = jax.jit(METRIC)(found, true)
    rows = {name: x for name, x in true.items() if name != "row_mask"} | {
        f"found_{name}": x for name, x in found.items()
    }

    def predict(variables, batch):
        return {name.removeprefix("found_"): x for name, x in batch.items() if name.startswith("found_")}

    task = Task(lambda key, batch: {"params": {}}, None, predict, {"ap": METRIC})
    run = jc.compile_step(jc.make_eval_step(task), strategy, 8)
    values = jc.evaluate(run, {"params": {}}, jc.data.Resident(rows, tuple("abcde")), batch_size=16)
    for name, value in whole.compute().items():
        np.testing.assert_array_equal(values[name], value)
    parts = [packed([p], [t], 1) for p, t in images]
    jax.tree.map(np.testing.assert_array_equal, total([jax.jit(METRIC)(*part) for part in parts]), whole)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda found, true: found.pop("labels"), "no 'labels' in the detections, only boxes, scores"),
        (lambda found, true: true.pop("box_label"), "no 'box_label' in the batch"),
        (lambda found, true: found.update(scores=np.zeros((B, 2))), r"'scores' of shape \(4, 2\): must be \(4, 150\)"),
        (lambda found, true: true.update(boxes=np.zeros((B, 8))), r"boxes of shape \(4, 8\) in the batch"),
    ],
)
def test_bad_entries_are_one_line(change, words):
    found, true = packed([], [])
    change(found, true)
    with pytest.raises(InputError, match=words) as caught:
        METRIC(found, true)
    assert "\n" not in str(caught.value)


def test_bad_numbers():
    with pytest.raises(InputError, match="num_classes=0, bins=2048"):
        average_precision(0)
    with pytest.raises(InputError, match="bins=1"):
        average_precision(2, bins=1)


def test_narrow_bins_near_the_ends():
    """Scores of a detector crowd near 0 and 1."""
    scores = jnp.array([0.0, 1.0, 0.999, 0.9995, 0.51, 2.0, -1.0])
    found = {"boxes": jnp.zeros((1, 7, 4)), "scores": scores[None], "labels": jnp.zeros((1, 7), int)}
    wrong = jax.jit(average_precision(1, bins=100))(
        found, {"boxes": jnp.zeros((1, 1, 4)), "box_label": jnp.zeros((1, 1), int)}
    )
    assert np.flatnonzero(wrong.wrong[0, 0]).tolist() == [0, 50, 97, 98, 99] and wrong.nans == 2

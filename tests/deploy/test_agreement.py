"""What the check of an exported program compares, what is told of outputs, and how requests are read."""

import types

import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.core import files
from jaxcnn.deploy import agreement, answers, integers


def test_each_label_is_an_answer_of_its_own(rng):
    ours = rng.standard_normal((50, 6))
    ours[:, 0] = 9
    theirs = np.where(np.arange(6), -ours, ours)  # the strongest label alone is right
    one = {"logits": ours}, {"logits": theirs}
    assert agreement.compare(*one)["agreement"] == 1
    assert agreement.compare(*one, True)["agreement"] == pytest.approx(1 / 6)
    with pytest.raises(jc.InputError, match="share of other answers 0.833, 0.02 at most"):
        integers.check(one[0], one[1], one[1], None, 0.02, True)


def test_an_offset_hides_no_difference(rng):
    ours = {"values": 2000 + 10 * rng.standard_normal((50, 1))}
    same, constant = {"values": ours["values"] + 0.1}, {"values": np.full((50, 1), 2000.0)}
    assert agreement.compare(ours, constant)["largest_difference"] < 0.02
    assert agreement.deviation(ours["values"], same["values"]) == pytest.approx(0.01, rel=0.5)
    assert integers.check(ours, same, same, None, 0.05)["deviation"] < 0.05
    with pytest.raises(jc.InputError, match="the int8 program differs from float32 .deviation"):
        integers.check(ours, constant, constant, None, 0.05)


def test_columns_without_a_spread_are_compared_by_their_size(rng):
    ours = np.stack([np.full(50, 3.0), rng.standard_normal(50)], 1)
    assert agreement.deviation(ours, ours) == 0
    assert agreement.deviation(ours, ours + [0.3, 0]) == pytest.approx(0.1)
    assert agreement.deviation(ours, ours[:, :1]) == np.inf
    far = {"embedding": ours}  # a feature that is almost constant has no weight of its own
    assert "deviation" not in integers.check(far, far, far, None, 0.05)


def run_of(task, head="softmax", classes=("a", "b")):
    build = {"task": {"name": task, "options": {"head": head}}}
    return types.SimpleNamespace(config={"classes": list(classes), "build": build})


def test_numbers_have_seven_digits_however_small():
    told = answers.described(run_of("regression", classes=()), "x", np.float32([-1.66e-6, 0.1, -0.0, 1234567.8]))
    assert told["values"] == [pytest.approx(-1.66e-6), 0.1, 0.0, 1234568.0] and str(told["values"][2]) == "0.0"


def test_the_class_is_that_of_the_probabilities_before_they_are_rounded():
    told = answers.described(run_of("classification"), "x", np.float32([0, 1e-7]))
    assert told["class"] == "b" and told["probabilities"] == {"a": 0.5, "b": 0.5}


def test_a_sound_may_have_several_labels_or_none():
    logits = [np.float32([4, -4]), np.float32([4, -4])]
    told = answers.sound_described(run_of("classification", "multilabel"), "x", [(0, 1), (1, 2)], logits)
    assert told["labels"] == ["a"] and "class" not in told and told["windows"][1]["labels"] == ["a"]
    none = answers.sound_described(run_of("classification", "multilabel"), "x", [(0, 1)], [-(logits[0] ** 2)])
    assert none["labels"] == []


def test_bodies_are_read_once_and_as_utf8():
    assert files.parse_json('{"a": {"b": 1}, "b": 2}', "x", once=True) == {"a": {"b": 1}, "b": 2}
    with pytest.raises(jc.InputError, match="x: has 'b' twice"):
        files.parse_json('{"a": {"b": 1, "b": 2}}', "x", once=True)
    pytest.importorskip("starlette")
    from jaxcnn.deploy.serving import body, limits

    for kind in ("text/plain", "text/plain; charset=UTF-8"):
        body._check_charset(kind)
    with pytest.raises(limits.RefusedError, match="charset 'utf-16le'; send UTF-8"):
        body._check_charset("text/plain; charset=utf-16le")

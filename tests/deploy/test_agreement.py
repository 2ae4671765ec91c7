"""What the check of an exported program compares: answers about labels, spreads, and boxes that are there."""

import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.deploy import agreement, integers


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
    assert agreement.deviation(ours, same) == pytest.approx(0.01, rel=0.5)
    assert integers.check(ours, same, same, None, 0.05)["deviation"] < 0.05
    with pytest.raises(jc.InputError, match="the int8 program differs from float32 .deviation"):
        integers.check(ours, constant, constant, None, 0.05)
    assert agreement.deviation({"values": np.ones((3, 1))}, {"values": np.ones((3, 1))}) == 0

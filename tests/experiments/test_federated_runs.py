"""Federated learning as an experiment: what is counted, and what is refused."""

import json

import pytest

import jaxcnn as jc
from experiments import federated
from tests.experiments.test_video_experiments import blobs


def test_rounds_are_counted_to_the_target(tmp_path):
    lines = [
        {"split": "train", "step": 1, "accuracy": 1.0}, {"split": "validation", "step": 1, "accuracy": 0.5},
        {"split": "validation", "step": 2, "accuracy": 0.9}, {"split": "validation", "step": 3, "accuracy": 0.8},
        {"split": "test", "step": 3, "accuracy": 1.0},
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert federated.reached(tmp_path, 0.9) == 2 and federated.reached(tmp_path, 0.95) is None


def test_clients_have_what_the_partition_says(tmp_path):
    data = str(blobs(tmp_path, 300, 20))
    config = federated.Config(data=data, clients=5, each=2, method="scaffold", partition="classes")
    made = federated.plan(config)
    held = made.data.train
    assert len(held.parts) == 5 and sum(map(len, held.parts)) == held.size == 275 and made.every == 1
    assert set(made.begin(jc.init_state(made.task, made.optimizer(1), held.example())).extras) == {"scaffold"}


@pytest.mark.parametrize("wrong, line", [
    ({"method": "fedsgd"}, "--method 'fedsgd'"), ({"partition": "all"}, "--partition 'all'"),
    ({"each": 6}, "--each 6, --clients 5"), ({"rounds": 0}, "--rounds 0"), ({"target": 1.5}, "--target 1.5"),
    ({"data": ""}, "DATA: give the folder"),
    ({"limit_examples": 9}, "use --train-images"), ({"max_steps": 3}, "--rounds"), ({"batch_size": 9}, "--each"),
    ({"clients": 1000}, "count=1000"), ({"alpha": 0.0}, "alpha=0.0"),
])  # fmt: skip
def test_refused(tmp_path, wrong, line):
    given = {"data": str(blobs(tmp_path, 60, 20)), "clients": 5, "each": 2, "partition": "dirichlet"}
    with pytest.raises(jc.InputError, match=line):
        federated.plan(federated.Config(**given | wrong))

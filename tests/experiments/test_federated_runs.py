"""Federated learning as an experiment: what is counted, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import jaxcnn as jc
from experiments import federated
from jaxcnn.runs.train import rows_of_update
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
    assert len(held.parts) == 5 and sum(map(len, held.parts)) == held.size == 275 and made.every == 5
    made = dataclasses.replace(made, batch_size=2)  # clients of a round
    assert rows_of_update(made) == 2 * 275 / 5
    assert set(made.begin(jc.init_state(made.task, made.optimizer(1), held.example())).extras) == {"scaffold"}


def test_hidden_clients_are_drawn_and_accounted(tmp_path, capsys):
    given = federated.Config(data=str(blobs(tmp_path, 300, 20)), clients=40, each=2, epsilon=2.0)
    made = federated.plan(given)
    assert made.data.train.poisson and made.grads.private and "epsilon" in made.headline
    config = federated.Config(clients=40, each=2, epsilon=2.0, rounds=7)
    noise = federated.noise_of(config)
    assert federated.spent_after(config, noise, 7) == pytest.approx(2.0, abs=0.01)
    assert federated.spent_after(config, noise, 3) < 1.9
    federated.tell_noise(given, made)
    said = capsys.readouterr().out
    params = jc.init_state(made.task, made.optimizer(1), made.data.train.example()).params
    length = federated.noise_of(given) * 1 / 2 * np.sqrt(sum(x.size for x in jax.tree.leaves(params)))
    assert f"has length {length:.2g}" in said and "nothing is learnt: give more clients" in said


@pytest.mark.parametrize("wrong, line", [
    ({"method": "fedsgd"}, "--method 'fedsgd'"), ({"partition": "all"}, "--partition 'all'"),
    ({"each": 6}, "--each 6, --clients 5"), ({"rounds": 0}, "--rounds 0"), ({"target": 1.5}, "--target 1.5"),
    ({"data": ""}, "DATA: give the folder"), ({"train_images": -5}, "--train-images -5"),
    ({"limit_examples": 9}, "use --train-images"), ({"max_steps": 3}, "--rounds"), ({"batch_size": 9}, "--each"),
    ({"method": "scaffold", "secure": 1.0}, "--epsilon and --secure need another method"),
    ({"epsilon": 1.0, "each": 5}, "--each 5: with --epsilon"), ({"epsilon": -1.0}, "--epsilon -1.0"),
    ({"epsilon": 1.0, "delta": 0.2}, "--delta 0.2: must be above 0 and below 1 / 5"),
    ({"epsilon": 1.0, "clip": 0.0}, "clip=0.0"), ({"secure": -1.0}, "secure=-1.0"),
    ({"proximal": 7.0}, "--proximal 7.0: has no effect here"), ({"clip": 2.0}, "--clip 2.0: has no effect here"),
    ({"partition": "iid", "alpha": 2.0}, "--alpha 2.0: has no effect here"),
    ({"clients": 1000}, "--clients 1000: must be at most 55, for 55 training rows"),
    ({"clients": 30, "partition": "classes"}, "--clients 30: must be at most 27"), ({"alpha": 0.0}, "alpha=0.0"),
])  # fmt: skip
def test_refused(tmp_path, wrong, line):
    given = {"data": str(blobs(tmp_path, 60, 20)), "clients": 5, "each": 2, "partition": "dirichlet"}
    with pytest.raises(jc.InputError, match=line):
        federated.plan(federated.Config(**given | wrong))

"""A client behind Flower: what is sent, one round against the simulation, and two processes on loopback."""

import pathlib
import socket
import subprocess
import sys
import types

import chex
import jax
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn.methods import flower
from jaxcnn.methods.clients import clients
from jaxcnn.methods.federated import federated
from tests.small import Plain, rows, task

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_what_is_sent_are_all_variables():
    variables = task().init(jax.random.key(0), rows(8).example())
    sent = flower.arrays(variables)
    assert len(sent) == len(jax.tree.leaves(variables)) and "batch_stats" in variables
    chex.assert_trees_all_equal(flower.variables_of(sent, variables), variables)
    for wrong, line in (
        (sent[1:], "the network has"), ([sent[0][None], *sent[1:]], "has shape"),
        ([np.full_like(sent[0], np.nan), *sent[1:]], "is not finite"),
        ([np.full(sent[0].shape, 1e300), *sent[1:]], "is not finite"),
        ([sent[0].astype(complex), *sent[1:]], "is complex128, not float32"),
        ([sent[0] > 0, *sent[1:]], "is bool, not float32"),
    ):  # fmt: skip
        with pytest.raises(jc.InputError, match=line):
            flower.variables_of(wrong, variables)


def test_rows_must_be_in_memory():
    with pytest.raises(jc.InputError, match="train=dict: must be rows in memory"):
        flower.client(task(), optax.sgd(0.1), {"image": np.zeros((2, 8, 8, 1))})


@pytest.fixture
def made(monkeypatch):
    """Makes clients without Flower, whose class has nothing that is used here."""
    monkeypatch.setitem(sys.modules, "flwr", types.ModuleType("flwr"))
    stub = types.ModuleType("flwr.client")
    stub.NumPyClient = object
    monkeypatch.setitem(sys.modules, "flwr.client", stub)
    return flower.client


def test_rows_of_another_task_are_refused(made):
    data, plain = rows(8), jc.tasks.classification(Plain())
    image = data.arrays["image"].astype(np.float32)
    for arrays, line in (
        ({"label": data.arrays["label"] + 1}, "label"), ({"image": image}, "divide by 255"),
        ({"image": np.full_like(image, np.nan)}, "nan"),
    ):  # fmt: skip
        wrong = jc.data.Resident({**data.arrays, **arrays}, data.classes)
        for given in ((wrong, None), (data, wrong)):
            with pytest.raises(jc.InputError, match=line):
                made(plain, optax.sgd(0.1), *given)


def test_nothing_is_sent_that_is_not_finite(made):
    one = made(jc.tasks.classification(Plain()), optax.chain(optax.sgd(1e30), optax.scale(1e30)), rows(8), batch_size=4)
    with pytest.raises(jc.DivergedError, match="nothing is sent"):
        one.fit(one.get_parameters({}), {})


def test_a_task_without_a_loss_is_not_evaluated(made):
    plain = jc.tasks.classification(Plain())
    metrics = {name: metric for name, metric in plain.metrics.items() if name != "loss"}
    one = made(plain._replace(metrics=metrics), optax.sgd(0.1), rows(8))
    with pytest.raises(jc.InputError, match="set fraction_evaluate=0"):
        one.evaluate(one.get_parameters({}), {})


def test_the_round_decides_the_order(made):
    data, plain = rows(8), jc.tasks.classification(Plain())
    first, second = (made(plain, optax.sgd(0.1), data, batch_size=2) for _ in range(2))
    begun = first.get_parameters({})
    rounds = [first.fit(begun, {})[0] for _ in range(2)]
    assert (rounds[0][-1] != rounds[1][-1]).any()
    chex.assert_trees_all_equal(second.fit(begun, {"server_round": 1})[0], rounds[1])


@pytest.mark.slow
def test_a_round_is_that_of_the_simulation():
    pytest.importorskip("flwr")
    data, made, tx = rows(24), jc.tasks.classification(Plain()), optax.sgd(0.1)
    parts = [np.arange(8), np.arange(8, 24)]
    each = [flower.client(made, tx, data.take(part), batch_size=24, epochs=2, seed=1) for part in parts]
    begun = each[0].get_parameters({})
    results = [one.fit(begun, {}) for one in each]
    assert [n for _, n, _ in results] == [8, 16] and results[0][2]["count"] == 8
    mean = [(8 * a + 16 * b) / 24 for a, b in zip(*(sent for sent, _, _ in results), strict=True)]
    own = federated(tx, 16, batch_size=24, epochs=2)
    run = jc.compile_step(jc.make_train_step(made, optax.sgd(1.0), own), "jit", 1)
    state = jc.init_state(made, optax.sgd(1.0), data.example(), 1)
    state = jc.fit(run, state, clients(data, parts), batch_size=2, steps=1).state
    chex.assert_trees_all_close(flower.arrays(state.variables), mean, rtol=1e-4, atol=1e-6)
    loss, count, values = each[1].evaluate(mean, {})
    assert count == 16 and values["loss"] == pytest.approx(loss) and 0 <= values["accuracy"] <= 1


CLIENT = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, optax
from flwr.client import start_client
import jaxcnn as jc
from jaxcnn.methods import flower
from tests.small import rows, task
data, who = rows(96), int(sys.argv[2])
client = flower.client(task(), optax.sgd(0.1), data.take(np.arange(48 * who, 48 * who + 48)), data, epochs=2, seed=who)
start_client(server_address=sys.argv[1], client=client.to_client(), insecure=True, max_wait_time=60)
"""
SERVER = """
import sys, warnings
warnings.simplefilter("ignore")
from flwr.server import ServerConfig, start_server
from flwr.server.strategy import FedAvg
mean = lambda found: {"accuracy": sum(n * v["accuracy"] for n, v in found) / sum(n for n, _ in found)}
plan = FedAvg(min_fit_clients=2, min_evaluate_clients=2, min_available_clients=2, evaluate_metrics_aggregation_fn=mean)
done = start_server(server_address=sys.argv[1], config=ServerConfig(num_rounds=4), strategy=plan)
print("accuracies", [value for _, value in done.metrics_distributed["accuracy"]])
"""


@pytest.mark.slow
def test_two_processes_learn_together():
    pytest.importorskip("flwr")
    with socket.create_server(("127.0.0.1", 0)) as there:
        place = f"127.0.0.1:{there.getsockname()[1]}"
    how = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    begun = [subprocess.Popen([sys.executable, "-c", SERVER, place], **how)]
    try:
        begun += [subprocess.Popen([sys.executable, "-c", CLIENT, place, str(who)], **how) for who in (0, 1)]
        texts = [one.communicate(timeout=300)[0] for one in begun]
    finally:
        for one in begun:
            one.kill()
    assert [one.returncode for one in begun] == [0, 0, 0], texts
    found = next(line for line in texts[0].splitlines() if line.startswith("accuracies"))
    accuracies = [float(x) for x in found.removeprefix("accuracies [").removesuffix("]").split(",")]
    assert len(accuracies) == 4 and accuracies[-1] > 0.9

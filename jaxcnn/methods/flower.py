"""The clients of `methods.federated` for real networks of machines: behind Flower (flwr), which sends and averages.

A client is the function that the simulation runs, on the rows of one machine. Flower's server and its strategies, such
as FedAvg, take the place of the server's optimiser. It needs `pip install flwr`, whose versions of some packages are
older than those of the extra `serve`: use an environment of its own.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from jaxcnn.core.types import InputError, Task, Tree, compute, named, scalars
from jaxcnn.data import Resident
from jaxcnn.data.checking import checked
from jaxcnn.methods.federated import federated
from jaxcnn.parallel.compile import compile_step
from jaxcnn.train.divergence import DivergedError
from jaxcnn.train.evaluation import evaluate
from jaxcnn.train.step import init_state, make_eval_step, make_train_step

ROUND = "server_round"  # in the configuration that the server sends


def arrays(variables: Tree) -> list[np.ndarray]:
    """Return the variables of a network as Flower sends them: arrays in a fixed order, running statistics included."""
    return [np.asarray(x) for _, x in named(variables)]


def variables_of(sent: Sequence[np.ndarray], like: Tree) -> Tree:
    """Return arrays that were sent as variables.

    Args:
        sent: of `arrays`.
        like: variables of the same network.

    Raises:
        InputError: there are more or fewer arrays, or one has another shape or kind of numbers, or values that are not
            finite.

    """
    known = named(like)
    if len(sent) != len(known):
        raise InputError(f"parameters: {len(sent)} arrays, and the network has {len(known)}; use the same network")
    leaves: list[np.ndarray] = []
    for (name, x), new in zip(known, sent, strict=True):
        if new.shape != x.shape:
            raise InputError(f"parameters: {name} has shape {new.shape}, not {x.shape}; use the same network")
        if new.dtype.kind != np.dtype(x.dtype).kind:
            raise InputError(f"parameters: {name} is {new.dtype}, not {x.dtype}; use the same network")
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            leaves.append(np.asarray(new, x.dtype))
        if not np.isfinite(leaves[-1]).all():
            raise InputError(f"parameters: {name} is not finite; a client's training failed")
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def client(
    task: Task,
    tx: optax.GradientTransformation,
    train: Resident,
    held: Resident | None = None,
    *,
    batch_size: int = 10,
    epochs: int = 1,
    proximal: float = 0.0,
    seed: int = 0,
) -> Any:
    """Make a client of Flower, for `flwr.client.start_client` or a `ClientApp`.

    The order of the rows and dropout depend on the seed and on the number of the round. Let the `on_fit_config_fn` of
    the server's strategy return `{"server_round": number}`. Otherwise the client counts the rounds itself, which does
    not work in a `ClientApp`: Flower creates a new client for every round there, and each would use the same order.

    Args:
        task: the task.
        tx: the client's optimiser, whose state is new in each round.
        train: the rows of this client.
        held: rows on which the server's parameters are measured; by default the training rows.
        batch_size: rows in an update.
        epochs: passes over the rows in a round.
        proximal: as in `federated`.
        seed: of the order of the rows and of dropout; clients need different ones.

    Returns:
        A `flwr.client.NumPyClient`. Its `fit` returns the metrics of the last epoch, its `evaluate` those of the task.
        If the parameters are not finite after training, `fit` raises `DivergedError` and sends nothing.

    Raises:
        InputError: a value is outside its range, the rows are not in memory, the task refuses them, or flwr is not
            installed.

    """
    if not isinstance(train, Resident):
        raise InputError(f"train={type(train).__name__}: must be rows in memory, jc.data.Resident; take fewer of them")
    for data in (train, held):
        if data is not None:
            checked(data, task.check)
    try:
        from flwr.client import NumPyClient
    except ImportError:
        raise InputError("flwr is not installed: pip install flwr, in an environment of its own") from None
    server = optax.sgd(1.0)  # what the client learnt becomes its parameters
    local = federated(tx, train.size, batch_size=batch_size, epochs=epochs, proximal=proximal)
    step = jax.jit(make_train_step(task, server, local))
    first = init_state(task, server, train.example(), seed)
    measure = compile_step(make_eval_step(task), "jit", 1)
    rows = {name: np.asarray(x) for name, x in train.arrays.items()}

    class Client(NumPyClient):
        rounds = 0

        def get_parameters(self, config: Any) -> list[np.ndarray]:
            return arrays(first.variables)

        def fit(self, parameters: list[np.ndarray], config: Any) -> tuple[list[np.ndarray], int, dict[str, Any]]:
            given, number = dict(variables_of(parameters, first.variables)), int(config.get(ROUND, self.rounds))
            state = first.replace(step=np.int32(number), params=given.pop("params"), model_state=given)
            state, sums = step(state, rows)
            for name, x in named(state.variables):
                if not np.isfinite(x).all():
                    line = f"round {number}: {name} is no longer finite, and nothing is sent; lower the learning rate"
                    raise DivergedError(line, number, number)
            self.rounds += 1
            return arrays(state.variables), train.size, scalars(compute(jax.device_get(sums)))

        def evaluate(self, parameters: list[np.ndarray], config: Any) -> tuple[float, int, dict[str, Any]]:
            if "loss" not in task.metrics:
                raise InputError("evaluate: the task reports a loss in training only; set fraction_evaluate=0")
            data = train if held is None else held
            found = evaluate(measure, variables_of(parameters, first.variables), data)
            return float(found["loss"]), data.size, scalars(found)

    return Client()

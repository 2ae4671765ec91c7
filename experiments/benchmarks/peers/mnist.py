"""The tutorial network on MNIST in each library, as a careful user writes it.

The network is convolution 32@3x3 without padding, ReLU, 2x2 max pooling, dense 128, ReLU, dense 10, trained with Adam
at 1e-3. All data are in memory, and the test set is read once, at the end.
`python -m experiments.benchmarks.peers.mnist PEER` prints JSON lines: the first step, every epoch, the end.
"""

import argparse
import json
import os
import time
from typing import Any

import numpy as np

from experiments.benchmarks.peers import Prepared

PEERS = ("keras-tensorflow", "keras-jax", "torch", "torch-compile", "flax")


def say(event: str, **values: Any) -> None:
    """Print one JSON line that begins with `event`."""
    print(json.dumps({"event": event, **values}), flush=True)


def load(path: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Read training and test images as float32 `[N, 28, 28, 1]` in 0..1, with their labels, without further copies."""

    def scaled(image):
        return np.multiply(image, np.float32(1 / 255), dtype=np.float32)[..., None]

    with np.load(path) as file:
        return [(scaled(file[f"x_{part}"]), file[f"y_{part}"]) for part in ("train", "test")]


def keras(args: argparse.Namespace) -> None:
    """Train in Keras with one `fit`."""
    os.environ["KERAS_BACKEND"] = args.peer.removeprefix("keras-")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    (x, y), (xt, yt) = load(args.data)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    if args.first_step:
        done = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: say("first step", loss=float(logs["loss"]))
        )
        model.fit(x, y, epochs=1, steps_per_epoch=1, batch_size=args.batch_size, verbose=0, callbacks=[done])
        return
    clock: list[float] = []
    epochs = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: clock.append(time.perf_counter()),
        on_epoch_end=lambda epoch, logs: say("epoch", seconds=time.perf_counter() - clock[-1], images=len(x)),
    )
    model.fit(x, y, epochs=args.epochs, batch_size=args.batch_size, verbose=0, callbacks=[epochs])
    say("end", test_accuracy=float(model.evaluate(xt, yt, batch_size=1000, verbose=0)[1]))


def torch(args: argparse.Namespace) -> None:
    """Train in PyTorch, eager or compiled: batches by index from tensors in memory, fused Adam."""
    import torch
    import torch.nn.functional as functions
    from torch import nn

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def tensors(a, b):
        return (
            torch.from_numpy(a).reshape(-1, 1, 28, 28).to(device),
            torch.from_numpy(b).long().to(device),
        )

    (x, y), (xt, yt) = (tensors(*part) for part in load(args.data))
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(13 * 13 * 32, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    ).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    forward = torch.compile(model) if args.peer == "torch-compile" else model

    def epoch() -> tuple[int, float]:
        order = torch.randperm(len(x), device=device)
        for i in range(0, len(x) - args.batch_size + 1, args.batch_size):
            rows = order[i : i + args.batch_size]
            loss = functions.cross_entropy(forward(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if args.first_step:
                break
        return i + args.batch_size, loss.item()

    def accuracy() -> float:
        with torch.no_grad():
            return torch.cat([model(part).argmax(1) for part in xt.split(1000)]).eq(yt).float().mean().item()

    _epochs(args, epoch, accuracy)


def flax(args: argparse.Namespace) -> None:
    """Train in Flax with one jitted step, a Python loop and the default lowering."""
    import jax

    (x, y), (xt, yt) = load(args.data)
    state, step, predict = _flax()
    step, predict = jax.jit(step, donate_argnums=0), jax.jit(predict)
    rng = np.random.default_rng(0)

    def epoch() -> tuple[int, float]:
        nonlocal state
        order = rng.permutation(len(x))
        for i in range(0, len(x) - args.batch_size + 1, args.batch_size):
            rows = order[i : i + args.batch_size]
            state, loss = step(state, x[rows], y[rows])
            if args.first_step:
                break
        return i + args.batch_size, float(loss)

    def accuracy() -> float:
        starts = range(0, len(xt), 1000)
        return float(np.mean([np.asarray(predict(state, xt[i : i + 1000])) == yt[i : i + 1000] for i in starts]))

    _epochs(args, epoch, accuracy)


def floor(batch_size: int) -> Prepared:
    """Count the work of a step in the default lowering, before compilation; the state is read and written once."""
    import jax

    state, step, _ = _flax()
    batch = np.zeros((batch_size, 28, 28, 1), np.float32), np.zeros(batch_size, np.int32)
    flop = jax.jit(step).lower(state, *batch).cost_analysis()["flops"]
    moved = 2 * sum(a.nbytes for a in jax.tree.leaves(state)) + batch[0].nbytes
    return Prepared(lambda: None, facts=lambda: {"flop": flop, "bytes": moved})


def _flax() -> tuple[Any, Any, Any]:
    """Return the first state, the step and the prediction of the network in plain Flax."""
    import jax
    import optax
    from flax import linen as nn

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(32, (3, 3), padding="VALID")(x))
            x = nn.max_pool(x, (2, 2), (2, 2)).reshape((x.shape[0], -1))
            return nn.Dense(10)(nn.relu(nn.Dense(128)(x)))

    model, tx = Network(), optax.adam(1e-3)

    def step(state: Any, image: Any, label: Any) -> tuple[Any, Any]:
        params, memory = state

        def mean_loss(p):
            return optax.softmax_cross_entropy_with_integer_labels(model.apply(p, image), label).mean()

        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, memory = tx.update(grads, memory, params)
        return (optax.apply_updates(params, updates), memory), loss

    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 28, 28, 1), np.float32))
    return (params, tx.init(params)), step, lambda state, image: model.apply(state[0], image).argmax(-1)


def _epochs(args: argparse.Namespace, epoch: Any, accuracy: Any) -> None:
    """Run all epochs; `epoch` returns the number of its images and its last loss, for which it waits."""
    for _ in range(1 if args.first_step else args.epochs):
        start = time.perf_counter()
        images, loss = epoch()
        say("first step" if args.first_step else "epoch", seconds=time.perf_counter() - start, images=images, loss=loss)
    if not args.first_step:
        say("end", test_accuracy=accuracy())


def main() -> None:
    """Train with one library."""
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--data", required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--first-step", action="store_true")
    args = parser.parse_args()
    {"keras": keras, "torch": torch, "flax": flax}[args.peer.partition("-")[0]](args)


if __name__ == "__main__":
    main()

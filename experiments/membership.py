"""Measures what networks reveal of their training rows: `python -m experiments.membership DATA`.

Of some rows of MNIST, each network is trained on a random half, all networks in one vectorised program. Each network is
then attacked: by the loss alone (Yeom et al., 2017, arXiv:1709.01604), and by LiRA (Carlini et al., 2022,
arXiv:2112.03570), whose shadow networks are all the others. This is done with networks that overfit, and with networks
of the same kind trained by DP-SGD, whose attackers train their shadow networks with DP-SGD, too.

Printed, and written to membership.json, are the area under the ROC curve of "was in training" with an interval over the
rows, the share of members found at one false alarm in a thousand, and the largest share that epsilon allows.
"""

import dataclasses
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxcnn as jc
from experiments import command
from jaxcnn.core import files
from jaxcnn.methods import membership, private

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Config:
    """Attack networks that overfit, and networks that are trained privately."""

    data: tyro.conf.Positional[str]
    """Folder of MNIST's IDX files."""
    rows: int = 1000
    """Rows, of which each network gets a random half."""
    networks: int = 32
    """Networks of each kind, an even number of at least 6."""
    width: int = 64
    """Hidden units of a network."""
    epochs: int = 60
    """Passes over the rows of a network."""
    batch_size: int = 50
    """Rows in one update; the expected number in private training."""
    learning_rate: float = 3e-3
    """Highest value of the one-cycle schedule of Adam."""
    epsilon: float = 3.0
    """Epsilon of private training."""
    delta: float = 1e-4
    """Chance with which its guarantee may fail."""
    clip: float = 1.0
    """Largest length of a row's gradient in private training."""
    private_epochs: int = 20
    """Expected passes over the rows in private training."""
    private_rate: float = 3e-3
    """Highest learning rate of private training."""
    test_rows: int = 10_000
    """Test rows on which the accuracy is measured."""
    fpr: float = 1e-3
    """False alarms at which the share of members found is measured."""
    seed: int = 0
    """Seed of the rows, networks and noise."""
    workdir: str = "checkpoints/membership"
    """Folder for membership.json."""


def check(config: Config) -> None:
    """Refuse numbers that cannot be used."""
    if config.networks < 6 or config.networks % 2:
        raise jc.InputError(f"--networks {config.networks}: must be even and at least 6")
    for name in ("rows", "width", "epochs", "batch_size", "private_epochs", "test_rows"):
        if getattr(config, name) < 1:
            raise jc.InputError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be at least 1")
    if config.batch_size >= config.rows // 2:
        raise jc.InputError(f"--batch-size {config.batch_size}: must be below {config.rows // 2}, a network's rows")
    if not 0 < config.fpr < 1:
        raise jc.InputError(f"--fpr {config.fpr}: must be above 0 and below 1")
    if not 0 < config.delta < 2 / config.rows:
        raise jc.InputError(f"--delta {config.delta}: must be above 0 and below 1 / {config.rows // 2} rows")
    if not 0 < config.epsilon < math.inf:
        raise jc.InputError(f"--epsilon {config.epsilon}: must be above 0")
    if config.seed < 0:
        raise jc.InputError(f"--seed {config.seed}: must be at least 0")
    for rate in (config.learning_rate, config.private_rate):
        jc.optim.check_rate(rate)
    private.private(config.clip, 0.0, config.batch_size)
    private.noise_for(config.epsilon, config.batch_size / (config.rows // 2), 1, config.delta)


def batches(config: Config, inside: np.ndarray, steps: int, hidden: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw the batches of each network from its own rows, by Poisson sampling for private training.

    Args:
        config: the flags.
        inside: the rows of each network, bool `[S, N]`.
        steps: number of updates.
        hidden: whether training is private.

    Returns:
        Numbers of rows `[steps, S, B]`, and the row mask of the same shape.

    """
    index, mask = [], []
    for network, own in enumerate(inside):
        members = np.flatnonzero(own)
        kind = private.Poisson if hidden else jc.data.Resident
        chunk = kind({"row": members}, seed=1000 * config.seed + network).chunk(config.batch_size, 0, steps, steps)
        index.append(members[np.asarray(chunk.index)])
        mask.append(np.ones(index[-1].shape, np.float32) if chunk.row_mask is None else np.asarray(chunk.row_mask))
    width = max(x.shape[1] for x in index)
    padded = [np.stack([np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in some], 1) for some in (index, mask)]
    return padded[0], padded[1]


def trained(config: Config, rows: dict[str, np.ndarray], inside: np.ndarray, hidden: bool) -> tuple[jc.Task, Any, Any]:
    """Train all networks of a kind; return their task, their variables with a leading axis, and the epsilon spent."""
    least, most = inside.sum(1).min(), config.batch_size
    epochs = config.private_epochs if hidden else config.epochs
    steps, rate, spent = -(-epochs * int(inside.sum(1).max()) // most), most / least, None
    task = jc.tasks.classification(jc.models.mlp(num_classes=10, widths=(config.width,)))
    tx = jc.optim.adam(jc.optim.one_cycle(config.private_rate if hidden else config.learning_rate, steps=steps))
    grads = jc.plain
    if hidden:
        noise = private.noise_for(config.epsilon, rate, steps, config.delta, "pld")
        spent = private.epsilon(noise, rate, steps, config.delta, "pld")
        grads = private.private(config.clip, noise, most, parts=8)
    step, (index, mask) = jc.make_train_step(task, tx, grads), batches(config, inside, steps, hidden)
    drawn = {private.DRAWN: jnp.full(mask.shape[1:], most, jnp.int32)} if hidden else {}
    example, seeds = {k: x[:1] for k, x in rows.items()}, 1000 * config.seed + jnp.arange(len(inside))

    @jax.jit
    def run(seeds: Array, rows: dict[str, Array], index: Array, mask: Array) -> jc.State:
        states = jax.vmap(lambda seed: jc.init_state(task, tx, example, seed))(seeds)

        def update(states: jc.State, now: tuple[Array, Array]) -> tuple[jc.State, None]:
            some = {k: x[now[0]] for k, x in rows.items()} | {"row_mask": now[1]} | drawn
            return jax.vmap(step)(states, some)[0], None

        return jax.lax.scan(update, states, (index, mask))[0]

    return task, run(seeds, rows, index, mask).variables, spent


def attack(config: Config, logits: np.ndarray, label: np.ndarray, inside: np.ndarray) -> dict[str, Any]:
    """Attack each network with the others as shadow networks.

    Args:
        config: the flags.
        logits: `[S, N, K]`.
        label: `[N]`.
        inside: the rows of each network, bool `[S, N]`.

    Returns:
        By attack, the fields of `membership.Inference`.

    """
    found, networks = membership.confidence(logits, label), np.arange(len(inside))
    scores = {"loss": membership.loss_score(logits, label)}
    for name, lira in (("lira_offline", membership.lira_offline), ("lira_online", membership.lira_online)):
        scores[name] = np.stack([lira(found[t], found[networks != t], inside[networks != t]) for t in networks])
    measured = {k: membership.measure(s.T, inside.T, fpr=config.fpr, seed=config.seed) for k, s in scores.items()}
    return {name: one._asdict() for name, one in measured.items()}


def measure(config: Config, splits: jc.data.Splits, hidden: bool) -> dict[str, Any]:
    """Train networks of a kind, and return their accuracies and what attacks find."""
    pick = np.random.default_rng(config.seed).permutation(splits.train.size)[: config.rows]
    rows = {k: np.asarray(x)[pick] for k, x in splits.train.arrays.items()}
    inside = membership.membership(config.networks, len(pick), config.seed)
    task, variables, spent = trained(config, rows, inside, hidden)
    predict = jax.jit(lambda networks, rows: jax.lax.map(lambda one: task.predict(one, rows), networks))
    logits = np.asarray(predict(variables, rows))
    right = logits.argmax(-1) == rows["label"]
    test = {k: np.asarray(x)[: config.test_rows] for k, x in splits.test.arrays.items()}
    tested = (np.asarray(predict(variables, test)).argmax(-1) == test["label"]).mean(1)
    found = {
        "train_accuracy": float((right * inside).sum() / inside.sum()), "test_accuracy": float(np.mean(tested)),
        "test_deviation": float(np.std(tested, ddof=1)), "epsilon": spent,
        "attacks": attack(config, logits, rows["label"], inside),
    }  # fmt: skip
    if spent is not None:
        found["highest_tpr"] = membership.highest_tpr(spent, config.delta, config.fpr)
    return found


def main(config: Config) -> dict[str, Any]:
    """Attack both kinds of networks."""
    check(config)
    splits, folder = jc.data.idx(str(files.expanded(config.data))), pathlib.Path(config.workdir)
    config = dataclasses.replace(config, rows=min(config.rows, splits.train.size))
    found: dict[str, Any] = {"settings": dataclasses.asdict(config)}
    for name, hidden in (("overfit", False), ("private", True)):
        found[name] = measure(config, splits, hidden)
        print(f"{name}: {files.to_json(found[name])}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "membership.json", found)
    print(files.to_json(found), flush=True)
    return found


if __name__ == "__main__":
    command.run(main, Config, "membership")

"""Learns handwritten digits on many clients whose rows stay where they are: `python -m experiments.federated MNIST`.

Data: MNIST's IDX files. The training rows are given to `--clients` clients: at random (`--partition iid`), two classes
to most of them (`classes`), or by a Dirichlet distribution (`dirichlet`). In a round, `--each` clients train on their
own rows, and the server averages what they learnt: FedAvg (McMahan et al., 2016, arXiv:1602.05629), FedProx (Li et al.,
2018, arXiv:1812.06127), FedAdam (Reddi et al., 2020, arXiv:2003.00295) or SCAFFOLD (Karimireddy et al., 2019,
arXiv:1910.06378). The network is that of McMahan et al., who reached 99 % of the test rows with 10 of 100 clients a
round and batches of 10 after 20 rounds with random rows and 229 with two classes a client, of 5 epochs each, or 34 and
350 of one epoch. SCAFFOLD counts clients alike, and the others by their rows: `dirichlet` is the one partition where
that differs.

With `--epsilon`, clients are hidden, with all their rows (McMahan et al., 2017, arXiv:1710.06963): they are drawn by
Poisson sampling, what they learnt is clipped, and the sum gets noise. With `--secure`, the server adds integers under
masks and sees the change of no client (Bonawitz et al., 2017, doi:10.1145/3133956.3133982).

Measured are the rounds until the validation rows are right as often as `--target`, the bytes that were sent until then
(of SCAFFOLD, whose state is that of all clients, each fifth round and the last are validated, of the others each),
and the accuracy on the test rows with the weights that are best on the validation rows.
"""

import dataclasses
import functools
import json
import math
import pathlib
from typing import Any

import jax
import optax
import tyro

import jaxcnn as jc
from experiments import cli, common, inference, settings
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.methods import clients, federated, private, scaffold
from jaxcnn.runs.signals import Signals

METHODS = ("fedavg", "fedprox", "fedadam", "scaffold")
PARTITIONS = {
    "iid": lambda config, label: clients.iid(len(label), config.clients, seed=config.seed),
    "classes": lambda config, label: clients.shards(label, config.clients, each=2, seed=config.seed),
    "dirichlet": lambda config, label: clients.dirichlet(label, config.clients, config.alpha, seed=config.seed),
}


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a classifier of digits that many clients learn together."""

    data: tyro.conf.Positional[str] = ""
    """Folder of MNIST's IDX files."""
    method: str = "fedavg"
    """fedavg, fedprox, fedadam or scaffold."""
    partition: str = "iid"
    """How rows are given to clients: iid, classes or dirichlet."""
    clients: int = 100
    """Number of clients."""
    each: int = 10
    """Clients that train in a round."""
    rounds: int = 30
    """Number of rounds."""
    local_epochs: int = 5
    """Passes of a client over its rows in a round."""
    local_batch: int = 10
    """Rows in a client's update."""
    learning_rate: float = 0.0
    """Learning rate of the clients' SGD; by default 0.2 for fedavg with random rows, where it is better on validation
    rows, and otherwise 0.05."""
    server_rate: float = 0.0
    """Learning rate of the server; by default 1, and 0.003 for fedadam."""
    proximal: float = 0.1
    """Weight of the proximal term of fedprox."""
    epsilon: float = 0.0
    """Epsilon that all rounds may spend to hide each client; 0 hides none. It holds while --seed is secret."""
    delta: float = 1e-4
    """Chance with which that may fail; below one over the number of clients."""
    clip: float = 1.0
    """With --epsilon, the largest length of a client's change."""
    secure: float = 0.0
    """Add changes up to this value as integers under masks; 0 adds the changes themselves."""
    alpha: float = 0.5
    """Concentration of --partition dirichlet."""
    widths: tuple[int, ...] = (32, 64)
    """Channels of each convolution."""
    hidden: int = 512
    """Units of the dense layer before the last one."""
    train_images: int = 0
    """Use at most N rows of each part; 0 for all."""
    epochs: int = 10
    """Not used; see --rounds and --local-epochs."""
    max_steps: int = 0
    """Not used; see --rounds."""
    batch_size: int = 128
    """Not used; see --each and --local-batch."""
    limit_examples: int = 0
    """Not used; see --train-images."""
    target: float = 0.99
    """Validation accuracy to count the rounds to, in (0, 1]."""
    validation_fraction: float = 1 / 12
    """Share of the training rows that is held out for validation, and belongs to no client."""


PRESETS = {
    "smoke": {
        "clients": 4, "each": 2, "rounds": 2, "local_epochs": 1, "train_images": 40, "widths": (4,), "hidden": 4,
        "validation_fraction": 0.2,
    }
}  # fmt: skip


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags; a step of it is a round, and a batch has the rows of the clients of a round."""
    settings.one_of("--method", config.method, METHODS)
    settings.one_of("--partition", config.partition, tuple(PARTITIONS))
    if not config.data:
        raise jc.InputError("DATA: give the folder, as in python -m experiments.federated FOLDER_OF_MNIST")
    if not 1 <= config.each <= config.clients or config.rounds < 1:
        line = f"--each {config.each}, --clients {config.clients}, --rounds {config.rounds}"
        raise jc.InputError(f"{line}: must be at least 1, and no more clients in a round than there are")
    if config.method == "scaffold" and (config.epsilon or config.secure):
        raise jc.InputError("--method scaffold: sends more than a change; --epsilon and --secure need another method")
    if not 0 <= config.epsilon < math.inf:
        raise jc.InputError(f"--epsilon {config.epsilon}: must be above 0, or 0 for no noise")
    if config.epsilon and config.each >= config.clients:
        raise jc.InputError(f"--each {config.each}: with --epsilon, must be less than the {config.clients} clients")
    if config.epsilon and not 0 < config.delta < 1 / config.clients:
        raise jc.InputError(f"--delta {config.delta}: must be above 0 and below 1 / {config.clients} clients")
    if config.train_images < 0:
        raise jc.InputError(f"--train-images {config.train_images}: must be at least 1, or 0 for all")
    if not 0 < config.target <= 1 or config.server_rate < 0:
        raise jc.InputError(f"--target {config.target}, --server-rate {config.server_rate}: must be in (0, 1] and >= 0")
    use = "use --train-images, --rounds, --local-epochs, --each and --local-batch"
    saved = {"max_steps": config.rounds, "epochs": config.rounds, "batch_size": config.each}
    settings.unused(config, "limit_examples", *saved, instead=use, saved=saved)
    read_by = {
        "proximal": config.method == "fedprox", "alpha": config.partition == "dirichlet",
        "clip": config.epsilon > 0, "delta": config.epsilon > 0,
    }  # fmt: skip
    idle = [name for name, used in read_by.items() if not used]
    settings.unused(config, *idle, instead="--proximal is of fedprox, --alpha of dirichlet, the others of --epsilon")
    plain = config.method == "fedavg" and config.partition == "iid" and not config.epsilon
    rate = jc.optim.check_rate(config.learning_rate or (0.2 if plain else 0.05))
    read = {"path": str(files.expanded(config.data)), "validation_fraction": config.validation_fraction}
    splits = jc.data.idx(**read)
    if config.train_images:
        splits = jc.data.Splits(*(runs.limited(part, config.train_images) for part in splits))
    most = splits.train.size // (2 if config.partition == "classes" else 1)  # with classes, a client has two pieces
    if config.clients > most:
        what = f"--clients {config.clients}: must be at most {most}, for {splits.train.size} training rows"
        raise jc.InputError(f"{what} and --partition {config.partition}")
    parts = PARTITIONS[config.partition](config, splits.train.label)
    held = clients.clients(splits.train, parts, poisson=config.epsilon > 0)
    local = {"batch_size": config.local_batch, "epochs": config.local_epochs}
    more: dict[str, Any] = {}
    if config.epsilon:
        noise = noise_of(config)
        local |= {"clip": config.clip, "noise": noise, "expected": config.each}
        spent = functools.partial(spent_after, config, noise)
        more = {"wrap": lambda step: private.with_epsilon(step, spent)}
    if config.method == "scaffold":
        more = {"wrap": scaffold.with_controls, "begin": scaffold.start_controls(config.clients)}
        grads = scaffold.scaffold(rate, held.room, **local)
    else:
        proximal = config.proximal if config.method == "fedprox" else 0.0
        grads = federated.federated(optax.sgd(rate), held.room, proximal=proximal, secure=config.secure, **local)
    image = splits.train.example()["image"]
    build = {
        "model": common.model(
            "plain", config, num_classes=len(splits.train.classes), widths=list(config.widths), kernel_size=5, pools=2,
            hidden=config.hidden,
        ),
        "task": {"name": "classification", "options": {}},
        "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }  # fmt: skip

    shown = ("loss", "accuracy", *["epsilon"] * (config.epsilon > 0), *["cut"] * (config.secure > 0))

    def server(steps: int) -> optax.GradientTransformation:
        del steps
        if config.method == "fedadam":
            return optax.adam(config.server_rate or 0.003, b2=0.99, eps=1e-3)
        return optax.sgd(config.server_rate or 1.0)

    return runs.Plan(
        runs.build(build)[1], splits._replace(train=held), server, grads=grads, build=build, dataset="mnist",
        source=runs.source("idx", read), monitor="accuracy", mode="max",
        headline=shown, every=5 if config.method == "scaffold" else 1, **more,
    )  # fmt: skip


def tell_noise(config: Config, made: runs.Plan) -> None:
    """Print how long the noise of a round is, beside the mean change that it hides."""
    params = jax.eval_shape(lambda: made.task.init(jax.random.key(0), made.data.train.example()))["params"]
    size = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    noise = noise_of(config) * config.clip / config.each * math.sqrt(size)
    line = f"the noise of a round has length {noise:.2g}; what {config.each} clients learn has at most {config.clip:g}"
    more = ", so that nothing is learnt: give more clients, or a smaller network" if noise > config.clip else ""
    print(f"{line}{more}", flush=True)


def noise_of(config: Config) -> float:
    """Return the noise with which all rounds spend `--epsilon`, over `--clip`."""
    return private.noise_for(config.epsilon, config.each / config.clients, config.rounds, config.delta)


def spent_after(config: Config, noise: float, rounds: int) -> float:
    """Return the epsilon that the first rounds have spent."""
    return private.epsilon(noise, config.each / config.clients, rounds, config.delta)


def reached(folder: pathlib.Path, target: float) -> int | None:
    """Return the first round after which the validation accuracy was at least `target`, or None."""
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        if values["split"] == "validation" and values["accuracy"] >= target:
            return int(values["step"])
    return None


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say; rounds and bytes go into federated.json."""
    if config.evaluate:
        return inference.evaluate_run("federated", config, config.data and str(files.expanded(config.data)))
    if config.predict:
        return inference.predict(config)
    made = plan(config)
    if config.epsilon:
        tell_noise(config, made)
    own = dataclasses.replace(config, batch_size=config.each, max_steps=config.rounds, epochs=config.rounds)
    summary = common.train("federated", own, made, signals, opened)
    if not summary:  # another process has the results
        return None
    params = jc.load_run(opened[-1]).variables["params"]
    sent = federated.bytes_per_round(params, config.each) * (2 if config.method == "scaffold" else 1)
    rounds = reached(opened[-1], config.target)
    values = {
        "method": config.method, "partition": config.partition, "rounds": summary["steps"], "target": config.target,
        "rounds_to_target": rounds, "bytes_per_round": sent, "bytes_to_target": rounds and rounds * sent,
        "accuracy": summary["test"]["accuracy"], "count": summary["test"]["count"],
    }  # fmt: skip
    if config.epsilon:
        noise = noise_of(config)
        values |= {"noise": noise, "epsilon": spent_after(config, noise, summary["steps"])}
        values |= {"delta": config.delta, "clip": config.clip}
    files.write_json(opened[-1] / "federated.json", values)
    print(files.to_json(values), flush=True)
    return values


if __name__ == "__main__":
    cli.run(main, Config, "federated", PRESETS)

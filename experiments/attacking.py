"""Accuracy under attacks and under the worst of them, and checks that gradients do not mislead attacks."""

import itertools
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

import jaxcnn as jc
from jaxcnn import runs
from jaxcnn.core.types import Batch, Task, Tree
from jaxcnn.methods import attacks
from jaxcnn.methods.robustness import classifier, pixels, true_labels

Array = jax.Array
CHECK_STEPS = (1, 10, 40, 100)
TOLERANCE = 0.01  # by how much chance may raise the accuracy under more steps
WHITE = ("fgsm", "pgd", "apgd_ce", "apgd_dlr", "apgd_targeted")


def attacks_of(config: Any) -> dict[str, attacks.Attack]:
    """Return the attacks of the measurement by name; only the last one sees no gradients."""
    eps = config.epsilon
    return {
        "fgsm": attacks.fgsm(eps),
        "pgd": attacks.pgd(eps, steps=config.steps, restarts=config.restarts),
        "apgd_ce": attacks.apgd(eps, steps=config.auto_steps),
        "apgd_dlr": attacks.apgd(eps, steps=config.auto_steps, loss="dlr"),
        "apgd_targeted": attacks.apgd(eps, steps=config.auto_steps, loss="dlr", targets=config.targets),
        "square": jc.methods.square(eps, steps=config.square_steps),
    }


def resists(task: Task, attack: attacks.Attack | None, name: str = "") -> Callable[[Tree, Batch], Array]:
    """Return the function `(variables, batch) -> [B]` that is True where a row is right without and with an attack.

    Random draws depend on the name of the attack.
    """

    def right(variables: Tree, batch: Batch) -> Array:
        images, labels, logits_of = pixels(batch), true_labels(batch), classifier(task, variables, batch)
        plain = logits_of(images).argmax(-1) == labels
        if attack is None:
            return plain
        changed = attack(logits_of, images, labels, jax.random.key(zlib.crc32(name.encode())))
        return plain & (logits_of(changed).argmax(-1) == labels)

    return right


def share(right: np.ndarray) -> dict[str, Any]:
    """Return the share of rows that are right, with its 95 % interval."""
    value = float(np.mean(right))
    return {"accuracy": value, "interval": list(jc.metrics.wilson_interval(value, len(right)))}


def outcomes(config: Any, loaded: runs.TrainedRun, data: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return which rows are right, and which are right without and with each attack, by name; `[N]` each.

    Args:
        config: flags with `epsilon`, `steps`, `restarts`, `auto_steps`, `targets`, `square_steps`, `eval_batch_size`.
        loaded: the run.
        data: the rows.

    """
    plain = right(config, loaded, data, None, "clean")
    return plain, {name: right(config, loaded, data, attack, name) for name, attack in attacks_of(config).items()}


def right(config: Any, loaded: runs.TrainedRun, data: Any, attack: attacks.Attack | None, name: str) -> np.ndarray:
    """Return which rows are right without and with an attack, `[N]`, and print their share."""
    began = time.perf_counter()
    predict = resists(loaded.task, attack, name)
    found, _ = jc.collect(predict, loaded.variables, data, batch_size=config.eval_batch_size)
    print(f"{name}: {found.mean():.4f} of {len(found):,} ({time.perf_counter() - began:.0f} s)", flush=True)
    return found


def measure(config: Any, loaded: runs.TrainedRun, data: Any) -> dict[str, Any]:
    """Attack the rows with each attack, and return accuracies with intervals, and the checks.

    Args:
        config: flags as for `outcomes`, and `checked`.
        loaded: the run.
        data: the rows.

    """
    plain, each = outcomes(config, loaded, data)
    found: dict[str, Any] = {"count": data.size, "norm": "linf", "clean": share(plain)}
    found |= {"attacks": {name: share(rows) for name, rows in each.items()}}
    found["worst"] = share(np.all(list(each.values()), axis=0))
    if config.checked > 0:
        some = data if config.checked >= data.size else runs.limited(data, config.checked)
        found["checks"] = checks(
            config, found["attacks"], lambda attack, name: right(config, loaded, some, attack, name).mean()
        )
    return found


def checks(
    config: Any, found: Mapping[str, Mapping[str, Any]], accuracy: Callable[[attacks.Attack, str], float]
) -> dict[str, Any]:
    """Return whether the network behaves as one whose gradients do not mislead attacks (Carlini et al., 2019).

    Args:
        config: flags with `epsilon`.
        found: accuracies by attack.
        accuracy: `(attack, name) -> accuracy` on some rows.

    Reference: arXiv:1902.06705.

    """
    steps = {n: float(accuracy(attacks.pgd(config.epsilon, steps=n), f"pgd, {n} steps")) for n in CHECK_STEPS}
    # from anywhere in 0..1, each step crosses a twentieth of it
    free = float(accuracy(attacks.pgd(1.0, steps=100, step_size=0.05, restarts=2, loss="dlr"), "pgd without a bound"))
    black, white = found["square"]["accuracy"], min(found[name]["accuracy"] for name in WHITE)
    values = list(steps.values())
    falling = all(more <= fewer + TOLERANCE for fewer, more in itertools.pairwise(values))
    return {
        "black_box": black, "white_box": white, "black_box_is_weaker": black >= white,
        "by_steps": steps, "more_steps_are_stronger": falling,
        "unbounded": free, "unbounded_reaches_zero": free == 0,
    }  # fmt: skip

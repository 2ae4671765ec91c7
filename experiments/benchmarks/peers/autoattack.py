"""AutoAttack of torchattacks or of the Adversarial Robustness Toolbox, on a network that jaxcnn has exported.

A case is a dict: `folder` with `network.py`, `network.safetensors`, `images.npy` (float32 `[N, C, H, W]` in 0..1),
`labels.npy` and `logits.npy`; and for an attack also `first` and `last` of the rows, `epsilon`, `seed` and `classes`.
Without `first`, nothing is attacked, and the facts say how far the logits are from those of the run.

Reference: Croce and Hein, 2020, arXiv:2003.01690.
"""

import importlib.metadata
import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.peers import Prepared

Case = dict[str, Any]
AT_ONCE = 256  # images of one call of the network


def torchattacks(case: Case) -> Prepared:
    """Attack with the standard version of torchattacks: APGD-CE, targeted APGD and FAB, and Square."""
    import torch
    import torchattacks

    network, images, labels = _read(case)

    def attack(first: int, last: int) -> np.ndarray:
        options = {"eps": case["epsilon"], "n_classes": case["classes"], "seed": case["seed"]}
        made = torchattacks.AutoAttack(network, norm="Linf", version="standard", **options)
        found = made(torch.from_numpy(images[first:last]), torch.from_numpy(labels[first:last]))
        return found.detach().cpu().numpy()

    return _prepared(case, network, images, labels, attack, "torchattacks")


def art(case: Case) -> Prepared:
    """Attack with the Adversarial Robustness Toolbox: APGD with both losses, DeepFool and Square."""
    import torch
    from art.attacks.evasion import AutoAttack
    from art.estimators.classification import PyTorchClassifier

    network, images, labels = _read(case)
    classes, eps = case.get("classes", 2), case.get("epsilon", 0.0)

    def attack(first: int, last: int) -> np.ndarray:
        np.random.seed(case["seed"])  # noqa: NPY002 (what the toolbox draws from)
        torch.manual_seed(case["seed"])
        estimator = PyTorchClassifier(
            network, torch.nn.CrossEntropyLoss(), images.shape[1:], classes, clip_values=(0.0, 1.0), device_type="cpu"
        )
        made = AutoAttack(estimator, norm=np.inf, eps=eps, eps_step=eps / 10, batch_size=AT_ONCE)
        return made.generate(images[first:last], labels[first:last])

    return _prepared(case, network, images, labels, attack, "adversarial-robustness-toolbox")


def _read(case: Case) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the network, images and labels of a case."""
    folder = pathlib.Path(case["folder"])
    spec = importlib.util.spec_from_file_location("network", folder / "network.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(), np.load(folder / "images.npy"), np.load(folder / "labels.npy").astype(np.int64)


def _prepared(
    case: Case, network: Any, images: np.ndarray, labels: np.ndarray, attack: Callable[[int, int], np.ndarray],
    package: str,
) -> Prepared:  # fmt: skip
    """Return the work on a case, whose facts are what it found."""
    import torch

    def logits(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            parts = [
                network(torch.from_numpy(np.ascontiguousarray(rows[i : i + AT_ONCE]))).numpy()
                for i in range(0, len(rows), AT_ONCE)
            ]
        return np.concatenate(parts)

    def compared() -> dict[str, Any]:
        wanted, found = np.load(pathlib.Path(case["folder"]) / "logits.npy"), logits(images)
        versions = {"torch": torch.__version__, package: importlib.metadata.version(package)}
        difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        return {"difference": difference, "right": (found.argmax(1) == labels).tolist(), "versions": versions}

    def attacked() -> dict[str, Any]:
        first, last = case["first"], case["last"]
        changed = np.asarray(attack(first, last), np.float32)
        np.save(pathlib.Path(case["folder"]) / "attacked.npy", changed)
        return {"right": (logits(changed).argmax(1) == labels[first:last]).tolist()}

    return Prepared(lambda: None, facts=attacked if "first" in case else compared)

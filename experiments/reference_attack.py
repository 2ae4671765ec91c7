"""Attacks a robust run with somebody else's AutoAttack: `python -m experiments.reference_attack RUN`.

RUN is a run of `experiments.robust` that `jaxcnn export RUN --to torch` has exported. The same network in PyTorch is
attacked by the AutoAttack of torchattacks, or of the Adversarial Robustness Toolbox, in an interpreter of its own
(`--peer-python`), at the run's norm and distance. The accuracy under it stands beside the worst case of our attacks on
the same images; the result goes into reference_attack.json in the run's folder.

Reference: Croce and Hein, 2020, arXiv:2003.01690.
"""

import contextlib
import dataclasses
import pathlib
import shutil
import sys
import tempfile
import time
from typing import Any

import numpy as np
import tyro

import jaxcnn as jc
from experiments import attacking, command, robust
from experiments.benchmarks.subprocess_worker import FailedError, Worker
from experiments.settings import one_of
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.deploy import program
from jaxcnn.deploy.torch import rendered

PACKAGES = {"torchattacks": "torchattacks", "art": "adversarial-robustness-toolbox"}
MODULES = {"safetensors": "safetensors", "torch": "torch", **PACKAGES}  # and the packages that have them
TOLERANCE = 1e-4  # of the largest logit
OUTSIDE = 1e-5  # by how much rounding may take a pixel out of its range
PATIENCE = 24 * 3600.0  # seconds for the attack on a batch
FILE = "reference_attack.json"


@dataclasses.dataclass(frozen=True)
class Config:
    """Attack a robust run with the AutoAttack of another library."""

    run: tyro.conf.Positional[str]
    """Folder of a run of experiments.robust."""
    file: str = ""
    """File that `jaxcnn export RUN --to torch` wrote; by default exported/model.py in the run's folder."""
    data: str = ""
    """Where the run's data are now; by default where they were."""
    by: str = "torchattacks"
    """Whose AutoAttack: torchattacks, or art (the Adversarial Robustness Toolbox)."""
    peer_python: str = ""
    """Python interpreter with torch, safetensors and the library that attacks; by default this one."""
    rows: int = 1000
    """Attack N test images, drawn at random; all if there are fewer."""
    seed: int = 0
    """Seed of the choice of images and of the attack."""
    ours: bool = True
    """Attack the same images with our attacks too; without, the accuracy in the run's robust.json is compared."""
    batch_size: int = 100
    """Images that the other library attacks together; a line is printed after each batch."""
    eval_batch_size: int = 256
    """Images per batch of our own attacks."""


def main(config: Config) -> dict[str, Any]:
    """Attack the run, write what was found, and return it."""
    one_of("--by", config.by, PACKAGES)
    for key in ("rows", "batch_size", "eval_batch_size"):
        if getattr(config, key) < 1:
            raise jc.InputError(f"--{key.replace('_', '-')} {getattr(config, key)}: must be at least 1")
    if config.seed < 0:
        raise jc.InputError(f"--seed {config.seed}: must be at least 0")
    loaded = run_of(config.run)
    settings, recorded = loaded.config["settings"], record_of(config)
    data = rows_of(config, loaded)
    with tempfile.TemporaryDirectory(prefix="jaxcnn-attack-") as name:
        folder = pathlib.Path(name)
        labels = write_case(config, loaded, data, folder)
        theirs = attacked(config, loaded, folder, labels, settings["epsilon"])
    found: dict[str, Any] = {
        "run": pathlib.Path(config.run).resolve().name, "by": config.by, "versions": theirs["versions"],
        "norm": "linf", "epsilon": settings["epsilon"], "count": data.size, "seed": config.seed,
        "logit_difference": theirs["difference"], "clean": attacking.share(theirs["clean"]),
        "reference": attacking.share(theirs["right"]), "seconds": theirs["seconds"],
    }  # fmt: skip
    found |= beside(config, loaded, data, theirs["right"], recorded)
    files.write_json(pathlib.Path(config.run) / FILE, found)
    print(files.to_json(found), flush=True)
    return found


def run_of(folder: str) -> runs.TrainedRun:
    """Load a run of `experiments.robust`."""
    kind = runs.read_config(folder)["experiment"]
    if kind != "robust":
        raise jc.InputError(f"{visible(folder)}: a run of {visible(kind)}; give one of python -m experiments.robust")
    return jc.load_run(folder)


def record_of(config: Config) -> dict[str, Any] | None:
    """Return what robust.json says, and refuse to go on without it where it is needed."""
    path = pathlib.Path(config.run) / "robust.json"
    try:
        found = files.read_json(path)
        return {"count": int(found["count"]), "accuracy": float(found["worst"]["accuracy"])}
    except (OSError, jc.InputError, KeyError, TypeError, ValueError) as error:
        if config.ours:
            return None
        raise jc.InputError(f"{visible(path)}: cannot be read; leave out --no-ours") from error


def rows_of(config: Config, loaded: runs.TrainedRun) -> Any:
    """Return the test images to attack."""
    data = runs.rows_to_measure(loaded.config, config.data or None, whole=True).data
    return data.take(np.random.default_rng(config.seed).permutation(data.size)[: config.rows])


def write_case(config: Config, loaded: runs.TrainedRun, data: Any, folder: pathlib.Path) -> np.ndarray:
    """Write the network, the images, their labels and the run's logits, and return the labels.

    The file of Python that will run is the one that the library makes of this run, not the one in the run's folder,
    which must be equal to it.
    """
    given = pathlib.Path(config.file) if config.file else pathlib.Path(config.run) / "exported" / "model.py"
    weights, name = given.with_suffix(".safetensors"), pathlib.Path(config.run).resolve().name
    fix = f"write it with jaxcnn export {visible(config.run)} --to torch"
    for path in (given, weights):
        if not path.is_file():
            raise jc.InputError(f"{visible(path)}: no such file; {fix}")
    made = program.of_run(loaded)
    text = rendered(made._replace(about={"run": name, **made.about}), "network").text
    if files.read_bytes(given) != text.encode():
        raise jc.InputError(f"{visible(given)}: not what this version writes for this run; {fix}")
    (folder / "network.py").write_text(text)
    shutil.copyfile(weights, folder / "network.safetensors")
    logits, rows = jc.collect(
        loaded.task.predict, loaded.variables, data, keep=("image", "label"), batch_size=config.eval_batch_size
    )
    image = rows["image"] / np.float32(255) if rows["image"].dtype == np.uint8 else rows["image"]
    np.save(folder / "images.npy", np.ascontiguousarray(image.transpose(0, 3, 1, 2), np.float32))
    np.save(folder / "labels.npy", rows["label"])
    np.save(folder / "logits.npy", logits)
    return rows["label"]


def attacked(
    config: Config, loaded: runs.TrainedRun, folder: pathlib.Path, labels: np.ndarray, epsilon: float
) -> dict[str, Any]:
    """Compare the logits in the other interpreter, attack there, and return which rows are right.

    A row is right if it is without and with the attack, in PyTorch and in the run.
    """
    python, began = config.peer_python or sys.executable, time.perf_counter()
    case: dict[str, Any] = {"folder": str(folder), "seed": config.seed, "epsilon": epsilon}
    case["classes"] = len(loaded.config["classes"])
    try:
        with contextlib.closing(Worker(python, "autoattack", config.by)) as worker:
            worker.ask("prepare", case=case)
            found = worker.ask("facts")
            if not found["difference"] <= TOLERANCE:
                raise jc.InputError(
                    f"the logits in torch differ from the run's by {found['difference']:.2g} of the largest, "
                    f"{TOLERANCE:g} at most; write the file again with jaxcnn export {visible(config.run)} --to torch"
                )
            clean = np.array(found["right"])
            print(f"clean, in torch: {clean.mean():.4f} of {len(clean):,}", flush=True)
            right = clean.copy()
            for first in range(0, len(labels), config.batch_size):
                last = min(first + config.batch_size, len(labels))
                worker.ask("prepare", case=case | {"first": first, "last": last})
                there = np.array(worker.ask("facts", patience=PATIENCE)["right"])
                right[first:last] &= there & _here(loaded, folder, labels[first:last], first, epsilon)
                seconds = time.perf_counter() - began
                print(f"{config.by}: {right[:last].mean():.4f} of {last:,} ({seconds:.0f} s)", flush=True)
    except FailedError as error:
        raise jc.InputError(_reason(config, python, str(error))) from error
    except OSError as error:
        raise jc.InputError(f"--peer-python {visible(python)}: cannot be started ({error.strerror})") from error
    seconds = time.perf_counter() - began
    return {**found, "clean": clean, "right": right, "seconds": seconds}


def _here(loaded: runs.TrainedRun, folder: pathlib.Path, labels: np.ndarray, first: int, epsilon: float) -> np.ndarray:
    """Return which attacked images the run itself gets right, after a check that they are within the distance."""
    changed = np.load(folder / "attacked.npy")
    images = np.load(folder / "images.npy", mmap_mode="r")[first : first + len(labels)]
    far = float(np.abs(changed - images).max())
    if not (far <= epsilon + OUTSIDE and changed.min() >= -OUTSIDE and changed.max() <= 1 + OUTSIDE):
        raise jc.InputError(f"the other library changed a pixel by {far:.4g}, beyond {epsilon:.4g} or 0..1; use --by")
    rows = {"image": changed.clip(0, 1).transpose(0, 2, 3, 1), "label": labels}
    logits, _ = jc.collect(loaded.task.predict, loaded.variables, rows)
    return logits.argmax(-1) == labels


def _reason(config: Config, python: str, line: str) -> str:
    """Return the line for a failure in the other interpreter."""
    for module, package in MODULES.items():
        if f"No module named '{module}'" in line or f"No module named '{module}." in line:
            return (
                f"--peer-python {visible(python)}: {package} is not installed there; {python} -m pip install {package}"
            )
    return f"--by {config.by}: failed in {visible(python)}: {visible(line)[:300]}"


def beside(
    config: Config, loaded: runs.TrainedRun, data: Any, theirs: np.ndarray, recorded: dict[str, Any] | None
) -> dict[str, Any]:
    """Return our accuracy, by the attacks and steps of the run, and by how many points it is above the reference."""
    if not config.ours:
        assert recorded is not None
        gap = 100 * (recorded["accuracy"] - float(np.mean(theirs)))
        return {"ours": recorded | {"images": "of robust.json"}, "difference_points": gap}
    settings = loaded.config["settings"]
    names = {field.name for field in dataclasses.fields(robust.Config)}
    flags = robust.Config(**{k: v for k, v in settings.items() if k in names})
    flags = dataclasses.replace(flags, eval_batch_size=config.eval_batch_size)
    ours = np.all(list(attacking.outcomes(flags, loaded, data)[1].values()), axis=0)
    return compared(ours, theirs) | {"recorded": recorded}


def compared(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Compare which rows resist our attacks and theirs.

    Args:
        ours: True where a row is right under all of our attacks, `[N]`.
        theirs: the same under the reference.

    Returns:
        Our accuracy, by how many points it is above the reference, and how many rows only one side breaks.

    """
    gap = 100 * float(np.mean(ours) - np.mean(theirs))
    return {
        "ours": attacking.share(ours) | {"images": "the same"}, "difference_points": gap,
        "broken_by_ours_alone": int((theirs & ~ours).sum()), "broken_by_reference_alone": int((ours & ~theirs).sum()),
        "right_under_both": attacking.share(ours & theirs),
    }  # fmt: skip


if __name__ == "__main__":
    command.run(main, Config, "reference_attack")

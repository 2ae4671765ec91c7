"""Compresses a trained network in several ways and compares them: `python -m experiments.compression mnist FOLDER`.

It trains the base network with the recipe of `experiments.mnist`, `cifar10` (the speed network, without views) or
`imagenet` (ResNet-18 on 128 pixels), or takes `--run`. Each variant is fine-tuned from it for a quarter of its epochs:
8-bit integers with and without training that sees the rounding, pruned weights, half of the filters with and without a
teacher. Every variant becomes an ONNX file, which ONNX Runtime runs on the whole test set. Nothing is chosen on test
rows; the same command goes on where it stopped. `jaxcnn report RUN` of a base network shows its table.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tyro

import jaxcnn as jc
from experiments import archives, cifar10, command, common, compression_table, imagenet, mnist, settings
from jaxcnn import deploy, methods, runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.deploy.integers import drawn
from jaxcnn.methods.distil import TEACHER
from jaxcnn.train.flat import digest, flatten

LOWER = 0.25  # learning rate of a variant over that of the base


class Case(NamedTuple):
    """A data set: its experiment, the flags that differ from its defaults, and the epochs of the base network."""

    module: Any
    flags: dict[str, Any]
    epochs: int


PHOTOS = {
    "model": "resnet18", "image_size": 128, "batch_size": 32, "learning_rate": 0.05, "schedule": "cosine",
    "warmup_epochs": 2, "crop_scale": 0.25, "validation_fraction": 0.1, "weight_decay": 5e-4,
}  # fmt: skip
CASES = {
    "mnist": Case(mnist, {}, 8),
    "cifar10": Case(cifar10, {"views": False}, 8),
    "imagenette": Case(imagenet, PHOTOS, 40),
}
SMOKE = {"max_steps": 6, "limit_examples": 48, "batch_size": 16}
OPTIMISER = (  # settings of a run that its variants are trained with too
    "learning_rate", "batch_size", "optimizer", "schedule", "weight_decay", "momentum", "muon", "bias_rate",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Compress a trained network in several ways, and compare accuracy, bytes and latency."""

    case: tyro.conf.Positional[str] = ""
    """mnist, cifar10 or imagenette."""
    data: tyro.conf.Positional[str] = ""
    """Folder of the data, or for photos an archive: train/<class>/* beside test/ or val/."""
    run: str = ""
    """Run of that experiment to begin with; by default a new one is trained."""
    epochs: int = 0
    """Epochs of the base network; by default 8, 8 or 40, or those of --run."""
    seeds: int = 1
    """Number of seeds."""
    sparsities: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95)
    """Shares of pruned weights."""
    features: float = 0.0
    """Weight of the features in the distillation; 0 for soft targets alone."""
    low_rank: float = 0.0
    """Add a variant whose kernels keep this share of their sum of squares in two parts of low rank; 0 for none."""
    widths: tuple[int, ...] = ()
    """Channels of the stages of the network of mnist and cifar10; by default its own."""
    calibration: int = 512
    """Training rows that choose the grids of 8-bit integers."""
    workdir: str = ""
    """Folder of the runs and the table; by default checkpoints/compression/CASE."""
    unpacked: str = ""
    """Folder into which an archive is unpacked; by default in checkpoints/data/."""
    smoke: bool = False
    """A run of seconds: few rows, few steps."""


class Base(NamedTuple):
    """The base network of a seed: its plan, the trained run, epochs of a variant, and the optimiser of variants."""

    plan: runs.Plan
    loaded: runs.TrainedRun
    epochs: float
    optimizer: Callable[[int], Any]
    folder: pathlib.Path


def main(config: Config) -> dict[str, Any]:
    """Train what is not trained yet, measure all variants, and print and write the table."""
    check(config)
    folder, found = pathlib.Path(config.workdir or f"checkpoints/compression/{config.case}"), []
    for seed in range(config.seeds):
        base = begun(config, folder, seed)
        check_folder(config, folder, base)
        rows = drawn(base.plan.data.train, config.calibration)
        found.append(compression_table.measured(variants(config, base, rows), base.plan.data.test, seed))
        place = pathlib.Path(config.run or folder / f"base-{seed}")
        files.write_json(place / "compression.json", compression_table.for_report(found[-1]))
    made = compression_table.table(found)
    files.write_text(folder / "table.md", made["text"] + "\n")
    files.write_json(folder / "summary.json", {name: value for name, value in made.items() if name != "text"})
    print(f"{made['text']}\n{config.seeds} seeds, {visible(folder)}", flush=True)
    return made


def check(config: Config) -> None:
    """Refuse bad values before anything is read."""
    settings.one_of("CASE", config.case, tuple(CASES))
    if not config.data:
        raise jc.InputError(f"DATA: give the data, as in python -m experiments.compression {config.case} FOLDER")
    if config.seeds < 1 or (config.run and config.seeds > 1):
        raise jc.InputError(f"--seeds {config.seeds}: must be at least 1, and 1 with --run")
    if bad := [s for s in config.sparsities if not 0 < s < 1]:
        raise jc.InputError(f"--sparsities {bad[0]}: must be above 0 and below 1")
    if len({f"{s:g}" for s in config.sparsities}) < len(config.sparsities):
        raise jc.InputError(f"--sparsities {' '.join(map(str, config.sparsities))}: has a value twice; give each once")
    if not 0 <= config.low_rank <= 1 or config.features < 0:
        raise jc.InputError("--low-rank must be from 0 to 1, --features at least 0")
    if config.calibration < 1 or config.epochs < 0:
        raise jc.InputError("--calibration must be at least 1, --epochs at least 0")
    if config.widths and config.run:
        raise jc.InputError("--widths: --run brings its own network; leave one of them out")
    if config.widths and config.case == "imagenette":
        raise jc.InputError("--widths: is for mnist and cifar10; leave it out")


def check_folder(config: Config, folder: pathlib.Path, base: Base) -> None:
    """Refuse a folder whose variants have other settings, data or another base than those that are asked for."""
    named = ("data", "workdir", "unpacked", "seeds", "sparsities", "low_rank", "run")  # parts of names, and places
    own = {name: value for name, value in dataclasses.asdict(config).items() if name not in named}
    own |= {"rows_sha256": common.data_digest(base.plan.data.train)}
    own |= {"base": config.run and digest(flatten(base.loaded.variables))}
    path = folder / "settings.json"
    if path.exists() and files.read_json(path) != json.loads(files.to_json(own)):
        raise jc.InputError(f"--workdir {visible(folder)}: has variants of other settings; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(path, own)


def optimiser_of(kind: type, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with which a run was optimised, as far as a case has such flags."""
    own = {field.name for field in dataclasses.fields(kind)} & saved.keys()
    return {name: saved[name] for name in OPTIMISER if name in own}


def begun(config: Config, folder: pathlib.Path, seed: int) -> Base:
    """Train or load the base network."""
    module, options, epochs = CASES[config.case]
    own = f"compression-{config.case}"  # a folder of its own for what an archive holds
    place = config.data if config.case == "mnist" else str(archives.folder_of(own, config, _inside))
    options = options | {"dataset": place, "seed": seed} | (SMOKE if config.smoke else {})
    if config.widths and config.case == "cifar10":
        options["widths"] = config.widths
    epochs = config.epochs or (runs.read_config(config.run)["settings"].get("epochs", epochs) if config.run else epochs)
    if config.run:
        options |= optimiser_of(module.Config, runs.read_config(config.run)["settings"])
    flags = module.Config(**options | {"epochs": epochs})
    plan = module.plan(flags)
    if config.widths and config.case == "mnist":
        plan = _built(plan, {**plan.build, "model": _widths(plan.build["model"], config.widths)})
    plan = common.planned(f"compression_{config.case}", flags, plan)
    if config.run:
        loaded = jc.load_run(config.run)
        rows = loaded.config["data"].get("sha256")
        if rows is not None and rows != common.data_digest(plan.data.train):
            raise jc.InputError(f"--run {visible(config.run)}: was trained on other rows than those of DATA")
        plan = _built(plan, loaded.config["build"])
    else:
        print(f"base, seed {seed}", flush=True)
        jc.train_run(plan, folder / f"base-{seed}")
        loaded = jc.load_run(folder / f"base-{seed}")
    lower = {
        "learning_rate": flags.learning_rate * LOWER,
        "warmup_epochs": 0,
        "muon": getattr(flags, "muon", 0) * LOWER,
    }
    lower = dataclasses.replace(flags, **{name: value for name, value in lower.items() if hasattr(flags, name)})
    plan = dataclasses.replace(plan, steps=SMOKE["max_steps"] if config.smoke else None)
    return Base(plan, loaded, epochs / 4, functools.partial(module.optimizer, lower), folder / f"seed-{seed}")


def _inside(name: str) -> str | None:
    """Return the place of a photo of an archive: the part, the class and the file."""
    parts = pathlib.PurePosixPath(name).parts[-3:]
    known = len(parts) == 3 and parts[0] in ("train", "test", "val") and parts[2].lower().endswith((".jpg", ".jpeg"))
    return "/".join(parts) if known and ".." not in parts else None


def _widths(model: dict[str, Any], widths: Any) -> dict[str, Any]:
    return {**model, "options": {**model["options"], "widths": list(widths)}}


def _built(plan: runs.Plan, build: dict[str, Any]) -> runs.Plan:
    return dataclasses.replace(plan, build=build, task=runs.build(build)[1])


def variants(config: Config, base: Base, rows: Any) -> dict[str, compression_table.Variant]:
    """Return every variant by its name; what needs training is trained."""
    loaded, made = base.loaded, compression_table.Variant
    plain, task = deploy.of_run(base.loaded), base.plan.task
    found = {
        "float32": made(plain, fold=False),
        "float32, folded": made(plain),
        "int8": made(deploy.quantised(plain, rows)),
    }
    aware = methods.quantise.quantised(task)
    variables = methods.quantise.calibrate(task.predict, loaded.variables, rows)
    variables = tuned(base, "int8-aware", aware, variables)
    exact = deploy.of_run(loaded._replace(variables=variables))
    found["int8, trained with rounding"] = made(deploy.quantised(exact, rows))
    for sparsity in config.sparsities:
        pruned = functools.partial(_pruned, base, sparsity)
        variables = tuned(base, f"pruned-{sparsity:g}", task, loaded.variables, wrap=pruned)
        found[f"{100 * sparsity:g}% of weights pruned"] = made(deploy.of_run(loaded._replace(variables=variables)))
    found |= _narrow(config, base, rows)
    if config.low_rank:
        model, variables = methods.factorised(loaded.model, loaded.variables, config.low_rank)
        task = jc.tasks.classification(model, **base.plan.build["task"]["options"])
        variables = tuned(base, f"low-rank-{config.low_rank:g}", task, variables)
        found["low rank"] = made(deploy.of_run(loaded._replace(variables=variables, model=model, task=task)))
    return found


def _pruned(base: Base, sparsity: float, step: Any) -> Any:
    """Prune during the first two thirds of the steps."""
    steps = base.plan.steps or round(base.epochs * base.plan.data.train.size / base.plan.batch_size)
    end = max(2 * steps // 3, 1)
    return methods.prune.gradual(base.plan.wrap(step), sparsity, begin=0, end=end, every=max(end // 10, 1))


def _narrow(config: Config, base: Base, rows: Any) -> dict[str, compression_table.Variant]:
    """Return the variants with half of the filters: fine-tuned alone, with the base as teacher, and that in int8."""
    loaded, made = base.loaded, compression_table.Variant
    example = base.plan.data.train.example()["image"]
    image = jc.tasks.prepare(example, **_pixels(base.plan.build))
    small, variables = methods.narrowed(loaded.model, loaded.variables, image)
    name = "widths" if hasattr(small, "widths") else "width"
    width = getattr(small, name)
    options = {**base.plan.build["model"]["options"], name: list(width) if isinstance(width, tuple) else width}
    build = {**base.plan.build, "model": {**base.plan.build["model"], "options": options}, "ema": 0.0}
    task = runs.build(build)[1]
    run = loaded._replace(config={**loaded.config, "build": build}, model=small, task=task)
    alone = tuned(base, "halved", task, variables)
    taught = methods.distilled(task, base.plan.task, loaded.variables, features=config.features)
    start = {**variables, TEACHER: loaded.variables}
    learned = tuned(base, "distilled", taught, start)
    learned.pop(TEACHER)
    both = {"filters halved": alone, "filters halved, distilled": learned}
    found = {name: made(deploy.of_run(run._replace(variables=v))) for name, v in both.items()}
    whole = deploy.quantised(deploy.of_run(run._replace(variables=learned)), rows)
    return {**found, "filters halved, distilled, int8": made(whole)}


def _pixels(build: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in build["task"]["options"].items() if name in ("mean", "std", "size")}


def tuned(base: Base, name: str, task: jc.Task, variables: Any, wrap: Any = None) -> dict[str, Any]:
    """Fine-tune variables for a quarter of the base's epochs, without an average, and return the last ones."""
    print(name, flush=True)
    plan = dataclasses.replace(
        base.plan, task=task, variables=variables, epochs=base.epochs, optimizer=base.optimizer, ema=0.0, build=None,
        wrap=wrap or base.plan.wrap, best=False,
    )  # fmt: skip
    jc.train_run(plan, base.folder / name)
    return dict(jc.load_run(base.folder / name, task=task).variables)


if __name__ == "__main__":
    command.run(main, Config, "compression")

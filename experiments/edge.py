"""Compares small networks for small machines: `python -m experiments.edge cifar10_jpeg.tar.gz`.

Each network learns CIFAR-10 with the augmentation of `experiments.cifar10`, without views, and with AdamW at one rate:
the recipe of the speed network is too fast for networks without norms. It becomes an ONNX file in float32, one in 8-bit
integers, and a LiteRT file in float32. Each file then answers one test image at a time in a process of its own, on one
core: accuracy on all test rows, bytes, the median and the 95th percentile of the latency, the memory that loading and
running it add, and the energy of an image where the machine's counters (RAPL) can be read.
`table.md` and `front.png` are written, with the Pareto front of accuracy over latency: the networks that no other one
beats in both.

These are processors of servers and desktops: no telephone or microcontroller was measured. The same command goes on
where it stopped.
"""

import dataclasses
import io
import json
import math
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tyro

import jaxcnn as jc
from experiments import archives, cifar10, command, common, settings
from jaxcnn import deploy, explain, runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.deploy.exporters import EXPORTERS
from jaxcnn.deploy.integers import drawn

FILES = {"ONNX float32": ("onnx", False), "ONNX int8": ("onnx", True), "LiteRT float32": ("litert", False)}
WEIGHT_DECAY = 5e-2
SMOKE = {"max_steps": 4, "limit_examples": 40, "batch_size": 16}
COLUMNS = ("network", "file", "accuracy", "million multiply-adds", "KiB", "ms: p50, p95", "MiB", "mJ")


@dataclasses.dataclass(frozen=True)
class Config:
    """Train small networks on CIFAR-10, and measure them as files on one core."""

    data: tyro.conf.Positional[str] = ""
    """The archive of CIFAR-10, or a folder of images: train/<class>/* beside test/ or val/."""
    networks: tuple[str, ...] = (
        "tutorial", "squeezenet1_1", "mobilenet_v3_small", "mobilenet_v2", "resnet20", "speednet",
    )  # fmt: skip
    """Names of networks in jaxcnn.models.MODELS."""
    epochs: int = 8
    """Epochs of each network."""
    batch_size: int = 128
    """Rows in one update."""
    learning_rate: float = 2e-3
    """Highest value of the one-cycle schedule of AdamW."""
    images: int = 500
    """Test images whose latency is measured; the first 20 are not counted."""
    calibration: int = 512
    """Training rows that choose the grids of 8-bit integers."""
    seed: int = 0
    """Seed of each network."""
    workdir: str = "checkpoints/edge"
    """Folder of the runs, the table and the picture."""
    unpacked: str = ""
    """Folder into which an archive is unpacked; by default in checkpoints/data/."""
    smoke: bool = False
    """A run of seconds: few rows, few steps."""


def main(config: Config) -> dict[str, Any]:
    """Train what is not trained yet, measure every file, and write the table and the picture."""
    check(config)
    folder, rows = pathlib.Path(config.workdir), []
    place = str(archives.folder_of("edge", config, inside))
    for name in config.networks:
        plan, loaded = trained(config, place, name, folder / name)
        rows += [{"network": name, **values} for values in measured(config, plan, loaded)]
        files.write_json(folder / "edge.json", {"rows": rows, "front": front(rows)})
    text = table(rows)
    files.write_text(folder / "table.md", text + "\n")
    draw(rows, folder / "front.png")
    print(f"{text}\n{visible(folder)}", flush=True)
    return {"rows": rows, "front": front(rows)}


def check(config: Config) -> None:
    """Refuse bad values before anything is read."""
    if not config.data:
        raise jc.InputError("DATA: give the data, as in python -m experiments.edge cifar10_jpeg.tar.gz")
    if not config.networks:
        raise jc.InputError("--networks: name at least one, such as resnet20")
    for name in config.networks:
        settings.one_of("--networks", name, jc.models.MODELS)
    for name, least in (("epochs", 1), ("batch_size", 1), ("images", 21), ("calibration", 1)):
        if getattr(config, name) < least:
            raise jc.InputError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be at least {least}")
    if not 0 < config.learning_rate < math.inf:
        raise jc.InputError(f"--learning-rate {config.learning_rate}: must be above 0")


def inside(name: str) -> str | None:
    """Return where a file of an archive goes."""
    found = archives.photo(name)
    return found.place if found else None


def trained(config: Config, place: str, name: str, folder: pathlib.Path) -> tuple[runs.Plan, runs.TrainedRun]:
    """Train or load a network; a folder with other settings is refused by `train_run`."""
    print(name, flush=True)
    more = SMOKE if config.smoke else {"batch_size": config.batch_size}
    flags = cifar10.Config(
        dataset=place, model=name, views=False, epochs=config.epochs, seed=config.seed, muon=0.0,
        learning_rate=config.learning_rate, weight_decay=WEIGHT_DECAY, **more,
    )  # fmt: skip

    def optimizer(steps: int) -> Any:
        return jc.optim.adamw(jc.optim.one_cycle(config.learning_rate, steps=steps), weight_decay=WEIGHT_DECAY)

    plan = common.planned("edge", flags, dataclasses.replace(cifar10.plan(flags), optimizer=optimizer))
    jc.train_run(plan, folder)
    return plan, jc.load_run(folder)


def measured(config: Config, plan: runs.Plan, loaded: runs.TrainedRun) -> list[dict[str, Any]]:
    """Return what was measured of each file of a network."""
    plain = deploy.of_run(loaded)
    whole = deploy.quantised(plain, drawn(plan.data.train, config.calibration))
    shape = next(iter(plain.inputs.values())).shape
    flop, out = explain.summary(loaded.model, shape).flop, []
    parts = [jax.tree.map(np.asarray, dict(c.at(k))) for c in plan.data.test.once(256) for k in range(int(c.count))]
    image, label = (np.concatenate([part[k][part["row_mask"] > 0] for part in parts]) for k in ("image", "label"))
    for name, (kind, integers) in FILES.items():
        with tempfile.TemporaryDirectory() as place:
            written = EXPORTERS[kind](whole if integers else plain, pathlib.Path(place), "network", 1)
            path = pathlib.Path(place) / written.files[0]
            np.savez(pathlib.Path(place) / "images.npz", image=image)
            found = answered(kind, path, config.images)
            size = path.stat().st_size
        right = float((np.array(found.pop("answers")) == label).mean())
        out.append({"file": name, "accuracy": right, "rows": len(label), "flop": flop, "bytes": size, **found})
    return out


def answered(kind: str, path: pathlib.Path, images: int) -> dict[str, Any]:
    """Run a file on the images beside it, in a process of its own."""
    code = [sys.executable, "-m", "experiments.edge_worker", kind, str(path), str(images)]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    if done.returncode:
        raise jc.InputError(f"{path.name}: cannot be run ({(done.stderr.strip().splitlines() or ['no message'])[-1]})")
    return json.loads(done.stdout.strip().splitlines()[-1])


def front(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the numbers of the rows that no other one beats: as fast and as accurate, and better in one of both."""

    def beats(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
        at_least = a["ms"][0] <= b["ms"][0] and a["accuracy"] >= b["accuracy"]
        return at_least and (a["ms"][0] < b["ms"][0] or a["accuracy"] > b["accuracy"])

    return [i for i, row in enumerate(rows) if not any(beats(other, row) for other in rows)]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as Markdown; those of the front are bold."""
    best = front(rows)
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for i, row in enumerate(rows):
        mark = "**" if i in best else ""
        memory, energy = ("not measurable" if row[k] is None else f"{row[k]:.3g}" for k in ("mib", "mj"))
        cells = (
            f"{mark}{row['network']}{mark}", row["file"], f"{100 * row['accuracy']:.2f} %", f"{row['flop'] / 1e6:.1f}",
            f"{row['bytes'] / 1024:,.0f}", ", ".join(f"{t:.3g}" for t in row["ms"]), memory, energy,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    text = f"Bold: on the Pareto front of accuracy and median latency. {rows[0]['rows']:,} test images, one core."
    if any(row["mj"] is None for row in rows):
        text += " This machine has no energy counters (RAPL) that can be read."
    return "\n".join(lines) + f"\n\n{text}"


def draw(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Draw accuracy over latency, with the Pareto front as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name in FILES:
        some = [row for row in rows if row["file"] == name]
        axes.scatter([row["ms"][0] for row in some], [100 * row["accuracy"] for row in some], label=name)
    for i, name in enumerate(dict.fromkeys(row["network"] for row in rows)):
        some = sorted((row["ms"][0], 100 * row["accuracy"]) for row in rows if row["network"] == name)
        axes.plot(*zip(*some, strict=True), linewidth=1, linestyle=":", color="gray", zorder=0)
        place = (0, -14) if i % 2 else (0, 8)  # in turn, so that names of equal networks do not meet
        axes.annotate(name, some[0], place, textcoords="offset points", size=8, horizontalalignment="center")
    best = sorted((rows[i]["ms"][0], 100 * rows[i]["accuracy"]) for i in front(rows))
    axes.plot(*zip(*best, strict=True), linewidth=1, color="black", label="Pareto front")
    axes.margins(0.1)
    axes.set(xscale="log", xlabel="milliseconds for one image, one core", ylabel="accuracy in %")
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    files.write_bytes(path, picture.getvalue())


if __name__ == "__main__":
    command.run(main, Config, "edge")

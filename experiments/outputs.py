"""What a run shows and leaves: screen, JSON lines, TensorBoard events, plots."""

import json
import os
import pathlib
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.types import scalars

SPLITS = ("train", "validation", "test")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write a whole file or none: a crash leaves the old one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(part, path)


class Log:
    """`metrics.jsonl` and TensorBoard events; a resumed run writes both anew from the rows that its checkpoint kept."""

    def __init__(self, folder: pathlib.Path, steps_per_epoch: float):
        self.folder, self.steps_per_epoch, self.rows, self.board = folder, steps_per_epoch, [], None

    def _begin(self) -> None:
        """Empty what an earlier part of the run left; only now, so that a refused resume changes nothing."""
        from tensorboardX import SummaryWriter

        (self.folder / "metrics.jsonl").write_text("")
        for old in self.folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.board = SummaryWriter(str(self.folder))

    def line(self, split: str, step: int, seconds: float, rate: float, values: Mapping[str, Any]) -> None:
        """Append one line."""
        if self.board is None:
            self._begin()
        epoch = round(step / self.steps_per_epoch, 3)
        row = {"step": step, "epoch": epoch, "split": split, **scalars(values), "learning_rate": rate, "seconds": round(seconds, 4)}
        self.rows.append(row)
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                self.board.add_scalar(f"{split}/{name}", value, step)

    def row(self, row: Mapping[str, Any]) -> None:
        """Append the lines of one row of `fit`: its training values, and its validation values if it has any."""
        for split in ("train", "validation"):
            values = {k.removeprefix(f"{split}/"): v for k, v in row.items() if k.startswith(f"{split}/")}
            if values:
                seconds = row["seconds"] if split == "train" else values.pop("seconds")
                self.line(split, row["step"], seconds, row["learning_rate"], values)
        self.board.flush()

    def close(self) -> None:
        """Write what is left."""
        self.board.close()


class Spikes:
    """Finds a loss far above the last ones: more than twice their median, and six times as far from it as they usually are."""

    FEWEST, SPAN = 8, 30  # dispatches to compare with

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=self.SPAN)

    def line(self, step: int, loss: float) -> str | None:
        """Return what to print, if anything."""
        before, found = sorted(self.recent), None
        if len(before) >= self.FEWEST:
            median = before[len(before) // 2]
            usual = sorted(abs(x - median) for x in before)[len(before) // 2]
            if loss > 2 * median and loss > median + 6 * usual:
                found = f"loss spike: {loss:.4g} up to step {step}, the median of the {len(before)} dispatches before is {median:.4g}"
        self.recent.append(loss)
        return found


class Screen:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, steps: int, batch_size: int):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(file=sys.stderr)
        self.batch_size, self.last, self.clock, self.spikes = batch_size, 0, time.perf_counter(), Spikes()
        columns = (TextColumn("step {task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=self.console) if self.console.is_terminal else None
        if self.bar:
            self.task = self.bar.add_task("compiling", total=steps)
            self.bar.start()

    def dispatch(self, step: int, values: Mapping[str, Any]) -> None:
        """Show where training is."""
        now = time.perf_counter()
        rate = values.get("count", (step - self.last) * self.batch_size) / max(now - self.clock, 1e-9)
        self.last, self.clock = step, now
        if "loss" in values and (found := self.spikes.line(step, values["loss"])):
            self.print(found)
        if self.bar:
            text = "  ".join(f"{k} {values[k]:.4f}" for k in ("loss", "accuracy") if k in values)
            self.bar.update(self.task, completed=step, description=f"{text}  {rate:,.0f} images/s")

    def row(self, row: Mapping[str, Any]) -> None:
        """Print one line for each validation."""
        parts = [f"step {row['step']}"]
        for split in ("train", "validation"):
            shown = [f"{k} {row[f'{split}/{k}']:.4f}" for k in ("loss", "accuracy") if f"{split}/{k}" in row]
            parts += [f"{split} " + " ".join(shown)] if shown else []
        rate = row["train/count"] / max(row["seconds"], 1e-9)
        self.clock = time.perf_counter()
        self.print("  ".join([*parts, f"learning rate {row['learning_rate']:.3g}", f"{rate:,.0f} images/s"]))

    def print(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        if self.bar:
            self.bar.console.print(text, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()


def plot_curves(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Loss and accuracy by epoch, one panel each; blue circles train, orange squares validate, readable without colour."""
    figure = _figure(10, 4)
    panels = figure.subplots(1, 2)
    styles = {"train": ("#0072B2", "o"), "validation": ("#D55E00", "s")}
    for panel, name in zip(panels, ("loss", "accuracy"), strict=True):
        for split, (colour, marker) in styles.items():
            points = [(r["epoch"], r[name]) for r in rows if r["split"] == split and name in r]
            if points:
                panel.plot(*zip(*points, strict=True), color=colour, marker=marker, label=split)
                panel.legend()
        panel.set(xlabel="epoch", ylabel=name)
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def plot_confusion(path: pathlib.Path, matrix: np.ndarray, classes: Sequence[str]) -> None:
    """Rows the truth, columns the prediction, shaded by share of the row; counts are written in up to 20 classes."""
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(max(4.0, 0.55 * len(classes)), 16)
    figure = _figure(side + 1, side)
    panel = figure.subplots()
    shades = panel.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 20:
        panel.set_xticks(range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 3 else 0)
        panel.set_yticks(range(len(classes)), classes)
        for (i, j), n in np.ndenumerate(matrix):
            panel.text(j, i, int(n), ha="center", va="center", fontsize=8, color="white" if share[i, j] > 0.5 else "black")
    panel.set(xlabel="predicted", ylabel="true")
    figure.colorbar(shades, label="share of the true class")
    figure.savefig(path, dpi=120)


def _figure(width: float, height: float) -> Any:
    """Make a figure without pyplot, which no two threads may import or use at once, and which looks for a screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")

"""What a run shows and leaves: screen, JSON lines, TensorBoard events, plots."""

import errno
import json
import logging
import os
import pathlib
import shutil
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.types import scalars

SPLITS = ("train", "validation", "test")
log = logging.getLogger("jaxcnn")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write values as JSON; see `write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a whole file or none: a crash or a full disk leaves the old one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    os.replace(part, path)


class Log:
    """`metrics.jsonl` and TensorBoard events; a resumed run writes both anew from the rows that its checkpoint kept.

    While the disk is full, or the folder cannot be written, rows wait in memory for the next time.
    """

    ROOM = 2**20  # bytes below which a disk counts as full; TensorBoard's writer never comes back from a failed write

    def __init__(self, folder: pathlib.Path, steps_per_epoch: float):
        self.folder, self.steps_per_epoch, self.rows, self.board, self.written = folder, steps_per_epoch, [], None, 0

    def _begin(self) -> None:
        """Empty what an earlier part of the run left; only now, so that a refused resume changes nothing."""
        from tensorboardX import SummaryWriter

        for old in self.folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.board, self.written = SummaryWriter(str(self.folder)), 0

    def line(self, split: str, step: int, seconds: float, rate: float, values: Mapping[str, Any]) -> None:
        """Add one line."""
        epoch = round(step / self.steps_per_epoch, 3)
        row = {"step": step, "epoch": epoch, "split": split, **scalars(values), "learning_rate": rate, "seconds": round(seconds, 4)}
        self.rows.append(row)

    def row(self, row: Mapping[str, Any]) -> None:
        """Add the lines of one row of `fit`, its training values, and its validation values if it has any; write what waits."""
        for split in ("train", "validation"):
            values = {k.removeprefix(f"{split}/"): v for k, v in row.items() if k.startswith(f"{split}/")}
            if values:
                seconds = row["seconds"] if split == "train" else values.pop("seconds")
                self.line(split, row["step"], seconds, row["learning_rate"], values)
        self.write()

    def write(self) -> None:
        """Write what waits, if that can be."""
        try:
            if shutil.disk_usage(self.folder).free < self.ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self.board is None:
                self._begin()
            write_text(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))
        except OSError as error:
            log.warning("metrics not written, %s (%s); they wait for the next time", error.strerror, self.folder)
            return
        for row in self.rows[self.written :]:
            for name, value in row.items():
                if isinstance(value, int | float) and name != "step":
                    self.board.add_scalar(f"{row['split']}/{name}", value, row["step"])
        self.board.flush()
        self.written = len(self.rows)

    def close(self) -> None:
        """Write what is left."""
        self.write()
        if self.board:
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
    figure = new_figure(10, 4)
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
    figure = new_figure(side + 1, side)
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


def new_figure(width: float, height: float) -> Any:
    """Make a figure without pyplot, which no two threads may import or use at once, and which looks for a screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")

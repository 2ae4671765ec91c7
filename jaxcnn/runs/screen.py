"""Screen output during training: a progress bar on a terminal, a line per validation, and warnings of loss spikes."""

import math
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.core.text import visible
from jaxcnn.core.types import scalars


class Spikes:
    """Detector of loss spikes: losses above twice the recent median and above the median plus six median deviations."""

    FEWEST, SPAN = 8, 30  # fewest and most recent dispatches to compare with

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=self.SPAN)

    def line(self, step: int, loss: float) -> str | None:
        """Return a warning if the loss is a spike.

        Args:
            step: training step.
            loss: training loss of the last dispatch.

        """
        before, found = sorted(self.recent), None
        if len(before) >= self.FEWEST:
            median = before[len(before) // 2]
            usual = sorted(abs(x - median) for x in before)[len(before) // 2]
            if loss > 2 * median and loss > median + 6 * usual:
                recent = f"the median of the {len(before)} dispatches before is {median:.4g}"
                found = f"loss spike: {loss:.4g} up to step {step}, {recent}"
        self.recent.append(loss)
        return found


def packed(parts: Sequence[str], columns: int | None, between: str = "  ") -> list[str]:
    """Wrap parts to lines of at most `columns` characters; lines after the first are indented.

    Args:
        parts: texts that stay on one line each.
        columns: width; None for a single line.
        between: text between two parts.

    """
    lines = [parts[0]]
    for part in parts[1:]:
        fits = columns is None or len(lines[-1]) + len(between) + len(part) <= columns
        lines[-1:] = [f"{lines[-1]}{between}{part}"] if fits else [lines[-1], f"{'':<9}{part}"]
    return lines


class Screen:
    """A progress bar on a terminal, or plain lines elsewhere.

    Args:
        steps: number of steps in the whole run.
        batch_size: rows per step, on average.
        headline: metrics to show, in this order.
        unit: name of the rows in the plural.
        columns: width at which validation lines are wrapped; None for no wrapping.

    """

    def __init__(
        self,
        steps: int,
        batch_size: float,
        headline: Sequence[str] = ("loss",),
        unit: str = "rows",
        columns: int | None = None,
    ):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(file=sys.stderr)
        self.headline, self.unit, self.columns = tuple(headline), unit, columns
        self.batch_size, self.last, self.clock, self.spikes = batch_size, 0, time.perf_counter(), Spikes()
        shown = (
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*shown, console=self.console) if self.console.is_terminal else None
        if self.bar:
            self.task = self.bar.add_task("compiling", total=steps)
            self.bar.start()

    def dispatch(self, step: int, values: Mapping[str, Any]) -> None:
        """Show the progress after a dispatch.

        Args:
            step: training step.
            values: training metrics of the dispatch.

        """
        now = time.perf_counter()
        rate = values.get("count", (step - self.last) * self.batch_size) / max(now - self.clock, 1e-9)
        self.last, self.clock = step, now
        if "loss" in values and (found := self.spikes.line(step, values["loss"])):
            for line in packed(found.split(" "), self.columns, " "):
                self.print(line)
        if self.bar:
            text = "  ".join(self._shown(values))
            self.bar.update(self.task, completed=step, description=f"{text}  {rate:,.0f} {self.unit}/s")

    def row(self, row: Mapping[str, Any]) -> None:
        """Print one line for each validation."""
        parts = [f"step {row['step']}"]
        for split in ("train", "validation"):
            shown = self._shown({k.removeprefix(f"{split}/"): v for k, v in row.items() if k.startswith(f"{split}/")})
            parts += [f"{split} " + " ".join(shown)] if shown else []
        rate = row.get("train/count", math.nan) / max(row["seconds"], 1e-9)
        self.clock = time.perf_counter()
        speed = [f"{rate:,.0f} {self.unit}/s"] if math.isfinite(rate) else []
        changed = [f"learning rate {row['learning_rate']:.3g}"] if "learning_rate" in row else []
        if self.columns is None:
            self.print("  ".join([*parts, *changed, *speed]))
            return
        for line in packed([*parts[:2], *speed, *parts[2:], *changed], self.columns):
            self.print(line)

    def _shown(self, values: Mapping[str, Any]) -> list[str]:
        numbers = scalars(values)
        return [f"{name} {numbers[name]:.4f}" for name in self.headline if isinstance(numbers.get(name), int | float)]

    def print(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        if self.bar:
            self.bar.console.print(visible(text), highlight=False, soft_wrap=True, markup=False)
        else:
            print(visible(text), flush=True)

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

"""Measures variants of a network as ONNX files: accuracy on the whole test set, bytes, latency in ONNX Runtime."""

import time
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

import jaxcnn as jc
from jaxcnn.deploy import Program, onnx
from jaxcnn.deploy.exporters import graph_of

TIMES = (50, 95)  # percentiles of the latency
TOGETHER, PART = 16, 256  # rows of the larger batch; rows after which another variant is measured
COLUMNS = {
    "accuracy": "accuracy", "agreement": "same answer as float32", "weights": "weights not 0", "bytes": "bytes",
    "zipped": "bytes zipped", "one": "1 image, ms: p50, p95", "many": f"{TOGETHER} images, ms: p50, p95",
}  # fmt: skip


class Variant(NamedTuple):
    """A program, and whether its norms are folded into convolutions."""

    program: Program
    fold: bool = True


def measured(variants: Mapping[str, Variant], test: Any, seed: int) -> dict[str, Any]:
    """Measure variants on all test rows, in turn, so that a change of the machine's speed meets all of them.

    Args:
        variants: by name; the first is what the others are compared with.
        test: the test rows.
        seed: of the networks.

    Returns:
        `{"seed", "rows", "variants": {name: values}, "right": {name: bool [N]}}`.

    """
    files = {name: _file(one) for name, one in variants.items()}
    sessions = {name: onnx.session(data, threads=1) for name, data in files.items()}
    label, outputs, times = [], {name: [] for name in files}, {name: {1: [], TOGETHER: []} for name in files}
    for chunk in test.once(PART):
        for k in range(int(chunk.count)):
            batch = jax.tree.map(np.asarray, dict(chunk.at(k)))
            real = batch["row_mask"] > 0
            image = np.ascontiguousarray(batch["image"][real])
            label.append(batch["label"][real])
            for name, session in sessions.items():
                for size in (1, TOGETHER):
                    found, seconds = _run(session, image, size)
                    times[name][size] += seconds
                outputs[name].append(found)
    label = np.concatenate(label)
    answers = {name: np.concatenate(parts).argmax(-1) for name, parts in outputs.items()}
    first, values = next(iter(answers.values())), {}
    for name, one in variants.items():
        kernels = [np.asarray(p) for p in jax.tree.leaves(one.program.variables["params"]) if p.ndim > 1]
        values[name] = {
            "accuracy": float((answers[name] == label).mean()), "agreement": float((answers[name] == first).mean()),
            "weights": int(sum((p != 0).sum() for p in kernels)), "bytes": len(files[name]),
            "zipped": len(zlib.compress(files[name], 6)), "one": _percentiles(times[name][1]),
            "many": _percentiles(times[name][TOGETHER]),
        }  # fmt: skip
    return {"seed": seed, "rows": len(label), "variants": values, "right": {n: a == label for n, a in answers.items()}}


def for_report(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of a seed as `jaxcnn report` shows them with the run."""
    rows = [{"name": name, **values} for name, values in found["variants"].items()]
    return {"rows": found["rows"], "runtime": f"ONNX Runtime {version('onnxruntime')}", "variants": rows}


def _file(one: Variant) -> bytes:
    if one.fold:
        return onnx.to_bytes(graph_of(one.program, None), {})
    size = export.symbolic_shape("batch")[0]
    outputs = list(one.program.outputs())
    return onnx.to_bytes(onnx.trace(one.program.closed, one.program.batch(size), outputs, size), {})


def _run(session: Any, image: np.ndarray, size: int) -> tuple[np.ndarray, list[float]]:
    """Return the logits of all rows, and the milliseconds of each call on a full batch, after a call that warms up."""
    found, seconds = [], []
    onnx.run(session, {"image": image[:size]})
    for start in range(0, len(image), size):
        rows = image[start : start + size]
        begin = time.perf_counter()
        out = session.run(["logits"], {"image": rows})[0]
        if len(rows) == size:
            seconds.append(1e3 * (time.perf_counter() - begin))
        found.append(out)
    return np.concatenate(found), seconds


def _percentiles(times: Sequence[float]) -> list[float]:
    return [float(x) for x in np.percentile(times, TIMES)] if times else [float("nan")] * len(TIMES)


def table(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the table of all seeds as text and values, and the paired test of distillation.

    Args:
        found: results of `measured`, one per seed.

    """
    names, rows = list(found[0]["variants"]), []
    lines = [f"| {' | '.join(['variant', *COLUMNS.values()])} |", f"|{'---|' * (1 + len(COLUMNS))}"]
    for name in names:
        values = [one["variants"][name] for one in found]
        rows.append({"variant": name, "seeds": values})
        lines.append(f"| {name} | {' | '.join(_cell(column, [v[column] for v in values]) for column in COLUMNS)} |")
    pairs = [_paired(one["right"]) for one in found]
    text = "\n".join(lines)
    for one, pair in zip(found, pairs, strict=True):
        text += f"\n\nseed {one['seed']}, {one['rows']:,} test images, half of the filters: right with a teacher alone "
        text += f"{pair['only_distilled']}, without one alone {pair['only_alone']} (McNemar, p = {pair['p']:.3g})"
    return {"table": rows, "distillation": pairs, "text": text}


def _cell(column: str, values: list[Any]) -> str:
    if column in ("one", "many"):
        return ", ".join(f"{np.median(each):.3g}" for each in zip(*values, strict=True))
    if column in ("accuracy", "agreement"):
        spread = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
        return f"{100 * np.mean(values):.2f} %{spread}"
    return f"{round(np.mean(values)):,}"


def _paired(right: Mapping[str, np.ndarray]) -> dict[str, Any]:
    found = jc.metrics.mcnemar(right["filters halved, distilled"], right["filters halved"])
    return {"only_distilled": found.only_a, "only_alone": found.only_b, "p": found.p_value}

"""List the zoo, with 1000 classes, each network at its default image size: `python -m jaxcnn.models [--json]`."""

import argparse
import json
import os
import sys
from typing import Any

import jax

from jaxcnn.explain import summary
from jaxcnn.models import MODELS
from jaxcnn.weights.tables import TABLES


def entry(name: str) -> dict[str, Any]:
    """Describe one model of the zoo.

    Returns:
        `name`, `parameters` (1000 classes, no auxiliary heads), `gflop` (10^9 multiply-adds of one image), and
        `weights`, whose state dicts `load_weights` reads: a list of "torchvision" and "timm".

    """
    model = MODELS[name](num_classes=1000)
    found = summary(model, getattr(model, "default_image", (224, 224, 3)))
    return {
        "name": name,
        "parameters": found.parameters,
        "gflop": round(found.flop / 1e9, 6),
        "weights": list(TABLES.get(name, ())),
    }


def main() -> None:
    """Print the list."""
    about = "python -m jaxcnn.models [--json]: the zoo, with 1000 classes, each network at its default image size"
    parser = argparse.ArgumentParser(description=about, usage=argparse.SUPPRESS, allow_abbrev=False)
    parser.prog = "jaxcnn.models"
    parser.add_argument("--json", action="store_true", help="one JSON list on stdout and nothing else")
    print_all(parser.parse_args().json)


def print_all(as_json: bool) -> None:
    """Print the list, as a table or as one JSON list."""
    jax.config.update("jax_platforms", "cpu")  # shapes need no accelerator, so leave it to other programs
    try:
        if as_json:
            print(json.dumps([entry(name) for name in sorted(MODELS)]))
            return
        print(f"{'model':20} {'parameters':>12} {'GFLOP':>10}  weights")
        for found in map(entry, sorted(MODELS)):
            sources = " ".join(found["weights"]) or "-"
            print(
                f"{found['name']:20} {found['parameters']:>12,} {found['gflop']:>10.3f}  {sources}",
                flush=True,
            )
    except BrokenPipeError:  # for example from `| head`; discard what Python flushes when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

"""Compares one to five convolutions, with pooling after the first three: `python -m experiments.studies.depth`."""

from experiments.studies.core import Variant, run

VARIANTS = {f"{n} convolution{'s' if n > 1 else ''}": Variant({"depth": n}) for n in range(1, 6)}

if __name__ == "__main__":
    run("depth", VARIANTS)

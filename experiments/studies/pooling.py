"""Compares max and mean pooling of 2x2 after each of three convolutions: `python -m experiments.studies.pooling`."""

from experiments.studies.core import Variant, run

VARIANTS = {f"{pool} pooling": Variant({"pool": pool}) for pool in ("max", "average")}

if __name__ == "__main__":
    run("pooling", VARIANTS)

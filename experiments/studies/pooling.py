"""Maximum or mean: `python -m experiments.studies.pooling`; three convolutions, a pooling of 2x2 after each."""

from experiments.studies.core import Variant, run

VARIANTS = {f"{pool} pooling": Variant({"pool": pool}) for pool in ("max", "average")}

if __name__ == "__main__":
    run("pooling", VARIANTS)

"""How many convolutions: `python -m experiments.studies.depth`; one to five, a pooling after each of the first three."""

from experiments.studies.core import Variant, run

VARIANTS = {f"{n} convolution{'s' if n > 1 else ''}": Variant({"depth": n}) for n in range(1, 6)}

if __name__ == "__main__":
    run("depth", VARIANTS)

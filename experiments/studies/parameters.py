"""Compares a CNN and an MLP with the same number of parameters: `python -m experiments.studies.parameters`."""

from experiments.studies.core import Variant, run

VARIANTS = {
    "CNN, small": Variant(),
    "MLP, small": Variant({"widths": (26, 32)}, "mlp"),
    "CNN, larger": Variant(model="cnn"),
    "MLP, larger": Variant({"widths": (265, 128)}, "mlp"),
}

if __name__ == "__main__":
    run("parameters", VARIANTS)

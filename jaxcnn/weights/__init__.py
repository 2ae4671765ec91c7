"""Weights of trained networks: reading and writing them, whose names they have, what pixels they expect, and where they come from."""

from jaxcnn.weights.load import load_weights, save_weights

__all__ = ["load_weights", "save_weights"]

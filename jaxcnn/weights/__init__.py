"""Weights of trained networks: files with the names of several libraries, downloads, and the expected pixels."""

from jaxcnn.weights.load import load_weights, save_weights

__all__ = ["load_weights", "save_weights"]

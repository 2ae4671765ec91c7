"""Devices: how they are named, how a step is compiled for them, and how batches reach them."""

from jaxcnn.parallel.compile import compile_step

__all__ = ["compile_step"]

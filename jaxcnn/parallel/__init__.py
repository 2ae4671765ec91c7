"""Devices: meshes, compiling a step for them, and moving batches to them."""

from jaxcnn.parallel.compile import compile_step

__all__ = ["compile_step"]

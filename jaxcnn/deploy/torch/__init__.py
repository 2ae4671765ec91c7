"""Exports to PyTorch: a file of Python with an `nn.Module`, and its weights as safetensors."""

from jaxcnn.deploy.torch.exporter import to_torch

__all__ = ["to_torch"]

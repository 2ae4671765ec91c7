"""Exports to PyTorch: a file of Python with an `nn.Module`, and its weights as safetensors."""

from jaxcnn.deploy.torch.exporter import rendered, to_torch

__all__ = ["rendered", "to_torch"]

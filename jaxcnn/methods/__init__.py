"""Ways to train that are wrappers on the three seams, one file each."""

from jaxcnn.methods import transfer
from jaxcnn.methods.group_dro import group_dro

__all__ = ["group_dro", "transfer"]

"""Labelling by people: a local page that asks for the most useful images next; needs the extra `serve`."""

from jaxcnn.deploy.label.app import label
from jaxcnn.deploy.label.labels import Labels

__all__ = ["Labels", "label"]

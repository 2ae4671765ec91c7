"""A run behind HTTP: predictions, explanations, health, metrics, and a page for people; needs the extra `serve`."""

from jaxcnn.deploy.serving.limits import Limits
from jaxcnn.deploy.serving.server import serve

__all__ = ["Limits", "serve"]

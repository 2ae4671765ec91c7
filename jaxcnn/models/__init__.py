"""Models by name: each constructor returns a Linen module called as `apply(variables, x, train=, real=)`."""

from jaxcnn.models.cnn import CNN, cnn
from jaxcnn.models.lenet import LeNet5, lenet5
from jaxcnn.models.mlp import MLP, mlp
from jaxcnn.models.tutorial import Tutorial, tutorial

MODELS = {"cnn": cnn, "lenet5": lenet5, "mlp": mlp, "tutorial": tutorial}

__all__ = ["CNN", "MLP", "MODELS", "LeNet5", "Tutorial", "cnn", "lenet5", "mlp", "tutorial"]

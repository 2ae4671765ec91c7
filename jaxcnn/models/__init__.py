"""Models by name: each constructor returns a Linen module called as `apply(variables, x, train=, real=)`."""

from jaxcnn.models.cnn import CNN, cnn
from jaxcnn.models.lenet import LeNet5, lenet5
from jaxcnn.models.mlp import MLP, mlp
from jaxcnn.models.mobilenet import MobileNet, mobilenet_v1
from jaxcnn.models.resnet import ResNet, resnet18, resnet34, resnet50, resnet101, resnet152
from jaxcnn.models.summary import Row, Summary, summary
from jaxcnn.models.tutorial import Tutorial, tutorial

MODELS = {
    "cnn": cnn, "lenet5": lenet5, "mlp": mlp, "mobilenet_v1": mobilenet_v1, "resnet18": resnet18, "resnet34": resnet34,
    "resnet50": resnet50, "resnet101": resnet101, "resnet152": resnet152, "tutorial": tutorial,
}  # fmt: skip

__all__ = [
    "CNN", "MLP", "MODELS", "LeNet5", "MobileNet", "ResNet", "Row", "Summary", "Tutorial", "cnn", "lenet5", "mlp", "mobilenet_v1",
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "summary", "tutorial",
]  # fmt: skip

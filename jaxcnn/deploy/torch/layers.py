"""The library's own small networks as a list of PyTorch's layers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.deploy.torch.twin import Twin, Values, counters
from jaxcnn.weights.tensors import Tensors

POOLED = '''
class MeanAndMax(nn.Module):
    """Mean and largest value of each channel."""

    def forward(self, x):
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
'''
LARGEST = '''
class Largest(nn.Module):
    """Largest value of each channel."""

    def forward(self, x):
        return x.amax((2, 3))
'''
BOTH_WAYS = '''
class BothWays(nn.Module):
    """GELU of each value and of its negative."""

    def forward(self, x):
        positive = functional.gelu(x, approximate="tanh")
        return torch.cat([positive, positive - x], 1)
'''
ACTIVATIONS = {"relu": "nn.ReLU()", "sigmoid": "nn.Sigmoid()", "tanh": "nn.Tanh()"}


class Layer(NamedTuple):
    """A layer as Python, and its tensors by the names that PyTorch gives them."""

    text: str
    tensors: Tensors = {}


def _conv(values: Values, path: str, padding: int = 0, stride: int = 1) -> Layer:
    kernel, bias = values[f"params.{path}.kernel"], values.get(f"params.{path}.bias")
    *sides, inside, out = kernel.shape
    more = (f", {stride}" if stride > 1 else "") + (f", padding={padding}" if padding else "")
    text = f"nn.Conv2d({inside}, {out}, {sides[0]}{more}{', bias=False' if bias is None else ''})"
    return Layer(text, {"weight": kernel.transpose(3, 2, 0, 1)} | ({} if bias is None else {"bias": bias}))


def _norm(values: Values, path: str) -> Layer:
    scale, bias = values[f"params.{path}.scale"], values[f"params.{path}.bias"]
    mean, var = (values[f"batch_stats.{path}.{one}"] for one in ("mean", "var"))
    return Layer(
        f"nn.BatchNorm2d({len(scale)})", {"weight": scale, "bias": bias, "running_mean": mean, "running_var": var}
    )


def _dense(values: Values, path: str, shape: Sequence[int] = (), scale: float = 1.0) -> Layer:
    """Return a dense layer; it comes after `nn.Flatten`, which puts channels first, if a shape is given."""
    kernel, bias = values[f"params.{path}.kernel"], values[f"params.{path}.bias"]
    inside, out = kernel.shape
    weight = kernel.reshape(*shape, out).transpose(3, 2, 0, 1).reshape(out, inside) if shape else kernel.T
    factor = np.float32(scale)
    return Layer(f"nn.Linear({inside}, {out})", {"weight": weight * factor, "bias": bias * factor})


def _alone(*texts: str) -> list[Layer]:
    return [Layer(text) for text in texts]


def _last(model: Any, variables: Any, shape: Sequence[int]) -> tuple[int, ...]:
    """Return height, width and channels of the last feature."""
    return list(_features(model, variables, shape).values())[-1]


def _features(model: Any, variables: Any, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return height, width and channels of each feature."""
    like = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    found = jax.eval_shape(lambda v, x: model.apply(v, x, train=False, method="features"), variables, like)
    return {name: tuple(feature.shape[1:]) for name, feature in found.items()}


def _same(sides: Sequence[int], kernel: int, stride: int) -> tuple[int, ...]:
    """Return the padding that "SAME" means: left, right, top and bottom."""
    rows, columns = lax.padtype_to_pads(sides, (kernel, kernel), (stride, stride), "SAME")
    return (*columns, *rows)


def _cnn(model: Any, values: Values, variables: Any, shape: Sequence[int]) -> tuple[list[Layer], str]:
    blocks = []
    for i, name in enumerate(["stem", *(f"stages_{k}" for k in range(len(model.widths) - 1))]):
        pool = _alone("nn.MaxPool2d(2)") if i < 2 else []
        blocks += [
            _conv(values, f"{name}.conv", int(i == 1)),
            *pool,
            _norm(values, f"{name}.norm"),
            *_alone("nn.ReLU()"),
        ]
    return [*blocks, *_alone("MeanAndMax()"), _dense(values, "logits")], POOLED


def _lenet5(model: Any, values: Values, variables: Any, shape: Sequence[int]) -> tuple[list[Layer], str]:
    gaps = [max(32 - n, 0) for n in shape[:2]]
    top, left = (g // 2 for g in gaps)
    sides = left, gaps[1] - left, top, gaps[0] - top
    steps = _alone("nn.MaxPool2d(2)", "nn.ReLU()")
    layers = [*_alone(f"nn.ZeroPad2d({sides})"), _conv(values, "conv1"), *steps, _conv(values, "conv2"), *steps]
    hidden = [_dense(values, "dense1", _last(model, variables, shape)), *_alone("nn.ReLU()")]
    hidden += [_dense(values, "dense2"), *_alone("nn.ReLU()"), _dense(values, "logits")]
    return [*layers, *_alone("nn.Flatten()"), *hidden], ""


def _tutorial(model: Any, values: Values, variables: Any, shape: Sequence[int]) -> tuple[list[Layer], str]:
    layers = [_conv(values, "conv"), *_alone("nn.MaxPool2d(2)", "nn.ReLU()", "nn.Flatten()")]
    dense = _dense(values, "dense", _last(model, variables, shape))
    return [*layers, dense, *_alone("nn.ReLU()"), _dense(values, "logits")], ""


def _mlp(model: Any, values: Values, variables: Any, shape: Sequence[int]) -> tuple[list[Layer], str]:
    layers = _alone("nn.Flatten()")
    for i in range(len(model.widths)):
        layers += [_dense(values, f"hidden_{i}", () if i else shape), *_alone("nn.ReLU()")]
    return [*layers, _dense(values, "logits", () if model.widths else shape)], ""


def _plain(model: Any, values: Values, variables: Any, shape: Sequence[int]) -> tuple[list[Layer], str]:
    layers, pool = [], {"max": "nn.MaxPool2d(2)", "average": "nn.AvgPool2d(2)"}[model.pool]
    activation = _alone(ACTIVATIONS[model.activation])
    features = list(_features(model, variables, shape).values())
    for i in range(len(model.channels)):
        padding = _same(features[i - 1][:2] if i else shape[:2], model.kernel_size, model.stride)
        even = len(set(padding)) == 1
        layers += [] if even else _alone(f"nn.ZeroPad2d({padding})")
        layers += [_conv(values, f"convs_{i}", padding[0] if even else 0, model.stride)]
        layers += [_norm(values, f"norms_{i}")] if model.batch_norm else []
        layers += [*activation, *_alone(*([pool] if i < model.pools else []))]
    layers, last = [*layers, *_alone("nn.Flatten()")], features[-1]
    if model.hidden:
        return [*layers, _dense(values, "dense", last), *activation, _dense(values, "logits")], ""
    return [*layers, _dense(values, "logits", last)], ""


def _speednet(model: Any, values: Values, variables: Any, shape: Sequence[int]) -> tuple[list[Layer], str]:
    count = 4 * shape[2]
    matrix = np.eye(count) if model.whitening is None else np.asarray(model.whitening)
    kernel = matrix.astype(np.float32).reshape(2, 2, shape[2], count).transpose(3, 2, 0, 1)
    layers = _alone("nn.ZeroPad2d((0, 1, 0, 1))")
    layers += [Layer(f"nn.Conv2d({shape[2]}, {count}, 2, bias=False)", {"weight": kernel}), *_alone("BothWays()")]
    for i in range(len(model.widths)):
        for k, pool in ((1, _alone("nn.MaxPool2d(2)")), (2, [])):
            layers += [_conv(values, f"stages_{i}_0.conv{k}", 1), *pool, _norm(values, f"stages_{i}_0.norm{k}")]
            layers += _alone('nn.GELU("tanh")')
    return [*layers, *_alone("Largest()"), _dense(values, "logits", scale=model.scale)], BOTH_WAYS + "\n" + LARGEST


Make = Callable[[Any, Values, Any, Sequence[int]], tuple[list[Layer], str]]
SMALL: dict[str, Make] = {
    "cnn": _cnn, "lenet5": _lenet5, "mlp": _mlp, "plain": _plain, "speednet": _speednet, "tutorial": _tutorial,
}  # fmt: skip


def small(name: str, model: Any, values: Values, variables: Any, shape: Sequence[int]) -> Twin:
    """Return the twin of a small network.

    Args:
        name: of the network, one of `SMALL`.
        model: the network.
        values: its variables by path.
        variables: the same as a tree.
        shape: height, width and channels of the images that it gets.

    """
    layers, parts = SMALL[name](model, values, variables, shape)
    tensors = {f"{i}.{key}": x for i, layer in enumerate(layers) for key, x in layer.tensors.items()}
    made = ("network = nn.Sequential(", *(f"    {layer.text}," for layer in layers), ")")
    return Twin("torch", made, tensors | counters(tensors), parts)

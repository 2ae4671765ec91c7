"""A network of torchvision or timm as Python that needs PyTorch alone: its layers by name, and what torch.fx traces."""

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from jaxcnn.core.types import InputError
from jaxcnn.deploy.program import why
from jaxcnn.deploy.torch.source import indented

ALLOWED = ("torch", "_operator", "builtins", "math")  # where functions of a traced network may come from
PUT = '''
def put(network, path, part):
    """Put a layer or a tensor in its place, inside the containers that its path names."""
    *above, last = path.split(".")
    for name in above:
        if name not in network._modules:
            network.add_module(name, nn.Module())
        network = network._modules[name]
    if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
        network.register_buffer(last, part)
    else:
        setattr(network, last, part)
'''
TRACED = '''
class Traced(nn.Module):
    """The network as {library} has it, with the names that its tensors have there; traced for prediction."""

    def __init__(self):
        super().__init__()
{layers}

    def forward(self, {argument}):
{lines}
'''


def written(library: str, network: Any) -> str:
    """Return Python with a class `Traced`, which computes what a network does, and has its state dict.

    Args:
        library: what the network is from, for the text.
        network: an `nn.Module` of one image tensor.

    Raises:
        InputError: it has a part that PyTorch alone does not have.

    """
    fx = importlib.import_module("torch.fx")
    network.eval()
    others = list(inspect.signature(network.forward).parameters.values())[1:]
    tracer = fx.Tracer()
    try:
        graph = tracer.trace(network, {p.name: p.default for p in others if p.default is not p.empty})
    except Exception as error:  # such as a branch on values
        raise InputError(f"torch.fx cannot trace this network of {library} ({why(error)}); use onnx") from error
    _reduce(graph, library)
    layers = [f'put(self, "{path}", {part})' for path, part in _parts(tracer, network, graph)]
    _, _, body = graph.python_code("self").src.partition("def forward(")
    lines = [line.split(";  ")[0].strip() for line in body.splitlines()[1:] if line.strip()]  # without its `x = None`
    argument = next(node.name for node in graph.nodes if node.op == "placeholder")
    made = TRACED.format(library=library, layers=indented(layers), argument=argument, lines=indented(lines))
    return PUT + "\n" + re.sub(r"torch\._C\._nn\.", "torch.nn.functional.", made)


def _reduce(graph: Any, library: str) -> None:
    """Keep what the logits of images depend on; refuse functions that are not PyTorch's."""
    image = next(node for node in graph.nodes if node.op == "placeholder")
    for node in reversed(list(graph.nodes)):  # what uses a node comes before it
        if node.op == "output" and isinstance(node.args[0], dict):
            node.args = (node.args[0]["out"],)
        elif node is not image and node.op != "output" and not node.users:  # such as a check, or an auxiliary head
            graph.erase_node(node)
        elif node.op == "call_function":
            name, home = node.target.__name__, (getattr(node.target, "__module__", None) or "torch").split(".")[0]
            if name == "stochastic_depth":  # the identity in prediction
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
            elif home not in ALLOWED:
                raise InputError(f"{name} of {library} is not a function of torch; use onnx")


def _parts(tracer: Any, network: Any, graph: Any) -> Iterator[tuple[str, str]]:
    """Yield each layer that is used or has a state, and each tensor outside of layers, by path, as Python."""
    nn = importlib.import_module("torch.nn")
    used, inside = {node.target for node in graph.nodes if node.op == "call_module"}, []
    for path, module in network.named_modules():
        if any(path.startswith(f"{above}.") for above in inside):
            continue
        lists = isinstance(module, nn.ModuleList | nn.ModuleDict)  # which fx counts as layers
        if path and tracer.is_leaf_module(module, path) and not lists:
            inside.append(path)
            if path in used or module.state_dict():
                if "\n" in repr(module):
                    raise InputError(f"{type(module).__name__} of torch is not written here; use onnx")
                yield path, f"nn.{module!r}"
            continue
        for name, tensor in module.named_parameters(path, recurse=False):
            yield name, f"nn.Parameter(torch.empty({tuple(tensor.shape)}))"
        for name, tensor in module.named_buffers(path, recurse=False):
            yield name, f"torch.empty({tuple(tensor.shape)}, dtype={tensor.dtype})"

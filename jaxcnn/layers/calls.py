"""Changing from outside what the modules of a network read and make, and their variables by the path of the module."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn.core.types import Tree
from jaxcnn.layers.core import Conv, Dense

Path = tuple[str, ...]
CONVS = (Conv, nn.Conv)
KERNELS = (*CONVS, Dense, nn.Dense)  # modules with a parameter `kernel` `[..., C_out]`


class Call(NamedTuple):
    """A call of a module's method.

    Attributes:
        module: the module, bound.
        method: name of the method, such as `"__call__"`.
        arguments: positional arguments.
        keywords: keyword arguments.
        run: calls the method: `run(*arguments, **keywords)`.

    """

    module: nn.Module
    method: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    run: Callable[..., Any]

    @property
    def path(self) -> Path:
        """Names of the modules from the network, which has the path `()`, to this one."""
        return self.module.path

    def variable(self, collection: str, name: str) -> Any:
        """Return a variable of the module, or None if it has none of this name."""
        return self.module.get_variable(collection, name) if self.module.has_variable(collection, name) else None


@contextlib.contextmanager
def changed_calls(change: Callable[[Call], Any]) -> Iterator[None]:
    """Let a function return what each call of a module's method returns, for everything traced in this context.

    Args:
        change: `call -> result`; `call.run(*call.arguments, **call.keywords)` changes nothing.

    """

    def interceptor(run: Any, arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
        return change(Call(context.module, context.method_name, arguments, keywords, run))

    with nn.intercept_methods(interceptor):
        yield


def by_path(tree: Tree) -> dict[Path, Any]:
    """Return the leaves of nested dicts by their paths."""
    return dict(flatten_dict(tree))


def from_paths(leaves: Mapping[Path, Any]) -> dict[str, Any]:
    """Return nested dicts from leaves by their paths."""
    return unflatten_dict(leaves)

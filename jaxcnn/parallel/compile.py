"""Compiling a step: many batches per dispatch, on one device or several, always with the same numbers."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from jaxcnn.core.collectives import AXIS, all_sum
from jaxcnn.core.types import Batch, CompiledStep, InputError, Step, Tree, add, check_whole, is_integer
from jaxcnn.parallel import mesh as meshes
from jaxcnn.parallel.mesh import Device, Rule, layout, make_mesh, split_model

STRATEGIES = ("auto", "eager", "jit", "sharded", "pmap")


class IndexedChunk(NamedTuple):
    """K batches of data that are on the device; the compiled step picks their rows.

    Attributes:
        arrays: from names to `[N, ...]`; arguments of the program, never constants in it.
        index: int32 `[K, B]`, row numbers.
        row_mask: `[K, B]`, or None where no row is padding.
        count: int32 scalar, how many of the K batches to run; one program serves every length.

    """

    arrays: Any
    index: Any
    row_mask: Any
    count: Any

    def at(self, k: Any) -> dict[str, Any]:
        """Return batch `k`."""
        batch = jax.tree.map(lambda x: x[self.index[k]], dict(self.arrays))
        if self.row_mask is None:
            return batch
        return batch | {"row_mask": batch.get("row_mask", 1) * self.row_mask[k]}  # rows may have a mask of their own

    def layout(self, whole: Any, split: Any) -> "IndexedChunk":
        """Return what goes to every device (`whole`) and what is divided along its second axis (`split`)."""
        return IndexedChunk(
            jax.tree.map(lambda _: whole, self.arrays), split, None if self.row_mask is None else split, whole
        )


class StackedChunk(NamedTuple):
    """K batches that were read from a stream: arrays `[K, B, ...]` by name, and how many of the batches to run."""

    batches: Any
    count: Any

    def at(self, k: Any) -> dict[str, Any]:
        """Return batch `k`."""
        return jax.tree.map(lambda x: x[k], dict(self.batches))

    def layout(self, whole: Any, split: Any) -> "StackedChunk":
        """Return what goes to every device (`whole`) and what is divided along its second axis (`split`)."""
        return StackedChunk(jax.tree.map(lambda _: split, self.batches), whole)


Chunk = IndexedChunk | StackedChunk


def compile_step(
    step: Step,
    strategy: str = "auto",
    devices: int | Sequence[Device] | None = None,
    donate: bool | None = None,
    *,
    model_devices: int = 1,
    rule: Rule | None = None,
) -> CompiledStep:
    """Compile a step, once for each shape of chunk.

    Args:
        step: a pure function `(carry, batch) -> (carry, sums)`.
        strategy: `"jit"`: one device. `"sharded"`: jit over a mesh; the batch is divided, and XLA inserts the
            collectives. `"pmap"`: one program per device, as in older code and TPU notebooks. `"eager"`: no
            compilation, for a debugger. `"auto"`: jit on one device, else sharded.
        devices: how many, or which; by default all that JAX sees (one for `"jit"` and `"eager"`).
        donate: reuse the carry's buffers; right for training, wrong where the carry is needed again. By default all
            steps do but those of `make_eval_step`.
        model_devices: sharded only: how many devices share a row; each has a part of the output channels.
        rule: sharded only: `(shape of a leaf, mesh) -> PartitionSpec`. `mesh.split_all` divides large leaves over all
            devices. The default, `mesh.split_model`, keeps leaves whole where `model_devices` is 1.

    Returns:
        A `CompiledStep`.

    Raises:
        InputError: an unknown strategy, more devices than JAX sees, several devices for `"jit"` or `"eager"`, `"pmap"`
            in a run of several processes, or `model_devices` below 1.

    """
    donate = not getattr(step, "evaluates", False) if donate is None else donate
    check_whole("model_devices", model_devices, 1)
    run = _compiled(step, strategy, devices, donate, model_devices, rule)
    return run._replace(step=step, check=getattr(step, "check", run.check))


def _compiled(
    step: Step, strategy: str, devices: Any, donate: bool, model_devices: int, rule: Rule | None
) -> CompiledStep:
    chosen = choose_devices(devices, strategy)
    strategy = resolve(strategy, chosen, model_devices > 1 or rule is not None)
    donated = (0,) if donate else ()
    if strategy in ("jit", "eager"):
        if len(chosen) > 1:
            raise InputError(f"devices={len(chosen)}: strategy {strategy!r} runs on one; use sharded or pmap")
        call = functools.partial(_eager, step) if strategy == "eager" else jax.jit(_loop(step), donate_argnums=donated)
        here = SingleDeviceSharding(chosen[0])
        one = _putter(here)
        return CompiledStep(call, one, one, 1, 1, strategy, functools.partial(_put_chunk, device=here))
    if strategy == "pmap":  # which divides the rows itself
        every = _putter(NamedSharding(Mesh(np.array(chosen), (AXIS,)), P()))
        return CompiledStep(_pmapped(_loop(step), chosen, donated), every, every, len(chosen), len(chosen), strategy)
    mesh, rule = make_mesh(chosen, model_devices), rule or split_model
    whole = NamedSharding(mesh, P())
    shard = functools.partial(_shard_chunk, whole=whole, split=NamedSharding(mesh, P(None, AXIS)))

    def wanted(tree: Tree) -> Tree:
        return layout(tree, rule, mesh)

    def put(tree: Tree) -> Tree:
        return meshes.put(tree, wanted(tree))

    def replicate(tree: Tree) -> Tree:
        return meshes.put(tree, jax.tree.map(lambda _: whole, tree))

    call = _sharded(_loop(step), wanted, whole, shard, donated)
    return CompiledStep(call, put, replicate, len(chosen), mesh.shape[AXIS], strategy, shard)


def resolve(strategy: str, chosen: Sequence[Device], divided: bool = False) -> str:
    """Return the strategy that runs on these devices; this is where `"auto"` is decided.

    Args:
        strategy: one of `STRATEGIES`.
        chosen: the devices.
        divided: whether parameters are divided among devices, which only `"sharded"` can do.

    Raises:
        InputError: an unknown strategy, or one that cannot run on these devices.

    """
    if strategy not in STRATEGIES:
        raise InputError(f"strategy={strategy!r}: must be one of {', '.join(STRATEGIES)}")
    if strategy == "auto":
        return "jit" if len(chosen) == 1 and not divided else "sharded"
    if divided and strategy != "sharded":
        raise InputError(f"strategy={strategy!r}: keeps parameters whole; to divide them use sharded")
    if strategy != "sharded" and jax.process_count() > 1:
        raise InputError(
            f"strategy={strategy!r}: runs in one process, and there are {jax.process_count()}; use sharded"
        )
    return strategy


def choose_devices(devices: int | Sequence[Device] | None, strategy: str) -> list[Device]:
    """Return the devices that a strategy runs on: those given, the first few, or all (one for `"jit"` and `"eager"`).

    In a run of several processes, each process contributes the same number of devices.

    Raises:
        InputError: `devices` is below 1, more than JAX sees, or not a multiple of the number of processes.

    """
    present, processes = jax.devices(), jax.process_count()
    if devices is None:
        return present[:1] if strategy in ("jit", "eager") else present
    if not is_integer(devices):
        if isinstance(devices, str) or not isinstance(devices, Iterable):
            raise InputError(f"devices={devices!r}: must be a whole number, or a sequence of devices")
        return list(devices)
    if not 1 <= devices <= len(present):
        raise InputError(
            f"devices={devices}: JAX sees {len(present)} of platform {present[0].platform}; give 1 to {len(present)}"
        )
    if devices % processes:
        raise InputError(f"devices={devices}: must be a multiple of the {processes} processes")
    return [d for i in range(processes) for d in [d for d in present if d.process_index == i][: devices // processes]]


def _loop(step: Step) -> Callable[[Tree, Chunk], tuple[Tree, Tree]]:
    """Run `chunk.count` steps.

    The count is dynamic: a shorter last chunk needs no second program, and a count of 0 compiles without running.
    """
    step = jax.jit(step, inline=True)  # traced once, for its shapes and for the loop's body

    def loop(carry: Tree, chunk: Chunk) -> tuple[Tree, Tree]:
        shapes = jax.eval_shape(step, carry, chunk.at(0))[1]
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def body(k: Any, state: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
            carry, sums = step(state[0], chunk.at(k))
            return carry, add(state[1], sums)

        carry, sums = jax.lax.fori_loop(0, chunk.count, body, (carry, zero))
        return carry, all_sum(sums)

    return loop


def _eager(step: Step, carry: Tree, chunk: Chunk) -> tuple[Tree, Tree]:
    shapes = jax.eval_shape(step, carry, chunk.at(0))[1]
    sums = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    for k in range(int(chunk.count)):
        carry, more = step(carry, chunk.at(k))
        sums = add(sums, more)
    return carry, sums


def _putter(sharding: Any) -> Callable[[Tree], Tree]:
    """Return what moves a tree to the devices of one sharding."""

    def put(tree: Tree) -> Tree:
        return jax.device_put(tree, sharding)

    return put


def _put_chunk(chunk: Chunk, device: Any) -> Chunk:
    """Move a chunk to one device; its count stays on the host, which reads it."""
    return jax.device_put(chunk, chunk.layout(device, device))._replace(count=chunk.count)


def _shard_chunk(chunk: Chunk, whole: Any, split: Any) -> Chunk:
    """Split a chunk over the devices; its count stays on the host. Each process has its own part of a stack."""
    if isinstance(chunk, StackedChunk):
        return chunk._replace(batches=meshes.shard(chunk.batches, split))
    return meshes.put(chunk, chunk.layout(whole, split))._replace(count=chunk.count)


def _sharded(
    loop: Callable, wanted: Callable[[Tree], Tree], whole: Any, shard: Callable[[Chunk], Chunk], donate: Any
) -> Callable:
    programs: dict[Any, Callable] = {}

    def call(carry: Tree, chunk: Chunk) -> tuple[Tree, Tree]:
        leaves, kind = jax.tree.flatten(carry)
        key = (kind, tuple(np.shape(leaf) for leaf in leaves))
        if key not in programs:
            programs[key] = jax.jit(loop, donate_argnums=donate, out_shardings=(wanted(carry), whole))
        return programs[key](carry, chunk if _is_on_devices(chunk) else shard(chunk))

    return call


def _is_on_devices(chunk: Chunk) -> bool:
    return all(isinstance(x, jax.Array) for x in jax.tree.leaves(chunk._replace(count=None)))


def _pmapped(loop: Callable, devices: list[Device], donate: tuple[int, ...]) -> Callable:
    programs: dict[Any, Callable] = {}

    def call(carry: Tree, chunk: Chunk) -> tuple[Tree, Tree]:
        axes = chunk.layout(None, 1)
        kind = jax.tree.structure(chunk)
        if kind not in programs:
            programs[kind] = jax.pmap(
                loop, AXIS, in_axes=(None, axes), out_axes=None, devices=devices, donate_argnums=donate
            )
        return programs[kind](carry, _fold(chunk, len(devices)))

    return call


def _fold(chunk: Chunk, n: int) -> Chunk:
    """Divide the rows among devices: `[K, B, ...]` to `[K, n, B / n, ...]`, in order, as in a sharded batch."""

    def divided(x):
        return x.reshape(x.shape[0], n, -1, *x.shape[2:])

    if isinstance(chunk, StackedChunk):
        return StackedChunk(jax.tree.map(divided, chunk.batches), chunk.count)
    return chunk._replace(
        index=divided(chunk.index), row_mask=None if chunk.row_mask is None else divided(chunk.row_mask)
    )


def compile_map(
    fn: Callable[[Tree, Batch], Tree], keep: Sequence[str] = ()
) -> Callable[[Tree, Chunk, int], tuple[Tree, dict[str, Any]]]:
    """Compile a function of a batch, for batch `k` of a chunk.

    Args:
        fn: `(variables, batch) -> outputs`.
        keep: names of the entries of the batch to return beside the outputs.

    Returns:
        `(variables, chunk, k) -> (outputs, {name: rows})`.

    """

    def mapped(variables: Tree, chunk: Chunk, k: int) -> tuple[Tree, dict[str, Any]]:
        batch = chunk.at(k)
        return fn(variables, batch), {key: batch[key] for key in keep}

    return jax.jit(mapped)


def empty(chunk: Chunk) -> Chunk:
    """Return the same chunk with nothing to run: a call with it compiles, and gives back the carry and sums of zero."""
    return chunk._replace(count=np.int32(0))


def host(sums: Any) -> Any:
    """Return sums on the host in float64: beyond 2**24 float32 loses counts; within a dispatch they are float32."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(sums))

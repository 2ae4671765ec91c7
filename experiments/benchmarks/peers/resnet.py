"""Training steps of a whole network: jaxcnn, JAX's default lowering, and PyTorch, eager and compiled.

A case is a dict: `blocks` and `bottleneck` of a ResNet, or neither for MobileNet; `cifar_stem`, `width` (share of the
channels), `batch`, `size`, `classes`, `steps` per call, and `bfloat16` for mixed precision. The optimiser is SGD with
momentum.
"""

from typing import Any

import numpy as np

from experiments.benchmarks.peers import Prepared

Case = dict[str, Any]
RATE, MOMENTUM = 0.01, 0.9


def arrays(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return random images uint8 `[B, H, W, 3]` and labels `[B]`."""
    rng = np.random.default_rng(0)
    shape = (case["batch"], case["size"], case["size"], 3)
    return rng.integers(0, 256, shape, dtype=np.uint8), rng.integers(0, case["classes"], case["batch"]).astype(np.int32)


def jaxcnn(case: Case) -> Prepared:
    """Run several steps per dispatch over data on the device, as `jaxcnn.fit` does."""
    import jax

    import jaxcnn as jc

    task, tx, batch = _task(case)
    state = _first(task, tx, batch)
    run = jc.compile_step(jc.make_train_step(task, tx), "jit")
    data = jc.data.Resident(batch).put(run.put)
    state, chunk = run.put(state), data.chunk(case["batch"], 0, case["steps"], case["steps"])

    def call() -> None:
        nonlocal state
        state, sums = run.call(state, chunk)
        jax.block_until_ready(sums)

    return Prepared(call, case["steps"], lambda: _facts(state.params))


def flax(case: Case) -> Prepared:
    """Run the same network and step in the default lowering, one dispatch per step."""
    import jax

    import jaxcnn as jc

    task, tx, batch = _task(case)
    state = _first(task, tx, batch)
    step, batch = jax.jit(jc.make_train_step(task, tx), donate_argnums=0), jax.device_put(batch)

    def call() -> None:
        nonlocal state
        with jc.ops.native_lowering():  # takes effect when the first call traces
            for _ in range(case["steps"]):
                state, sums = step(state, batch)
        jax.block_until_ready(sums)

    return Prepared(call, case["steps"], lambda: _facts(state.params))


def floor(case: Case) -> Prepared:
    """Count the work of a step in the default lowering, before compilation; parameters are read and written once."""
    import jax

    import jaxcnn as jc

    def facts() -> dict[str, float]:
        task, tx, batch = _task(case)
        state = jax.eval_shape(lambda: jc.init_state(task, tx, batch))
        with jc.ops.native_lowering():
            flop = jax.jit(jc.make_train_step(task, tx)).lower(state, batch).cost_analysis()["flops"]
        moved = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((state.params, state.opt_state)))
        return {"flop": flop, "bytes": 2 * moved + sum(x.nbytes for x in batch.values())}

    return Prepared(lambda: None, facts=facts)


def torch(case: Case, compiled: bool = False) -> Prepared:
    """Run PyTorch: channels last, fused optimiser, mixed precision by autocast."""
    import torch
    import torch.nn.functional as functions

    from experiments.benchmarks.peers import torch_models

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    if "blocks" in case:
        form = (case["blocks"], case["bottleneck"], case["cifar_stem"])
        model = torch_models.resnet(*form, case["classes"], int(64 * case["width"]))
    else:
        model = torch_models.mobilenet(case["cifar_stem"], case["classes"], case["width"])
    model = model.to(device, memory_format=torch.channels_last).train()
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, fused=True)
    image, label = (torch.from_numpy(a).to(device) for a in arrays(case))
    image, label = image.permute(0, 3, 1, 2), label.long()  # channels last in memory already

    def call() -> None:
        for _ in range(case["steps"]):
            with torch.autocast(device, torch.bfloat16, enabled=case["bfloat16"]):
                loss = functions.cross_entropy(forward(image.float() / 255).float(), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()

    return Prepared(call, case["steps"], lambda: {"parameters": sum(p.numel() for p in model.parameters())})


def torch_compile(case: Case) -> Prepared:
    """Run PyTorch through `torch.compile`."""
    return torch(case, compiled=True)


def _task(case: Case) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """Return task, optimiser and batch."""
    import jaxcnn as jc

    options = {
        "num_classes": case["classes"],
        "cifar_stem": case["cifar_stem"],
        "dtype": "bfloat16" if case["bfloat16"] else None,
    }
    if "blocks" in case:
        model = jc.models.ResNet(
            blocks=tuple(case["blocks"]), bottleneck=case["bottleneck"], width=int(64 * case["width"]), **options
        )
    else:
        model = jc.models.mobilenet_v1(width=case["width"], **options)
    task, tx = jc.tasks.classification(model), jc.optim.sgd(RATE, momentum=MOMENTUM)
    task = task._replace(metrics={name: task.metrics[name] for name in ("loss", "count", "accuracy")})
    return task, tx, dict(zip(("image", "label"), arrays(case), strict=True))


def _first(task: Any, tx: Any, batch: dict[str, np.ndarray]) -> Any:
    """Return the first state, made by one compiled program."""
    import jax

    import jaxcnn as jc

    return jax.jit(lambda batch: jc.init_state(task, tx, batch))({name: x[:1] for name, x in batch.items()})


def _facts(params: Any) -> dict[str, int]:
    import jax

    return {"parameters": sum(x.size for x in jax.tree.leaves(params))}

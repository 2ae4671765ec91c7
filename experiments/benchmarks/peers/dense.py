"""Segmentation and detection: a training step or a prediction of jaxcnn, JAX's default lowering, and PyTorch.

A case is a dict: `network` (`unet` or `fcos`), `shape`, `channels`, `classes`, `batch`, `training`, and `widths` of the
U-Net or `width` of the pyramid. The optimiser is SGD with momentum.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.peers import Prepared

Case = dict[str, Any]
RATE, MOMENTUM, BOXES = 1e-4, 0.9, 8


def arrays(case: Case) -> dict[str, np.ndarray]:
    """Return random images uint8, and a class per pixel, or boxes (yxyx in 0..1) with their classes."""
    rng, lead = np.random.default_rng(0), (case["batch"], *case["shape"])
    image = rng.integers(0, 256, (*lead, case["channels"]), dtype=np.uint8)
    if case["network"] == "unet":
        return {"image": image, "mask": rng.integers(0, case["classes"], lead).astype(np.uint8)}
    start = rng.uniform(0, 0.6, (case["batch"], BOXES, 2))
    boxes = np.concatenate([start, start + rng.uniform(0.1, 0.4, start.shape)], -1).astype(np.float32)
    label = rng.integers(0, case["classes"], boxes.shape[:2]).astype(np.int32)
    return {"image": image, "boxes": boxes, "box_label": label, "box_mask": np.ones(label.shape, np.float32)}


def jaxcnn(case: Case) -> Prepared:
    """Run a compiled step, or a compiled prediction, on rows that are on the device."""
    import contextlib

    return _jax(case, contextlib.nullcontext)


def flax(case: Case) -> Prepared:
    """Run the same in the default lowering."""
    import jaxcnn as jc

    return _jax(case, jc.ops.native_lowering)


def _jax(case: Case, lowering: Callable[[], Any]) -> Prepared:
    import jax

    import jaxcnn as jc

    task, tx, batch = _task(case)
    like = {name: x[:1] for name, x in batch.items()}
    with lowering():
        state = jax.jit(lambda rows: jc.init_state(task, tx, rows))(like)
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    batch = jax.device_put(batch)
    if not case["training"]:
        predict = jax.jit(lambda variables, image: _answer(task.predict(variables, {"image": image})))

        def ask() -> None:
            with lowering():  # takes effect when the first call traces
                jax.block_until_ready(predict(state.variables, batch["image"]))

        return Prepared(ask, 1, lambda: {"parameters": parameters})
    step = jax.jit(jc.make_train_step(task, tx), donate_argnums=0)

    def call() -> None:
        nonlocal state
        with lowering():
            state, sums = step(state, batch)
        jax.block_until_ready(sums)

    return Prepared(call, 1, lambda: {"parameters": parameters})


def _answer(outputs: Any) -> Any:
    """Return what a user asks for: logits, or detections."""
    import jaxcnn as jc

    return jc.tasks.detected(outputs) if isinstance(outputs, dict) else outputs


def floor(case: Case) -> Prepared:
    """Count the work in the default lowering, before compilation; parameters are read and written once."""
    import jax

    import jaxcnn as jc

    def facts() -> dict[str, float]:
        task, tx, batch = _task(case)
        state = jax.eval_shape(lambda: jc.init_state(task, tx, batch))
        step = jc.make_train_step(task, tx)
        with jc.ops.native_lowering():
            if case["training"]:
                cost = jax.jit(step).lower(state, batch).cost_analysis()
            else:
                cost = jax.jit(task.predict).lower(state.variables, {"image": batch["image"]}).cost_analysis()
        moved = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((state.params, state.opt_state)))
        return {"flop": cost["flops"], "bytes": 2 * moved + sum(x.nbytes for x in batch.values())}

    return Prepared(lambda: None, facts=facts)


def torch(case: Case, compiled: bool = False) -> Prepared:
    """Run PyTorch, images channels last."""
    import torch

    from experiments.benchmarks.peers import torch_dense

    torch.manual_seed(0)
    rows = arrays(case)
    image = torch.from_numpy(rows["image"]).movedim(-1, 1)  # channels last in memory already
    form = torch.channels_last_3d if len(case["shape"]) == 3 else torch.channels_last
    if case["network"] == "unet":
        model: Any = torch_dense.UNet(case["channels"], case["classes"], case["widths"], len(case["shape"]))
        ask, loss = _unet(model.to(memory_format=form), image, rows, compiled)
    else:
        model = torch_dense.fcos(case["classes"], case["width"], case["shape"])
        ask, loss = _fcos(model.to(memory_format=form), image, rows)
    model.train(case["training"])
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)

    def call() -> None:
        if not case["training"]:
            with torch.inference_mode():
                ask()
            return
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        value.item()

    return Prepared(call, 1, lambda: {"parameters": sum(p.numel() for p in model.parameters())})


def torch_compile(case: Case) -> Prepared:
    """Run PyTorch through `torch.compile`."""
    return torch(case, compiled=True)


def _unet(model: Any, image: Any, rows: dict[str, np.ndarray], compiled: bool) -> tuple[Callable, Callable]:
    import torch
    import torch.nn.functional as functions

    forward = torch.compile(model) if compiled else model
    mask = torch.from_numpy(rows["mask"]).long()
    return lambda: forward(image.float() / 255), lambda: functions.cross_entropy(forward(image.float() / 255), mask)


def _fcos(model: Any, image: Any, rows: dict[str, np.ndarray]) -> tuple[Callable, Callable]:
    import torch

    height, width = image.shape[2:]
    corners = rows["boxes"][..., [1, 0, 3, 2]] * np.array([width, height] * 2, np.float32)
    targets = [
        {"boxes": torch.from_numpy(box), "labels": torch.from_numpy(label).long()}
        for box, label in zip(corners, rows["box_label"], strict=True)
    ]
    return (
        lambda: model(list(image.float() / 255)),
        lambda: sum(model(list(image.float() / 255), [dict(one) for one in targets]).values()),
    )


def _task(case: Case) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """Return task, optimiser and batch."""
    import jaxcnn as jc

    if case["network"] == "unet":
        model = jc.models.unet(case["classes"], widths=case["widths"], dims=len(case["shape"]))
        task = jc.tasks.segmentation(model)
    else:
        model = jc.models.fcos(case["classes"], "resnet18", width=case["width"])
        task = jc.tasks.detection(model)
    task = task._replace(metrics={name: task.metrics[name] for name in ("loss", "count") if name in task.metrics})
    return task, jc.optim.sgd(RATE, momentum=MOMENTUM), arrays(case)

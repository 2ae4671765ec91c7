"""The network and the recipe of `experiments.cifar10` in PyTorch, as a careful user writes them.

`main` prints one JSON line per epoch and one at the end, after the only pass over the test set. `recipe` has the flags
of `experiments.cifar10` as JSON, because a peer's interpreter has no jaxcnn.
"""

import argparse
import json
import math
import time
from typing import Any

import numpy as np

from experiments.benchmarks.peers import Prepared
from experiments.benchmarks.peers.mnist import say

# settings without flags in `experiments.cifar10`
ROWS = 1000  # training images from which the whitening is computed
MOMENTUM = 0.8  # of Muon
NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)  # coefficients of Muon's iteration, which has three steps


def torch(args: argparse.Namespace) -> None:
    """Train in PyTorch: channels last, batches by index from tensors in memory, fused optimiser."""
    import torch
    import torch.nn.functional as functions

    recipe = json.loads(args.recipe)
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with np.load(args.data) as file:
        x, y, xt, yt = (torch.from_numpy(file[name]).to(device) for name in ("x_train", "y_train", "x_test", "y_test"))
    deviation, mean = torch.std_mean(x[:: max(len(x) // 5000, 1)].float() / 255, (0, 1, 2), correction=0)
    x, xt = x.permute(0, 3, 1, 2), xt.permute(0, 3, 1, 2)  # channels last in memory already
    mean, deviation, last = mean[:, None, None], deviation[:, None, None], torch.channels_last

    def prepare(image):
        return ((image.float() / 255 - mean) / deviation).contiguous(memory_format=last)

    model = _network(recipe["widths"], int(y.max()) + 1, prepare(x[:ROWS])).to(device, memory_format=last)
    average = {name: value.clone() for name, value in model.state_dict().items() if value.is_floating_point()}
    total = math.ceil(args.epochs * len(x) / args.batch_size)
    change, done = _optimizer(model, recipe, total), 0

    def epoch() -> tuple[int, float]:
        nonlocal done
        rows, seen = torch.randperm(len(x), device=device), 0
        for part in rows.split(args.batch_size):
            if done == total:
                break
            image = _moved(x[part], recipe["shift"], recipe["flip"])
            loss = functions.cross_entropy(
                model.train()(prepare(image)), y[part].long(), label_smoothing=recipe["label_smoothing"]
            )
            for parameter in model.parameters():
                parameter.grad = None
            loss.backward()
            change(done)
            done, seen = done + 1, seen + len(part)
            keep, state = min(recipe["ema"], (1 + done) / (10 + done)), model.state_dict()
            torch._foreach_lerp_(list(average.values()), [state[name] for name in average], 1 - keep)
        return seen, loss.item()

    for _ in range(math.ceil(args.epochs)):
        start = time.perf_counter()
        images, loss = epoch()
        say("epoch", seconds=time.perf_counter() - start, images=images, loss=loss)
    model.load_state_dict(average, strict=False)
    model.eval()
    with torch.no_grad():
        found = torch.cat(
            [sum(model(prepare(view)) for view in _views(part, recipe["flip"])).argmax(1) for part in xt.split(500)]
        )
    say("end", test_accuracy=found.eq(yt).float().mean().item())


def _network(widths: list[int], classes: int, some: Any) -> Any:
    """Return the network; its first layer whitens the 2x2 patches of `some` images."""
    import torch
    import torch.nn.functional as functions
    from torch import nn

    class Whitening(nn.Module):
        def __init__(self):
            super().__init__()
            patches = functions.unfold(some.contiguous(), 2).transpose(1, 2).reshape(-1, 4 * some.shape[1])
            values, vectors = torch.linalg.eigh(torch.cov(patches.T.double()))
            kernel = (vectors / (values + 5e-4).sqrt()).T.reshape(-1, some.shape[1], 2, 2)
            self.register_buffer("kernel", kernel.float())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = functions.conv2d(functions.pad(x, (0, 1, 0, 1)), self.kernel)
            positive = functions.gelu(y, approximate="tanh")
            return torch.cat([positive, positive - y], 1)

    def conv(c_in: int, c_out: int) -> nn.Conv2d:
        layer = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        nn.init.dirac_(layer.weight.data[:c_in])
        return layer

    layers, c_in = [Whitening()], 8 * some.shape[1]
    for width in widths:
        for n, pool in ((c_in, [nn.MaxPool2d(2)]), (width, [])):
            layers += [conv(n, width), *pool, nn.BatchNorm2d(width, momentum=0.2), nn.GELU("tanh")]
        c_in = width

    class Head(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.amax((2, 3))) / 9

    head = Head(c_in, classes)
    nn.init.trunc_normal_(head.weight, std=c_in**-0.5 / 0.88, a=-2 * c_in**-0.5 / 0.88, b=2 * c_in**-0.5 / 0.88)
    nn.init.zeros_(head.bias)
    return nn.Sequential(*layers, head)


def _optimizer(model: Any, recipe: dict[str, Any], total: int) -> Any:
    """Return the update of step `t` of `total`: Nesterov SGD with one cycle, Muon with a linear schedule."""
    import torch

    named = [(name, p) for name, p in model.named_parameters()]
    kernels = [p for _, p in named if p.ndim == 4]
    norms = {f"{name}.bias" for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    groups = [
        {
            "params": [p for _, p in named if p.ndim > 1 and (p.ndim < 4 or not recipe["muon"])],
            "weight_decay": recipe["weight_decay"],
        },
        {"params": [p for name, p in named if p.ndim == 1 and name not in norms]},
        {"params": [p for name, p in named if name in norms]},
    ]
    sgd = torch.optim.SGD(groups, lr=1.0, momentum=recipe["momentum"], nesterov=True, fused=True)
    memory, warmup = [torch.zeros_like(p) for p in kernels], total * 23 // 100

    def change(t: int) -> None:
        part = t / max(warmup, 1) if t < warmup else (t - warmup) / max(total - warmup, 1)
        fall = 0.5 * (1 + math.cos(math.pi * part))
        rate = recipe["learning_rate"] * (0.2 + 0.8 * (1 - fall) if t < warmup else 0.07 + 0.93 * fall)
        for group, times in zip(sgd.param_groups, (1, 1, recipe["bias_rate"]), strict=True):
            group["lr"] = rate * times
        sgd.step()
        for p, moving in zip(kernels, memory, strict=True) if recipe["muon"] else ():
            moving.mul_(MOMENTUM).add_(p.grad)
            turn = _orthogonal((p.grad + MOMENTUM * moving).flatten(1)).view_as(p)
            new = p.data - recipe["muon"] * (1 - t / total) * turn
            p.data.copy_(new * (len(p) ** 0.5 / new.norm()))

    return change


def _orthogonal(matrix: Any) -> Any:
    """Bring the singular values of a matrix close to 1."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm()
    for _ in range(3):
        square = wide @ wide.T
        wide = a * wide + (b * square + c * square @ square) @ wide
    return wide if len(matrix) <= matrix.shape[1] else wide.T


def _moved(image: Any, pixels: int, flip: bool) -> Any:
    """Mirror half of the images `[B, C, H, W]` uint8, and shift them by up to `pixels`, with mirrored borders."""
    import torch
    import torch.nn.functional as functions

    mirrored = torch.rand(len(image), 1, 1, 1, device=image.device) < 0.5 * flip
    image = torch.where(mirrored, image.flip(3), image)
    padded = functions.pad(image.float(), (pixels,) * 4, "reflect")
    side, out = image.shape[2:], torch.empty_like(padded[:, :, pixels:-pixels, pixels:-pixels])
    shift = torch.randint(0, 2 * pixels + 1, (len(image), 2), device=image.device)
    for i in range(2 * pixels + 1):
        for j in range(2 * pixels + 1):
            mine = (shift[:, 0] == i) & (shift[:, 1] == j)
            out[mine] = padded[mine, :, i : i + side[0], j : j + side[1]]
    return out


def _views(image: Any, flip: bool) -> list[Any]:
    """Return the image, its shifts by one pixel in two directions, and the same for its mirror image."""
    import torch.nn.functional as functions

    found = []
    for one in (image.float(), image.float().flip(3)) if flip else (image.float(),):
        padded = functions.pad(one, (1,) * 4, "reflect")
        found += [one, padded[:, :, :-2, :-2], padded[:, :, 2:, 2:]]
    return found


def floor(case: dict[str, Any]) -> Prepared:
    """Count the work of a step in the default lowering, before compilation; parameters are read and written once."""
    import jax

    import jaxcnn as jc

    def facts() -> dict[str, float]:
        task, tx = jc.tasks.classification(jc.models.speednet(widths=case["widths"])), jc.optim.sgd(0.1, momentum=0.9)
        batch = {"image": np.zeros((case["batch"], 32, 32, 3), np.uint8), "label": np.zeros(case["batch"], np.int32)}
        state = jax.eval_shape(lambda: jc.init_state(task, tx, batch))
        with jc.ops.native_lowering():
            flop = jax.jit(jc.make_train_step(task, tx)).lower(state, batch).cost_analysis()["flops"]
        moved = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((state.params, state.opt_state)))
        return {"flop": flop, "bytes": 2 * moved + sum(x.nbytes for x in batch.values())}

    return Prepared(lambda: None, facts=facts)


def main() -> None:
    """Train once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    torch(parser.parse_args())


if __name__ == "__main__":
    main()

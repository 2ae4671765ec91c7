"""Attacks on classifiers: images within a distance of the given ones that a network gets wrong.

An attack is a function `(logits_of, images, labels, key) -> images`. `logits_of` maps images `[B, H, W, C]` in 0..1 to
logits `[B, K]`; images and labels `[B]` are those of the batch, and the result has the shape of the images, lies in
0..1, and is at most `eps` from them (but for `noisy_fgsm`, which is for training). A row whose label is -1 has none,
and is left as it is. Attacks run inside jit, on any number of devices, and their random draws belong to a row of the
global batch. `robustness.attacked` measures a task under them.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.core.collectives import draw
from jaxcnn.core.types import InputError, align, check_numbers, check_whole
from jaxcnn.methods import attack_parts as parts
from jaxcnn.methods.attack_parts import Attack, Loss, Norm

Array = jax.Array


def fgsm(eps: float, *, targeted: bool = False) -> Attack:
    """Make the fast gradient sign method: one step of length `eps` along the sign of the gradient.

    Args:
        eps: largest change of a value, in 0..1 as the images are.
        targeted: the labels are classes to reach instead of the true ones.

    Raises:
        InputError: `eps` is outside 0..1.

    Reference: Goodfellow et al., 2014, arXiv:1412.6572.

    """
    return pgd(eps, steps=1, step_size=eps, random_start=False, targeted=targeted, early_stop=False)


def pgd(
    eps: float,
    *,
    norm: Norm = "linf",
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    targeted: bool = False,
    loss: Loss | parts.Objective = "ce",
    early_stop: bool = True,
) -> Attack:
    """Make projected gradient descent.

    Args:
        eps: largest distance from the image, at least 0: of any value for `"linf"`, in 0..1 as the images are, and the
            Euclidean length of the change of a whole image for `"l2"`.
        norm: `"linf"` or `"l2"`.
        steps: number of steps, at least 1.
        step_size: length of a step; None is `2.5 * eps / steps`, which reaches the border from anywhere.
        restarts: number of runs from different starts, at least 1.
        random_start: begin at a random place within `eps`, instead of at the image.
        targeted: the labels are classes to reach instead of the true ones.
        loss: `"ce"` is cross-entropy; `"dlr"` the difference of logits over their range, which scaling the logits does
            not change; or a function of logits and what is passed for labels to values `[B]`, with early_stop=False.
        early_stop: a row's result is its first image that is wrong, which measures best; False takes the image after
            the last step, on which training learns most.

    Returns:
        The attack.

    Raises:
        InputError: a value is outside its range; or (when traced) `"dlr"` with fewer than three classes.

    Reference: Madry et al., 2017, arXiv:1706.06083.

    """
    parts.check(eps, norm, steps=steps, restarts=restarts)
    length = 2.5 * eps / steps if step_size is None else step_size
    if not 0 <= length < math.inf:
        raise InputError(f"step_size={step_size}: must be at least 0")
    if restarts > 1 and not random_start:
        raise InputError(f"restarts={restarts}: without random_start=True, all of them begin at the image")
    if callable(loss) and (early_stop or targeted):
        raise InputError("loss: a function knows no wrong class; use it with early_stop=False and targeted=False")
    raised = parts.objective(loss, targeted)

    def attack(logits_of: parts.LogitsOf, images: Array, labels: Any, key: Array) -> Array:
        look = parts.look(logits_of, labels, raised, None if callable(loss) else targeted)

        def step(carry: Any, _: Any) -> tuple[Any, None]:
            x, done = carry
            seen = look(x)
            done = done | (seen.won & early_stop)
            new = parts.project(x + length * parts.direction(seen.slope, norm), images, eps, norm)
            return (jnp.where(align(done, x), x, new), done), None

        def one(key: Array) -> tuple[Array, Array]:
            first = parts.start(key, images, eps, norm) if random_start else images
            (x, _), _ = lax.scan(step, (first, jnp.zeros(len(images), bool)), length=steps)
            if restarts == 1:
                return x, jnp.zeros(len(images))
            seen = look(x)
            return x, jnp.where(seen.won, jnp.inf, seen.value)

        if restarts == 1:
            return one(key)[0]
        return parts.best_of(one, jax.random.split(key, restarts), images)[0]

    made = parts.checked(attack, labelled=not callable(loss))
    made.targeted = targeted  # pyright: ignore[reportFunctionMemberAccess] (see `robustness.check_untargeted`)
    return made


def noisy_fgsm(eps: float, *, noise: float = 2.0) -> Attack:
    """Make N-FGSM for training: add uniform noise, then take one step of length `eps`.

    A result may differ from its image by up to `(1 + noise) * eps`, so it is no measurement, and `attacked` refuses
    this attack. Training against a single step from within `eps` itself can collapse; with more noise it rarely does.

    Args:
        eps: length of the step, in 0..1 as the images are.
        noise: largest change of a value before the step, as a multiple of `eps`; at least 0.

    Returns:
        The attack.

    Raises:
        InputError: a value is outside its range.

    Reference: de Jorge et al., 2022, arXiv:2202.01181.

    """
    parts.check(eps, "linf")
    check_numbers(noise=noise)
    if not 0 <= noise < math.inf:
        raise InputError(f"noise={noise}: must be at least 0, a multiple of eps")

    def attack(logits_of: parts.LogitsOf, images: Array, labels: Array, key: Array) -> Array:
        moved = (images + noise * eps * (2 * draw(jax.random.uniform, key, images.shape) - 1)).clip(0, 1)
        slope = parts.look(logits_of, labels, parts.cross_entropy, None)(moved).slope
        return (moved + eps * jnp.sign(slope)).clip(0, 1)

    made = parts.checked(attack)
    made.beyond = True  # pyright: ignore[reportFunctionMemberAccess] (see `robustness.attacked`)
    return made


def apgd(
    eps: float, *, norm: Norm = "linf", steps: int = 100, restarts: int = 1, loss: Loss = "ce", targets: int = 0
) -> Attack:
    """Make Auto-PGD: projected gradient descent with momentum that chooses the length of its steps.

    Where too few of the last steps have raised the loss, a row's steps become half as long, and it returns to its best
    image.

    Args:
        eps: largest distance from the image, as in `pgd`.
        norm: `"linf"` or `"l2"`.
        steps: number of steps, at least 1.
        restarts: number of runs from different starts, at least 1; 1 with `targets`.
        loss: `"ce"` or `"dlr"`, as in `pgd`.
        targets: 0, or the number of wrong classes that are each attacked in a run of its own, the likeliest first, with
            the targeted form of `"dlr"`; less than the number of classes, of which there must be at least 4.

    Returns:
        The attack. A row's result is an image that is wrong, if one of its steps found any.

    Raises:
        InputError: a value is outside its range; or (when traced) too few classes for `loss` or `targets`.

    Reference: Croce and Hein, 2020, arXiv:2003.01690.

    """
    parts.check(eps, norm, steps=steps, restarts=restarts)
    check_whole("targets", targets, 0)
    if targets and (loss != "dlr" or restarts != 1):
        raise InputError(f"targets={targets}: must be 0 unless loss='dlr' and restarts=1")
    raised = parts.objective(loss)

    def attack(logits_of: parts.LogitsOf, images: Array, labels: Array, key: Array) -> Array:
        if not targets:
            run = _runner(eps, norm, steps, parts.look(logits_of, labels, raised), images)
            return parts.best_of(run, jax.random.split(key, restarts), images)[0]
        logits = logits_of(images)
        count = logits.shape[-1]
        if not targets < count or count < 4:
            raise InputError(f"targets={targets}: must be less than the {count} classes, and these at least 4")
        goals = lax.top_k(parts.others(logits, labels), targets)[1].T  # [targets, B]

        def towards(now: tuple[Array, Array]) -> tuple[Array, Array]:
            goal, key = now

            def lead(z: Array, y: Array) -> Array:
                return parts.targeted_difference(z, y, goal)

            return _runner(eps, norm, steps, parts.look(logits_of, labels, lead), images)(key)

        return parts.best_of(towards, (goals, jax.random.split(key, targets)), images)[0]

    return parts.checked(attack)


def _runner(eps: float, norm: Norm, steps: int, look: Any, images: Array) -> Any:
    """Return one run, a function from a key to images and scores `[B]`, infinite where a row is won."""
    ends = checkpoints(steps)
    ending = jnp.zeros(steps, bool).at[jnp.array(ends) - 1].set(True)
    spans = jnp.zeros(steps).at[jnp.array(ends) - 1].set(jnp.diff(jnp.array([0, *ends])))
    b = len(images)

    def run(key: Array) -> tuple[Array, Array]:
        x = parts.start(key, images, eps, norm)
        seen = look(x)
        carry = {
            "x": x, "old": x, "seen": seen, "best": x, "top": seen, "size": jnp.full(b, 2.0 * eps),
            "rises": jnp.zeros(b), "before": seen.value, "halved": jnp.zeros(b, bool), "wrong": x, "won": seen.won,
        }  # fmt: skip
        out, _ = lax.scan(step, carry, (jnp.arange(steps) == 0, ending, spans))
        won = out["won"]
        return jnp.where(align(won, x), out["wrong"], out["best"]), jnp.where(won, jnp.inf, out["top"].value)

    def step(c: dict[str, Any], now: tuple[Array, Array, Array]) -> tuple[dict[str, Any], None]:
        first, end, span = now
        x = c["x"]
        ahead = parts.project(x + align(c["size"], x) * parts.direction(c["seen"].slope, norm), images, eps, norm)
        share = jnp.where(first, 1.0, 0.75)
        new = parts.project(x + share * (ahead - x) + (1 - share) * (x - c["old"]), images, eps, norm)
        seen = look(new)
        rises = c["rises"] + (seen.value > c["seen"].value)
        better = seen.value > c["top"].value
        best, top = _where(better, (new, seen), (c["best"], c["top"]))
        stuck = end & ((rises < 0.75 * span) | (~c["halved"] & (top.value <= c["before"])))
        at, there = _where(stuck, (best, top), (new, seen))
        fresh = seen.won & ~c["won"]
        changed = {
            "x": at, "old": x, "seen": there, "best": best, "top": top,
            "size": jnp.where(stuck, c["size"] / 2, c["size"]), "rises": jnp.where(end, 0, rises),
            "before": jnp.where(end, top.value, c["before"]), "halved": jnp.where(end, stuck, c["halved"]),
            "wrong": _where(fresh, new, c["wrong"]), "won": c["won"] | fresh,
        }  # fmt: skip
        return changed, None

    return run


def checkpoints(steps: int) -> list[int]:
    """Return the numbers of steps after which Auto-PGD reconsiders its length, all at most `steps`."""
    shares, ends = [0.0, 0.22], []
    while shares[-1] < 1:
        ends.append(math.ceil(round(shares[-1] * steps, 6)))  # 0.57 * 100 is 57.000...1 in floats
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return sorted(set(ends))


def _where(mask: Array, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(align(mask, x), x, y), a, b)

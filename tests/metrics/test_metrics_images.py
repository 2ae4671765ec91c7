"""PSNR, SSIM and values of dense labels equal plain definitions in float64; odd shapes are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from sklearn.metrics import r2_score

from jaxcnn import metrics
from jaxcnn.core.types import InputError, add

SHAPE = (4, 17, 14, 2)


def images(seed):
    """Pictures 0..255 and guesses of four kinds: noisy, blurred, shifted in brightness, flat."""
    rng = np.random.default_rng([seed, 4])
    truth = scipy.ndimage.gaussian_filter(rng.random(SHAPE) * 255, (0, seed % 4, seed % 4, 0))
    noisy = truth + rng.normal(size=SHAPE) * rng.choice([0.5, 10, 60])
    kinds = [noisy, scipy.ndimage.gaussian_filter(truth, (0, 1, 1, 0)), truth * 0.7 + 20, np.full(SHAPE, truth.mean())]
    row_mask = np.ones(4) if seed % 2 else (rng.random(4) < 0.7)
    return truth.astype(np.float32), kinds[seed // 4 % 4].astype(np.float32), row_mask.astype(np.float32)


def by_definition(a, b, data_range):
    """SSIM of one image as Wang et al. define it: weighted means, variances and covariance of every window."""
    side = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(side, side) / np.outer(side, side).sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for c in range(a.shape[-1]):
        x, y = (np.lib.stride_tricks.sliding_window_view(z[..., c].astype(np.float64), (11, 11)) for z in (a, b))
        mean = lambda z: (z * window).sum((-2, -1))
        mx, my = mean(x), mean(y)
        dx, dy = x - mx[..., None, None], y - my[..., None, None]
        vx, vy, cov = mean(dx * dx), mean(dy * dy), mean(dx * dy)
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return np.mean(values)


def test_200_cases_by_definition():
    run = jax.jit(lambda out, batch: (metrics.ssim(255)(out, batch), metrics.psnr(255)(out, batch)))
    worst = np.zeros(2)
    for seed in range(200):
        truth, guess, row_mask = images(seed)
        found = [s.compute() for s in jax.device_get(run(guess, {"label": truth, "row_mask": row_mask}))]
        on = row_mask > 0
        if not on.any():
            assert np.isnan(found).all()
            continue
        wanted = np.mean([by_definition(g, t, 255) for g, t in zip(guess[on], truth[on], strict=True)])
        errors = ((guess[on].astype(np.float64) - truth[on]) ** 2).mean((1, 2, 3))
        worst = np.maximum(worst, np.abs(np.array(found) - [wanted, (10 * np.log10(255**2 / errors)).mean()]))
    print("ssim {:.1e}, psnr {:.1e} dB".format(*worst))
    assert (worst < [2e-6, 2e-5]).all()


def test_dark_pictures_keep_their_digits():
    """Low contrast far from 0: E[x^2] - E[x]^2 in float32 would be off in the third digit."""
    rng = np.random.default_rng(0)
    truth = (230 + rng.normal(size=SHAPE)).astype(np.float32)
    guess = (truth + rng.normal(size=SHAPE) * 0.5).astype(np.float32)
    wanted = np.mean([by_definition(g, t, 10) for g, t in zip(guess, truth, strict=True)])
    assert jax.jit(metrics.ssim(10))(guess, {"label": truth}).compute() == pytest.approx(wanted, abs=2e-5)


def test_the_same_picture():
    x = jnp.asarray(images(1)[0])
    batch = {"image": x, "label": x * 0}
    assert jax.jit(metrics.ssim(255))(x, batch).compute() < 0.2
    assert jax.jit(metrics.ssim(255, key="image"))(x, batch).compute() == pytest.approx(1, abs=1e-6)
    assert jax.jit(metrics.psnr(255, key="image"))(x, batch).compute() == np.inf


def test_r2_of_labels_far_from_0():
    """Their squares in float32 would leave no digit; in parts they are exact to the bit."""
    rng = np.random.default_rng(0)
    label = (1e6 + rng.normal(size=400)).astype(np.float32)
    guess = (label + rng.normal(size=400)).astype(np.float32)
    r2 = jax.jit(lambda a, b, row_mask: metrics.r2(a[:, None], {"label": b, "row_mask": row_mask}))
    first = np.arange(400) < 100
    expected = r2_score(label.astype(np.float64), guess.astype(np.float64))
    whole = r2(guess, label, np.ones(400, bool))
    assert whole.compute() == pytest.approx(expected, rel=1e-6)
    parts = add(r2(guess, label, first), r2(guess, label, ~first))
    assert metrics.R2(whole.error, parts.digits, parts.weight).compute() == whole.compute()


def test_constant_labels_and_few_rows():
    r2 = jax.jit(metrics.r2)
    of = lambda outputs, label: r2(np.float32(outputs), {"label": np.float32(label)}).compute()
    assert of([0.1] * 3, [0.1] * 3) == 1 and of([1.1] * 3, [0.1] * 3) == 0
    assert np.isnan(of([1.0], [0.0]))
    assert (
        np.isnan(of([1, np.nan, 1], [0, 1, 2]))
        and np.isnan(of([1, 1, 1], [1, np.inf, 2]))
        and np.isnan(of([1, 1e20, 1], [1, 1e20, 2]))
    )
    nothing = {"label": jnp.ones(2), "row_mask": jnp.zeros(2)}
    assert np.isnan(jax.jit(metrics.rmse)(jnp.ones(2), nothing).compute()) and np.isnan(
        jax.jit(metrics.mae)(jnp.ones(2), nothing).compute()
    )


def test_dense_values_are_one_column():
    rng = np.random.default_rng(1)
    label, guess = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    batch = {"label": jnp.asarray(label), "row_mask": jnp.array([1.0, 0.0, 1.0])}
    error = (label - guess)[[0, 2]]
    run = jax.jit(lambda out, batch: [metric(out, batch) for metric in (metrics.rmse, metrics.mae, metrics.r2)])
    found = [s.compute() for s in jax.device_get(run(guess, batch))]
    expected = [
        np.sqrt((error**2).mean()),
        np.abs(error).mean(),
        r2_score(label[[0, 2]].ravel(), guess[[0, 2]].ravel()),
    ]
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.psnr(0), "data_range=0: must be positive"),
        (lambda: metrics.ssim(float("nan")), "data_range=nan"),
        (lambda: metrics.ssim(1)(jnp.ones((1, 10, 20, 1)), {"label": jnp.ones((1, 10, 20, 1))}), "at least 11 pixels"),
        (lambda: metrics.ssim(1)(jnp.ones((1, 20, 20)), {"label": jnp.ones((1, 20, 20))}), r"must be \[B, H, W, C\]"),
        (
            lambda: metrics.mae(jnp.ones((3, 2)), {"label": jnp.ones(3)}),
            r"outputs of shape \(3, 2\), 'label' of shape \(3,\)",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call()

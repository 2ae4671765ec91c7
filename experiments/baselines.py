"""Measures what networks must be better than: `python -m experiments.baselines membrane membrane.zip`, for example.

`membrane`: a threshold on gray values, and a random forest (Breiman, 2001) on the patch around each pixel. `roads`: a
random forest on the colour of each pixel, as red, green and blue and as hue, saturation and value, and on its row and
column. `sentiment`: logistic regression on frequencies of words and of pairs of words (tf-idf). Choices are made on
training and validation data.
"""

import dataclasses
import time
from typing import Any

import numpy as np
import tyro

import jaxcnn as jc
from experiments import command, membrane, roads, sentiment
from jaxcnn.core import files

SIGMAS = (0.0, 1.0, 2.0, 3.0)  # of the Gaussian before the threshold, in pixels
LEAST = 5  # training pixels of a leaf
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)  # C of logistic regression
ROWS = 2**16  # pixels that are predicted at a time


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure what a network must be better than."""

    name: tyro.conf.Positional[str] = ""
    """membrane, roads or sentiment."""
    data: tyro.conf.Positional[str] = ""
    """The archive, or the folder into which it was unpacked."""
    unpacked: str = ""
    """Folder into which the archive is unpacked; by default checkpoints/data/ and the experiment's name."""
    trees: int = 100
    """Number of trees in a forest."""
    pixels: int = 100_000
    """Number of training pixels that a forest sees."""
    patch: int = 15
    """Side of the patch around a pixel, for membrane."""
    seed: int = 0
    """Seed of the forest and of its training pixels."""


def threshold(splits: jc.data.Splits) -> dict[str, float]:
    """Measure the threshold, and the smoothing before it, that give membranes the highest IoU on training slices."""
    from scipy import ndimage

    def smooth(part: Any, sigma: float) -> np.ndarray:
        image = np.asarray(part.arrays["image"])[..., 0].astype(np.float32)
        return ndimage.gaussian_filter(image, (0, sigma, sigma)) if sigma else image

    truth, best = np.asarray(splits.train.arrays["mask"]) == 0, (-1.0, 0.0, 0.0)
    for sigma in SIGMAS:
        gray = smooth(splits.train, sigma)
        for level in np.quantile(gray, np.arange(0.02, 0.6, 0.02)):
            dark = gray < level
            best = max(best, (float((dark & truth).sum() / (dark | truth).sum()), sigma, float(level)))
    _, sigma, level = best
    # half at the threshold, and falling with the gray value
    valid, test = (0.5 + (level - smooth(part, sigma)) / 128 for part in splits[1:])
    masks = splits.valid.arrays["mask"], splits.test.arrays["mask"]
    return membrane.scores(valid, masks[0], test, masks[1]) | {"sigma": sigma, "level": level}


def membrane_forest(splits: jc.data.Splits, config: Config) -> dict[str, float]:
    """Measure a random forest on the patches around pixels."""
    rng, train = np.random.default_rng(config.seed), splits.train.arrays
    images, each = np.asarray(train["image"])[..., 0], config.pixels // len(train["image"])
    rows, labels = [], []
    for image, mask in zip(images, np.asarray(train["mask"]), strict=True):
        at = np.unravel_index(rng.integers(0, image.size, each), image.shape)
        rows.append(_windows(image, config.patch)[at].reshape(each, -1))
        labels.append(mask[at])
    forest = _fitted(np.concatenate(rows), np.concatenate(labels), config)
    dark = list(forest.classes_).index(0)

    def share(part: Any) -> np.ndarray:
        found = []
        for image in np.asarray(part.arrays["image"])[..., 0]:
            lines = _windows(image, config.patch)
            some = max(ROWS // image.shape[1], 1)
            parts = (lines[i : i + some].reshape(-1, config.patch**2) for i in range(0, len(image), some))
            found.append(np.concatenate([forest.predict_proba(x)[:, dark] for x in parts]).reshape(image.shape))
        return np.stack(found)

    valid, test = share(splits.valid), share(splits.test)
    return membrane.scores(valid, splits.valid.arrays["mask"], test, splits.test.arrays["mask"])


def _windows(image: np.ndarray, side: int) -> np.ndarray:
    """Return the patch around each pixel of `[H, W]`, as a view `[H, W, side, side]`; the border is mirrored."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(image, side // 2, "reflect"), (side, side))


def roads_forest(splits: jc.data.Splits, config: Config) -> dict[str, Any]:
    """Measure a random forest on the colours and the places of pixels."""
    rng, train = np.random.default_rng(config.seed), splits.train.arrays
    masks = np.asarray(train["mask"])
    known = np.flatnonzero(masks.ravel() != roads.VOID)
    at = np.unravel_index(rng.choice(known, min(config.pixels, len(known)), replace=False), masks.shape)
    forest = _fitted(_looks(np.asarray(train["image"])[at], *at[1:]), masks[at], config)
    test, found = np.asarray(splits.test.arrays["image"]), []
    row, column = (x.ravel() for x in np.indices(test.shape[1:3]))
    for image in test:
        found.append(forest.predict(_looks(image.reshape(-1, 3), row, column)).reshape(image.shape[:2]))
    return roads.scores(np.stack(found), splits.test.arrays["mask"])


def _looks(colours: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return what the forest sees of pixels `[N, 3]`, `[N, 8]`."""
    from matplotlib.colors import rgb_to_hsv

    share = colours.astype(np.float32) / 255
    return np.concatenate([share, rgb_to_hsv(share), np.stack([row, column], 1)], 1).astype(np.float32)


def _fitted(rows: np.ndarray, labels: np.ndarray, config: Config) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(config.trees, min_samples_leaf=LEAST, n_jobs=-1, random_state=config.seed)
    return forest.fit(rows, labels)


def tf_idf(data: tuple[list[str], np.ndarray], config: Config) -> dict[str, Any]:
    """Measure logistic regression on the frequencies of words and pairs of words, on each fold."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts, labels = np.array(data[0], object), data[1]
    found, strengths = [], []
    for fold in range(sentiment.FOLDS):
        part = sentiment.parts(labels, fold, 0.1)
        train, valid, test = (np.flatnonzero(part == name) for name in ("train", "valid", "test"))
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(texts[train])
        x = {name: words.transform(texts[at]) for name, at in (("train", train), ("valid", valid), ("test", test))}
        fits = [LogisticRegression(C=c, max_iter=2000).fit(x["train"], labels[train]) for c in STRENGTHS]
        best = max(range(len(fits)), key=lambda i: fits[i].score(x["valid"], labels[valid]))  # noqa: B023 (used at once)
        found.append(float(fits[best].score(x["test"], labels[test])))
        strengths.append(STRENGTHS[best])
    return {"accuracy": float(np.mean(found)), "deviation": float(np.std(found, ddof=1)), "c": strengths}


METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "membrane": (membrane, {"threshold": lambda splits, config: threshold(splits), "forest": membrane_forest}),
    "roads": (roads, {"forest": roads_forest}),
    "sentiment": (sentiment, {"tf-idf": tf_idf}),
}


def main(config: Config) -> dict[str, Any]:
    """Print one JSON line for each method."""
    if config.name not in METHODS:
        raise jc.InputError(f"NAME {config.name!r}: must be one of {', '.join(METHODS)}")
    if min(config.trees, config.pixels, config.patch) < 1 or config.patch % 2 == 0:
        raise jc.InputError("--trees, --pixels, --patch: must be at least 1, and the side of a patch odd")
    experiment, methods = METHODS[config.name]
    splits = experiment.load(experiment.Config(data=config.data, unpacked=config.unpacked))
    results = {}
    for name, method in methods.items():
        began = time.perf_counter()
        results[name] = method(splits, config) | {"seconds": round(time.perf_counter() - began, 1)}
        print(files.to_json({"experiment": config.name, "method": name} | results[name]), flush=True)
    return results


if __name__ == "__main__":
    command.run(main, Config, "baselines")

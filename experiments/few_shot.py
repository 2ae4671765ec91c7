"""Tells new characters apart after one example of each: `python -m experiments.few_shot images_background_small1.zip`.

Data: Omniglot's "background small 1" (Lake et al., 2015, doi:10.1126/science.aab3050): 136 characters of five
alphabets, each drawn by 20 people. The method is the prototypical network (Snell et al., 2017, arXiv:1703.05175): in
each episode, a query belongs to the character whose mean support vector is nearest. An episode of the test has five
characters of one alphabet, which is not seen in training, with one example each. `--test` names that alphabet, and the
one after it is for validation; `--refit` then trains on all alphabets but that of the test. In training, characters
that are turned by quarters count as further characters, as in the paper.
"""

import dataclasses
import pathlib
import re
from typing import Any

import numpy as np
import tyro

import jaxcnn as jc
from experiments import archives, cli, common, settings
from experiments.pixels import load as load_checkpoint
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.data.folder import read_image
from jaxcnn.runs.signals import Signals

FILE = re.compile(r"(?:.*/)?([A-Z]\w*/character\d\d/\d+_\d+\.png)")


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train or evaluate a network that tells characters apart after one example."""

    data: tyro.conf.Positional[str] = ""
    """The archive, or a folder ALPHABET/CHARACTER/IMAGE."""
    unpacked: str = ""
    """Folder into which the archive is unpacked; by default checkpoints/data/few_shot."""
    test: str = ""
    """Alphabet to test on; by default the first. The next one is for validation, the others for training."""
    side: int = 28
    """Side that images are resized to."""
    refit: bool = False
    """Train on the alphabet of validation too, with flags that were chosen with it, and test the last weights. The one
    validation, at the end, is then of characters that were learned."""
    width: int = 64
    """Channels of each of the four convolutions, and length of the vectors."""
    ways: int = 20
    """Characters in an episode of training; in validation and test there are five."""
    queries: int = 5
    """Queries per character in training; in validation and test there are fifteen."""
    one_alphabet: bool = True
    """Take the characters of an episode of training from one alphabet."""
    episodes: int = 600
    """Episodes of the test; validation has a third of them."""
    epochs: int = 20
    """Passes, of 100 episodes each."""
    learning_rate: float = 2e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 5e-2
    """Weight decay of kernels; biases and norm scales have none."""
    ema: float = 0.99
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""
    validations: int = 10
    """Number of validations in a run."""


PRESETS = {
    "smoke": {
        "epochs": 1, "max_steps": 2, "ways": 2, "queries": 1, "width": 4, "side": 16, "episodes": 4, "ema": 0.0,
        "validations": 1,
    }
}  # fmt: skip
PASS = 100  # episodes


def place(name: str) -> str | None:
    """Return where a file of the archive goes: `Greek/character01/0394_01.png` and so on."""
    found = FILE.fullmatch(name)
    return found[1] if found else None


def load(config: Config) -> dict[str, dict[str, np.ndarray]]:
    """Read the characters of each alphabet, white on black: `image`, `label` and `group`."""
    root, out = archives.folder_of("few_shot", config, place), {}
    alphabets = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    for number, alphabet in enumerate(alphabets):
        images, label = [], []
        for k, character in enumerate(sorted(p for p in alphabet.iterdir() if p.is_dir())):
            for path in sorted(character.glob("*.png")):
                images.append(255 - read_image(path, 1, (config.side, config.side)))
                label.append(1000 * number + k)
        if images:
            label = np.array(label)
            out[alphabet.name] = {"image": np.stack(images), "label": label, "group": label // 1000}
    if len(out) < 3:
        raise jc.InputError(f"{visible(root)}: has {len(out)} alphabets; needs three, to train, validate and test")
    return out


def turned(rows: dict[str, np.ndarray], one_alphabet: bool) -> dict[str, np.ndarray]:
    """Add each character turned by one, two and three quarters, as further characters of further alphabets."""
    image = np.concatenate([np.rot90(rows["image"], k, (1, 2)) for k in range(4)])
    label = np.concatenate([rows["label"] + 10**6 * k for k in range(4)])
    group = np.concatenate([rows["group"] + 1000 * k for k in range(4)])
    return {"image": image, "label": label, "group": group if one_alphabet else np.zeros_like(group)}


def splits(config: Config) -> jc.data.Splits:
    """Make the episodes of the three parts."""
    rows = load(config)
    names = list(rows)
    test = config.test or names[0]
    settings.one_of("--test", test, names)
    valid = names[(names.index(test) + 1) % len(names)]
    rest = [rows[name] for name in names if name != test and (config.refit or name != valid)]
    train = turned({key: np.concatenate([one[key] for one in rest]) for key in rest[0]}, config.one_alphabet)
    five = {"ways": 5, "shots": 1, "queries": 15}
    return jc.data.Splits(
        jc.data.Episodes(train, config.ways, 1, config.queries, PASS, config.seed),
        jc.data.Episodes(rows[valid], **five, episodes=max(config.episodes // 3, 1), seed=1),
        jc.data.Episodes(rows[test], **five, episodes=config.episodes, seed=2),
    )


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    settings.unused(config, "validation_fraction", instead="the data have fixed parts")
    rate, decay = jc.optim.check_rate(config.learning_rate), config.weight_decay
    if config.limit_examples:
        raise jc.InputError(f"--limit-examples {config.limit_examples}: episodes are drawn; give --episodes")
    if config.side < 16 or config.width < 2:
        raise jc.InputError(f"--side {config.side}, --width {config.width}: must be at least 16 and 2")
    parts = splits(config)
    stated = {"num_classes": config.width, "width": config.width, "depth": 4, "pools": 4, "batch_norm": True}
    options = {"loss": "prototypical", "unit": False, "classes": max(config.ways, 5)}
    build = {
        "model": common.model("plain", config, **stated), "task": {"name": "embedding", "options": options},
        "ema": config.ema, "image": {"shape": [config.side, config.side, 1], "dtype": "uint8"},
    }  # fmt: skip
    change = jc.augment.affine(degrees=12, scale=0.15, shear=0.2, shift=0.1)

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    def wrap(step):
        return jc.augmented(step, change)

    return runs.Plan(
        runs.build(build)[1], parts, optimizer, wrap=wrap, ema=config.ema, build=build, dataset="omniglot",
        validations=1 if config.refit else config.validations, best=not config.refit,
    )  # fmt: skip


def measure(loaded: runs.TrainedRun, data: jc.data.Episodes) -> dict[str, Any]:
    """Return the mean accuracy of the episodes, and its 95 % interval over episodes."""
    rows = jc.data.Resident({"image": data.held["image"]})
    vectors, each = runs.predict(loaded, rows), data.shots + data.queries
    shares = []
    for t in range(data.episodes):
        found = vectors[data.rows(t)].reshape(data.ways, each, -1)
        centres, queries = found[:, : data.shots].mean(1), found[:, data.shots :].reshape(data.ways * data.queries, -1)
        nearest = np.square(queries[:, None] - centres[None]).sum(-1).argmin(1)
        shares.append(float((nearest == np.repeat(np.arange(data.ways), data.queries)).mean()))
    error = 1.96 * float(np.std(shares, ddof=1)) / len(shares) ** 0.5 if len(shares) > 1 else float("nan")
    return {"accuracy": float(np.mean(shares)), "interval": error, "episodes": len(shares)}


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate or train, as the flags say; the accuracy of a new run goes into `RUN/few_shot.json`."""
    if config.predict:
        raise jc.InputError(
            "--predict: a network of few shots needs examples; compute vectors with jaxcnn.runs.predict, white on black"
        )
    if config.evaluate:
        folder = pathlib.Path(config.checkpoint)
        config, loaded = load_checkpoint("few_shot", config)
        saved, own = loaded.config["settings"], ("test", "side", "refit", "ways", "queries")
        config = dataclasses.replace(config, **{k: saved[k] for k in own if k in saved})  # older runs have fewer
        data = splits(config)
    else:
        episode = config.ways * (1 + config.queries)
        settings.unused(config, "batch_size", instead="use --ways and --queries", saved={"batch_size": episode})
        config = dataclasses.replace(config, batch_size=episode)
        made = plan(config)
        if not common.train("few_shot", config, made, signals, opened):  # another process has the results
            return None
        folder, data = opened[-1], made.data
        loaded = jc.load_run(folder)
    values = measure(loaded, data.test)
    values |= {} if config.refit else {"validation_accuracy": measure(loaded, data.valid)["accuracy"]}
    if not config.evaluate:
        files.write_json(folder / "few_shot.json", values)
    print(files.to_json(values), flush=True)
    return values


if __name__ == "__main__":
    cli.run(main, Config, "few_shot", PRESETS)

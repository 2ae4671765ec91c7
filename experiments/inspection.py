"""Finds images that differ from normal ones, of which alone it learns: `python -m experiments.inspection KIND DATA`.

`mednist`: one kind of MedNIST's images is normal, and all others are abnormal. A network learns by which quarter turn,
mirrored or not, an image was changed (Golan and El-Yaniv, 2018, arXiv:1805.10917), and the score is the distance of its
features to those of normal images. Without `--normal`, each kind is the normal one in turn.

`scratches`: photos of one class of CIFAR-10 are normal. Half of the test photos get a drawn scratch: a thin, curved,
bright or dark line of varying strength, one to two pixels wide. These scratches are made up. Training draws marks of
another rule into photos (`jaxcnn.methods.one_class.cut_paste`, after CutPaste, Li et al., 2021, arXiv:2104.04015):
strips at any angle, bent, up to three pixels wide, of even strength; seven in ten are brighter or darker than what was
there, the others hold another part of the photo. So it knows that defects are thin lines, but sees none of the test. A
U-Net learns to mark them, and its map shows where the defect is (`--predict`).

Measured is the area under the ROC curve on the test images, with an interval, and the shares of normal and of abnormal
images above a threshold that lets 5 % of the normal validation images pass it. MedNIST is no medical task here, and
this is no medical device.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import tyro

import jaxcnn as jc
from experiments import cli, common, defects, settings
from experiments.explain import draw
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.data.folder import read_image
from jaxcnn.methods import one_class
from jaxcnn.runs.signals import Signals

NAME, ALARMS = "inspection", 0.05


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a network that finds abnormal images."""

    kind: tyro.conf.Positional[str] = ""
    """mednist or scratches."""
    data: tyro.conf.Positional[str] = ""
    """The archive of MedNIST or of CIFAR-10 as images, or its unpacked folder."""
    normal: str = ""
    """The class whose images are normal; by default automobile for scratches, each class in turn for mednist."""
    unpacked: str = ""
    """Folder into which the archive is unpacked; by default in checkpoints/data/."""
    epochs: int = 60
    """Passes over the training rows."""
    batch_size: int = 32
    """Rows in one update, over all devices."""
    learning_rate: float = 2e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 1e-2
    """Weight decay of kernels; biases and norm scales have none."""
    ema: float = 0.99
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""
    widths: tuple[int, ...] = (16, 32, 64)
    """Channels of each level of the U-Net for scratches."""
    validations: int = 10
    """Number of validations in a run."""


PRESETS = {
    "smoke": {
        "epochs": 1, "max_steps": 2, "batch_size": 4, "limit_examples": 12, "widths": (4, 8), "ema": 0.0,
        "validations": 1,
    }
}  # fmt: skip


def plan(config: Config, rows: defects.Rows) -> runs.Plan:
    """Make the plan: a class per way of turning, or a class per pixel."""
    rate, decay, turns = jc.optim.check_rate(config.learning_rate), config.weight_decay, config.kind == "mednist"
    change = one_class.geometric() if turns else defects.pasted()
    clean = defects.clean(rows.train, turns)
    valid = defects.changed(rows.valid, change, 1)
    test = defects.changed(rows.test[~rows.abnormal], change, 2) if turns else defects.marked(rows)
    image, options = rows.train[:1], common.pixel_statistics(clean)
    model = common.model("cnn", config, num_classes=one_class.WAYS) if turns else None
    build = {
        "model": model or common.model("unet", config, num_classes=2, widths=list(config.widths)),
        "task": {"name": "classification" if turns else "segmentation", "options": options},
        "ema": config.ema,
        "image": {"shape": list(image.shape[1:]), "dtype": "uint8"},
    }
    build["task"]["options"] |= {"size": [32, 32]} if turns else {}

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    def wrap(step):
        return jc.augmented(step, change)

    return runs.Plan(
        runs.build(build)[1], jc.data.Splits(clean, valid, test), optimizer, wrap=wrap, ema=config.ema, build=build,
        dataset=f"{config.kind}_{config.normal}", monitor="loss", mode="min", validations=config.validations,
    )  # fmt: skip


def measure(config: Config, loaded: runs.TrainedRun, rows: defects.Rows) -> dict[str, Any]:
    """Measure how well the scores of a run tell abnormal test images from normal ones."""
    score = defects.scorer(config.kind, loaded, rows.train)
    threshold = one_class.alarm_threshold(score(rows.valid), ALARMS)
    found = score(rows.test)

    def roc_auc(scores: np.ndarray, labels: np.ndarray) -> float:
        return float(jc.metrics.roc_auc(scores, labels))

    area = jc.metrics.bootstrap_interval(roc_auc, found, rows.abnormal.astype(int), samples=500)
    alarms, hits = (float((found[rows.abnormal == x] > threshold).mean()) for x in (False, True))
    return {
        "kind": config.kind, "normal": config.normal, "auroc": area.value, "auroc_interval": [area.low, area.high],
        "threshold": threshold, "false_alarm_rate": alarms, "hit_rate": hits,
        "normal_images": int((~rows.abnormal).sum()), "abnormal_images": int(rows.abnormal.sum()),
    }  # fmt: skip


def show(config: Config, loaded: runs.TrainedRun, folder: pathlib.Path) -> None:
    """Print the score of each image of `--predict`, and draw where a scratch is into `RUN/predictions.png`."""
    saved, shape = files.read_json(folder / f"{NAME}.json"), loaded.config["build"]["image"]["shape"]
    images = np.stack([read_image(path, shape[-1], tuple(shape[:2])) for path in config.predict])
    train = defects.load(config).train if config.kind == "mednist" else None
    scores = defects.scorer(config.kind, loaded, train)(images)
    for path, score in zip(config.predict, scores, strict=True):
        line = {"image": path, "score": float(score), "abnormal": bool(score > saved["threshold"])}
        print(files.to_json(line), flush=True)
    if config.kind == "scratches":
        titles = [f"{score:.2f}, threshold {saved['threshold']:.2f}" for score in scores]
        draw(str(folder / "predictions.png"), images, titles, {"defect": defects.shares(loaded, images)})
        print(f"{folder / 'predictions.png'}", flush=True)


def one(config: Config, signals: Signals, opened: list[pathlib.Path]) -> dict[str, Any] | None:
    """Train and measure a run with one class as the normal one."""
    rows = defects.load(config)
    if not common.train(NAME, config, plan(config, rows), signals, opened):  # another process has the results
        return None
    values = measure(config, jc.load_run(opened[-1]), rows)
    files.write_json(opened[-1] / f"{NAME}.json", values)
    print(files.to_json(values), flush=True)
    return values


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say."""
    if config.evaluate or config.predict:
        loaded, folder = jc.load_run(config.checkpoint), pathlib.Path(config.checkpoint)
        if loaded.config["experiment"] != NAME:
            raise jc.InputError(
                f"--checkpoint {config.checkpoint}: a run of {loaded.config['experiment']}, not of {NAME}"
            )
        saved = loaded.config["settings"]
        places = {name: getattr(config, name) or saved[name] for name in ("kind", "data", "unpacked", "normal")}
        places |= settings.of_run(config, saved, "validation_fraction")
        config = dataclasses.replace(config, limit_examples=saved["limit_examples"], **places)
        if config.predict:
            return show(config, loaded, folder)
        values = measure(config, loaded, defects.load(config))
        print(files.to_json(values), flush=True)
        return values
    settings.one_of("KIND", config.kind, defects.KINDS)
    if config.kind == "scratches":
        settings.unused(config, "validation_fraction", instead="the data have fixed parts")
    if config.normal or config.kind == "scratches":
        return one(dataclasses.replace(config, normal=config.normal or "automobile"), signals, opened)
    if config.resume:
        raise jc.InputError("--resume: continues one run; give --workdir with the folder of one class, and --normal")
    found = []
    for name in defects.KINDS["mednist"]:
        place = str(pathlib.Path(config.workdir) / name)
        found.append(one(dataclasses.replace(config, normal=name, workdir=place), signals, opened))
    areas = [values["auroc"] for values in found if values]
    print(files.to_json({"kind": config.kind, "mean_auroc": float(np.mean(areas)), "classes": len(areas)}), flush=True)
    return found


if __name__ == "__main__":
    cli.run(main, Config, NAME, PRESETS)

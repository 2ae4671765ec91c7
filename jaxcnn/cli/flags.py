"""The flags of command lines, in groups that commands share, and which values they may have."""

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Any

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.parallel.compile import STRATEGIES

POSITIVE = ("batch_size", "eval_batch_size", "accumulate", "model_devices", "keep_best")
PRECISIONS = {"float32": {}, "bf16": {"dtype": "bfloat16"}}
NOT_NEGATIVE = (
    "epochs", "max_steps", "devices", "early_stopping", "limit_examples", "seed", "image_size", "processes", "checkpoint_seconds",
)  # fmt: skip
MOST = 2**31 - 1  # of a whole number: a step is an int32
# the largest value of a flag; of other whole numbers it is what an int32 holds
LARGEST = {
    "seed": 2**32 - 1,  # JAX reads no more bits of it
    "image_size": 8192, "devices": 2**20, "model_devices": 2**20, "processes": 2**20, "process_id": 2**20, "keep_best": 10_000,
    "seeds": 10_000, "widths": 65_536, "shift": 8192,
}  # fmt: skip
ON_NAN = ("stop", "skip", "rollback")
ON_BAD_EXAMPLE = ("stop", "skip")
RESIZE = ("squash", "crop", "pad")
AUGMENT = ("auto", "photos", "digits", "none")
NO_MEMORY_FLAG = -1.0
PLACE = {"coordinator", "processes", "process_id"}  # where a process is: each start of a run says it again
# what changes nothing in the result but for rounding: a flag beside --resume may change it
MAY_CHANGE = PLACE | {
    "strategy", "devices", "shard_parameters", "model_devices", "deterministic", "gpu_memory_fraction", "reuse_memory", "compilation_cache",
    "profile", "eval_batch_size", "workdir", "resume", "checkpoint", "evaluate", "predict", "data_dir", "checkpoint_seconds", "keep_best",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Length:
    """How long and in which batches to train."""

    epochs: int = 10
    """Passes over the training rows."""
    max_steps: int = 0
    """Stop after this number of updates, if that comes first; 0 for no limit."""
    batch_size: int = 128
    """Rows in one update, over all devices."""
    early_stopping: int = 0
    """Stop after this number of epochs without a better validation loss; 0 for never."""
    seed: int = 0
    """Of the parameters, the order of the rows, dropout and augmentation; splits do not depend on it."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which rows to train and measure on."""

    validation_fraction: float = 0.1
    """Share of the training rows to make choices on."""
    limit_examples: int = 0
    """Use at most this number of rows of each part; 0 for all."""
    on_bad_example: str = "stop"
    """What to do when an example cannot be read: stop, or skip it, count it in summary.json and list it in skipped.txt."""


@dataclasses.dataclass(frozen=True)
class Update:
    """How an update is computed."""

    precision: str = "float32"
    """What the network computes in: float32 or bf16 (bfloat16; parameters, statistics, losses and metrics stay float32)."""
    accumulate: int = 1
    """Compute the gradient of a batch in this number of parts, one after another, to save memory."""
    remat: bool = False
    """Recompute the stages' values in the backward pass instead of keeping them: less memory, more time."""
    gradient_norm: bool = True
    """Log the global norm of the gradient: one more pass over it, which a small network with small batches notices."""
    on_nan: str = "stop"
    """What to do when the loss is not a finite number: stop, skip (leave such batches out) or rollback (to the last checkpoint)."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """On which devices a step runs, and how."""

    eval_batch_size: int = 256
    """Rows at a time in evaluation, over all devices; changes speed, never the result."""
    strategy: str = "auto"
    """How a step is compiled: auto, jit, sharded, pmap or eager."""
    devices: int = 0
    """How many devices to use; 0 for all that JAX sees."""
    shard_parameters: bool = False
    """Divide parameters and optimiser state among the devices as well (FSDP), for models that do not fit on one."""
    model_devices: int = 1
    """How many devices share a row, each with a part of the output channels."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """What the process asks of its machine."""

    compilation_cache: str = ""
    """Folder where compiled programs are kept, so that the next run starts sooner; by default one of the user's, off for none."""
    deterministic: bool = False
    """On a GPU, only operations that give the same bits each time, at some cost; on a CPU it is always so."""
    gpu_memory_fraction: float = NO_MEMORY_FLAG
    """Share of a GPU's memory that JAX takes at once, in (0, 1]; 0 to take what is needed when it is; by default JAX's own, 0.75."""
    reuse_memory: bool = True
    """On a CPU with glibc, keep large buffers for their next use instead of giving them back to the system each time."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which process of several this is."""

    coordinator: str = ""
    """HOST:PORT of process 0, for a run of several processes; under SLURM, Open MPI, Kubernetes and on TPU pods not needed."""
    processes: int = 0
    """How many processes there are, with --coordinator."""
    process_id: int = -1
    """Which of them this is, from 0, with --coordinator."""


@dataclasses.dataclass(frozen=True)
class Saving:
    """Where a run goes, and how often it is saved."""

    workdir: str = ""
    """Where runs get their folders; by default checkpoints/ and the experiment's name."""
    checkpoint_seconds: float = 300.0
    """Save every N seconds, besides once per epoch; 0 for once per epoch only."""
    keep_best: int = 1
    """How many of the best checkpoints to keep, beside the newest two."""
    profile: str = ""
    """Folder for a trace of a few dispatches, for TensorBoard, XProf or Perfetto."""


@dataclasses.dataclass(frozen=True)
class Images:
    """How image files become rows."""

    data_dir: str = ""
    """Where TFDS sets are prepared; by default TFDS_DATA_DIR, else TFDS's own folder."""
    image_size: int = 0
    """Side that images are brought to; by default 128 for photos, small images as stored."""
    resize: str = "squash"
    """How: squash (both sides), crop (keep the shape, cut the middle out) or pad (keep the shape, black beside it)."""


@dataclasses.dataclass(frozen=True)
class Network:
    """Which network, and where it begins."""

    model: str = ""
    """A network of `jaxcnn models`; by default cnn up to 64 pixels a side, else resnet18."""
    weights: str = ""
    """Where to begin: imagenet, a file (.safetensors) or a run's folder; by default at random."""
    cifar_stem: bool = False
    """The network's form for images of about 32x32, if it has one."""
    dropout: float = 0.0
    """Share of units dropped before the last layer, in [0, 1)."""


@dataclasses.dataclass(frozen=True)
class Optimisation:
    """How the network learns."""

    learning_rate: float = 0.0
    """Highest value of the one-cycle schedule of AdamW; by default 4e-3 for cnn, else 1e-3."""
    lr_find: bool = False
    """Try rising learning rates first, draw the loss, and use a tenth of the rate where it is lowest."""
    weight_decay: float = 1e-2
    """On kernels only, never on biases and norm scales."""
    label_smoothing: float = 0.0
    """Share of the label spread over all classes, in [0, 1)."""
    class_weights: str = ""
    """Weights of the classes in the loss: balanced, or numbers w1,w2,... in order of class."""
    best: bool = False
    """Test the weights with the lowest validation loss instead of the last ones, which have seen the whole schedule."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images."""

    augment: str = "auto"
    """photos (mirror and move), digits (turn, scale, slant and move a little), none, or auto: by the images."""


def check_numbers(config: Any) -> None:
    """Refuse numbers that nothing can be computed with, in any field of a dataclass of flags.

    Raises:
        InputError: a float that is not finite, or a whole number that is too large.

    """
    for field in dataclasses.fields(config):
        value, flag = getattr(config, field.name), flag_of(field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"{flag} {number}: must be a finite number")
            most = LARGEST.get(field.name, MOST)
            if isinstance(number, int) and abs(number) > most:
                raise InputError(
                    f"{flag} {number}: must be at {f'most {most:,}' if number > 0 else f'least {-most:,}'}"
                )


def check(config: Any) -> None:
    """Refuse values of shared flags that no run can use, before anything is started; flags that a command lacks are left out.

    Raises:
        InputError: a number out of range or an unknown name; the message names the flag.

    """
    for field in dataclasses.fields(config):
        value, flag = getattr(config, field.name), flag_of(field.name)
        if field.name in POSITIVE and value is not None and value < 1:
            raise InputError(f"{flag} {value}: must be at least 1")
        if field.name in NOT_NEGATIVE and value is not None and value < 0:
            raise InputError(f"{flag} {value}: must be at least 0")
    check_numbers(config)
    has = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if not 0 < has.get("validation_fraction", 0.5) < 1:
        raise InputError(f"--validation-fraction {config.validation_fraction}: must be above 0 and below 1")
    known = {"strategy": STRATEGIES, "precision": PRECISIONS, "on_nan": ON_NAN, "on_bad_example": ON_BAD_EXAMPLE}
    known |= {
        name: values for name, values in (("resize", RESIZE), ("augment", AUGMENT)) if isinstance(has.get(name), str)
    }
    for name in known.keys() & has.keys():
        one_of(flag_of(name), has[name], known[name])
    share = has.get("gpu_memory_fraction", NO_MEMORY_FLAG)
    if share > 1 or share < 0 and share != NO_MEMORY_FLAG:
        raise InputError(f"--gpu-memory-fraction {share}: must be from 0 to 1")


def flag_of(field: str) -> str:
    """Return the flag of a field."""
    return "--" + field.replace("_", "-")


def one_of(flag: str, value: str, known: Iterable[str]) -> str:
    """Return the value, or name the nearest of those that are known.

    Args:
        flag: that has the value, for the message.
        value: what was given.
        known: what may be given.

    Raises:
        InputError: it is not known.

    """
    if value not in known:
        near = difflib.get_close_matches(value, known, 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"such as {sorted(known)[0]!r}"
        raise InputError(f"{flag} {visible(value)!r}: unknown; {hint}")
    return value

"""Flags of command lines, in groups that commands share, with their allowed values."""

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Annotated, Any

from jaxcnn.core.ranges import Choice, Range
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.parallel.compile import STRATEGIES

POSITIVE = ("batch_size", "eval_batch_size", "accumulate", "model_devices", "keep_best")
PRECISIONS = {"float32": {}, "bf16": {"dtype": "bfloat16"}}
NOT_NEGATIVE = (
    "epochs", "max_steps", "devices", "early_stopping", "limit_examples", "seed", "image_size", "processes",
    "checkpoint_seconds", "rate", "seconds", "depth", "width", "kernel_size",
)  # fmt: skip
FEW = 10  # choices that a message lists
MOST = 2**31 - 1  # steps are int32
# largest values of flags; others may be up to MOST
LARGEST = {
    "seed": 2**32 - 1,  # JAX reads no more bits of it
    "image_size": 8192, "devices": 2**20, "model_devices": 2**20, "processes": 2**20, "process_id": 2**20,
    "rate": 48_000, "keep_best": 10_000, "seeds": 10_000, "widths": 65_536, "shift": 8192,
    "depth": 512, "width": 65_536, "kernel_size": 255,
}  # fmt: skip
ON_NAN = ("stop", "skip", "rollback")
ON_BAD_EXAMPLE = ("stop", "skip")
RESIZE = ("squash", "crop", "pad")
TABLES = ("texts", "series")
AUGMENT = ("auto", "photos", "digits", "none")
NO_MEMORY_FLAG = -1.0
PLACE = {"coordinator", "processes", "process_id"}  # which process this is, given at each start of a run
# flags that change the result at most by rounding, so that they may change beside --resume
MAY_CHANGE = PLACE | {
    "strategy", "devices", "shard_parameters", "model_devices", "deterministic", "gpu_memory_fraction", "reuse_memory",
    "compilation_cache", "profile", "eval_batch_size", "workdir", "resume", "checkpoint", "evaluate", "predict",
    "data_dir", "checkpoint_seconds", "keep_best",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Length:
    """How long to train, and in which batches."""

    epochs: int = 10
    """Passes over the training rows."""
    max_steps: int = 0
    """Stop after N updates, if that comes first; 0 for no limit."""
    batch_size: int = 128
    """Rows in one update, over all devices."""
    early_stopping: int = 0
    """Stop after N epochs without a better validation loss, and take the best weights; 0 for never."""
    seed: int = 0
    """Seed of the parameters, the order of the rows, dropout and augmentation; splits do not depend on it."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which rows to train and measure on."""

    validation_fraction: float = 0.1
    """Share of the training rows that is held out for validation."""
    limit_examples: int = 0
    """Use at most N rows of each part; 0 for all."""
    on_bad_example: str = "stop"
    """What to do when an example cannot be read: stop, or skip it (counted in summary.json, listed in skipped.txt)."""


@dataclasses.dataclass(frozen=True)
class Update:
    """How an update is computed."""

    precision: Annotated[str, Choice(tuple(PRECISIONS))] = "float32"
    """What the network computes in: float32 or bf16 (bfloat16; parameters, statistics and losses stay float32)."""
    accumulate: int = 1
    """Compute the gradient of a batch in N parts, one after the other, to save memory."""
    remat: bool = False
    """Recompute the values of the stages in the backward pass instead of keeping them: less memory, more time."""
    gradient_norm: bool = True
    """Log the global norm of the gradient, at the cost of one more pass over it."""
    on_nan: str = "stop"
    """What to do if the loss is not finite: stop, skip (leave such batches out) or rollback (to a checkpoint)."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """On which devices a step runs, and how."""

    eval_batch_size: int = 256
    """Rows per batch in evaluation, over all devices; changes the speed, not the result."""
    strategy: str = "auto"
    """How a step is compiled: auto, jit, sharded, pmap or eager."""
    devices: int = 0
    """Number of devices to use; 0 for all that JAX sees."""
    shard_parameters: bool = False
    """Shard parameters and optimiser state over the devices too (FSDP), for models that do not fit on one device."""
    model_devices: int = 1
    """Number of devices that share a row, each with a part of the output channels."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """How the process uses its machine."""

    compilation_cache: str = ""
    """Folder for compiled programs, for a faster next start; by default the user's cache folder, off for none."""
    deterministic: bool = False
    """On a GPU, use only operations that give the same bits each time, at some cost; a CPU always does."""
    gpu_memory_fraction: float = NO_MEMORY_FLAG
    """Share of GPU memory that JAX reserves, in (0, 1]; 0 to allocate on demand; by default JAX's own, 0.75."""
    reuse_memory: bool = True
    """On a CPU with glibc, keep large buffers for reuse instead of returning them to the system each time."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which process of a multi-process run this is."""

    coordinator: str = ""
    """HOST:PORT of process 0, for a multi-process run; not needed under SLURM, Open MPI, Kubernetes and on TPU pods."""
    processes: int = 0
    """Number of processes, with --coordinator."""
    process_id: int = -1
    """Index of this process, from 0, with --coordinator."""


@dataclasses.dataclass(frozen=True)
class Saving:
    """Where a run is saved, and how often."""

    workdir: str = ""
    """Parent folder of the runs; by default checkpoints/ and the experiment's name."""
    checkpoint_seconds: float = 300.0
    """Save every N seconds, besides once per epoch; 0 for once per epoch only."""
    keep_best: int = 1
    """Number of best checkpoints to keep, besides the newest two."""
    profile: str = ""
    """Folder for a trace of a few dispatches, for TensorBoard, XProf or Perfetto."""


@dataclasses.dataclass(frozen=True)
class Images:
    """How image files become rows."""

    data_dir: str = ""
    """Where TFDS data sets are prepared; by default TFDS_DATA_DIR, else TFDS's own folder."""
    image_size: int = 0
    """Side to which images are resized; by default 128 for photos, while small images keep theirs."""
    resize: str = ""
    """How to resize: squash (the default), crop (cut out the middle) or pad (add black; the default for boxes)."""


@dataclasses.dataclass(frozen=True)
class Texts:
    """How texts become rows."""

    text_column: str = ""
    """Column of the texts in a .csv; by default text, or of two columns the one with more different values."""
    label_column: str = ""
    """Column of their classes, or of those of series (also first or last); by default label, or the other one."""
    table: str = ""
    """What the rows of a .csv are, texts or series, if its columns do not tell."""
    unit: str = "words"
    """What a text is divided into: words or bytes."""
    vectors: str = ""
    """File of trained vectors of words (.txt, .vec or .npz) to begin with; by default random ones."""


@dataclasses.dataclass(frozen=True)
class Sounds:
    """How sound files become rows."""

    rate: int = 0
    """Samples per second to which sounds are resampled; by default the most frequent rate, at most 16,000."""
    seconds: float = 0.0
    """Length of the rows, which longer sounds are cut to; by default that of nearly all sounds, at most 10."""


# kinds of rows to which flags of `Texts` and `Sounds` apply
APPLIES = {
    "text_column": ("texts",), "label_column": ("texts", "series"), "table": ("texts", "series"), "unit": ("texts",),
    "vectors": ("texts",), "rate": ("sounds",), "seconds": ("sounds",),
}  # fmt: skip


def refuse_others(config: Any, kind: str) -> None:
    """Refuse flags that apply to other kinds of rows.

    Args:
        config: flags of the groups `Texts` and `Sounds`.
        kind: `"texts"`, `"sounds"`, `"series"` or another source of rows.

    Raises:
        InputError: a flag is given that does not apply.

    """
    usual = {field.name: field.default for group in (Texts, Sounds) for field in dataclasses.fields(group)}
    for name, kinds in APPLIES.items():
        if kind not in kinds and getattr(config, name) != usual[name]:
            flag, value = flag_of(name), getattr(config, name)
            raise InputError(f"{flag} {value}: applies to {' and '.join(kinds)}; leave it out")


@dataclasses.dataclass(frozen=True)
class Network:
    """Which network to train, and from which weights."""

    model: str = ""
    """A network of `jaxcnn models`; by default cnn up to 64 pixels a side, else resnet18; text_cnn for texts,
    sound_cnn for sounds (or wave_cnn), inception_time for series (or series_resnet)."""
    weights: str = ""
    """Initial weights: imagenet, a file (.safetensors) or the folder of a run; by default random."""
    cifar_stem: bool = False
    """The network's variant for images of about 32x32, if it has one."""
    dropout: Annotated[float, Range(0.0, 0.6)] = 0.0
    """Share of units dropped before the last layer, in [0, 1)."""
    depth: Annotated[int, Range(1, 6)] = 0
    """Number of convolutions, for --model plain; by default the network's own."""
    width: Annotated[int, Range(8, 64, 8)] = 0
    """Channels of the convolutions, for plain, cell and others; by default the network's own."""
    kernel_size: Annotated[int, Choice((3, 5, 7))] = 0
    """Side of the kernels, for plain; by default the network's own."""
    operations: tuple[str, ...] = ()
    """Operations on the six edges of --model cell: zero, skip, conv1, conv3 or pool; by default the network's own."""


@dataclasses.dataclass(frozen=True)
class Optimisation:
    """How the network learns."""

    learning_rate: Annotated[float, Range(1e-4, 3e-2)] = 0.0
    """Peak of the one-cycle schedule of AdamW; by default 1e-3, for small networks up to 4e-3."""
    lr_find: bool = False
    """First try rising learning rates, draw the loss, and use a tenth of the rate where it is lowest."""
    momentum: Annotated[float, Range(0.8, 0.98)] = 0.9
    """Decay of the mean of the gradients in AdamW, in [0, 1)."""
    weight_decay: Annotated[float, Range(1e-4, 0.3)] = 1e-2
    """Weight decay of kernels; biases and norm scales have none."""
    label_smoothing: Annotated[float, Range(0.0, 0.2)] = 0.0
    """Share of the label spread over all classes, in [0, 1)."""
    ema: Annotated[float, Choice((0.0, 0.9, 0.99, 0.999))] = 0.0
    """Decay of the average of the weights that is validated and tested, in [0, 1); 0 uses the weights themselves."""
    class_weights: Annotated[str, Choice(("", "balanced"))] = ""
    """Weights of the classes in the loss: balanced, or numbers w1,w2,... in order of class."""
    best: bool = False
    """Test the weights with the lowest validation loss instead of the last ones, which have seen the whole schedule."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are augmented."""

    augment: Annotated[str, Choice(AUGMENT[1:])] = "auto"
    """photos (flip and move), digits (rotate, scale, shear and move a little), none, or auto: chosen by the images;
    sounds then change in speed, time, noise and loudness, and parts of their spectrograms are masked."""


def check_numbers(config: Any) -> None:
    """Refuse numbers that cannot be used, in any field of a dataclass of flags.

    Raises:
        InputError: a float is not finite, or an integer is too large.

    """
    for field in dataclasses.fields(config):
        value, flag = getattr(config, field.name), flag_of(field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"{flag} {number}: must be a finite number")
            most = LARGEST.get(field.name, MOST)
            if isinstance(number, int) and abs(number) > most:
                bound = f"most {most:,}" if number > 0 else f"least {-most:,}"
                raise InputError(f"{flag} {number}: must be at {bound}")


def check(config: Any) -> None:
    """Refuse invalid values of shared flags before anything starts; a command need not have all flags.

    Raises:
        InputError: a number is out of range or a name is unknown; the message names the flag.

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
    for name, values in (("resize", RESIZE), ("augment", AUGMENT)):
        if isinstance(has.get(name), str) and (has[name] or name == "augment"):
            known[name] = values
    if has.get("table"):
        known["table"] = TABLES
    for name in known.keys() & has.keys():
        one_of(flag_of(name), has[name], known[name])
    share = has.get("gpu_memory_fraction", NO_MEMORY_FLAG)
    if share > 1 or share < 0 and share != NO_MEMORY_FLAG:
        raise InputError(f"--gpu-memory-fraction {share}: must be from 0 to 1")


def flag_of(field: str) -> str:
    """Return the name of the flag for a field."""
    return "--" + field.replace("_", "-")


def one_of(flag: str, value: str, known: Iterable[str]) -> str:
    """Return the value if it is known.

    Args:
        flag: name of the flag, for the message.
        value: value of the flag.
        known: values that are allowed.

    Raises:
        InputError: the value is unknown; the message names the nearest known one, or all if they are few.

    """
    known = list(known)
    if value not in known:
        near = difflib.get_close_matches(value, known, 1, 0.4)
        hint = f"must be one of {', '.join(known)}" if len(known) <= FEW else f"such as {sorted(known)[0]!r}"
        hint = f"did you mean {near[0]!r}?" if near else hint
        raise InputError(f"{flag} {visible(value)!r}: unknown; {hint}")
    return value

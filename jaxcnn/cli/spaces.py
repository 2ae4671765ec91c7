"""The search space of `jaxcnn tune`: which flags it may search, from their types, and what a user states of them."""

import dataclasses
from typing import Any

from jaxcnn.cli import flags, inputs, recipe, weights
from jaxcnn.cli.train import Train
from jaxcnn.core.types import InputError

CELL = "cell"
DEFAULTS = ("learning_rate", *weights.SHAPE)  # flags of which 0 is not a value
# flags that change how a run is computed or reported, but not what is learned
NOT_LEARNED = flags.MAY_CHANGE | {"smoke", "lr_find", "gradient_norm", "best", "remat"}


def names(config: Any) -> list[str]:
    """Return the fields that `--search` names, without what is stated of their values."""
    return [one.partition("=")[0].replace("-", "_") for one in config.search]


def searchable() -> dict[str, Any]:
    """Return Optuna's distributions of all flags of `jaxcnn train` that can be searched."""
    from jaxcnn.tune import space

    return {name: one for name, one in space.derived(Train).items() if name not in NOT_LEARNED}


def space_of(config: Any, kind: str = "") -> dict[str, Any]:
    """Return Optuna's distributions of the settings to search for.

    Args:
        config: the flags.
        kind: what the rows are, once they are read.

    Raises:
        InputError: an unknown setting, one that has a fixed value too, a network that does not have it, or Optuna is
            not installed.

    """
    from jaxcnn.tune import space as spaces

    known, found = searchable(), {}
    if kind in inputs.KINDS or kind == "volumes":  # these are augmented in one way
        known["augment"] = spaces.stated(Train, "augment", "auto,none")
    for one in config.search:
        name, stated, values = one.partition("=")
        name = name.replace("-", "_")
        if name == CELL:
            raise InputError(f"--search {' '.join(config.search)}: cell is searched alone; leave the others out")
        if name in {field.name for field in dataclasses.fields(config)} - known.keys():
            raise InputError(f"--search {name}: has no values to search; choose from {', '.join(sorted(known))}")
        flags.one_of("--search", name, known)
        if name in found:
            raise InputError(f"--search {name}: is there twice; leave one out")
        if (given := _given(config, name)) is not None:
            raise InputError(f"--search {name}: {flags.flag_of(name)} {given} fixes it; leave one of them out")
        found[name] = known[name]
        if stated and not values:
            raise InputError(f"--search {one}: has no values; give {name}=low:high or {name}=a,b,c, or {name} alone")
        if values:
            try:
                found[name] = spaces.stated(Train, name, values)
            except InputError as error:
                raise InputError(f"--search {error}") from None
    if config.models:
        from optuna.distributions import CategoricalDistribution

        if config.model:
            raise InputError(f"--models: --model {config.model} fixes the network; leave one of them out")
        for name in config.models:
            recipe.check(dataclasses.replace(config, model=name))
        found["model"] = CategoricalDistribution(tuple(dict.fromkeys(config.models)))
    if not found:
        raise InputError("--search: name at least one setting, or give --models")
    network = [name for name in ("model", *weights.SHAPE, "cifar_stem") if name in found]
    if config.weights and network:
        flag = "--models" if network[0] == "model" else f"--search {network[0]}"
        raise InputError(f"--weights {config.weights}: fixes the network of every trial; leave out it, or {flag}")
    _check_ends(config, found)
    return found


def _given(config: Any, name: str) -> Any:
    """Return the value of a flag that is not its default; None for the default."""
    value = getattr(config, name)
    usual = 16 if config.smoke and name == "batch_size" else None  # what --smoke sets itself
    return None if value in (getattr(Train, name), usual) else value


def _check_ends(config: Any, found: dict[str, Any]) -> None:
    """Refuse values that no network or flag takes, before any data is read."""
    for name, one in found.items():
        if name in DEFAULTS and 0 in (getattr(one, "choices", None) or (one.low, one.high)):
            raise InputError(f"--search {name}: 0 stands for the default; give values above 0")
        for value in getattr(one, "choices", None) or (one.low, one.high):
            changed = dataclasses.replace(config, **{name: value})
            flags.check(changed)
            recipe.check(changed)
    for model in config.models or (config.model,):
        for name in (*weights.SHAPE, "cifar_stem"):
            if name in found and not (model and _has(model, name)):
                fix = "--models" if config.models else "--model"
                raise InputError(
                    f"--search {name}: {fix} {model or '(none)'} does not have it; give --model {_of(name)}"
                )


def _has(model: str, option: str) -> bool:
    return weights.takes(model, option) or hasattr(weights.NETWORKS[model](), "cifar_stem") and option == "cifar_stem"


def _of(option: str) -> str:
    """Return a network that has an option."""
    return "resnet18" if option == "cifar_stem" else "plain"

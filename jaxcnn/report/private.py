"""What the report of a private run leaves out: its seed, with which the batches and the noise could be drawn again."""

import re
from typing import Any

HIDDEN = "kept secret"
SEED = re.compile(r"(--seed[ =])\S+")


def without_seed(config: dict[str, Any], summary: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Hide the seed of a run that was trained with differential privacy, and note what the guarantee covers.

    Args:
        config: content of the run's `config.json`.
        summary: content of its `summary.json`.

    Returns:
        Both, changed if the run is private, and notes for the report.

    """
    if not summary.get("private"):
        return config, summary, []
    config = config | {
        "command": SEED.sub(rf"\1'{HIDDEN}'", config.get("command", "")),
        "settings": config["settings"] | {"seed": HIDDEN},
    }
    train = summary.get("train")
    spent = train.get("epsilon") if isinstance(train, dict) else None
    known = f"epsilon {spent:.2f} was spent" if isinstance(spent, float) else "no epsilon was logged"
    note = (
        f"The run is differentially private, and {known}. The guarantee holds while the seed is secret, so this report "
        "leaves it out; the folder of the run has it and is not to be published. It covers the parameters, not the "
        "figures of training and validation rows."
    )
    return config, summary | {"seed": HIDDEN}, [note]

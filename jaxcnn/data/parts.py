"""What the parts of a data set have in common, and should not."""

import logging

from jaxcnn.data.core import Resident, Splits

log = logging.getLogger("jaxcnn")


def tell_copies(splits: Splits, name: str) -> None:
    """Say in one line how many rows to measure on are also rows to learn from, value for value, where they are in memory."""
    if not all(isinstance(part, Resident) for part in splits):
        return
    known = {hash(row.tobytes()) for row in splits.train.arrays["image"]}
    found = {part: sum(hash(row.tobytes()) in known for row in getattr(splits, part).arrays["image"]) for part in ("test", "valid")}
    told = [
        f"{count} of {getattr(splits, part).size} {what}"
        for (part, count), what in zip(found.items(), ("test", "validation"), strict=True)
        if count
    ]
    if told:
        log.warning("%s: %s images are among the training images too, pixel for pixel", name, " and ".join(told))

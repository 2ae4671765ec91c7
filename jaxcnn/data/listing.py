"""Listing of an image folder: its parts, classes and image files, and what is left out."""

import collections
import logging
import os
import pathlib
import stat
import unicodedata
from collections.abc import Collection, Sequence
from typing import NamedTuple

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.data.image_file import ENDINGS
from jaxcnn.data.sound_file import ENDINGS as SOUNDS

TRAIN, VALID, TEST = ("train",), ("valid", "validation", "val"), ("test",)  # in upper or lower case
# files and folders that operating systems and programs create, besides names that start with a dot
HIDDEN = {
    "__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "#recycle", "@recycle",
    "$recycle.bin", "recycler", "system volume information", "lost+found",
}  # fmt: skip
LISTED = 8  # most kinds of left-out files in a message
log = logging.getLogger("jaxcnn")
Id = tuple[int, int]  # device and inode, which identify a file under any name


class Kind(NamedTuple):
    """The files that are listed: their endings, and what one of them is called."""

    endings: Collection[str]
    name: str


IMAGES = Kind(ENDINGS, "image")
MEDIA = {"image": ENDINGS, "sound": SOUNDS}  # kinds that no class holds together


def parts(path: pathlib.Path, left: collections.Counter[str], kind: Kind = IMAGES) -> dict[str, pathlib.Path]:
    """Find the folders of the parts; `train` is always among them.

    Args:
        path: the folder.
        left: counter of left-out files and folders, which is updated.
        kind: the files that are listed.

    Returns:
        Dict from `train`, `test` and `valid` to the folder of the part.

    Raises:
        InputError: The folder does not exist, has parts without `train`, or has two folders for one part.

    """
    if not path.is_dir():
        raise InputError(f"{visible(path)}: {'not a' if path.exists() else 'no such'} folder")
    names, found = _folders(path), {}
    for part, known in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        mine = [name for name in names if name.lower() in known]
        if len(mine) > 1:
            raise InputError(
                f"{visible(path)}: {' and '.join(mine)} name one part; rename one of them, or move it elsewhere"
            )
        if mine:
            found[part] = path / mine[0]
    if "train" not in found and found:
        beside = visible(next(iter(found.values())))
        raise InputError(
            f"{beside}: no train/ beside it; needs train/<class>/<{kind.name}>, or <class>/<{kind.name}> alone"
        )
    if not found:
        return {"train": path}
    _count_beside(path, left, kind)
    others = [visible(name) for name in names if path / name not in found.values()]
    if others:
        shown = ", ".join(others[:LISTED]) + " ..." * (len(others) > LISTED)
        left[f"folder(s) beside {found['train'].name}/ ({shown})"] += len(others)
    if "test" not in found and "valid" in found:
        found["test"] = found.pop("valid")
    return {part: found[part] for part in ("train", "test", "valid") if part in found}


def tell_parts(path: pathlib.Path, found: dict[str, pathlib.Path]) -> None:
    """Log which folder is the test part if that is not obvious, and which parts are split from the training rows.

    Args:
        path: the image folder.
        found: dict from part to folder, from `parts`.

    """
    train = "the class folders" if found["train"] == path else f"{visible(found['train'].name)}/"
    if "test" in found and found["test"].name.lower() in VALID:
        line = f"{visible(found['test'].name)}/ is the test part, because there is no test/"
        log.warning("%s: %s; validation rows are cut from %s", visible(path), line, train)
    elif "test" not in found:
        log.info("%s: test rows, then validation rows are cut from %s", visible(path), train)
    elif "valid" not in found:
        log.info("%s: validation rows are cut from %s", visible(path), train)


def classes(root: pathlib.Path, wanted: Sequence[str] | None, kind: Kind = IMAGES) -> tuple[str, ...]:
    """Return the names of the class folders of a part.

    Args:
        root: folder of the part.
        wanted: only these classes, in this order; None for all, sorted.
        kind: the files that are listed.

    Raises:
        InputError: There are fewer than two classes, or a wanted class has no folder.

    """
    found = _folders(root)
    if not found:
        raise InputError(f"{visible(root)}: no class folders; needs <class>/<{kind.name}> inside")
    names = found if wanted is None else tuple(wanted)
    known = f"{', '.join(map(visible, found[:10]))}{' ...' if len(found) > 10 else ''}"
    unknown = [n for n in names if n not in found]
    if unknown:
        raise InputError(f"{visible(root)}: no class folder {visible(unknown[0])!r}; it has {known}")
    if len(set(names)) < max(len(names), 2):
        chosen = ", ".join(map(visible, names)) or "none"
        raise InputError(f"{visible(root)}: classes {chosen}; needs at least two class folders, each once")
    alike = collections.defaultdict(list)
    for name in names:
        alike[unicodedata.normalize("NFC", name).casefold()].append(visible(name))
    for same in alike.values():
        if len(same) > 1:
            line = f"class folders {' and '.join(same)} differ only in case or spelling, and are separate classes"
            log.warning("%s: %s", visible(root), line)
    return names


def check_counterparts(found: dict[str, pathlib.Path]) -> None:
    """Refuse a class folder in another part that the training part does not have.

    Raises:
        InputError: There is such a folder.

    """
    known = set(_folders(found["train"]))
    for root in found.values():
        extra = [name for name in _folders(root) if name not in known]
        if extra:
            where = visible(found["train"])
            line = f"class folder {visible(extra[0])!r} has no counterpart in {where}"
            raise InputError(f"{visible(root)}: {line}; remove or rename it")


def images(
    root: pathlib.Path,
    names: Sequence[str],
    above: Sequence[pathlib.Path],
    left: collections.Counter[str],
    kind: Kind = IMAGES,
) -> dict[pathlib.Path, int]:
    """List the files of a part in order, with their labels; links are followed, and each file is listed once.

    Args:
        root: folder of the part.
        names: class names in order of label.
        above: folders that are not entered again through links, and neither are the folders above them.
        left: counter of left-out files by extension, which is updated.
        kind: the files that are listed.

    Returns:
        Dict from file to label.

    Raises:
        InputError: A class has no images, a file is in two classes, or images and sounds are in one set.

    """
    inside: collections.Counter[str] = collections.Counter()
    _count_beside(root, left, kind)
    kept = {_id(os.stat(p)) for folder in above for p in (folder.resolve(), *folder.resolve().parents)}
    listed, owner, nested = {}, {}, []
    for k, name in enumerate(names):
        mine = _walk(root / name, kept, inside, kind)
        if not mine:
            raise InputError(
                f"{visible(root / name)}: no {kind.name}s ({' '.join(sorted(kind.endings))}); "
                "add some, or leave the class out with classes="
            )
        for real, file in mine.items():
            if real in owner:
                raise InputError(
                    f"{visible(owner[real])} and {visible(file)} are the same file, in two classes; remove one of them"
                )
        owner |= mine
        listed |= dict.fromkeys(sorted(mine.values()), k)
        nested.append({file.relative_to(root / name).parts[0] for file in mine.values() if file.parent != root / name})
        if any(file.parent == root / name for file in mine.values()):
            nested[-1] = set()
    left.update(inside)
    _refuse_mixture(root, inside, kind)
    both = set.intersection(*nested)
    if both:
        log.warning(
            "%s: the %ss of every class lie in folders of the same names (%s): they count as the classes %s",
            visible(root),
            kind.name,
            ", ".join(map(visible, sorted(both)[:LISTED])),
            ", ".join(map(visible, names[:LISTED])),
        )
    return listed


def _refuse_mixture(root: pathlib.Path, inside: collections.Counter[str], kind: Kind) -> None:
    """Refuse sounds in classes of images, and images in classes of sounds."""
    for other, endings in MEDIA.items():
        count = sum(n for ending, n in inside.items() if ending in endings)
        if count and kind.name in MEDIA and other != kind.name:
            raise InputError(
                f"{visible(root)}: its classes have {kind.name}s and {count:,} {other}s; move one kind into a folder "
                "of its own"
            )


def tell_left_out(path: pathlib.Path, left: collections.Counter[str]) -> None:
    """Log the left-out files in one line.

    Args:
        path: the image folder.
        left: counter of left-out files and folders.

    """
    if left:
        kinds = sorted(left.items(), key=lambda kind: (-kind[1], kind[0]))
        some = ", ".join(f"{count} {kind}" for kind, count in kinds[:LISTED])
        more = f", {sum(count for _, count in kinds[LISTED:])} of other kinds" if len(kinds) > LISTED else ""
        log.warning("%s: left out: %s%s", visible(path), some, more)


def _walk(top: pathlib.Path, above: set[Id], left: collections.Counter[str], kind: Kind) -> dict[Id, pathlib.Path]:
    """List the files of a kind below a class folder; for a file with several names, the first that is not a link."""
    found: dict[Id, pathlib.Path] = {}
    seen, folders, links = set(above), [top] if top.is_dir() else [], []
    while folders or links:
        here = folders.pop() if folders else links.pop()
        real = _id(os.stat(here))
        if real in seen:
            left["link(s) to folders that hold them or are read already"] += 1
            continue
        seen.add(real)
        for entry in sorted(entries_of(here), key=lambda e: (e.is_symlink(), e.name)):
            file = here / entry.name
            try:
                about = os.stat(file)
            except OSError:
                left["broken link(s)" if entry.is_symlink() else "unreadable"] += 1
                continue
            if stat.S_ISDIR(about.st_mode):
                (links if entry.is_symlink() else folders).append(file)
            elif not stat.S_ISREG(about.st_mode):
                left["pipe(s), socket(s) or device(s)"] += 1
            elif file.suffix.lower() not in kind.endings:
                left[ending_of(file)] += 1
            elif found.setdefault(_id(about), file) != file:
                left[f"further name(s) of {kind.name}s that are read"] += 1
    return found


def entries_of(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, without hidden files and folders."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not _hidden(entry.name)]
    except OSError as error:
        raise InputError(
            f"{visible(folder)}: cannot be read ({visible(reason(error))}); change its permissions, or remove it"
        ) from error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in HIDDEN


def _folders(root: pathlib.Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in entries_of(root) if entry.is_dir()))


def _count_beside(root: pathlib.Path, left: collections.Counter[str], kind: Kind) -> None:
    """Count the files beside the folders of classes or parts."""
    for entry in entries_of(root):
        if not entry.is_dir():
            known = pathlib.PurePath(entry.name).suffix.lower() in kind.endings
            left[f"{kind.name}(s) beside the class folders" if known else ending_of(pathlib.PurePath(entry.name))] += 1


def ending_of(file: pathlib.PurePath) -> str:
    """Return the ending of a file as messages name it."""
    ending = file.suffix.lower()
    if len(ending) > 12:
        return "with a long ending"
    return visible(ending) if len(ending) > 1 else "without an ending"


def _id(about: os.stat_result) -> Id:
    return about.st_dev, about.st_ino

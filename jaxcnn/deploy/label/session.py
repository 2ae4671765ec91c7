"""What the page of `jaxcnn label` works on: images, their order, the labels so far, and how labels renew the order."""

import dataclasses
import logging
import pathlib
import secrets
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.deploy.embed import images_in
from jaxcnn.deploy.label import labels as kept
from jaxcnn.deploy.label.order import BY_RUN, SCORES, Order, check_run, ordered
from jaxcnn.deploy.label.renewal import decided, renewed
from jaxcnn.deploy.serving.counts import Counts, counts
from jaxcnn.runs import load_run

log = logging.getLogger("jaxcnn")
MOST_CLASSES = 1000
BLOCK = 10  # images of a block that differ from each other, without renewal


class Done(NamedTuple):
    """A label or a skip: by which page, of which image, and the label and who gave it, before and after."""

    page: str
    number: int
    before: tuple[str, str] | None
    after: tuple[str, str] | None


class Options(NamedTuple):
    """How images are ordered, and what a run may answer; see `label`."""

    run: str = ""
    order: str = "auto"
    seed: int = 0
    renew: int = 0
    diverse: bool = False
    reject: float | None = None

    @property
    def different(self) -> int:
        """Images of a block that are chosen to differ; 0 for none."""
        return (self.renew or BLOCK) if self.diverse else 0


@dataclasses.dataclass
class Session:
    """What the handlers share.

    Attributes:
        images: files of the images.
        names: their names in the CSV file.
        order: in which they are shown.
        shares: probability of each class for each image by the run, in the order of `classes`; None without a run.
        classes: names of the classes, in the order of their keys.
        labels: the labels so far.
        options: how images are ordered.
        token: that a request must carry.
        counts: the metrics.
        skipped: numbers of images that were skipped; they are shown again after a restart.
        done: what was labelled or skipped, the latest last.
        shown: numbers of the images that pages show, by page.
        given: labels since the order was renewed.
        renewed: how often it was.

    """

    images: list[pathlib.Path]
    names: list[str]
    order: Order
    shares: np.ndarray | None
    classes: list[str]
    labels: kept.Labels
    options: Options
    token: str
    counts: Counts
    skipped: set[int] = dataclasses.field(default_factory=set)
    done: list[Done] = dataclasses.field(default_factory=list)
    shown: dict[str, int] = dataclasses.field(default_factory=dict)
    given: int = 0
    renewed: int = 0

    @property
    def labelled(self) -> int:
        """Images that people have labelled."""
        return sum(map(self.labels.person, self.names))

    @property
    def answered(self) -> int:
        """Images that keep the answer of the run."""
        return sum(name in self.labels.model for name in self.names)

    def at(self, number: int) -> tuple[str, str] | None:
        """Return the label of an image and who gave it."""
        name = self.names[number]
        if name not in self.labels.rows:
            return None
        return self.labels.rows[name], kept.MODEL if name in self.labels.model else kept.PERSON

    def next(self, page: str = "") -> int | None:
        """Return the image to show: the first without a label, then those that keep the answer of the run.

        Images that other pages show come last: those pages may be closed.
        """
        free = [i for i in self.order.rows.tolist() if i not in self.skipped and not self.labels.person(self.names[i])]
        elsewhere = {number for other, number in self.shown.items() if other != page}
        return min(free, key=lambda i: (i in elsewhere, self.names[i] in self.labels.rows), default=None)

    def latest(self, page: str) -> Done | None:
        """Return what a page did last."""
        return next((one for one in reversed(self.done) if one.page == page), None)

    def refresh(self) -> None:
        """Read the labels again if another program has changed the file; earlier labels can then no longer be undone.

        Raises:
            InputError: the file cannot be used any more.

        """
        found = kept.current(self.labels)
        if (found.rows, found.model) == (self.labels.rows, self.labels.model):
            self.labels = found
            return
        self.classes = listed(self.classes, found)
        self.labels = found
        log.warning("%s was changed by another program; its labels are read again", visible(found.path))
        self.done.clear()


def listed(classes: Sequence[str], labels: kept.Labels) -> list[str]:
    """Return the classes to show: those that are given, and then those of the labels.

    Raises:
        InputError: there are too many, or some are numbers and others are not.

    """
    every = list(dict.fromkeys([*classes, *labels.rows.values()]))
    kept.check_kind(every)
    if len(every) > MOST_CLASSES:
        raise InputError(f"--classes: {len(every)} classes; at most {MOST_CLASSES} can be shown")
    return every


def check(options: Options) -> None:
    """Refuse options that do not go together.

    Raises:
        InputError: one is out of range, or needs another.

    """
    run, order, seed, renew, diverse, reject = options
    if seed < 0:
        raise InputError(f"--seed {seed}: must be at least 0")
    if renew < 0:
        raise InputError(f"--renew {renew}: must be at least 1 label, or 0 for never")
    if reject is not None and not 0 <= reject <= 1:
        raise InputError(f"--reject {reject}: must be from 0 to 1, the highest share of wrong answers")
    needs = {f"--renew {renew}": renew, "--diverse": diverse, f"--reject {reject}": reject is not None}
    for flag, given in needs.items():
        if given and not run:
            raise InputError(f"{flag}: needs the features or predictions of a run; give --run RUN")
    for flag, given, allowed in ((f"--renew {renew}", renew, tuple(SCORES)), ("--diverse", diverse, BY_RUN)):
        if given and order not in ("auto", *allowed):
            raise InputError(f"{flag}: goes with --order {', '.join(allowed)}, not with {order}")


def begin(
    folder: str, path: pathlib.Path, *, classes: Sequence[str] = (), run: str = "", order: str = "auto",
    seed: int = 0, renew: int = 0, diverse: bool = False, reject: float | None = None, token: str = "",
    before: Callable[[], None] | None = None,
) -> Session:  # fmt: skip
    """Read the images, the labels and the run, decide the order, and write what the run answers.

    Arguments are those of `label`.

    Raises:
        InputError: see `label`.

    """
    options = Options(run, order, seed, renew, diverse, reject)
    check(options)
    if isinstance(classes, str):
        raise InputError(f"classes={classes!r}: must be a list of names, such as [{classes!r}]")
    known = kept.read(path)
    images, names, left = kept.names_in(path, images_in(folder))
    if left:
        log.warning("%d images are left out: their names do not fit into a CSV file; rename them", left)
    if before is not None:
        before()
    loaded, own = None, ()
    if run:
        loaded = load_run(run)
        own = tuple(map(kept.checked_class, check_run(loaded, run)))
    given = [*map(kept.checked_class, classes), *own]
    listed(given, known)
    taken = [i for i, name in enumerate(names) if known.person(name)]
    found = ordered(images, taken, order, loaded, seed, log.warning, different=options.different, embed=renew > 0)
    if reject is not None:
        known = _answered(loaded, found, names, own, known, reject)
    shares, every = None, listed(given, known)
    if found.shares is not None:  # in the order of the classes that are listed
        shares = np.zeros((len(images), len(every)), np.float32)
        shares[:, [every.index(name) for name in own]] = found.shares
        found = found._replace(shares=shares)
    made = Session(images, names, found, shares, every, known, options, token or secrets.token_urlsafe(24), counts())
    if renew and taken:
        renew_order(made)
    return made


def _answered(
    loaded: Any, found: Order, names: Sequence[str], own: Sequence[str], known: kept.Labels, risk: float
) -> kept.Labels:
    """Write the answers that the run may give, and return the labels with them."""
    assert found.shares is not None
    made = decided(loaded, found.shares, found.bad, risk)
    log.info("%s", made.line)
    best = found.shares.argmax(-1)
    answers = {names[int(i)]: own[int(best[i])] for i in made.rows}
    asked = [name for i, name in enumerate(names) if i not in found.bad]
    known = kept.current(known)  # the file may have changed while the run predicted
    changed = kept.answered(known, answers, asked)
    if changed != known:
        try:
            return kept.write(changed)
        except OSError as error:
            raise InputError(f"--output {visible(known.path)}: cannot be written ({error.strerror})") from error
    return changed


def renew_order(session: Session) -> None:
    """Update the order of the images from the labels so far; if that fails, the order stays as it was."""
    session.given = 0
    if session.shares is None:
        return
    number = {name: i for i, name in enumerate(session.classes)}
    labels = session.labels
    given = {
        i: number[labels.rows[name]]
        for i, name in enumerate(session.names)
        if labels.person(name) and i not in session.order.bad
    }
    more = len(session.classes) - session.shares.shape[1]  # classes that people have added
    shares = np.pad(session.shares, ((0, 0), (0, more)))
    try:
        found = renewed(session.order, shares, given, session.options.different)
    except InputError as error:
        log.warning("the order was not renewed: %s", error)
        return
    session.renewed += found is not session.order
    session.order = found

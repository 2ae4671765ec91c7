"""Episodes of few-shot learning: each batch shows a few classes, some rows of each as support and some as queries."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxcnn.core.types import Batch, InputError, check_whole
from jaxcnn.data.order import ALL, Shard, batches_in_chunk, columns, padded, stack
from jaxcnn.parallel.compile import StackedChunk

Tree = Any


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Batches that are episodes (Vinyals et al., 2016, arXiv:1606.04080): episode t depends on `seed` and t alone.

    A batch has `ways * (shots + queries)` rows: the arrays of the rows, `"label"` int32 from 0 to `ways` - 1 within the
    episode, and `"support"`, 1 for the first `shots` rows of each class. Evaluation visits the episodes 0 to
    `episodes` - 1, one per batch, whatever its batch size.

    Attributes:
        held: dict from name to array `[N, ...]`, with `"label"`, the class of each row, and optionally `"group"`:
            the classes of an episode are then all of one group, such as the alphabet of a character.
        ways: classes per episode, at least 2.
        shots: support rows per class, at least 1.
        queries: query rows per class, at least 1.
        episodes: episodes in one pass, and in an evaluation.
        seed: seed of the episodes.
        capacity: most episodes in one chunk.
        classes: names of the classes; they are not used.

    Raises:
        InputError: a number is out of range, a class has too few rows, or no group has enough classes.

    """

    held: Mapping[str, np.ndarray]
    ways: int = 5
    shots: int = 1
    queries: int = 5
    episodes: int = 100
    seed: int = 0
    capacity: int = 16
    classes: tuple[str, ...] = ()
    _groups: list[list[np.ndarray]] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the numbers, and find the rows of each class by group."""
        for name, least in (("ways", 2), ("shots", 1), ("queries", 1), ("episodes", 1), ("seed", 0), ("capacity", 1)):
            check_whole(name, getattr(self, name), least)
        if "label" not in self.held or len({len(x) for x in self.held.values()}) != 1:
            raise InputError(f"arrays of {', '.join(sorted(self.held))}: must include 'label', and be of one length")
        label, each = np.asarray(self.held["label"]), self.shots + self.queries
        group = np.asarray(self.held.get("group", np.zeros(len(label), int)))
        groups: dict[Any, list[np.ndarray]] = {}
        for k in np.unique(label):
            rows = np.flatnonzero(label == k)
            if len(rows) < each:
                raise InputError(f"class {k}: has {len(rows)} rows, and an episode needs {each}; leave the class out")
            if len(np.unique(group[rows])) > 1:
                raise InputError(f"class {k}: is in more than one group; number the classes of each group differently")
            groups.setdefault(group[rows[0]].item(), []).append(rows)
        large = [rows for _, rows in sorted(groups.items()) if len(rows) >= self.ways]
        if not large:
            most = max(map(len, groups.values()), default=0)
            raise InputError(f"ways={self.ways}: no group has more than {most} classes; give fewer")
        object.__setattr__(self, "_groups", large)

    @property
    def width(self) -> int:
        """Rows of an episode, which is the batch size."""
        return self.ways * (self.shots + self.queries)

    @property
    def size(self) -> int:
        """Rows in one pass."""
        return self.episodes * self.width

    def rows(self, t: int) -> np.ndarray:
        """Return the row numbers of episode `t`, `[ways * (shots + queries)]`, class by class, support first."""
        rng, each = np.random.default_rng([self.seed, t]), self.shots + self.queries
        group = self._groups[rng.integers(len(self._groups))]
        chosen = rng.permutation(len(group))[: self.ways]
        return np.concatenate([rng.permutation(group[k])[:each] for k in chosen])

    def example(self) -> Batch:
        """Return the first row of the first episode."""
        return {name: x[:1] for name, x in self._read(np.zeros(1, np.int64)).items()}

    def put(self, move: Callable[[Tree], Tree]) -> "Episodes":
        """Return itself: nothing stays on the device."""
        del move
        return self

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> StackedChunk:
        """Return training episodes `start` to `start + count`, see `Data.chunk`.

        Raises:
            InputError: the batch size is not that of an episode.

        """
        if batch_size != self.width:
            raise InputError(f"batch_size={batch_size}: an episode has {self.width} rows; give that")
        return self._stacked(np.arange(start, start + count), capacity, multiple, shard)

    def once(self, batch_size: int, multiple: int = 1, shard: Shard = ALL) -> Iterator[StackedChunk]:
        """Yield the episodes 0 to `episodes` - 1, one per batch, see `Data.once`."""
        del batch_size
        room = batches_in_chunk(self.capacity, np.empty((self.episodes, self.width)))
        for k in range(0, self.episodes, room):
            yield self._stacked(np.arange(k, min(k + room, self.episodes)), room, multiple, shard)

    def _stacked(self, numbers: np.ndarray, capacity: int, multiple: int, shard: Shard) -> StackedChunk:
        index = np.array([self.rows(int(t)) for t in numbers]).reshape(-1, self.width)
        index, row_mask = padded(index, multiple)
        place = np.broadcast_to(np.arange(index.shape[1]) % self.width, index.shape)
        index, place = columns(index, shard), columns(place, shard)
        row_mask = None if row_mask is None else columns(row_mask, shard)
        return stack(self._read(index.reshape(-1), place.reshape(-1)), index, row_mask, capacity)

    def _read(self, index: np.ndarray, place: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return rows by number, with label and support by their place in the episode."""
        place = np.zeros_like(index) if place is None else place
        each = self.shots + self.queries
        rows = jax.tree.map(lambda x: np.asarray(x)[index], {k: v for k, v in self.held.items() if k != "group"})
        return {
            **rows, "label": (place // each).astype(np.int32),
            "support": (place % each < self.shots).astype(np.float32),
        }  # fmt: skip

"""Rows that belong to clients, for federated learning: batches of whole clients, and partitions of rows."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.core.types import InputError, check_numbers, check_whole
from jaxcnn.data import Resident
from jaxcnn.data.order import ALL, Shard, checked_rows, fill
from jaxcnn.methods import private
from jaxcnn.methods.federated import CLIENT, NUMBER, ROOM
from jaxcnn.parallel.compile import IndexedChunk


@dataclasses.dataclass(frozen=True)
class Clients(Resident):
    """Rows in memory that belong to clients. A batch has the rows of `batch_size` clients, drawn without repetition.

    With `poisson`, each client is in each batch with the same probability instead, `batch_size` over the number of
    clients, whatever the others do, as the privacy of clients needs.

    Each client has room for `room` rows in a batch; the rest is padding with `row_mask = 0`. The column `"client"` has
    the number of each row's client, or -1, `"client_room"` the room, and `"client_count"` the number of clients.
    Evaluation reads every row once, whosever it is.

    Attributes:
        parts: the numbers of the rows of each client; made by `clients`.
        poisson: whether clients are drawn by Poisson sampling.

    """

    parts: tuple[np.ndarray, ...] = ()
    poisson: bool = False

    @property
    def drawn(self) -> tuple[Any, ...]:
        """How clients are drawn, which a run is recognised by."""
        return (self.poisson,)

    def take(self, index: np.ndarray) -> "Clients":
        """Return these rows, each with its client; clients without any of them are left out.

        Raises:
            InputError: no row belongs to a client.

        """
        some = super().take(index)
        owner = np.asarray(some.arrays[CLIENT])
        parts = [np.flatnonzero(owner == who) for who in np.unique(owner[owner >= 0])]
        return clients(some, parts, poisson=self.poisson)

    def rows_of_update(self, batch_size: int) -> float:
        """Return how many rows the clients of a batch have on average."""
        return batch_size * sum(map(len, self.parts)) / len(self.parts)

    @property
    def room(self) -> int:
        """The number of rows of the largest client."""
        return max(len(part) for part in self.parts)

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> IndexedChunk:
        """Return the batches of the rounds `start` to `start + count`, see `Data.chunk`; `batch_size` counts clients.

        Raises:
            InputError: there are not that many clients, or Poisson sampling needs every one or more than there is room
                for (once in 10^14 batches).

        """
        del shard
        if batch_size > len(self.parts) - self.poisson:
            most = len(self.parts) - self.poisson
            raise InputError(f"batch_size={batch_size}: there are {len(self.parts)} clients; give at most {most}")
        room = self.room
        width = private.room(batch_size, len(self.parts)) if self.poisson else batch_size
        index = np.zeros((count, width, room), np.int64)
        inside = np.zeros((count, width, room), np.float32)
        for i in range(count):
            draws = np.random.default_rng([self.seed, start + i, 0xFED])
            n = draws.binomial(len(self.parts), batch_size / len(self.parts)) if self.poisson else batch_size
            if n > width:
                raise InputError(f"batch_size={batch_size}: round {start + i} has {n} clients; use a new seed")
            for j, who in enumerate(draws.permutation(len(self.parts))[:n]):
                index[i, j, : len(self.parts[who])], inside[i, j, : len(self.parts[who])] = self.parts[who], 1
        more = -width % multiple  # whole clients of padding, so that devices share them evenly
        index, inside = (np.pad(x, ((0, 0), (0, more), (0, 0))).reshape(count, -1) for x in (index, inside))
        arrays = private.marked(self, batch_size) if self.poisson else dict(self.arrays)
        return IndexedChunk(arrays, fill(index.astype(np.int32), capacity), fill(inside, capacity), np.int32(count))


def clients(data: Resident, parts: Sequence[Any], *, poisson: bool = False) -> Clients:
    """Give the rows of a data set to clients.

    Args:
        data: a data set in memory.
        parts: the numbers of the rows of each client, such as `shards` returns; no row twice.
        poisson: draw the clients of a batch by Poisson sampling, see `Clients`.

    Raises:
        InputError: a client has no rows, a row does not exist, or it belongs to two clients.

    """
    parts = tuple(checked_rows(part, data.size, "parts") for part in parts)
    if not parts or not all(len(part) for part in parts):
        raise InputError("parts: every client needs the numbers of at least one row")
    every = np.concatenate(parts)
    if len(np.unique(every)) < len(every):
        raise InputError("parts: a row belongs to two clients; each may have one")
    fields: dict[str, Any] = {f.name: getattr(data, f.name) for f in dataclasses.fields(Resident)}
    number = np.full(data.size, -1, np.int32)
    for who, part in enumerate(parts):
        number[part] = who
    room = np.full(data.size, max(len(part) for part in parts), np.int32)
    fields["arrays"] = {**data.arrays, CLIENT: number, ROOM: room, NUMBER: np.full(data.size, len(parts), np.int32)}
    return Clients(**fields, parts=parts, poisson=poisson)


def iid(size: int, count: int, *, seed: int = 0) -> list[np.ndarray]:
    """Divide `size` rows at random into `count` parts of equal size, within one row.

    Raises:
        InputError: there are more clients than rows, or none.

    """
    _check_count(size, count)
    check_whole("seed", seed, 0)
    return np.array_split(np.random.default_rng(seed).permutation(size), count)


def shards(label: Any, count: int, *, each: int = 2, seed: int = 0) -> list[np.ndarray]:
    """Sort rows by label, cut them into `count * each` equal pieces, and give each client `each` of them at random.

    With 2 pieces, most clients have rows of two classes (McMahan et al., 2016).

    Args:
        label: int `[N]`.
        count: number of clients.
        each: pieces of a client.
        seed: of the draw.

    Raises:
        InputError: there are more pieces than rows, or none, or the labels are not one per row.

    """
    label = _column(label)
    check_whole("count", count, 1)
    check_whole("each", each, 1)
    check_whole("seed", seed, 0)
    if count * each > len(label):
        raise InputError(f"count={count}, each={each}: cut {count * each} pieces from {len(label)} rows; give fewer")
    pieces = np.array_split(np.argsort(label, kind="stable"), count * each)
    order = np.random.default_rng(seed).permutation(len(pieces)).reshape(count, each)
    return [np.concatenate([pieces[i] for i in own]) for own in order]


def dirichlet(label: Any, count: int, alpha: float, *, seed: int = 0) -> list[np.ndarray]:
    """Divide the rows of each class over clients in shares from a Dirichlet distribution.

    Clients get different numbers of rows. Hsu et al. (2019, arXiv:1909.06335) draw a mix of classes for each client, of
    the same size, so that the same `alpha` means something else there.

    Args:
        label: int `[N]`.
        count: number of clients. Those that get no row get one from the client with the most.
        alpha: concentration, positive: small for clients with few classes, large for equal shares.
        seed: of the draw.

    Raises:
        InputError: there are more clients than rows, `alpha` is not positive, or the labels are not one per row.

    Reference: Yurochkin et al., 2019, arXiv:1905.12022.

    """
    label = _column(label)
    _check_count(len(label), count)
    check_whole("seed", seed, 0)
    draws = np.random.default_rng(seed)
    check_numbers(alpha=alpha)
    if not 0 < alpha < math.inf:
        raise InputError(f"alpha={alpha}: must be positive")
    parts: list[list[int]] = [[] for _ in range(count)]
    for one in np.unique(label):
        found = draws.permutation(np.flatnonzero(label == one))
        ends = np.cumsum(draws.dirichlet(np.full(count, alpha)))[:-1]
        for part, more in zip(parts, np.split(found, (ends * len(found)).astype(int)), strict=True):
            part.extend(more.tolist())
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return [np.array(part) for part in parts]


def by_group(group: Any) -> list[np.ndarray]:
    """Make one client of each value of a column `[N]`, such as the writer or the speaker.

    Raises:
        InputError: the values are not one per row.

    """
    group = _column(group, "group")
    return [np.flatnonzero(group == value) for value in np.unique(group)]


def _column(values: Any, name: str = "label") -> np.ndarray:
    """Return one value per row; refuse other shapes, and missing values, whose rows would belong to no client."""
    column = np.asarray(values)
    if column.ndim != 1:
        raise InputError(f"{name} of shape {column.shape}: must be [N], one value per row")
    if column.dtype == object and any(value is None for value in column) or (column != column).any():
        raise InputError(f"{name}: a value is missing; leave out its row, or give it a value")
    if column.dtype == object and len({isinstance(value, str) for value in column}) > 1:
        raise InputError(f"{name}: has texts beside other values; give all rows the same kind")
    return column


def _check_count(size: int, count: int) -> None:
    check_whole("count", count)
    if not 1 <= count <= size:
        raise InputError(f"count={count}: must be from 1 to the {size} rows")

"""How long a folio is away from its process, in closed form.

Folio i of a batch of K is unmapped.  It waits until all folios after it are unmapped, then
for the flush, then until those before it and itself have been moved:

    away(i) = unmap * (K - i + 1) + flush + move * i

A thread that touches it in the worst moment stalls that long.  Costs per folio are the
call's means; a serial release is K = 1 with its flush as part of unmapping.  Folios that
are refused and tried again are away for longer.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Int64

UNMAP: Final = (
    "alloc",
    "lock",
    "walk",
    "clear",
    "defer",
)  # places of machines/terms.py
FLUSH: Final = ("flush", "engine")  # once for each batch, of which every folio waits
MOVE: Final = ("copy", "switch", "cached", "drain", "remap")
GROUPS: Final = (UNMAP, FLUSH, MOVE)
POINTS: Final = 4096  # the most folios of a batch that are computed
CELLS: Final = 1 << 20  # machines times folios, at a time
SHARES: Final = {"p50": 0.5, "p99": 0.99}


@dataclasses.dataclass(frozen=True)
class AwayTimes:
    """ns within which half of the folios, 99 of 100, and all are mapped again.

    `first` is from the call's beginning to its first folio mapped again.
    """

    p50: int
    p99: int
    most: int
    first: int


def away(places: Mapping[str, int], folios: int, batches: int, limit: int) -> AwayTimes:
    """How long the folios of a call are away.

    Args:
      places: modelled ns of the whole call by place in the code.
      folios: that were moved.
      batches: 0 for a serial release.
      limit: folios of a full batch; the last one may be smaller.
    Returns:
      Times in ns.
    """
    if folios == 0:
        return AwayTimes(0, 0, 0, 0)
    unmap, move = (sum(places.get(p, 0) for p in ps) / folios for ps in (UNMAP, MOVE))
    flush = sum(places.get(p, 0) for p in FLUSH) / max(batches, 1)
    call = places.get("call", 0)
    if not batches:
        once = round(unmap + move)
        return AwayTimes(once, once, once, call + once)
    times, weights = _times(unmap, flush, move, folios, limit)
    return AwayTimes(
        int(quantile(times, weights, 0.5)),
        int(quantile(times, weights, 0.99)),
        round(times.max()),
        round(call + unmap * min(limit, folios) + flush + move),
    )


def on_each(
    places: Mapping[str, np.ndarray], point: str, folios: int, batches: int, limit: int
) -> Int64[np.ndarray, " machines"]:
    """`away` on many machines: the p50, p99 or most of each.

    Args:
      places: modelled ns of the whole call by place, an element for each machine.
      point: an attribute of `AwayTimes`.
      folios, batches, limit: as for `away`.
    """
    machines = next(iter(places.values())).size
    if folios == 0:
        return np.zeros(machines, np.int64)
    whole = [sum(places.get(p, 0) for p in names) for names in GROUPS]
    parts = (folios, max(batches, 1), folios)
    each = [
        np.broadcast_to(ns, machines) / n for ns, n in zip(whole, parts, strict=True)
    ]
    if not batches:
        return np.rint(each[0] + each[2]).astype(np.int64)
    found = np.zeros(machines, np.int64)
    step = max(1, CELLS // max(1, min(limit, folios, 2 * POINTS)))
    for k in range(0, machines, step):
        unmap, flush, move = (ns[k : k + step, None] for ns in each)
        times, weights = _times(unmap, flush, move, folios, limit)
        if point == "most":
            found[k : k + step] = np.rint(times.max(axis=-1))
        else:
            found[k : k + step] = quantile(times, weights, SHARES[point])
    return found


def folios_a_batch(limit: int, folios: int, pages: int) -> int:
    """Folios of a full batch, if all have the mean size.

    Args:
      limit: base pages at which a batch is closed; 0 for none.
      folios, pages: that were moved, folios and base pages.
    """
    if not limit or pages <= limit:
        return max(folios, 1)
    return max(1, -(-limit * folios // pages))


def _times(
    unmap: Any, flush: Any, move: Any, folios: int, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Times of folios of a batched call, and how many folios each stands for.

    Args:
      unmap, flush, move: ns, numbers or columns with a row for each machine.
    Returns:
      float64[points] or [machines, points]; float64[points].
    """
    full, rest = divmod(folios, max(limit, 1))
    parts = [_batch(unmap, flush, move, limit, full)] if full else []
    parts += [_batch(unmap, flush, move, rest, 1)] if rest else []
    times, weights = zip(*parts, strict=True)
    return np.concatenate(times, axis=-1), np.concatenate(weights)


def _batch(
    unmap: Any, flush: Any, move: Any, size: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same of `count` equal batches."""
    i = np.arange(1, size + 1)
    if size > POINTS:
        # Times grow evenly along the batch: evenly spaced folios stand for all.
        i = np.linspace(1, size, POINTS)
    times = unmap * (size - i + 1) + flush + move * i
    return times, np.full(i.size, count * size / i.size)


def quantile(
    times: Sequence[float] | np.ndarray, weights: np.ndarray, share: float
) -> Int64[np.ndarray, "*machines"]:
    """The least time, whole ns, that this share of the weights does not exceed.

    Args:
      times: float64[..., points].
      weights: float64[points].
    """
    times = np.asarray(times)
    order = np.argsort(times, axis=-1, kind="stable")
    reached = np.cumsum(weights[order], axis=-1)
    below = reached < share * reached[..., -1:] * (1 - 1e-12)
    at = np.minimum(below.sum(axis=-1, keepdims=True), times.shape[-1] - 1)
    found = np.take_along_axis(np.take_along_axis(times, order, -1), at, -1)
    return np.rint(found[..., 0]).astype(np.int64)

"""The calls of a scenario together: the sums of those of one kind, kernel by kernel."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from jaxmig.report.tables import table
from jaxmig.report.units import count, duration

HEADERS: Final = (
    *("calls together", "kernel", "pages moved", "pages failed", "flush requests"),
    *("IPIs", "modelled time", "longest stall"),
)


def together(
    kinds: Sequence[str],
    records: Sequence[Mapping[str, Any]],
    fmt: str = "simple",
    width: int | None = None,
) -> list[str]:
    """A table with a row for each kind of call that was made twice or more on a kernel.

    Args:
      kinds: of each call, in words.
      records: of all calls on all kernels.
      fmt, width: as for `table`.
    Returns:
      The table, or nothing if no call was made twice.
    """
    alike: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for kind, r in zip(kinds, records, strict=True):
        alike.setdefault((kind, r["kernel"]), []).append(r)
    rows = [
        [f"{len(some)} x {name}", kernel, *_cells(some)]
        for (name, kernel), some in alike.items()
        if len(some) > 1
    ]
    return [table(HEADERS, rows, fmt, width, (0, 1))] if rows else []


def _cells(records: Sequence[Mapping[str, Any]]) -> list[str]:
    names = ("pgmigrate_success", "pgmigrate_fail", "nr_tlb_remote_flush")
    return [
        *(count(sum(r["vmstat"][name] for r in records)) for name in names),
        count(sum(sum(r["ipis_per_cpu"]) for r in records)),
        duration(sum(r["time_ns"]["total"] for r in records)),
        duration(max(r["stall_ns"]["max"] for r in records)),
    ]

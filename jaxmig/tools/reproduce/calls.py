"""move_pages() by folio size and copy engine: one call, priced.

Source: Shivank Garg, RFC V3, 2025; Zi Yan, RFC, 2019.
"""

from collections.abc import Iterator
from typing import Final

from jaxmig.programs.workloads.migspeed import call_ns
from jaxmig.state.machine import PAGE_BYTES
from jaxmig.time import cost, machines
from jaxmig.time.machines import Profile
from jaxmig.tools.reproduce import published
from jaxmig.tools.reproduce.row import Row, inputs_of

GIB_PAGES: Final = (1 << 30) // PAGE_BYTES


def _gbs(
    profile: Profile, order: int, folios: int, copy: str, policy: cost.Policy
) -> float:
    bytes_ = (folios << order) * PAGE_BYTES
    return bytes_ / call_ns(profile, order, folios, copy, policy)


CALL_KEYS: Final = (
    *("cost.alloc", "cost.bookkeeping", "cost.walk", "cost.remap", "cost.switch"),
    *("cost.copy_4k", "cost.copy_2m", "cost.local_page", "cost.local_full"),
)


def garg() -> Iterator[Row]:
    """move_pages() of 1 GB on Zen 3, by folio size and copy engine."""
    p = machines.load("zen3-2s")
    inputs = inputs_of(p, *CALL_KEYS)
    base = published.GARG["cpu"]
    for engine, figures in published.GARG.items():
        for order, figure in figures.items():
            cpu = engine == "cpu"
            small = order not in (0, 9)
            yield Row(
                "garg-move_pages",
                f"move_pages of 1 GB in {4 << order} KiB folios, copy by {engine}",
                None if cpu else base[order],
                figure,
                None if cpu else 100 * (figure / base[order] - 1),
                None if cpu else _gbs(p, order, GIB_PAGES >> order, "cpu", "batched"),
                _gbs(p, order, GIB_PAGES >> order, engine, "batched"),
                "GB/s",
                "6.18",
                (*inputs, f"copy engine {engine}"),
                published.GARG_SOURCE,
                # The copies, and the speed-ups of engines, are from this table itself.
                fitted_before=not cpu,
                fitted_after=True,
                cause=published.GARG_CAUSE if small or order == 0 else "",
                extra={"folio_kib": 4 << order, "engine": engine},
            )


def garg_few() -> Iterator[Row]:
    """The same of 1 to 512 folios of 2 MiB, from the costs of the table of 1 GB."""
    p = machines.load("zen3-2s")
    for case in published.GARG_FEW:
        yield Row(
            "garg-move_pages-few",
            case.what,
            None,
            case.gbs,
            None,
            None,
            _gbs(p, case.order, case.folios, case.copy, "batched"),
            "GB/s",
            "6.18",
            (*inputs_of(p, *CALL_KEYS), f"copy engine {case.copy}"),
            published.GARG_SOURCE,
            cause=published.ZIYAN_CAUSE if case.folios == 1 else "",
        )


def garg_later() -> Iterator[Row]:
    """The same for later versions of the series and other kernels, from V3's costs."""
    p = machines.load("zen3-2s")
    inputs = inputs_of(p, *CALL_KEYS)
    for version, table in published.GARG_LATER.items():
        base = table.figures["cpu"]
        for engine, figures in table.figures.items():
            for order, figure in figures.items():
                cpu = engine == "cpu"
                yield Row(
                    f"garg-move_pages-{version}",
                    f"move_pages of 1 GB in {4 << order} KiB folios, copy by {engine}",
                    None if cpu else base[order],
                    figure,
                    None if cpu else 100 * (figure / base[order] - 1),
                    None
                    if cpu
                    else _gbs(p, order, GIB_PAGES >> order, "cpu", "batched"),
                    _gbs(p, order, GIB_PAGES >> order, engine, "batched"),
                    "GB/s",
                    table.kernel,
                    (*inputs, f"copy engine {engine}"),
                    table.source,
                    cause=published.GARG_CAUSE,
                    extra={"folio_kib": 4 << order, "engine": engine},
                )


def ziyan() -> Iterator[Row]:
    """move_pages() on Haswell, serial; engines copy 16 THPs together."""
    p = machines.load("haswell-2s")
    inputs = inputs_of(p, *CALL_KEYS)
    for case in published.ZIYAN:
        policy: cost.Policy = "serial" if case.copy == "cpu" else "batched"
        yield Row(
            "ziyan-move_pages",
            case.what,
            None,
            case.gbs,
            None,
            None,
            _gbs(p, case.order, case.folios, case.copy, policy),
            "GB/s",
            "6.1",
            (*inputs, f"copy engine {case.copy}"),
            published.ZIYAN_SOURCE,
            # The CPU's copies were timed separately; engines are from this table.
            fitted_after=case.copy != "cpu",
            cause=_why(case),
        )


def _why(case: published.Moved) -> str:
    """The likely cause of an error."""
    if case.copy != "cpu" and "together" not in case.what:
        return published.ZIYAN_ALONE
    return published.ZIYAN_CAUSE if case.folios == 1 and not case.order else ""

"""What a pinned page costs: the same call once more, without pins."""

import dataclasses
from collections.abc import Callable, Sequence

from jaxmig.cli.show import Resolved
from jaxmig.report.records import Record
from jaxmig.report.units import duration
from jaxmig.sources.targets import Target
from jaxmig.tools import job


def held_cost(
    plain: Target,
    asked: Resolved,
    outcomes: Sequence[job.Outcome],
    tick: Callable[[str], None],
) -> dict[str, str]:
    """By kernel, what each page that failed costs more than one that moves.

    Args:
      plain: the target without pins.
      asked: the call with them.
      outcomes: of that call.
      tick: as of `job.run`.
    Returns:
      The end of a sentence for each kernel in which pages failed.
    """
    failing = [
        o.record
        for o in outcomes
        # Where memory ended, not only pins cost something.
        if o.record["vmstat"]["pgmigrate_fail"] and not (o.full or o.record["errno"])
    ]
    if not failing:
        return {}
    setting = dataclasses.replace(asked.setting, content=False)
    call = dataclasses.replace(asked.call, logs=False, footprints=False)
    kernels = [r["kernel"] for r in failing]
    free = job.run(plain, setting, asked.profile, kernels, call, tick)
    pairs = zip(failing, free, strict=True)
    return {r["kernel"]: _said(r, o.record) for r, o in pairs if _more(r, o.record)}


def _more(held: Record, free: Record) -> int:
    """How many pages more failed."""
    failed, before = (r["vmstat"]["pgmigrate_fail"] for r in (held, free))
    return max(int(failed - before), 0)


def _said(held: Record, free: Record) -> str:
    more = [
        (of(held) - of(free)) / _more(held, free)
        for of in (
            lambda r: r["time_ns"]["total"],
            lambda r: r["vmstat"]["nr_tlb_remote_flush"],
            lambda r: sum(r["ipis_per_cpu"]),
        )
    ]
    time, flushes, ipis = more
    longer = "longer" if time >= 0 else "less long"
    counts = [f"{abs(n):.3g} {'more' if n >= 0 else 'fewer'}" for n in (flushes, ipis)]
    return (
        f"; each takes {duration(abs(time))} {longer} than a page that moves, with "
        f"{counts[0]} flush requests and {counts[1]} IPIs"
    )

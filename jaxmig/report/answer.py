"""The answer above the table: pages moved, time taken, interrupts, stalls and failures.

Two to five sentences compare the first record with the last, which are of the oldest and
the newest kernel chosen.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from jaxmig.report.units import count, cpu_list, duration, some, span

Record = Mapping[str, Any]
ALIKE: Final = 1.005  # times as long, from which on it is worth a figure
MOST_NAMED: Final = 4  # kernels, where all do the same


def answer(
    records: Sequence[Record], why: Mapping[str, str] | None = None
) -> list[str]:
    """Sentences, a line each.

    Args:
      records: of one call, one for each kernel.
      why: by kernel, the known reasons for which pages may have failed.
    """
    before, after = records[0], records[-1]
    lines = [_time(before, after), _flushes(before, after), _stall(before, after)]
    for say in (_failed, _stay):
        lines += _alike(records, why or {}, say)
    return [line for line in lines if line]


def _time(before: Record, after: Record) -> str:
    moved = _moved(after)
    if not any(_moved(r) or r["time_ns"]["total"] for r in (before, after)):
        return f"Linux {after['kernel']} has no page to move."
    said = f"Linux {after['kernel']} moves {_pages(moved)} in {_took(after)}"
    if before is after:
        return f"{said}."
    if _moved(before) != moved:
        return (
            f"{said}; {before['kernel']} {_pages(_moved(before))} in {_took(before)}."
        )
    old, new = before["time_ns"]["total"], after["time_ns"]["total"]
    if not moved or old == new:
        return f"{said}, and so does {before['kernel']}."
    times = max(old, new) / max(min(old, new), 1)
    if times < ALIKE:
        return f"{said}; {before['kernel']} takes about as long, {_took(before)}."
    what = "as long" if old > new else "as fast"
    return (
        f"{said}; {before['kernel']} takes {_took(before)}, {times:.2f} times {what}."
    )


def _took(record: Record) -> str:
    """The time with its range."""
    text, ends = duration(record["time_ns"]["total"]), record.get("time_ns_range")
    return f"{text} (80 % range {span(ends[0], ends[1], duration)})" if ends else text


def _flushes(before: Record, after: Record) -> str:
    old, new = (_interrupts(r) for r in (before, after))
    was, hit = (_cpus(r) for r in (before, after))
    none = "" if hit or was else "; no CPU is interrupted"
    new += f" ({hit})" if hit else ""
    if old == new.partition(" (")[0]:
        return f"It sends {new}{none}."
    # The older kernel's CPUs are named only if the newer one interrupts none.
    old += f" ({was})" if was and not hit else ""
    return f"{new} instead of {old}{none}."


def _interrupts(record: Record) -> str:
    flushes, ipis = record["vmstat"]["nr_tlb_remote_flush"], sum(record["ipis_per_cpu"])
    return f"{some(flushes, 'flush request')} and {some(ipis, 'IPI')}"


def _cpus(record: Record) -> str:
    """The CPUs that are interrupted, and how often each; empty if none is."""
    by = record["ipis_per_cpu"]
    hit = [cpu for cpu, n in enumerate(by) if n]
    if not hit:
        return ""
    most, least = max(by), min(by[cpu] for cpu in hit)
    each = count(most) if most == least else f"{count(least)} to {count(most)}"
    if len(hit) == 1:
        return f"on CPU {hit[0]}"
    return f"{each} on each of CPUs {cpu_list(hit)}"


def _stall(before: Record, after: Record) -> str:
    if not _moved(after) or "stall_ns" not in after:
        return ""
    s, old = after["stall_ns"], before["stall_ns"]
    line = f"A thread that touches a moving page waits up to {duration(s['max'])}"
    if s["p50"] != s["max"]:
        line += f" (half of the pages: up to {duration(s['p50'])})"
    if _moved(before) and old["max"] != s["max"]:
        line += f"; with {before['kernel']} up to {duration(old['max'])}"
    return f"{line}."


def _failed(record: Record, why: Mapping[str, str]) -> str:
    """How many pages failed, and why."""
    failed, left = record["vmstat"]["pgmigrate_fail"], max(int(record["ret"]), 0)
    if not (failed or left or record["errno"]):
        return ""
    said = f"{_pages(failed)} failed"
    if not failed and left:
        said = f"{count(left)} could not be moved"
    if record["errno"]:
        said += f" and the call ends with {record['errno']}"
    reason = why.get(record["kernel"], "")
    return said + (f": {reason}" if reason else "")


def _stay(record: Record, _: Mapping[str, str]) -> str:
    """How many pages the caller was not allowed to move."""
    n = record.get("shared_stay", 0)
    them = "it is" if n == 1 else "they are"
    said = f"{_pages(n)} stay{'s' * (n == 1)}: {them} mapped more than once"
    return f"{said}, and the caller is not root" if n else ""


def _alike(
    records: Sequence[Record],
    why: Mapping[str, str],
    say: Callable[[Record, Mapping[str, str]], str],
) -> list[str]:
    """A line for the kernels of which the same is said."""
    alike: dict[str, list[str]] = {}
    for r in records:
        alike.setdefault(say(r, why), []).append(r["kernel"])
    alike.pop("", None)
    return [f"In {_and(names, len(records))}, {said}." for said, names in alike.items()]


def _and(names: Sequence[str], of: int) -> str:
    if len(names) == of > MOST_NAMED:
        return f"all {of} kernels"
    head, last = names[:-1], names[-1]
    return f"{', '.join(head)} and {last}" if head else last


def _moved(record: Record) -> int:
    return int(record["vmstat"]["pgmigrate_success"])


def _pages(n: int) -> str:
    return some(n, "page")

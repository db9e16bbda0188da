"""Why pages of a scenario's call may have failed: what its own pages met.

A condition of another process, or of pages that the call does not ask for, is no reason.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from jaxmig.calls.syscalls import parse_nodes
from jaxmig.linux.releases import release
from jaxmig.report.timed import Traced
from jaxmig.sources.scenario import CallSpec, ConditionSpec, RegionSpec, Scenario
from jaxmig.sources.scenario.words import BASE_PAGE

# Such a page moves, or is on no list.
HARMLESS: Final = ("untouched", "zero_page", "zero", "young", "prot_none")
GONE: Final = ("freed", "released")  # counted as moved


def why(scenario: Scenario, number: int, traced: Traced) -> str:
    """The reasons in words, of the call with that number, counted from 0; "" for none.

    Args:
      traced: the call on one release.
    """
    call, kernel = scenario.calls[number], traced.record["kernel"]
    met = [
        f"{c.state} of {c.region}"
        for c in scenario.conditions
        if _hinders(c, scenario.region(c.region), call, kernel)
        and _asked(scenario, number, c)
    ]
    said = [
        *_short(call, scenario.machine.nodes, traced),
        ", ".join(dict.fromkeys(met)),
    ]
    return "; ".join(text for text in said if text)


def _hinders(
    condition: ConditionSpec, region: RegionSpec, call: CallSpec, kernel: str
) -> bool:
    """Whether a page in that state counts as one that has failed."""
    if condition.state == "isolated":
        # The list leaves it out; the walks of system calls count it, move_pages does not.
        walks = call.syscall == "migrate_pages" and release(kernel).counts_unisolated
        return walks or call.syscall == "mbind"
    if condition.state == "dirty":
        return not region.migrate_folio  # what fallback_migrate_folio() gives up
    return condition.state not in HARMLESS + GONE


def _asked(scenario: Scenario, number: int, condition: ConditionSpec) -> bool:
    """Whether the call asks for a page of the condition."""
    call, region = scenario.calls[number], scenario.region(condition.region)
    if call.process not in region.processes:
        return False
    nodes = scenario.machine.nodes
    if call.syscall in ("migrate_pages", "kernel"):
        # Where the page is, or where an earlier call has sent it.
        sent = (_to(c, nodes) for c in scenario.calls[:number])
        return bool(parse_nodes(call.from_, nodes) & {region.node}.union(*sent))
    wanted = _pages(scenario, call, region)
    folios = np.asarray(condition.indices(region.n_pages)) >> region.folio_order
    return bool(np.isin(wanted >> region.folio_order, folios).any())


def _pages(scenario: Scenario, call: CallSpec, region: RegionSpec) -> np.ndarray:
    """Indices of the region's base pages that a range or a list of addresses names."""
    if call.syscall == "mbind" and call.pages is None:
        start = scenario.address(call.start or 0)
        end = min(start + (call.length or 0), region.end)
        at = np.arange(max(start, region.start), end, BASE_PAGE)
    else:
        at = np.asarray([a for a in scenario.addresses(call) if a < 1 << 63], np.int64)
    at = at[(at >= region.start) & (at < region.end)]
    return (at - region.start) % region.size // BASE_PAGE  # the second mapping's, too


def _short(call: CallSpec, nodes: int, traced: Traced) -> Iterator[str]:
    """Want of memory, which mbind(2) and kernel callers do not return."""
    to, r = _to(call, nodes), traced.record
    ended = "ENOMEM" in (r["errno"], r.get("caller_errno"))
    full = to.intersection(traced.full)
    if ended or (full and (call.syscall == "mbind" or call.caller)):
        yield f"want of memory on node {', '.join(map(str, sorted(full or to)))}"


def _to(call: CallSpec, nodes: int) -> frozenset[int]:
    """The nodes that a call moves pages to."""
    if call.syscall in ("migrate_pages", "kernel"):
        return parse_nodes(call.to, nodes)
    if isinstance(call.nodes, tuple):
        return frozenset(call.nodes)
    return frozenset() if call.nodes is None else parse_nodes(call.nodes, nodes)

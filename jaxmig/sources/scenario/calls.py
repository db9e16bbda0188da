"""The `[[call]]` tables.

Types and words are checked here, and the process, CPU and region that the simulator
needs.  Nodes, addresses, flags and pids are not: the modelled kernel refuses bad ones.
"""

from collections.abc import Callable
from dataclasses import replace

from jaxmig.linux.releases import MAX_PAGE_ORDER
from jaxmig.sources.scenario.arguments import (
    Regions,
    flags_of,
    length_of,
    node_mask,
    nodes_of,
    page_of,
    pages_of,
    region_name,
)
from jaxmig.sources.scenario.errors import suggest
from jaxmig.sources.scenario.model import CallSpec, RegionSpec
from jaxmig.sources.scenario.table import TomlTable
from jaxmig.sources.scenario.words import (
    CALLER_MODES,
    CALLER_REASONS,
    FLAGS,
    MODES,
    POLICIES,
    SYSCALLS,
)

# A key of another call is refused, since to ignore it (`mode` for move_pages) would hide
# a mistake.
_COMMON = (
    "syscall",
    "process",
    "cpu",
    "privileged",
    "pid",
    "cpuset",
    "caller_cpuset",
    "maxnode",
    "fault_at",
)
_OWN = {
    "migrate_pages": ("from", "to"),
    "kernel": ("from", "to", "mode", "caller", "order", "direct"),
    "move_pages": ("pages", "nodes", "flags"),
    "mbind": ("pages", "start", "len", "policy", "nodes", "to", "flags"),
}
CALL_KEYS = tuple(dict.fromkeys((*_COMMON, *(k for own in _OWN.values() for k in own))))


def parse_calls(
    tables: list[TomlTable],
    processes: list[str],
    regions: tuple[RegionSpec, ...],
    cpus: int,
) -> tuple[CallSpec, ...]:
    """The `[[call]]` tables as calls, in order.

    Args:
      tables: of the file.
      processes: names of its processes.
      cpus: of its machine.
    Returns:
      A call for each table.
    Raises:
      ScenarioError: a key, type or word that the call does not take.
    """
    known = {region.name: region for region in regions}
    return tuple(_call(table, processes, known, cpus) for table in tables)


def _call(
    table: TomlTable, processes: list[str], regions: Regions, cpus: int
) -> CallSpec:
    table.need("syscall")
    syscall = table.word("syscall", SYSCALLS)
    for key in table.values:
        if key not in _COMMON and key not in _OWN[syscall]:
            takes = f"{syscall} takes {', '.join(_OWN[syscall])}"
            raise table.error(key, f"not an argument of this call; {takes}")
    if syscall in ("migrate_pages", "kernel"):
        table.need("from", "to")
    caller = _caller(table)
    mode = _mode(table, syscall, caller)
    order, direct = _compaction(table, caller, mode)
    # For a key that only other calls take, the getter returns its default.
    common = CallSpec(
        syscall=syscall,
        process=_process(table, processes),
        cpu=table.integer("cpu", 0, 0, cpus - 1, f"the machine has {cpus} CPUs"),
        from_=table.node_string("from"),
        to=table.node_string("to"),
        mode=mode,
        caller=caller,
        order=order,
        direct=direct,
        privileged=table.boolean("privileged", True),
        pid=table.optional_integer("pid"),
        cpuset=table.node_string("cpuset"),
        caller_cpuset=table.node_string("caller_cpuset"),
        maxnode=table.optional_integer("maxnode"),
        fault_at=_fault_at(table),
    )
    more = _ARGUMENTS.get(syscall)
    return more(table, common, regions) if more else common


def _process(table: TomlTable, processes: list[str]) -> str:
    if not processes:
        problem = "there is no process to look at; add a [[process]]"
        raise table.error("process", problem)
    if "process" not in table and len(processes) == 1:
        return processes[0]
    table.need("process")
    name = table.text("process")
    if name not in processes:
        problem = f"no process has this name; {suggest(name, processes)}"
        raise table.error("process", problem)
    return name


def _caller(table: TomlTable) -> str | None:
    if "caller" not in table:
        return None
    name = table.text("caller")
    name = CALLER_REASONS.get(name, name)
    if name not in CALLER_MODES:
        raise table.error("caller", f"unknown caller; {suggest(name, CALLER_MODES)}")
    return name


def _mode(table: TomlTable, syscall: str, caller: str | None) -> str | None:
    # System calls are always synchronous; only kernel callers have a mode.
    if syscall != "kernel":
        return None
    return table.word("mode", MODES, CALLER_MODES[caller] if caller else "sync")


def _compaction(
    table: TomlTable, caller: str | None, mode: str | None
) -> tuple[int | None, bool | None]:
    """The order of the block that compaction is to make, and whether it is direct."""
    what = "-1 is all that can be had, and blocks have 2^1 pages or more"
    order = table.integer("order", 0, -1, MAX_PAGE_ORDER, what)
    if "order" in table and order == 0:
        raise table.error("order", f"{what}; give -1, or 1 to {MAX_PAGE_ORDER}")
    direct = table.boolean("direct", False) if "direct" in table else None
    wrong = misfit(caller, mode, order or None, direct)
    if wrong:
        raise table.error(*wrong)
    return order or None, direct


def misfit(
    caller: str | None, mode: str | None, order: int | None, direct: bool | None
) -> tuple[str, str] | None:
    """The key that does not fit its call.

    Args:
      caller, mode: of the call; None: not given.
      order: that compaction makes room for, -1: of all; None: not given.
      direct: whether an allocation waits for it; None: not given.
    Returns:
      `order` or `direct`, and why; None if both fit.
    """
    for key, value in (("order", order), ("direct", direct)):
        if value is not None and caller != "compaction":
            problem = "only compaction is asked that"
            return key, f'{problem}; add caller = "compaction" or drop it'
    if direct and (order == -1 or mode == "sync"):
        problem = "an allocation wants a block, and never asks with mode sync"
        return "direct", f"{problem}; change order or mode, or drop it"
    if order == -1 and mode == "async" and direct is None:
        problem = "async is an allocation's first try, which wants a block"
        return "order", f"{problem}; give 1 to {MAX_PAGE_ORDER}"
    return None


def _fault_at(table: TomlTable) -> int | None:
    # It is an index and no argument of the call: Linux cannot refuse a negative one.
    what = "this counts the elements of the caller's array"
    at = table.integer("fault_at", -1, 0, (1 << 63) - 1, what)
    return None if at < 0 else at


def _move_pages(table: TomlTable, call: CallSpec, regions: Regions) -> CallSpec:
    table.need("pages")
    pages = pages_of(table, regions)
    count = regions[pages].n_pages if isinstance(pages, str) else len(pages)
    nodes = nodes_of(table, count)
    # Without flags a scenario's move_pages() has MPOL_MF_MOVE; mbind() moves nothing.
    flags = flags_of(table, FLAGS["move"])
    return replace(call, pages=pages, nodes=nodes, flags=flags)


def _mbind(table: TomlTable, call: CallSpec, regions: Regions) -> CallSpec:
    pages = start = length = None
    if "pages" in table:
        if "start" in table or "len" in table:
            problem = "this and start or len are two ranges; keep one of them"
            raise table.error("pages", problem)
        pages = region_name(table, regions)
    else:
        # As in C, the range need not be a region, or be mapped at all.
        table.need("start", "len")
        start = page_of(table, table.values["start"], regions, "start")
        length = length_of(table)
    policy = table.values.get("policy", "bind")
    # An unknown policy can be given as a number, to test EINVAL.
    if isinstance(policy, str):
        policy = table.word("policy", POLICIES, "bind")
    else:
        policy = table.as_integer(policy, "policy")
    return replace(
        call,
        pages=pages,
        start=start,
        length=length,
        policy=policy,
        nodes=node_mask(table),
        flags=flags_of(table, 0),
    )


_ARGUMENTS: dict[str, Callable[[TomlTable, CallSpec, Regions], CallSpec]] = {
    "move_pages": _move_pages,
    "mbind": _mbind,
}

"""The `[[call]]` tables.

Types and words are checked here, and so is what the simulator itself needs to know:
which process, which CPU, which region.  Nodes, addresses, flags and pids are left as
they are, for the modelled kernel to refuse.
"""

from collections.abc import Callable
from dataclasses import replace

from jaxmig.scenario.errors import suggest
from jaxmig.scenario.model import CallSpec, PageOf, RegionSpec
from jaxmig.scenario.table import Table
from jaxmig.scenario.words import (
    CALLER_MODES,
    CALLER_REASONS,
    FLAGS,
    MODES,
    POLICIES,
    SYSCALLS,
    size_of,
)

# A key of another call is refused rather than ignored: whoever writes `mode` for
# move_pages believes that it does something.
_COMMON = (
    "syscall",
    "process",
    "cpu",
    "caller",
    "privileged",
    "pid",
    "cpuset",
    "caller_cpuset",
    "maxnode",
    "fault_at",
)
_OWN = {
    "migrate_pages": ("from", "to"),
    "kernel": ("from", "to", "mode"),
    "move_pages": ("pages", "nodes", "flags"),
    "mbind": ("pages", "start", "len", "policy", "nodes", "flags"),
}
CALL_KEYS = tuple(dict.fromkeys((*_COMMON, *(k for own in _OWN.values() for k in own))))

Regions = dict[str, RegionSpec]


def parse_calls(
    tables: list[Table],
    processes: list[str],
    regions: tuple[RegionSpec, ...],
    cpus: int,
) -> tuple[CallSpec, ...]:
    """The calls, in order."""
    known = {region.name: region for region in regions}
    return tuple(_call(table, processes, known, cpus) for table in tables)


def _call(table: Table, processes: list[str], regions: Regions, cpus: int) -> CallSpec:
    table.need("syscall")
    syscall = table.word("syscall", SYSCALLS)
    for key in table.values:
        if key not in _COMMON and key not in _OWN[syscall]:
            takes = f"{syscall} takes {', '.join(_OWN[syscall])}"
            raise table.error(key, f"not an argument of this call; {takes}")
    if syscall in ("migrate_pages", "kernel"):
        table.need("from", "to")
    caller = _caller(table)
    # The getters give the default of a key that only other calls take.
    common = CallSpec(
        syscall=syscall,
        process=_process(table, processes),
        cpu=table.integer("cpu", 0, 0, cpus - 1, f"the machine has {cpus} CPUs"),
        from_=table.node_string("from"),
        to=table.node_string("to"),
        mode=_mode(table, syscall, caller),
        caller=caller,
        privileged=table.boolean("privileged", True),
        pid=table.optional_integer("pid"),
        cpuset=table.node_string("cpuset"),
        caller_cpuset=table.node_string("caller_cpuset"),
        maxnode=table.optional_integer("maxnode"),
        fault_at=_fault_at(table),
    )
    more = _ARGUMENTS.get(syscall)
    return more(table, common, regions) if more else common


def _process(table: Table, processes: list[str]) -> str:
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


def _caller(table: Table) -> str | None:
    if "caller" not in table:
        return None
    name = table.text("caller")
    name = CALLER_REASONS.get(name, name)
    if name not in CALLER_MODES:
        raise table.error("caller", f"unknown caller; {suggest(name, CALLER_MODES)}")
    return name


def _mode(table: Table, syscall: str, caller: str | None) -> str | None:
    # System calls are always synchronous; only Linux's own callers choose.
    if syscall != "kernel":
        return None
    return table.word("mode", MODES, CALLER_MODES[caller] if caller else "sync")


def _fault_at(table: Table) -> int | None:
    # It is an index and not an argument, so that a negative one means nothing to Linux.
    what = "this counts the elements of the caller's array"
    at = table.integer("fault_at", -1, 0, (1 << 63) - 1, what)
    return None if at < 0 else at


def _move_pages(table: Table, call: CallSpec, regions: Regions) -> CallSpec:
    table.need("pages")
    pages = _pages(table, regions)
    count = regions[pages].n_pages if isinstance(pages, str) else len(pages)
    nodes = _nodes(table, count)
    # To move_pages() no flags mean MPOL_MF_MOVE; mbind() then moves nothing.
    flags = _flags(table, FLAGS["move"])
    return replace(call, pages=pages, nodes=nodes, flags=flags)


def _mbind(table: Table, call: CallSpec, regions: Regions) -> CallSpec:
    pages = start = length = None
    if "pages" in table:
        if "start" in table or "len" in table:
            problem = "this and start or len are two ranges; keep one of them"
            raise table.error("pages", problem)
        pages = _region_name(table, regions)
    else:
        # As in C: no region has to be there, nor does the range have to be one.
        table.need("start", "len")
        start = _page(table, table.values["start"], regions, "start")
        length = _length(table)
    policy = table.values.get("policy", "bind")
    # A policy that Linux does not know is EINVAL there; as a number it may be tried.
    if isinstance(policy, str):
        policy = table.word("policy", POLICIES, "bind")
    else:
        policy = table.as_integer(policy, "policy")
    nodes = table.values.get("nodes")
    nodes = table.node_string("nodes") if isinstance(nodes, str) else _nodes(table)
    return replace(
        call,
        pages=pages,
        start=start,
        length=length,
        policy=policy,
        nodes=nodes,
        flags=_flags(table, 0),
    )


_ARGUMENTS: dict[str, Callable[[Table, CallSpec, Regions], CallSpec]] = {
    "move_pages": _move_pages,
    "mbind": _mbind,
}


def _pages(table: Table, regions: Regions) -> str | tuple[int | PageOf, ...]:
    """A region's name, or the addresses and pages listed."""
    if isinstance(table.values["pages"], str):
        return _region_name(table, regions)
    listed = table.array("pages", 'a region\'s name or a list such as [["heap", 0]]')
    return tuple(_page(table, p, regions, "pages", at) for at, p in enumerate(listed))


def _region_name(table: Table, regions: Regions) -> str:
    name = table.text("pages")
    if name not in regions:
        raise table.error("pages", _no_region(name, regions))
    return name


def _no_region(name: str, regions: Regions) -> str:
    remedy = suggest(name, regions) if regions else "add a [[region]]"
    return f"no region has this name; {remedy}"


def _page(
    table: Table, value: object, regions: Regions, key: str, *at: int
) -> int | PageOf:
    """An address, or a region with the number of a page, which may lie behind it."""
    if not isinstance(value, list):
        return table.as_integer(value, key, *at)
    if len(value) != 2 or not isinstance(value[0], str):
        problem = 'this is no page; write an address or ["heap", 7]'
        raise table.error(key, problem, *at)
    if value[0] not in regions:
        raise table.error(key, _no_region(value[0], regions), *at, 0)
    # Behind the region lies the next one, or nothing, which a call may well ask for.
    index = table.as_integer(value[1], key, *at, 1)
    if index < 0:
        problem = "pages of a region are counted from 0; give 0 or more"
        raise table.error(key, problem, *at, 1)
    return (value[0], index)


def _nodes(table: Table, count: int | None = None) -> int | tuple[int, ...] | None:
    """One node or a list of them, of which move_pages() wants `count`."""
    if not isinstance(table.values.get("nodes", 0), list):
        return table.optional_integer("nodes")
    listed = table.array("nodes", "a node or a list of nodes")
    nodes = tuple(table.as_integer(v, "nodes", at) for at, v in enumerate(listed))
    if count is not None and len(nodes) != count:
        problem = f"{len(nodes)} nodes for {count} pages; give one for each page"
        raise table.error("nodes", f"{problem}, or one number for all")
    return nodes


def _flags(table: Table, default: int) -> int:
    """MPOL_MF_* bits, from a number or from words joined by `|`."""
    value = table.values.get("flags", default)
    if not isinstance(value, str):
        return table.as_integer(value, "flags")
    # Words cannot give an unknown bit; whoever wants to see EINVAL writes a number.
    bits = 0
    for word in value.split("|"):
        if word.strip() not in FLAGS:
            remedy = suggest(word.strip(), FLAGS)
            raise table.error("flags", f"unknown flag; {remedy}, or a number")
        bits |= FLAGS[word.strip()]
    return bits


def _length(table: Table) -> int:
    """Bytes, which mbind() itself rounds up to whole pages."""
    value = table.values["len"]
    if isinstance(value, str):
        size = size_of(value)
        if size is None:
            problem = 'this is no length; write bytes, or "64k", "2m"'
            raise table.error("len", problem)
        return size
    return table.as_integer(value, "len")

"""The `[[region]]` and `[[condition]]` tables: pages, their state, and their room."""

import re

from jaxmig.sources.scenario.errors import suggest
from jaxmig.sources.scenario.model import (
    ConditionPages,
    ConditionSpec,
    MachineSpec,
    RegionSpec,
    Until,
)
from jaxmig.sources.scenario.table import TomlTable
from jaxmig.sources.scenario.words import (
    BASE_PAGE,
    FIRST_ADDRESS,
    FRAMELESS,
    KINDS,
    LASTING,
    MAPPED_TWICE,
    STATES,
    size_text,
)
from jaxmig.state.conditions import UNTIL_WAITED

_FLAGS = {
    "writable": True,
    "mlocked": False,
    "migratable": True,
    "private": False,
    "prot_none": False,
    "mapped_twice": False,
    "shared": True,
    "exec": False,
    "migrate_folio": True,
}
REGION_KEYS = ("process", "name", "size", "folio", "kind", "node", *_FLAGS)
CONDITION_KEYS = ("region", "pages", "state", "until")

_MAX_FOLIO = 2 << 20
_EVERY = re.compile(r"every:([0-9]{1,9})")
_ATTEMPT = re.compile(r"attempt:([0-9]{1,9})")


def sum_of_sizes(tables: list[TomlTable]) -> int:
    """Bytes of all regions whose size can be read; errors are reported later."""
    # The machine is parsed first, but its default node size depends on the regions.
    sizes = 0
    for table in tables:
        if "size" in table:
            sizes += table.as_size(table.values["size"], "size")
    return sizes


def parse_regions(
    tables: list[TomlTable], processes: list[str], machine: MachineSpec
) -> tuple[RegionSpec, ...]:
    """The regions, laid out one after the other in the order of the file."""
    regions: dict[str, RegionSpec] = {}
    end = FIRST_ADDRESS
    for table in tables:
        region = _region(table, processes, machine, end)
        if region.name in regions:
            raise table.error("name", "another region has this name; choose another")
        regions[region.name] = region
        end = region.end
    return tuple(regions.values())


def _region(
    table: TomlTable, processes: list[str], machine: MachineSpec, free_from: int
) -> RegionSpec:
    table.need("name", "size")
    kind = table.word("kind", KINDS, "anon")
    folio = _folio(table, kind)
    size = table.as_size(table.values["size"], "size")
    if size == 0 or size % folio:
        remedy = f"give a multiple of {size_text(folio)}"
        problem = "no whole number of folios" if size else "a region has pages"
        raise table.error("size", f"{problem}; {remedy}")
    there = f"the machine has {machine.nodes} nodes, counted from 0"
    flags = {key: table.boolean(key, default) for key, default in _FLAGS.items()}
    if flags["private"] and kind != "file":
        # Meant as MAP_PRIVATE, this would silently put buffers on anonymous memory.
        problem = f"it means buffers, and {kind} pages have none; drop it"
        raise table.error("private", f'{problem}, or use kind = "file"')
    if flags["mapped_twice"] and kind not in MAPPED_TWICE:
        problem = f"no process maps {kind} pages twice; drop it"
        raise table.error("mapped_twice", f'{problem}, or use kind = "shmem"')
    if not flags["shared"] and kind != "file":
        problem = f"only a file may be mapped privately or not, and this is {kind}"
        raise table.error("shared", f'{problem}; drop it, or use kind = "file"')
    if not flags["migrate_folio"]:
        _check_file_system(table, kind, folio, flags["private"])
    return RegionSpec(
        processes=_mappers(table, processes),
        name=table.text("name"),
        start=-(-free_from // folio) * folio,
        size=size,
        folio_order=(folio // BASE_PAGE).bit_length() - 1,
        kind=kind,
        node=table.integer("node", 0, 0, machine.nodes - 1, there),
        **flags,
    )


def _check_file_system(table: TomlTable, kind: str, folio: int, buffers: bool) -> None:
    """fallback_migrate_folio() is known for base pages without buffers."""
    if kind != "file":
        problem = f"only a file system may lack it, and this is {kind}"
        raise table.error("migrate_folio", f'{problem}; drop it, or use kind = "file"')
    for key, there in (("folio", folio > BASE_PAGE), ("private", buffers)):
        if there:
            problem = f"{key} of a file system without migrate_folio is not modelled"
            raise table.error(key, f"{problem}; drop this line")


def _folio(table: TomlTable, kind: str) -> int:
    """Bytes of a folio of the region."""
    if "folio" not in table:
        return _MAX_FOLIO if kind == "hugetlb" else BASE_PAGE
    folio = table.as_size(table.values["folio"], "folio")
    if kind == "hugetlb" and folio > _MAX_FOLIO and folio & (folio - 1) == 0:
        problem = "gigantic hugetlb pages are not modelled"
        raise table.error("folio", f'{problem}; write folio = "2m", or leave it out')
    if folio & (folio - 1) or not BASE_PAGE <= folio <= _MAX_FOLIO:
        sizes = "4k, 8k, 16k and so on up to 2m"
        raise table.error("folio", f"no size that a folio has; choose from {sizes}")
    # KSM merges single pages, and no driver of movable_ops pages has larger ones.
    wanted = {"hugetlb": _MAX_FOLIO, "ksm": BASE_PAGE, "movable_ops": BASE_PAGE}
    if folio != wanted.get(kind, folio):
        only = size_text(wanted[kind])
        problem = f"{kind} folios have {only} and no other size"
        raise table.error("folio", f'{problem}; write folio = "{only}"')
    return folio


def _mappers(table: TomlTable, processes: list[str]) -> tuple[str, ...]:
    if "process" not in table and len(processes) == 1:
        return (processes[0],)
    table.need("process")
    given = table.values["process"]
    names = given if isinstance(given, list) else [given]
    if not names:
        raise table.error("process", "nobody maps this region; name a process")
    for number, name in enumerate(names):
        at = (number,) if isinstance(given, list) else ()
        if not isinstance(name, str):
            raise table.wrong("process", "the name of a process in quotes", *at)
        if name not in processes:
            remedy = suggest(name, processes) if processes else "add a [[process]]"
            raise table.error("process", f"no process has this name; {remedy}", *at)
        if name in names[:number]:
            raise table.error("process", "named twice; name each process once", *at)
    return tuple(names)


def parse_conditions(
    tables: list[TomlTable], regions: tuple[RegionSpec, ...]
) -> tuple[ConditionSpec, ...]:
    """The conditions, each of which lies inside its region."""
    # Nearly any kind can have any state; the kernel's rules decide its effect.
    known = {region.name: region for region in regions}
    conditions = []
    for table in tables:
        table.need("region", "pages", "state")
        name = table.text("region")
        if name not in known:
            remedy = suggest(name, known) if known else "add a [[region]]"
            raise table.error("region", f"no region has this name; {remedy}")
        pages = _pages(table, known[name].n_pages)
        state = table.word("state", STATES)
        if state == "poisoned" and known[name].kind == "movable_ops":
            problem = (
                "a driver copies its pages itself, and what it does then is unknown"
            )
            raise table.error("state", f"{problem}; drop this condition")
        if state == "buffers_locked" and not known[name].migrate_folio:
            problem = "buffers of a file system without migrate_folio are not modelled"
            raise table.error("state", f"{problem}; drop this condition")
        if state in LASTING and "until" in table:
            raise table.error("until", f"{state} does not pass; drop this line")
        conditions.append(ConditionSpec(name, pages, state, _until(table)))
    return tuple(conditions)


def _pages(table: TomlTable, n_pages: int) -> ConditionPages:
    remedy = 'write "all", "every:16" or a list such as [0, 7]'
    value = table.values["pages"]
    if isinstance(value, str):
        every = _EVERY.fullmatch(value)
        if value == "all":
            return "all"
        if every is None or int(every[1]) == 0:
            raise table.error("pages", f"this names no pages; {remedy}")
        return ("every", int(every[1]))
    # Repetitions stay: with the state extra_ref each adds a reference.
    pages = []
    for at, element in enumerate(table.array("pages", remedy.removeprefix("write "))):
        page = table.as_integer(element, "pages", at)
        if not 0 <= page < n_pages:
            problem = f"the region has {n_pages} base pages; give 0 to {n_pages - 1}"
            raise table.error("pages", problem, at)
        pages.append(page)
    return tuple(pages)


def _until(table: TomlTable) -> Until:
    value = table.text("until", "forever")
    if value == "forever":
        return "forever"
    if value == "waited":
        return "waited"
    attempt = _ATTEMPT.fullmatch(value)
    if attempt is None or not 1 <= int(attempt[1]) <= UNTIL_WAITED:
        remedy = 'write "forever", "waited" or "attempt:n", with n from 1'
        remedy += f" to {UNTIL_WAITED}"
        raise table.error("until", f"this says no time; {remedy}")
    return ("attempt", int(attempt[1]))


def check_room(
    tables: list[TomlTable],
    regions: tuple[RegionSpec, ...],
    conditions: tuple[ConditionSpec, ...],
    machine: MachineSpec,
) -> tuple[int, ...]:
    """Refuse regions that their node cannot hold.

    Args:
      tables: of the regions, for errors.
    Returns:
      Bytes used on each node.
    Raises:
      ScenarioError: a region that does not fit on its node beside those above it.
    """
    used = [0] * machine.nodes
    for table, region in zip(tables, regions, strict=True):
        room = machine.node_size[region.node]
        frames = _frames(region, conditions)
        used[region.node] += frames * BASE_PAGE
        # One region must fit as a whole, even where its pages have no frames yet.
        if region.size > room or used[region.node] > room:
            whole = (
                "this is" if region.size > room else "this and the regions above are"
            )
            problem = f"{whole} larger than node {region.node}"
            remedy = f"it has {size_text(room)}: shrink the region or raise node_size"
            raise table.error("size", f"{problem}; {remedy}")
    return tuple(used)


def _frames(region: RegionSpec, conditions: tuple[ConditionSpec, ...]) -> int:
    """Base pages of `region` that have a frame; a condition is of whole folios."""
    # Counted and not listed, since a region may have 2^31 pages.
    bare = 0
    for condition in conditions:
        if condition.region == region.name and condition.state in FRAMELESS:
            bare += _folios(region, condition)
    # Overlapping conditions count twice, so that no file is refused wrongly.
    return max(region.n_folios - bare, 0) << region.folio_order


def _folios(region: RegionSpec, condition: ConditionSpec) -> int:
    """Folios of `region` with a page in `condition`, found without listing ranges."""
    pages = condition.indices(region.n_pages)
    if isinstance(pages, range):
        # Steps longer than a folio meet a new folio each time, shorter ones meet all.
        return min(len(pages), region.n_folios)
    return len({page >> region.folio_order for page in pages})

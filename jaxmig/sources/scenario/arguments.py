"""Arguments of calls in scenario files: pages, nodes, flags and lengths."""

from jaxmig.sources.scenario.errors import suggest
from jaxmig.sources.scenario.model import PageOf, RegionSpec
from jaxmig.sources.scenario.table import TomlTable
from jaxmig.sources.scenario.words import FLAGS, size_of

Regions = dict[str, RegionSpec]


def pages_of(table: TomlTable, regions: Regions) -> str | tuple[int | PageOf, ...]:
    """A region's name, or the addresses and pages listed."""
    if isinstance(table.values["pages"], str):
        return region_name(table, regions)
    listed = table.array("pages", 'a region\'s name or a list such as [["heap", 0]]')
    return tuple(page_of(table, p, regions, "pages", at) for at, p in enumerate(listed))


def region_name(table: TomlTable, regions: Regions) -> str:
    name = table.text("pages")
    if name not in regions:
        raise table.error("pages", no_region(name, regions))
    return name


def no_region(name: str, regions: Regions) -> str:
    remedy = suggest(name, regions) if regions else "add a [[region]]"
    return f"no region has this name; {remedy}"


def page_of(
    table: TomlTable, value: object, regions: Regions, key: str, *at: int
) -> int | PageOf:
    """An address, or a region with the number of a page, which may lie after its end.

    Args:
      value: as the file has it, at `key` and the indices `at`.
      regions: by name.
    Returns:
      The address in bytes, or the region's name and the number of the page.
    Raises:
      ScenarioError: neither of both, an unknown region, or a negative number.
    """
    if not isinstance(value, list):
        return table.as_integer(value, key, *at)
    if len(value) != 2 or not isinstance(value[0], str):
        problem = 'this is no page; write an address or ["heap", 7]'
        raise table.error(key, problem, *at)
    if value[0] not in regions:
        raise table.error(key, no_region(value[0], regions), *at, 0)
    # Calls may be tested with addresses after the region's end, mapped or not.
    index = table.as_integer(value[1], key, *at, 1)
    if index < 0:
        problem = "pages of a region are counted from 0; give 0 or more"
        raise table.error(key, problem, *at, 1)
    return (value[0], index)


def nodes_of(
    table: TomlTable, count: int | None = None
) -> int | tuple[int, ...] | None:
    """One node or a list of nodes, which for move_pages() must have `count` elements."""
    if not isinstance(table.values.get("nodes", 0), list):
        return table.optional_integer("nodes")
    listed = table.array("nodes", "a node or a list of nodes")
    nodes = tuple(table.as_integer(v, "nodes", at) for at, v in enumerate(listed))
    if count is not None and len(nodes) != count:
        problem = f"{len(nodes)} nodes for {count} pages; give one for each page"
        raise table.error("nodes", f"{problem}, or one number for all")
    return nodes


def node_mask(table: TomlTable) -> int | str | tuple[int, ...] | None:
    """mbind()'s nodes: a number, a list, a node string, or the node string `to`."""
    if "to" in table:
        if "nodes" in table:
            raise table.error("to", "this and nodes are two masks; keep one of them")
        return table.node_string("to")
    if isinstance(table.values.get("nodes"), str):
        return table.node_string("nodes")
    return nodes_of(table)


def flags_of(table: TomlTable, default: int) -> int:
    """MPOL_MF_* bits: a number, words joined by `|`, or a list of words."""
    value = table.values.get("flags", default)
    if not isinstance(value, str | list):
        return table.as_integer(value, "flags")
    # Words cannot give an unknown bit; a number can, to test EINVAL.
    bits = 0
    for at, word in enumerate(value if isinstance(value, list) else value.split("|")):
        where = (at,) if isinstance(value, list) else ()
        if not isinstance(word, str):
            raise table.wrong("flags", 'a number, or words: "move|strict"', *where)
        name = word.strip().lower().removeprefix("mpol_mf_")
        if name not in FLAGS:
            remedy = suggest(name, FLAGS)
            raise table.error("flags", f"unknown flag; {remedy}, or a number", *where)
        bits |= FLAGS[name]
    return bits


def length_of(table: TomlTable) -> int:
    """The length of mbind()'s range in bytes, which mbind() rounds up to whole pages."""
    value = table.values["len"]
    if isinstance(value, str):
        size = size_of(value)
        if size is None:
            problem = 'this is no length; write bytes, or "64k", "2m"'
            raise table.error("len", problem)
        return size
    return table.as_integer(value, "len")

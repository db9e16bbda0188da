"""From a scenario document to a fresh world, with the defaults filled in."""

from __future__ import annotations

from dataclasses import replace

from .folio import PMD_ORDER, Entry, Folio, Region, State
from .world import Cpu, Process, World

PAGE = 4096
FIRST_ADDRESS = 0x10000000
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def size(text: object) -> int:
    """Bytes of "4000k", "2m" or a plain number."""
    word = str(text).strip().lower()
    if word and word[-1] in UNITS:
        return int(float(word[:-1]) * UNITS[word[-1]])
    return int(word)


def build(document: dict) -> World:
    """The state before the first call."""
    machine = document.get("machine", {})
    nodes = machine.get("nodes", 2)
    sizes = _node_sizes(machine, nodes)
    memory = {node for node, pages in sizes.items() if pages}
    world = World(_cpus(document, nodes), sizes, memory)
    world.lru_gen = machine.get("lru_gen", False)
    world.compact_unevictable = bool(machine.get("compact_unevictable", 1))
    for item in document.get("process", []):
        _add_process(world, item)
    address, token = FIRST_ADDRESS // PAGE, 1
    for item in document.get("region", []):
        conditions = [
            c for c in document.get("condition", []) if c["region"] == item["name"]
        ]
        address = _add_region(world, item, conditions, address, token)
        token += world.regions[item["name"]].pages
    # What is free before the calls, whatever the regions use.
    for node, text in machine.get("free", {}).items():
        world.free[int(node)] = size(text) // PAGE
    return world


def _cpus(document: dict, nodes: int) -> list[Cpu]:
    """CPUs, spread over the nodes in order."""
    named = [0]
    for item in document.get("process", []):
        named += [n for key in ("running", "lazy", "left") for n in item.get(key, [])]
    # Reading: without a number the machine has 4 CPUs, or as many as are named.
    count = document.get("machine", {}).get("cpus", max(4, max(named) + 1))
    return [Cpu(i, i * nodes // count) for i in range(count)]


def _node_sizes(machine: dict, nodes: int) -> dict[int, int]:
    """Base pages of every node."""
    # Reading: without a size, memory never runs out.
    sizes = machine.get("node_size", "1024g")
    if not isinstance(sizes, list):
        sizes = [sizes] * nodes
    return {node: size(text) // PAGE for node, text in enumerate(sizes)}


def _add_process(world: World, item: dict) -> None:
    """A process and the CPUs that have its mm loaded, running or lazy."""
    process = Process(item["name"])
    world.processes[process.name] = process
    for number in [*item.get("running", []), *item.get("lazy", [])]:
        cpu = world.cpus[number]
        cpu.loaded, cpu.lazy = process, number not in item.get("running", [])
        process.cpumask.add(number)
    process.left = set(item.get("left", []))


def _add_region(
    world: World, item: dict, conditions: list[dict], address: int, token: int
) -> int:
    """Map a region; returns the first free vpn behind it."""
    # Hugetlb pages come in 2 MiB unless told otherwise.
    usual = "2m" if item.get("kind") == "hugetlb" else "4k"
    order = (size(item.get("folio", usual)) // PAGE).bit_length() - 1
    step = 1 << order
    owners = item.get("process", next(iter(world.processes)))
    owners = [owners] if isinstance(owners, str) else owners
    region = Region(
        name=item["name"],
        kind=item.get("kind", "anon"),
        order=order,
        start=-(-address // step) * step,
        pages=size(item["size"]) // PAGE,
        writable=item.get("writable", True),
        mlocked=item.get("mlocked", False),
        migratable=item.get("migratable", True),
        buffers=item.get("private", False),
        prot_none=item.get("prot_none", False),
        shared=item.get("shared", True),
        executable=item.get("exec", False),
        migrate_folio=item.get("migrate_folio", True),
        processes=[world.processes[name] for name in owners],
    )
    # Anonymous memory that several processes map is what fork() leaves behind.
    if region.kind == "anon" and len(owners) > 1:
        region.kind = "cow"
    world.regions[region.name] = region
    for process in region.processes:
        process.regions.append(region)
    states = _states(region, conditions)
    zero = _named(conditions, region, "zero")
    poison = _named(conditions, region, "poisoned")
    twin = _second_mapping(region) if item.get("mapped_twice") else None
    for index in range(0, region.pages, step):
        node = item.get("node", 0)
        span = range(index, index + step)
        tokens = [0 if i in zero else token + i for i in span]
        made = states.get(index // step, {})
        folio = _add_folio(world, region, node, index, tokens, made)
        if twin is not None and "zero_page" in made and "untouched" not in made:
            _map_zero_pages(twin, twin.start + index, len(tokens))
        if folio is None:
            continue
        folio.poison = {i - index for i in span if i in poison}
        if twin is not None:
            for process in region.processes:
                hint = "prot_none" in made
                map_folio(folio, process, twin, twin.start + index, hint)
    return (twin or region).start + region.pages


def _second_mapping(region: Region) -> Region:
    """The same pages once more in each process.  Reading: right behind the first."""
    step = 1 << region.order
    start = -(-(region.start + region.pages) // step) * step
    twin = replace(region, name=region.name + "'", start=start)
    for process in region.processes:
        process.regions.append(twin)
    return twin


def _named(conditions: list[dict], region: Region, state: str) -> set[int]:
    """Base pages of a region that conditions of one state name."""
    found: set[int] = set()
    for condition in conditions:
        if condition["state"] == state:
            found |= set(condition_pages(condition.get("pages", "all"), region.pages))
    return found


def _states(region: Region, conditions: list[dict]) -> dict[int, dict[str, State]]:
    """Conditions by folio number; every page of the list adds its own."""
    found: dict[int, dict[str, State]] = {}
    for condition in conditions:
        for page in condition_pages(condition.get("pages", "all"), region.pages):
            states = found.setdefault(page >> region.order, {})
            state = states.setdefault(condition["state"], State())
            # What ends before the first test was never there.
            if condition.get("until", "forever") != "attempt:1":
                state.untils.append(condition.get("until", "forever"))
    return found


def condition_pages(pages: object, total: int) -> list[int]:
    """Indices meant by a list, "all" or "every:n"."""
    if pages == "all":
        return list(range(total))
    if isinstance(pages, str) and pages.startswith("every:"):
        return list(range(0, total, int(pages[6:])))
    return [pages] if isinstance(pages, int) else list(pages)  # type: ignore[call-overload]


def _add_folio(
    world: World,
    region: Region,
    node: int,
    index: int,
    tokens: list[int],
    states: dict[str, State],
) -> Folio | None:
    """One folio of a region with its entry or entries in every process."""
    vpn = region.start + index
    if "untouched" in states:
        return None
    if "zero_page" in states:
        _map_zero_pages(region, vpn, len(tokens))
        return None
    folio = Folio(region.order, region.kind, node, tokens, index=vpn)
    private = folio.hugetlb and len(region.processes) == 1
    folio.anon = region.anonymous or private
    # Reading: anonymous memory has no clean copy anywhere, and `dirty` is of files.
    written = region.kind == "file" and "dirty" in states
    folio.dirty = region.anonymous or written
    folio.mlocked = region.mlocked
    folio.migrate_folio = region.migrate_folio
    folio.buffers = region.buffers or "buffers_locked" in states
    # A NUMA hint sits in the entries, not in the folio; others are in its contents.
    kept = {k: v for k, v in states.items() if k not in ("prot_none", "zero", "dirty")}
    folio.states = kept
    # An anonymous hugetlb page is in no page cache.
    folio.hugetlb_refs = 0 if private else 1
    # Hugetlb pages come from a pool that was set aside before.
    if not folio.hugetlb:
        world.free[node] -= folio.nr
    for process in region.processes:
        map_folio(folio, process, region, vpn, hint="prot_none" in states)
    return folio


def _map_zero_pages(region: Region, vpn: int, pages: int) -> None:
    """What a read-only touch leaves in every process that has the region."""
    for process in region.processes:
        for at in range(vpn, vpn + pages):
            zero = Entry(process, region, at, 1, 0, None, "pte", state="zero")
            process.entries[at] = zero


def map_folio(
    folio: Folio, process: Process, region: Region, vpn: int, hint: bool = False
) -> None:
    """Enter a folio into one page table, as one huge entry or by PTEs."""
    level = "pte"
    if folio.hugetlb:
        level = "huge"
    elif folio.order >= PMD_ORDER:
        level = "pmd"
    nr = 1 if level == "pte" else folio.nr
    # Reading: by name of the kind, so a page in the swap cache is not exclusive.
    exclusive = folio.kind in ("anon", "hugetlb") and len(region.processes) == 1
    # Reading: memory was written once, so it is young and, where the region is
    # writable, dirty; a file's pages are clean.
    dirty = region.writable and folio.kind != "file"
    shared = folio.kind in ("shmem", "file", "hugetlb", "movable_ops")
    # The first store to a private map of a file makes a copy.
    shared &= region.shared
    # Reading: a NUMA hint leaves the write bit as it is.
    write = region.writable and not region.prot_none and (exclusive or shared)
    for sub in range(0, folio.nr, nr):
        entry = Entry(process, region, vpn + sub, nr, sub, folio, level)
        entry.write, entry.dirty, entry.soft_dirty = write, dirty, dirty
        entry.exclusive, entry.hint = exclusive, hint
        process.entries[entry.vpn] = entry
        folio.maps.append(entry)

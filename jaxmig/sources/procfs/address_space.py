"""A process's areas and resident pages, before kpageflags and nodes are read."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxmig.sources.procfs import maps, numa_maps, pagemap
from jaxmig.sources.procfs.columns import I32, I64, U8, U64, AreaKind
from jaxmig.sources.procfs.errors import (
    PTRACE,
    PermissionDenied,
    ProcError,
    ProcessVanished,
    read_text,
)
from jaxmig.sources.procfs.maps import RawArea
from jaxmig.sources.procfs.numa_maps import NumaArea

TOP_BIT = 1 << 63  # [vsyscall] lies in the kernel's half: pagemap does not hold it
HUGE_HOLE = 1 << 32  # bytes; below this, reading an empty area costs nothing


@dataclasses.dataclass(frozen=True)
class AddressSpace:
    """Rows are sorted by area, then vpn; `area` indexes `areas`."""

    areas: list[RawArea]
    kinds: list[AreaKind]
    numa: dict[int, NumaArea]
    vpn: I64
    word: U64  # pagemap words
    category: U8  # of the scan
    area: I32
    scanned: bool
    addresses_known: bool  # pagemap was readable
    missing: tuple[str, ...]


def read_address_space(path: Path, base_page: int) -> AddressSpace:
    """Areas and populated pages of the process at `path` (/proc/PID).

    Only maps must be readable; other files that are not are listed in `missing`.

    Raises:
      PermissionDenied, ProcessVanished, ProcError: maps or all of the rest is unreadable.
    """
    missing = []
    raw, detailed = maps.read_areas(path)
    if not detailed:
        missing.append(
            f"smaps: not readable ({PTRACE}); VM_IO and VM_PFNMAP areas known by name "
            "only, zero pages and huge pages may be taken for ordinary ones"
        )
    mounts = maps.mounted_kinds(path)
    kinds = [maps.area_kind(area, mounts) for area in raw]
    numa = _numa(path, missing)
    known = True
    try:
        rows = _from_pagemap(path, raw, base_page)
    except ProcessVanished:
        raise
    except ProcError as error:
        # Denied, or a kernel without CONFIG_PROC_PAGE_MONITOR.
        if not numa:
            raise
        known = False
        rows = _from_numa_maps(raw, numa, base_page)
        denied = isinstance(error, PermissionDenied)
        why = f"not permitted ({PTRACE})" if denied else "not in this kernel"
        missing.append(
            f"pagemap: {why}; pages are those of numa_maps, laid from the start of each "
            "area, and zero pages are not seen"
        )
    parts, scanned = rows
    vpn, word, category = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    area = np.repeat(np.arange(len(raw)), [len(part[0]) for part in parts[1:]])
    return AddressSpace(
        raw, kinds, numa, vpn, word, category, area.astype(np.int32), scanned, known,
        tuple(missing),
    )  # fmt: skip


def _numa(path: Path, missing: list[str]) -> dict[int, NumaArea]:
    try:
        text = read_text(path / "numa_maps")
    except ProcError:
        missing.append("numa_maps: not readable; NUMA policies are not known")
        return {}
    return numa_maps.parse_numa_maps(text, str(path / "numa_maps"))


Rows = tuple[list[tuple[I64, U64, U8]], bool]
NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.uint8))


def _from_pagemap(path: Path, areas: list[RawArea], base_page: int) -> Rows:
    """(vpn, word, category) of each area, after an empty one; and whether scanned."""
    parts = [NOTHING]
    scanned = True
    with pagemap.opened(path / "pagemap") as fd:
        # A scan of one page shows whether the kernel has the ioctl.
        can_scan = pagemap.scan(fd, base_page, 2 * base_page, base_page) is not None
        for area in areas:
            if area.end > TOP_BIT or (not can_scan and _empty_giant(area)):
                parts.append(NOTHING)
                continue
            found = pagemap.read_area(fd, area.start, area.end, base_page)
            parts.append((found.vpn, found.word, found.category))
            scanned &= found.scanned
    return parts, scanned


def _empty_giant(area: RawArea) -> bool:
    """Whether an area is large and, according to smaps, has no resident page."""
    kb = area.kilobytes
    keys = ("Rss", "Private_Hugetlb", "Shared_Hugetlb")
    return (
        area.end - area.start > HUGE_HOLE
        and "Rss" in kb
        and not any(kb.get(key) for key in keys)
    )


def _from_numa_maps(
    areas: list[RawArea], numa: Mapping[int, NumaArea], base_page: int
) -> Rows:
    """As `_from_pagemap`, from the counts of numa_maps: pages at each area's start."""
    parts = [NOTHING]
    present = np.uint64(1 << pagemap.PRESENT)
    file_bit = np.uint64(1 << pagemap.FILE)
    for area in areas:
        line = numa.get(area.start)
        if line is None or area.end > TOP_BIT:
            parts.append(NOTHING)
            continue
        scale = max(line.page_size // base_page, 1)
        room = (area.end - area.start) // base_page
        count = min(line.pages * scale, room)
        offset = np.arange(count)
        anon = offset < line.anon * scale
        word = np.where(anon, present, present | file_bit)
        vpn = offset + area.start // base_page
        parts.append((vpn, word, np.zeros(count, np.uint8)))
    return parts, False

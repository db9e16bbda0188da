"""/proc/PID/maps and smaps: the areas (VMAs) of a process.

Both files share one header line per area; smaps adds lines of counts in kB and the
two-letter flags of the area (Documentation/filesystems/proc.rst, "VmFlags";
fs/proc/task_mmu.c:show_map_vma, __show_smap, show_smap_vma_flags).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from jaxmig.sources.procfs.columns import (
    I8,
    I32,
    I64,
    U8,
    U64,
    AreaKind,
    ArrayTable,
    Perm,
)
from jaxmig.sources.procfs.errors import ProcError, read_text

HEADER = re.compile(
    r"([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-])([w-])([x-])([ps-]) ([0-9a-f]{1,16}) "
    r"([0-9a-f]{1,8}):([0-9a-f]{1,8}) ([0-9]{1,19}) *(.*)"
)
DETAIL = re.compile(r"([A-Za-z_]+): *(.*?)( kB)?")
KILOBYTES = re.compile(r"[0-9]{1,15}")
MOUNT = re.compile(r"[0-9]+ [0-9]+ ([0-9]{1,9}):([0-9]{1,9}) ")
LEAST_PAGE = 4096  # bytes
USER_TOP = 1 << 57  # bytes: with five levels of page tables no user address is higher
KERNEL_HALF = 1 << 63  # [vsyscall] lies there
# Shared memory on the kernel's internal mount, which no mount table lists.
SHMEM_NAMES = ("/dev/zero", "/memfd:", "/SYSV", "/dev/shm/", "[anon_shmem:")
PERMS = ((3, "r", Perm.READ), (4, "w", Perm.WRITE), (5, "x", Perm.EXEC))
UNKNOWN = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Areas(ArrayTable):
    """One row an area; counts are base pages, -1 where smaps was not readable."""

    process: I32  # row of `Processes`
    start: U64  # bytes; unsigned, as [vsyscall] lies in the top half
    end: U64  # bytes, exclusive
    perms: U8  # bits of Perm
    offset: U64  # bytes into the file
    device: U64  # major << 32 | minor
    inode: U64
    kind: I8  # AreaKind
    page_size: I64  # bytes, larger than the base page for hugetlb only
    rss: I64
    dirty: I64  # PTE or page dirty
    referenced: I64  # PTE young or page referenced
    huge_pmd: I64  # pages mapped by PMDs: anonymous, shmem and file
    swap: I64  # swapped out
    path: tuple[str, ...]
    vm_flags: tuple[str, ...]  # "rd wr mr mw me ac sd", "" if unknown
    policy: tuple[str, ...]  # of numa_maps: "default", "bind:0-1", "" if unknown

    def __len__(self) -> int:
        return len(self.start)


@dataclasses.dataclass
class RawArea:
    """One area as parsed, before it becomes a row."""

    start: int
    end: int
    perms: int
    offset: int
    device: int
    inode: int
    path: str
    kilobytes: dict[str, int] = dataclasses.field(default_factory=dict)
    vm_flags: str = ""


def parse_areas(text: str, source: str = "maps") -> list[RawArea]:
    """Areas of a maps or smaps file, in address order.

    Raises:
      ProcError: a line belongs to neither, or no process can have such an area; the text
        has `source` and the line.
    Source: "addresses never go backwards", Documentation/filesystems/proc.rst.
    """
    areas: list[RawArea] = []
    # Names of files may contain other line separators, at which splitlines() cuts.
    for number, line in enumerate(text.split("\n"), 1):
        header = HEADER.fullmatch(line)
        if header and int(header[1], 16) < int(header[2], 16):
            area = _area(header)
            doubt = _doubt(area, areas[-1].end if areas else 0)
            areas.append(area)
        else:
            known = not line or (areas and _detail(areas[-1], line))
            doubt = _size_doubt(areas[-1], line) if areas else ""
            doubt = doubt if known else "not a line of maps or smaps"
        if doubt:
            raise ProcError(f"{source}:{number}: {doubt}: {line!r}")
    return areas


def _doubt(area: RawArea, before: int) -> str:
    """Why Linux has no such area after one that ends at `before`; "" if it may have."""
    if area.start < before:
        return "begins before the area above it ends"
    if area.end > USER_TOP and area.start < KERNEL_HALF:
        return "ends beyond all addresses that a process can have"
    if (area.start | area.end) % LEAST_PAGE:
        return "does not begin and end with a page"
    return ""


def _size_doubt(area: RawArea, line: str) -> str:
    """Why a detail is not that area's; its size is in its first line, too."""
    apart = (area.end - area.start) >> 10
    if line.startswith("Size:") and area.kilobytes.get("Size") != apart:
        return f"its addresses are {apart} kB apart"
    return ""


def _area(header: re.Match[str]) -> RawArea:
    g = header.group
    perms: int = sum(bit for i, letter, bit in PERMS if g(i) == letter)
    perms |= Perm.SHARED if g(6) == "s" else 0
    device = int(g(8), 16) << 32 | int(g(9), 16)
    start, end, offset = (int(g(i), 16) for i in (1, 2, 7))
    return RawArea(start, end, perms, offset, device, int(g(10)), g(11))


def _detail(area: RawArea, line: str) -> bool:
    """Whether a line is a detail of the area, which is then kept."""
    detail = DETAIL.fullmatch(line)
    if detail is None:
        return False
    key, value, unit = detail.groups()
    if key == "VmFlags":
        area.vm_flags = value.strip()
    elif unit:
        if not KILOBYTES.fullmatch(value):
            return False
        area.kilobytes[key] = int(value)
    return True


def read_areas(process: Path) -> tuple[list[RawArea], bool]:
    """Areas of `process` (a /proc/PID directory) and whether smaps gave them.

    If smaps is readable it is the only file read: areas may change between two reads.

    Raises:
      PermissionDenied, ProcessVanished, ProcError: maps cannot be read, or a line of
        either file is none of Linux's.
    """
    areas = parse_areas(read_text(process / "maps"), str(process / "maps"))
    try:
        text = read_text(process / "smaps")
    except ProcError:
        return areas, False
    detailed = parse_areas(text, str(process / "smaps"))
    return (detailed, True) if detailed else (areas, False)


def mounted_kinds(process: Path) -> dict[int, AreaKind]:
    """Devices that hold tmpfs or hugetlbfs, from mountinfo; empty if unreadable."""
    try:
        text = read_text(process / "mountinfo")
    except ProcError:
        return {}
    kinds = {"tmpfs": AreaKind.SHMEM, "hugetlbfs": AreaKind.HUGETLB}
    found = {}
    for line in text.split("\n"):
        kind = kinds.get(line.partition(" - ")[2].partition(" ")[0])
        mount = MOUNT.match(line)
        if kind is not None and mount:
            found[int(mount[1]) << 32 | int(mount[2])] = kind
    return found


def area_kind(area: RawArea, mounts: Mapping[int, AreaKind]) -> AreaKind:
    """What backs an area, by VmFlags, name and the file system of its device."""
    path = area.path
    if "ht" in area.vm_flags.split() or path.startswith("/anon_hugepage"):
        return AreaKind.HUGETLB
    if path.startswith("[stack"):
        return AreaKind.STACK
    if path.startswith(("[v", "[uprobes]", "[sigpage]", "[vectors]")):
        return AreaKind.SPECIAL
    if path.startswith("/secretmem"):
        return AreaKind.SECRET
    if path.startswith("/dev/dax"):
        return AreaKind.DAX
    if path.startswith(SHMEM_NAMES):
        return AreaKind.SHMEM
    if area.inode == 0 and not path.startswith("/"):
        return AreaKind.ANON
    return mounts.get(area.device, AreaKind.FILE)


def is_pfnmap(vm_flags: str, path: str) -> bool:
    """Whether the area holds raw frames: VM_IO or VM_PFNMAP, or known by name.

    [vvar] holds the clock pages.  Source: vma_migratable() in mm/mempolicy.c refuses both.
    """
    marks = vm_flags.split()
    return "io" in marks or "pf" in marks or path.startswith(("[vvar", "[vsyscall"))


def area_table(
    rows: Iterable[tuple[int, RawArea, AreaKind, str]], base_page: int
) -> Areas:
    """Columns from (process row, area, kind, NUMA policy) rows."""
    rows = list(rows)
    areas = [area for _, area, _, _ in rows]

    def pages(*keys: str) -> I64:
        known = (sum(a.kilobytes.get(k, 0) for k in keys) for a in areas)
        values = [
            kb * 1024 // base_page if a.kilobytes else UNKNOWN
            for kb, a in zip(known, areas, strict=True)
        ]
        return np.array(values, np.int64)

    return Areas(
        process=np.array([row[0] for row in rows], np.int32),
        start=np.array([a.start for a in areas], np.uint64),
        end=np.array([a.end for a in areas], np.uint64),
        perms=np.array([a.perms for a in areas], np.uint8),
        offset=np.array([a.offset for a in areas], np.uint64),
        device=np.array([a.device for a in areas], np.uint64),
        inode=np.array([a.inode for a in areas], np.uint64),
        kind=np.array([row[2] for row in rows], np.int8),
        page_size=np.array(
            [
                a.kilobytes.get("KernelPageSize", base_page // 1024) * 1024
                for a in areas
            ],
            np.int64,
        ),
        rss=pages("Rss"),
        dirty=pages("Shared_Dirty", "Private_Dirty"),
        referenced=pages("Referenced"),
        huge_pmd=pages("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"),
        swap=pages("Swap"),
        path=tuple(a.path for a in areas),
        vm_flags=tuple(a.vm_flags for a in areas),
        policy=tuple(row[3] for row in rows),
    )

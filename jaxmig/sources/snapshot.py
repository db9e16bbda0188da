"""A process's page table as it was at one moment, and the file that keeps it.

  take(pid), take_all() --> Snapshot --> save(path) --> load(path)

A row is one resident mapping: page `vpn` of a process maps frame `pfn`. Two rows with
one pfn are a shared page. `missing` lists what could not be read, and what was assumed
instead. The only privilege needed is to read the process's maps; frame numbers and page
flags also need CAP_SYS_ADMIN.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from jaxmig.sources.procfs import capture, infer, npz, schema
from jaxmig.sources.procfs.columns import (
    I8,
    I16,
    I32,
    I64,
    U32,
    U64,
    AreaKind,
    ArrayTable,
    Bools,
    PageFlag,
)
from jaxmig.sources.procfs.join import Columns, Sources
from jaxmig.sources.procfs.maps import Areas
from jaxmig.sources.procfs.npz import SnapshotError
from jaxmig.sources.procfs.process import Processes

__all__ = [
    "FORMAT_VERSION",
    "PINS",
    "AreaKind",
    "PageFlag",
    "Snapshot",
    "SnapshotError",
    "load",
    "take",
    "take_all",
]

FORMAT_VERSION = 1
OFF_LRU = "not on the LRU (kpageflags)"
PINS = (
    "pins and other references that no mapping explains: no file of /proc shows them; "
    "only those of --pinned are taken to be there"
)
MAGIC = "jaxmig_snapshot"  # name of the array that holds the version


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot(ArrayTable):
    """Resident mappings of one or more processes, sorted by process, area and vpn."""

    page_size: int  # bytes of a base page; every row is one
    process: I32  # row of `processes`
    area: I32  # row of `areas`
    vpn: I64  # virtual page number
    pfn: I64  # page frame number, see PageFlag.MADE_UP_PFN
    flags: U32  # bits of PageFlag
    node: I16
    order: I8  # log2 of base pages of the folio: 9 for a 2 MiB page of 4 KiB pages
    mapcount: I32  # of the page, all processes of the machine; -1 unknown
    kpageflags: U64  # as read, 0 unknown
    areas: Areas
    processes: Processes
    missing: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.vpn)

    def has(self, flag: PageFlag) -> Bools:
        """Rows with any bit of `flag`, bool[rows]."""
        return infer.has(self.flags, flag)

    def select(self, process: int) -> slice:
        """Rows of one process."""
        low, high = np.searchsorted(self.process, [process, process + 1])
        return slice(int(low), int(high))

    @property
    def laid_out(self) -> int:
        """Rows whose addresses are made up: numa_maps has only numbers of pages."""
        return int(np.count_nonzero(self.has(PageFlag.MADE_UP_ADDRESS)))

    @property
    def rss_pages(self) -> I64:
        """Pages of each process that Linux counts in its Rss, int64[processes]."""
        counted = self.process[infer.counted_in_rss(self.flags)]
        return np.bincount(counted, minlength=len(self.processes))

    def named(self, process: int = 0) -> tuple[tuple[int, str], ...]:
        """The first resident page of each area of a process, and the area's name."""
        mine = self.select(process)
        area, vpn = self.area[mine], self.vpn[mine]
        first = np.flatnonzero(np.diff(area, prepend=-1)).tolist()
        return tuple((int(vpn[i]), self.areas.path[int(area[i])]) for i in first)

    @property
    def movable(self) -> Bools:
        """Rows that migrate_pages() may move, as far as can be seen, bool[rows]."""
        movable = np.ones(len(self), np.bool_)
        for _, rows in self._reasons():
            movable &= ~rows
        return movable

    def unmovable(self) -> list[tuple[str, int]]:
        """(reason, pages) for the rows that may not move; each row counts once."""
        free = np.ones(len(self), np.bool_)
        found = []
        for reason, rows in self._reasons():
            pages = int(np.count_nonzero(rows & free))
            free &= ~rows
            if pages:
                found.append((reason, pages))
        return found

    def _reasons(self) -> Iterator[tuple[str, Bools]]:
        """Reasons with their rows, in the order of Linux's tests.

        Source: queue_folios_pte_range() in mm/mempolicy.c.
        """
        kind = self.areas.kind[self.area]
        raw = self.has(PageFlag.PFNMAP)
        names = self.areas.path
        for name in sorted({names[i] for i in np.unique(self.area[raw]).tolist()}):
            areas = np.array([path == name for path in names], np.bool_)
            label = name or "no name"
            yield f"VM_PFNMAP/VM_IO area ({label})", raw & areas[self.area]
        yield "DAX area", kind == AreaKind.DAX
        yield "zero page", self.has(PageFlag.ZERO)
        yield "vDSO: mapped more than once, not on the LRU", self.has(PageFlag.VDSO)
        yield "memfd_secret area", kind == AreaKind.SECRET
        yield "poisoned memory", self.has(PageFlag.POISONED)
        yield OFF_LRU, self.has(PageFlag.OFF_LRU)

    def save(self, path: str | Path) -> None:
        """Write an .npz, whole or not at all.

        Raises:
          SnapshotError: it cannot be written, or has values that could not be read back.
        """
        arrays = npz.flatten(self)
        try:
            for name, array in arrays.items():
                schema.check_shape(name, array.dtype, array.shape)
            schema.check(arrays)
        except ValueError as error:
            raise SnapshotError(f"{path}: cannot be kept: {error}") from None
        npz.write(Path(path), {MAGIC: np.array(FORMAT_VERSION)} | arrays)


def take(
    *pids: int,
    root: str | Path = "/proc",
    sys_root: str | Path = "/sys",
    page_size: int | None = None,
    hide_pfns: bool = False,
) -> Snapshot:
    """Read the page tables of live processes.

    Args:
      pids: processes; stop them (SIGSTOP) for counts that agree with each other.
      root, sys_root: directories instead of the live ones, for saved files.
      page_size: bytes of a base page; None for this machine's.
      hide_pfns: as without CAP_SYS_ADMIN; the file then has no real frame numbers.
    Returns:
      The snapshot, processes in the order of `pids`.
    Raises:
      ProcError: or a subclass: unknown PID, no permission, kernel thread, exit.
    """
    sources = _sources(root, sys_root, page_size, hide_pfns)
    return _freeze(capture.capture(pids, sources), sources)


def take_all(
    *,
    root: str | Path = "/proc",
    sys_root: str | Path = "/sys",
    page_size: int | None = None,
    hide_pfns: bool = False,
    tick: Callable[[int], None] = lambda n: None,
) -> Snapshot:
    """Read every process but this one; pages that they share have one pfn.

    Kernel threads and processes that end meanwhile are left out; those that may not be
    read are counted in `missing`.

    Args:
      root, sys_root, page_size, hide_pfns: as for `take`.
      tick: called with 1 after each process.
    Returns:
      The snapshot, processes in the order of their PIDs.
    Raises:
      NotLinux: there is no proc directory.
      PermissionDenied: no process may be read.
    """
    sources = _sources(root, sys_root, page_size, hide_pfns)
    return _freeze(capture.capture_all(sources, tick), sources)


def load(path: str | Path) -> Snapshot:
    """Read a file that `save` wrote.

    Raises:
      SnapshotError: no snapshot, a truncated file, another format or inconsistent rows.
    """
    path = Path(path)
    arrays = npz.read(path, MAGIC)
    version = arrays.pop(MAGIC)
    if version.shape != () or version.dtype.kind not in "iu":
        raise SnapshotError(f"{path}: an .npz file, but not a snapshot of jaxmig")
    if version != FORMAT_VERSION:
        advice = "update jaxmig" if version > FORMAT_VERSION else "take it again"
        raise SnapshotError(
            f"{path}: snapshot format {version}, this jaxmig reads {FORMAT_VERSION}; "
            f"{advice}"
        )
    lacking = [name for name in schema.FIELDS if name not in arrays]
    if lacking:
        raise npz.damaged(path, f"without {', '.join(lacking)[:80]}")
    try:
        schema.check(arrays)
    except ValueError as error:
        raise npz.damaged(path, str(error)) from None
    return npz.rebuild(Snapshot, arrays)


def _sources(
    root: str | Path, sys_root: str | Path, page_size: int | None, hide_pfns: bool
) -> Sources:
    size = page_size or capture.system_page_size()
    return Sources(Path(root), Path(sys_root), size, hide_pfns)


def _freeze(columns: Columns, sources: Sources) -> Snapshot:
    c = columns
    rows = (c.process, c.area, c.vpn, c.pfn, c.flags, c.node, c.order, c.mapcount)
    return Snapshot(
        sources.base_page,
        *rows,
        c.kpageflags,
        c.areas,
        c.processes,
        tuple(columns.missing),
    )

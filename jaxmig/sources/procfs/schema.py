"""The fields of a snapshot file: type, table and range of each.

Reader, writer and documentation all use this table.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from jaxmig.sources.procfs.columns import AreaKind, PageFlag, Perm

TEXT: Final = "text"  # uint8[bytes]: words of UTF-8, each ended by a zero byte
ANY: Final = 2**64 - 1
COUNT: Final = 2**52  # pages: as many as an address space has
MOST_TASKS: Final = 2**22  # PID_MAX_LIMIT
MOST_CPUS: Final = 2**16
MOST_NODES: Final = 2**10  # MAX_NUMNODES
MOST_TEXT: Final = 2**28  # bytes
STATM: Final = 7  # numbers in /proc/PID/statm


class Field(NamedTuple):
    """One array of the file."""

    table: (
        str  # it has an element for each "row", "area" ...; "" for one number or list
    )
    dtype: str
    low: int
    high: int
    meaning: str
    points_at: str = ""  # the table whose rows it numbers
    columns: int = 0  # a second dimension


FIELDS: Final = {
    "page_size": Field("", "int", 4096, 2**16, "bytes of a base page"),
    "process": Field("row", "int32", 0, ANY, "who maps the page", "process"),
    "area": Field("row", "int32", 0, ANY, "in which area", "area"),
    "vpn": Field("row", "int64", 0, COUNT, "virtual page number"),
    "pfn": Field("row", "int64", 0, 2**55 - 1, "page frame number"),
    "flags": Field("row", "uint32", 0, sum(PageFlag), "bits of PageFlag"),
    "node": Field("row", "int16", 0, MOST_NODES - 1, "memory node"),
    "order": Field("row", "int8", 0, 18, "log2 of the folio's base pages"),
    "mapcount": Field(
        "row", "int32", -1, MOST_TASKS, "mappings of the page; -1 unknown"
    ),
    "kpageflags": Field("row", "uint64", 0, ANY, "as read, 0 unknown"),
    "areas.process": Field("area", "int32", 0, ANY, "whose it is", "process"),
    "areas.start": Field("area", "uint64", 0, ANY, "first byte"),
    "areas.end": Field("area", "uint64", 0, ANY, "first byte behind it"),
    "areas.perms": Field("area", "uint8", 0, sum(Perm), "bits of Perm"),
    "areas.offset": Field("area", "uint64", 0, ANY, "bytes into the file"),
    "areas.device": Field("area", "uint64", 0, ANY, "major << 32 | minor"),
    "areas.inode": Field("area", "uint64", 0, ANY, "of the file"),
    "areas.kind": Field("area", "int8", 0, max(AreaKind), "number of AreaKind"),
    "areas.page_size": Field("area", "int64", 4096, 2**34, "bytes; of hugetlb's pages"),
    "areas.rss": Field("area", "int64", -1, COUNT, "pages resident; -1 unknown"),
    "areas.dirty": Field("area", "int64", -1, COUNT, "pages dirty; -1 unknown"),
    "areas.referenced": Field("area", "int64", -1, COUNT, "pages accessed; -1 unknown"),
    "areas.huge_pmd": Field("area", "int64", -1, COUNT, "pages under PMDs; -1 unknown"),
    "areas.swap": Field("area", "int64", -1, COUNT, "pages swapped out; -1 unknown"),
    "areas.path": Field("area", TEXT, 0, 0, "name of the file or kind"),
    "areas.vm_flags": Field("area", TEXT, 0, 0, "VmFlags of smaps"),
    "areas.policy": Field("area", TEXT, 0, 0, "memory policy of numa_maps"),
    "processes.pid": Field("process", "int32", 1, MOST_TASKS, "process"),
    "processes.rss": Field("process", "int64", -1, COUNT, "pages; -1 unknown"),
    "processes.statm": Field(
        "process", "int64", -1, COUNT, "statm, in pages; -1 unknown", "", STATM
    ),
    "processes.thread_process": Field(
        "thread", "int32", 0, ANY, "whose thread it is", "process"
    ),
    "processes.tid": Field("thread", "int32", 1, MOST_TASKS, "thread"),
    "processes.thread_cpu": Field(
        "thread", "int32", 0, MOST_CPUS - 1, "the CPU it ran on last"
    ),
    "processes.comm": Field("process", TEXT, 0, 0, "name of the program"),
    "missing": Field("", TEXT, 0, 0, "what could not be read"),
}


def check_shape(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless an array of this type and shape may be that field."""
    f = FIELDS[name]
    if f.dtype == "int":
        fits = dtype.kind in "iu" and dtype.itemsize <= 8 and shape == ()
    elif f.dtype == TEXT:
        fits = dtype == np.uint8 and len(shape) == 1 and shape[0] <= MOST_TEXT
    else:
        fits = dtype == np.dtype(f.dtype) and len(shape) == 1 + (f.columns > 0)
        fits = fits and shape[1:] in ((), (f.columns,))
    if not fits:
        rows = f"{f.dtype}[{f.table}s{f', {f.columns}' if f.columns else ''}]"
        wanted = {"int": "one number", TEXT: "text"}.get(f.dtype, rows)
        raise ValueError(f"{name} is {dtype}{list(shape)}, not {wanted}")


def check(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse values outside the ranges of their fields, and rows that contradict others.

    Args:
      arrays: every field of FIELDS, of the right type and dimensions.
    Raises:
      ValueError: with the field, the row, the value and its range.
    """
    rows = _lengths(arrays)
    for name, f in FIELDS.items():
        if f.dtype == TEXT:
            continue
        high = rows[f.points_at] - 1 if f.points_at else f.high
        _check_range(name, np.atleast_1d(arrays[name]), f.low, high)
    size = int(arrays["page_size"])
    _refuse("page_size", np.atleast_1d(arrays["page_size"]), [bool(size & size - 1)])
    huge = arrays["areas.page_size"]
    _refuse("areas.page_size", huge, (huge & (huge - 1) != 0) | (huge < size))
    start, end = arrays["areas.start"], arrays["areas.end"]
    _refuse("areas.start", start, (start >= end) | (start % np.uint64(size) != 0))
    _refuse("areas.end", end, end % np.uint64(size) != 0)
    _check_rows(arrays, np.uint64(size))


def _check_rows(arrays: Mapping[str, np.ndarray], size: np.uint64) -> None:
    """Refuse rows outside their areas, or not in ascending order."""
    area, vpn = arrays["area"], arrays["vpn"]
    owner = arrays["areas.process"][area]
    _refuse("area", area, owner != arrays["process"])
    page = vpn.astype(np.uint64)
    first, last = (arrays[f"areas.{x}"][area] // size for x in ("start", "end"))
    _refuse("vpn", vpn, (page < first) | (page >= last))
    before = np.zeros(len(vpn), bool)
    key = (arrays["process"], area, vpn)
    same = np.ones(max(len(vpn) - 1, 0), bool)
    for column in key:
        before[1:] |= same & (column[1:] < column[:-1])
        same &= column[1:] == column[:-1]
    before[1:] |= same
    _refuse("vpn", vpn, before, "is not behind the row before it")


def _lengths(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Rows of each table, which must be the same for all its fields."""
    rows: dict[str, int] = {}
    for name, f in FIELDS.items():
        if f.table:
            array = arrays[name]
            n = int((array == 0).sum()) if f.dtype == TEXT else array.shape[0]
            if rows.setdefault(f.table, n) != n:
                raise ValueError(f"{name} has {n} rows, not {rows[f.table]}")
        if f.dtype == TEXT and arrays[name][-1:].any():
            raise ValueError(f"{name} ends within a word")
    return rows


def _check_range(name: str, array: np.ndarray, low: int, high: int) -> None:
    info = np.iinfo(array.dtype)
    wrong = np.zeros(array.shape, bool)
    if low > info.min:
        wrong |= array < low
    if high < info.max:
        wrong |= array > high
    if wrong.ndim > 1:
        rows = wrong.any(axis=1)
        array, wrong = array[np.arange(len(array)), wrong.argmax(axis=1)], rows
    _refuse(name, array, wrong, f"is not within {low} to {high}")


def _refuse(
    name: str, array: np.ndarray, wrong: object, why: str = "cannot be"
) -> None:
    rows = np.asarray(wrong)
    if rows.any():
        i = int(rows.argmax())
        raise ValueError(f"{name}, row {i}: {array[i]} {why}")


def table() -> str:
    """The fields as a table of Markdown."""
    lines = ["| field | a row a | type | range | meaning |", "|---|---|---|---|---|"]
    for name, f in FIELDS.items():
        shown = {ANY: "…", COUNT: "2^52"}
        ends = "" if f.dtype == TEXT else f"{f.low} to {shown.get(f.high, f.high)}"
        ends = f"a row of {f.points_at}" if f.points_at else ends
        kind = f"{f.dtype}[{f.columns}]" if f.columns else f.dtype
        lines.append(
            f"| `{name}` | {f.table or 'file'} | {kind} | {ends} | {f.meaning} |"
        )
    return "\n".join(lines)

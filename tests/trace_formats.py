"""Strict readers of the formats that jaxmig writes for other tools."""

import dataclasses
import re
from collections import defaultdict
from typing import Any

LINE = re.compile(
    r" *(?P<comm>\S.{0,14})-(?P<pid>\d+) +\[(?P<cpu>\d{3,})\] (?P<flags>[d.][Nnp.]"
    r"[hs.][0-9.][0-9.]) +(?P<s>\d+)\.(?P<us>\d{6}): (?P<event>\w+): (?P<fields>.+)"
)
MODE = r"mode=MIGRATE_(?P<mode>ASYNC|SYNC_LIGHT|SYNC) reason=(?P<reason>\w+)"
PTE = r"addr=(?P<addr>[0-9a-f]+), pte=(?P<pte>[0-9a-f]+) order=(?P<order>\d+)"
STATS = "".join(
    rf"nr_{n}=(?P<{n}>\d+) "
    for n in ("succeeded", "failed", "thp_succeeded", "thp_failed", "thp_split")
)
FIELDS = {
    "mm_migrate_pages_start": MODE,
    "mm_migrate_pages": STATS + r"(nr_split=(?P<split>\d+) )?" + MODE,
    "set_migration_pte": PTE,
    "remove_migration_pte": PTE,
    "tlb_flush": r"pages:(?P<pages>-?\d+) reason:(?P<why>[a-zA-Z ]+) \((?P<number>\d)\)",
}
WHY = {
    1: "remote shootdown",
    2: "local shootdown",
    3: "local mm shootdown",
    4: "remote ipi send",
}


@dataclasses.dataclass(frozen=True)
class Traced:
    """One line of a trace file."""

    comm: str
    cpu: int
    us: int
    event: str
    fields: dict[str, str]


def tracefs(text: str) -> dict[str, list[Traced]]:
    """Title of each call to its events; a line that is not as Linux's is an error."""
    calls: dict[str, list[Traced]] = {}
    title = ""
    for line in text.splitlines():
        if line.startswith("#"):
            if re.match(r"# [\d.]+: ", line):
                title = line[2:]
                calls[title] = []
            continue
        m = LINE.fullmatch(line)
        assert m, line
        fields = re.fullmatch(FIELDS[m["event"]], m["fields"])
        assert fields, line
        if m["event"] == "tlb_flush":
            assert WHY[int(fields["number"])] == fields["why"]
        us = int(m["s"]) * 10**6 + int(m["us"])
        found = {k: v for k, v in fields.groupdict().items() if v is not None}
        made = Traced(m["comm"], int(m["cpu"]), us, m["event"], found)
        calls[title].append(made)
    return calls


def ns(us: float) -> int:
    """Whole nanoseconds; the format has microseconds."""
    whole = round(us * 1000)
    assert abs(us * 1000 - whole) < 1e-3
    return whole


def chrome(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The slices of a trace, checked against the trace-event format.

    Every slice has a named process and a named track; on a track slices are either
    apart or one inside the other.
    """
    assert document["displayTimeUnit"] in ("ms", "ns")
    names: dict[str, set[tuple[int, int]]] = defaultdict(set)
    slices = []
    for e in document["traceEvents"]:
        assert isinstance(e["name"], str)
        assert e["name"]
        assert isinstance(e["pid"], int)
        assert isinstance(e["tid"], int)
        if e["ph"] == "M":
            key = "sort_index" if e["name"].endswith("_sort_index") else "name"
            assert isinstance(e["args"][key], int if key == "sort_index" else str)
            names[e["name"]].add((e["pid"], e["tid"]))
            continue
        assert e["ph"] == "X", e
        assert e["ts"] >= 0
        assert e["dur"] >= 0
        assert set(e) <= {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"}
        slices.append(e)
    tracks = {(e["pid"], e["tid"]) for e in slices}
    assert tracks <= names["thread_name"]
    assert {p for p, _ in tracks} <= {p for p, _ in names["process_name"]}
    for track in tracks:
        _nested([e for e in slices if (e["pid"], e["tid"]) == track])
    return slices


def _nested(slices: list[dict[str, Any]]) -> None:
    ends: list[int] = []
    for e in sorted(slices, key=lambda e: (ns(e["ts"]), -ns(e["dur"]))):
        begin, end = ns(e["ts"]), ns(e["ts"]) + ns(e["dur"])
        while ends and ends[-1] <= begin:
            ends.pop()
        assert not ends or end <= ends[-1], e
        ends.append(end)


def stacks(text: str) -> dict[tuple[str, ...], int]:
    """Folded stacks: frames apart by ;, a space, a weight."""
    found = {}
    for line in text.splitlines():
        stack, _, weight = line.rpartition(" ")
        assert int(weight) > 0
        found[tuple(stack.split(";"))] = int(weight)
    return found

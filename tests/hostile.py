"""Hostile input: golden files and command lines, changed at random, for every reader.

python tests/hostile.py --mutants 100000 --seed 1

Whatever a file holds, its reader gives back something sane or one line that says what is
wrong.  Mutant n of a seed is the same for ever, so that a number is enough to see a fault
again: --first n --mutants 1.  Files of tests/fuzz/corpus, which broke a reader once, are
mutated too; their names begin with the reader's.
"""

import argparse
import contextlib
import io
import json
import lzma
import random
import resource
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from jaxmig import cli
from jaxmig.cli import app, calibrate, diff
from jaxmig.host.refused import Refused, WrongUse
from jaxmig.host.terminal import LONGEST, message
from jaxmig.programs.traces import ACCESS, Reading, TraceError, native
from jaxmig.sources import scenario, snapshot
from jaxmig.sources.procfs import schema
from jaxmig.sources.procfs.npz import flatten
from jaxmig.sources.resident.layout import foreign, lay_out
from jaxmig.sources.targets.snapshots import of_snapshot
from jaxmig.time import cost, machines
from jaxmig.time.machines import reader
from jaxmig.tools.sweep import JournalError, journal, rows
from procfs_fake import SLEEP, SLEEP_PID, sleep_root
from test_diff import DOCUMENT

HERE = Path(__file__).parent
CORPUS = HERE / "fuzz/corpus"
SLOW_S = 5.0  # of the processor
GROWTH = 1 << 30  # bytes of memory that a whole run may add
TOKENS = (
    *(b"\n", b"\0", b"-", b"-1", b"0", b",", b":", b" ", b"\t", b"\r\n", b"=", b'"'),
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b"#",
        b"(",
        b")",
        b".",
        b"1e300",
        b"nan",
        b"inf",
        b"true",
    ),
    *(b"9" * 19, b"9" * 400, b"f" * 16, b"2147483648", b"18446744073709551616", b"0x"),
    *("²".encode(), b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J", b"[" * 300, b" " * 500),
)
KNOWN = (Refused, WrongUse, JournalError)


@dataclass
class Kind:
    """A reader: what it is fed with, and what it does with a file."""

    seeds: list[bytes]
    read: Callable[[Path], None]
    suffix: str


@dataclass
class Run:
    """What became of the mutants."""

    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def trace(path: Path) -> None:
    """Some of its accesses, all of which some CPU may have made."""
    for block in islice(Reading(str(path)), 20):
        assert block.dtype == ACCESS
        address, order = block["address"], block["order"]
        assert len(block)
        assert (address < 1 << 57).all()
        assert ((order >= 0) & (order <= 18)).all()
        assert all((block[c] >= -1).all() for c in ("pid", "tid", "cpu", "time_ns"))


def page_table(path: Path) -> None:
    """A snapshot, its folios and the mappings of others."""
    s = snapshot.load(path)
    schema.check(flatten(s))
    target = of_snapshot(str(path), s, int(s.processes.pid[0]))
    assert target.description.isprintable()
    if target.foreign < 1 << 20:
        foreign(s, lay_out(s))


def profile(path: Path) -> None:
    """A machine and what a call costs there."""
    p = machines.load(path)
    counts = dict.fromkeys(cost.PRICED, 0) | {
        "allocs": 3,
        "moves": 2,
        "folios_moved": 2,
    }
    assert 0 <= cost.price(counts, p).total < 1 << 63
    assert machines.dumps(p).isprintable() or "\n" in machines.dumps(p)


def scene(path: Path) -> None:
    """A scenario, whose numbers are bounded."""
    s = scenario.load(path)
    assert 1 <= s.machine.nodes <= 1024
    assert sum(r.n_pages for r in s.regions) < 1 << 31


STAMP = "0.2.0-0123456789abcdef"


def table(path: Path) -> None:
    """Rows of a sweep: each kept one is what was written."""
    with journal.Journal(path, STAMP, lambda i: "", resume=True) as file:
        kept = file.done
    assert len(journal.read(path)) == kept
    assert set(path.read_bytes().splitlines()) <= set(_rows().splitlines())


def _rows() -> bytes:
    made = []
    for i in range(3):
        row = dict.fromkeys(rows.COLUMNS, i * 1000 + 7) | dict.fromkeys(rows.WORDS, "w")
        row |= {rows.STAMP: STAMP, "errno": ""}
        cells = [str(row[n]) for n in rows.COLUMNS if n != rows.CHECK]
        row[rows.CHECK] = zlib.crc32("\n".join(cells).encode())
        made.append(rows.text(row))
    return (rows.heading() + "".join(made)).encode()


def calibrated(*words: str | Path) -> None:
    """`jaxmig calibrate`, whose profile --machine accepts."""
    args = app.parser("calibrate").parse_args(
        ["calibrate", *map(str, words), "-o", "-"]
    )
    made = io.StringIO()
    with contextlib.redirect_stdout(made):
        assert calibrate.run(args) == 0
    reader.parse(made.getvalue(), "x", "x", machines.load)


def report(path: Path) -> None:
    """One `perf report`, of which a share of the time is said or not."""
    share = ("--share", "0.7") if path.stat().st_size % 2 else ()
    calibrated(path, "--pages", "1000", "--elapsed", "10ms", *share)


def counters(path: Path) -> None:
    """/proc/vmstat and /proc/interrupts after a migration."""
    before = path.with_name("before")
    before.write_bytes(_vmstat(0))
    calibrated(before, path, "--elapsed", "10ms")


def timings(path: Path) -> None:
    """What `calibrate --measure` wrote."""
    calibrated("--micro", path)


PROC = ("maps", "smaps", "smaps_rollup", "numa_maps", "statm", "stat")


def process(path: Path) -> None:
    """One of a process's files in /proc, named by the first line; the others are right."""
    name, _, data = path.read_bytes().partition(b"\n")
    if name.decode("utf-8", "replace") not in PROC:
        raise snapshot.SnapshotError("none of the files")
    root = path.with_name("proc")
    file = (
        (root if root.exists() else sleep_root(root)) / str(SLEEP_PID) / name.decode()
    )
    right = file.read_bytes()
    file.write_bytes(data)
    try:
        s = snapshot.take(SLEEP_PID, root=root, page_size=4096)
    finally:
        file.write_bytes(right)
    s.save(path.with_name("x.npz"))
    page_table(path.with_name("x.npz"))


def _vmstat(moved: int) -> bytes:
    lines = [f"nr_free_pages {9999 - moved}", f"pgmigrate_success {moved}"]
    lines += ["pgmigrate_fail 0", "thp_migration_success 0"]
    lines += [f"nr_tlb_remote_flush {moved}"] * (moved % 2 == 0)
    lines += ["            CPU0       CPU1", "  8:   0   0   IO-APIC   8-edge   rtc0"]
    lines += [f" TLB:   {moved}   {moved}   TLB shootdowns", " ERR:   0", ""]
    return "\n".join(lines).encode()


def result(path: Path) -> None:
    """What `--json` wrote, beside the document that it was."""
    right, said = path.with_name("right.json"), io.StringIO()
    right.write_text(json.dumps(DOCUMENT))
    args = app.parser("diff").parse_args(["diff", str(path), str(right)])
    with contextlib.redirect_stdout(said):
        assert diff.run(args) == 0
    assert all(line.isprintable() for line in said.getvalue().split("\n"))


def words(path: Path) -> None:
    """A command line, one word a line; only what is refused before any work is run."""
    text = path.read_text("utf-8", "replace")
    with contextlib.suppress(SystemExit):
        args = app.parser().parse_args([w for w in text.split("\n") if w])
        if args.command == "machines":
            cli.main(["machines", *text.split("\n")[1:]])


def _native() -> bytes:
    out = io.BytesIO()
    block = next(iter(Reading(str(HERE / "data/traces/perf-mem.txt"))))
    native.write(iter([block, np.repeat(block, 5)]), out)
    return out.getvalue()


def _traces() -> list[bytes]:
    found = [_native()]
    for path in sorted((HERE / "data/traces").iterdir()):
        if path.suffix != ".py":
            data = path.read_bytes()
            found.append(data)
            if path.suffix == ".xz":
                found.append(lzma.decompress(data))
            elif path.suffix == ".zlib":
                found.append(zlib.decompress(data))
    return found


def _golden(folder: str, suffix: str) -> list[bytes]:
    paths = (HERE / "data" / folder).rglob(f"*{suffix}")
    return [path.read_bytes() for path in sorted(paths)]


SCENE = b"""kernel = "both"
[machine]
nodes = 2
cpus = 4
node_size = ["64m", "8m"]
free = { 1 = "1m" }
[[process]]
name = "app"
running = [1, 2]
[[region]]
process = "app"
name = "heap"
size = "4m"
folio = "64k"
[[condition]]
region = "heap"
pages = [1, 17]
state = "extra_ref"
until = "attempt:3"
[[call]]
syscall = "move_pages"
process = "app"
pages = [["heap", 0], 0x1000]
nodes = [1, 0]
flags = "move"
"""
LINES = (
    "migratepages memhog:64m 0 1 --running 1-16 --kernel 6.2,6.3 --batch 8 --json x",
    "sweep memhog:1g 0 1 --batch 1,8:512:2x --cpus 2:128:2x --thp 0,50 -o x.csv",
    "replay a.txt --migrate 0:1 --accesses 5 --skip 3 --gap 2us --format csv",
    "advise memhog:4m 0 1 --p99 200us --machine xeon-2s --copy threads:4",
    "calibrate a b --elapsed 1s --pages 5 --base xeon-2s -o x.toml",
    "machines xeon-2s",
    "migratepages x.npz:12 0-1 !1 --node-size 1g --free 1:4k --lazy 3 --mode async",
)


def kinds() -> dict[str, Kind]:
    """Every reader, with its golden files and those of the corpus."""
    made = {
        "trace": Kind(_traces(), trace, ""),
        "snapshot": Kind(
            [(HERE / "data/procfs/snapshot-v1.npz").read_bytes()], page_table, ".npz"
        ),
        "profile": Kind(
            [
                (HERE.parent / f"jaxmig/time/machines/{name}.toml").read_bytes()
                for name in machines.names()
            ],
            profile,
            ".toml",
        ),
        "scenario": Kind([SCENE], scene, ".toml"),
        "journal": Kind([_rows()], table, ".csv"),
        "process": Kind(
            [f"{n}\n".encode() + (SLEEP / n).read_bytes() for n in PROC], process, ""
        ),
        "report": Kind(_golden("perf", ".txt"), report, ".txt"),
        "vmstat": Kind([_vmstat(1000), _vmstat(1001)], counters, ""),
        "timings": Kind(_golden("perf", ".json"), timings, ".json"),
        "result": Kind([json.dumps(DOCUMENT, indent=1).encode()], result, ".json"),
        "words": Kind([x.replace(" ", "\n").encode() for x in LINES], words, ""),
    }
    for path in sorted(CORPUS.iterdir()):
        made[path.name.partition("-")[0]].seeds.append(path.read_bytes())
    return made


def mutant(r: random.Random, data: bytes, other: bytes) -> bytes:
    """`data`, changed in one to five places; of an archive, mostly within a member."""
    if data[:2] == b"PK" and r.random() < 0.8:
        with contextlib.suppress(zipfile.BadZipFile, lzma.LZMAError, EOFError):
            return _repacked(r, data)
    return _changed(r, data, other)


def _repacked(r: random.Random, data: bytes) -> bytes:
    """The archive with one member changed, and its checksum right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        hit = r.choice(names)
        for name in names:
            member = old.read(name)
            if name == hit:
                head = 10 + int.from_bytes(member[8:10], "little")
                # Mostly the values: a header that is wrong is soon refused.
                cut = head if r.random() < 0.8 and len(member) > head else 0
                size = len(member)
                body = bytearray(_changed(r, member[cut:], member))
                if cut:
                    body = body[: size - cut] + bytes(max(size - cut - len(body), 0))
                member = member[:cut] + bytes(body)
            new.writestr(name, member)
    return out.getvalue()


def _changed(r: random.Random, data: bytes, other: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(r.choice((1, 1, 1, 2, 3, 5))):
        at = r.randrange(len(made) + 1)
        size = min(r.choice((1, 1, 2, 8, 64, 1000)), len(made) - at)
        part = made[at : at + size]
        match r.randrange(9):
            case 0 if size:
                made[at] ^= 1 << r.randrange(8)
            case 1:
                made[at:at] = r.choice(TOKENS)
            case 2:
                made[at : at + size] = r.choice(TOKENS)
            case 3:
                del made[at : at + size]
            case 4:
                made[at:at] = part * r.choice((1, 2, 50))
            case 5:
                del made[at:]
            case 6:
                lines = made.split(b"\n")
                r.shuffle(lines)
                made = bytearray(b"\n".join(lines))
            case 7:
                cut = r.randrange(len(other) + 1)
                made[at : at + size] = other[cut : cut + size]
            case 8:
                # A number becomes one that no field has room for.
                for i in range(at, min(at + 200, len(made))):
                    if made[i : i + 1].isdigit():
                        made[i : i + 1] = r.choice((b"9" * 12, b"-3", b"1" * 30, b"0"))
                        break
    return bytes(made)


def mutants(seed: int, first: int, count: int) -> Iterator[tuple[int, str, bytes]]:
    """(number, reader, file); the same number is the same file."""
    readers = kinds()
    names = sorted(readers)
    for number in range(first, first + count):
        r = random.Random(f"{seed} {number}")
        name = names[number % len(names)]
        seeds = readers[name].seeds
        yield number, name, mutant(r, r.choice(seeds), r.choice(seeds))


def one(run: Run, kind: Kind, name: str, path: Path) -> str:
    """Feed a reader; what is wrong with what it did, if anything is."""
    # The thread's own time: others do not lengthen it.
    start, said = time.thread_time(), io.StringIO()
    fault = ""
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            kind.read(path)
        run.accepted[name] += 1
        fault = _spoken(name, said.getvalue())
    except KNOWN as error:
        run.refused[name] += 1
        text = str(error)
        if "\n" in text or len(message(text)) > LONGEST:
            fault = f"a message of several lines: {text[:200]!r}"
    except Exception as error:
        fault = f"{type(error).__name__}: {str(error)[:200]}"
    took = time.thread_time() - start
    run.slowest_s = max(run.slowest_s, took)
    return fault or (f"{took:.1f} s" if took > SLOW_S else "")


def _spoken(name: str, text: str) -> str:
    """What a command said: one line of what may be shown."""
    if name == "words" and text.startswith("jaxmig"):
        if text.count("\n") > 1 or len(text) > LONGEST + 1:
            return f"a message of several lines: {text[:200]!r}"
        if not text.rstrip("\n").isprintable():
            return f"a message that steers the terminal: {text[:200]!r}"
    return ""


def play(seed: int, first: int, count: int) -> Run:
    """All mutants of a seed from `first` on."""
    run, readers = Run(), kinds()
    with tempfile.TemporaryDirectory() as folder:
        for number, name, data in mutants(seed, first, count):
            kind = readers[name]
            path = Path(folder) / f"x{kind.suffix}"
            path.write_bytes(data)
            if fault := one(run, kind, name, path):
                run.faults.append(f"seed {seed}, mutant {number}, {name}: {fault}")
    return run


def main() -> int:
    """Play, count, and say which mutants broke a reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for those that broke one")
    args = parser.parse_args()
    start = time.perf_counter()
    run = play(args.seed, args.first, args.mutants)
    print("\n".join(run.faults))
    print(
        f"{args.mutants} mutants in {time.perf_counter() - start:.0f} s, slowest "
        f"{run.slowest_s:.2f} s, {len(run.faults)} faults; accepted {dict(run.accepted)}; "
        f"refused {dict(run.refused)}; peak "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB"
    )
    return int(bool(run.faults))


__all__ = ["GROWTH", "TraceError", "kinds", "mutants", "play"]

if __name__ == "__main__":
    sys.exit(main())

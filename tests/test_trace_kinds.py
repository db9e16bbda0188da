"""Files that tools do write, and what is refused: read rightly or named by line."""

import gzip
import lzma
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from jaxmig.programs.traces import Reading, TraceError

LOADS = "cpu/mem-loads,ldlat=30/P"
SAMPLE = (
    f"java  4711/4712  [002]  4338237.604419:          1 {LOADS}:     7f1c2d3e4040 "
)
LATER = SAMPLE.replace("604419", "604519").replace("4040", "5040")
TASKS = (
    "         swapper     0/0     [000]     0.000000: PERF_RECORD_{}\n{}\n"
    "java  4711/4712  [002]  4338237.7: "
)
FRAME = "\t    55d0c0ffee00 do_work+0x10 (/usr/bin/app)\n"


def reading(tmp_path: Path, text: str | bytes, name: str = "t") -> Reading:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Reading(str(path))


def addresses(r: Reading) -> list[int]:
    return np.concatenate(list(r))["address"].tolist()


def problem(r: Reading) -> str:
    with pytest.raises(TraceError) as caught:
        list(r)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(r.path)


def task(record: str) -> str:
    head = "         swapper     0/0     [000]     0.000000: "
    return f"{head}PERF_RECORD_{record}\n{SAMPLE}\n"


ONE, TWO = [0x7F1C2D3E4040], [0x7F1C2D3E4040, 0x7F1C2D3E5040]
PERF = {
    "chain to 0": (
        f"{SAMPLE}\n\t    7f1c2d3a1100 Ljava/util/HashMap;::getNode+0x40 (/tmp/p.map)\n"
        f"\t               0 [unknown] ([unknown])\n\n{LATER}\n"
        "\t             3e8 [unknown] ([unknown])\n\n",
        TWO,
    ),
    "srcline": (f"{SAMPLE}\n{FRAME}  work.c:123\n\t 55d0 main+0x20 (inlined)\n", ONE),
    "no srcline": (f"{SAMPLE}\n{FRAME}  ??:0\n  libc.so.6[2a1ca]\n{LATER}\n", TWO),
    "inlined line": (f"{SAMPLE}\n{FRAME}  a b.c:9 (inlined)\n|9 \tx();\n", ONE),
    "no dso": (f"{SAMPLE}\n\t    55d0c0ffee00 do_work+0x10\n\t 55d0\n", ONE),
    "registers": (f"{SAMPLE}\n{FRAME} ABI:2    AX:0x0\n 0x55/0x66/P/-/-/0\n", ONE),
    "symbol and source": (f"{SAMPLE}    55d0c0 work+0x1 (/bin/a)\n  w.c:3\n", ONE),
    "ip and symbol": (f"{SAMPLE}    55d0c0ffee00 do_work+0x10 (/usr/bin/app)\n", ONE),
    "operator": (f"{SAMPLE}    55d0 operator new(unsigned long)+0x1 (/bin/a)\n", ONE),
    "fault's symbol": (
        SAMPLE.replace(LOADS, "page-faults")
        + "[unknown] (/dev/shm/pool)     55d0c0ffee00 touch+0x10 (/usr/bin/masim)\n"
        + LATER
        + "\n",
        TWO,
    ),
    "fault's alone": (SAMPLE.replace(LOADS, "page-faults:u") + "x+0x1 (/bin/a)\n", ONE),
    "comm": (task("COMM: systemd:1/1"), ONE),
    "exec": (task("COMM exec: sh (x):1/1"), ONE),
    "fork": (task("FORK(1221:1221):(1:1)"), ONE),
    "mmap": (task("MMAP2 4711/4712: [0x7f1c(0x1000) @ 0 00:01 1 0]: rw-s /x (y)"), ONE),
    "exit": (task("EXIT(4711:4712):(4711:4711)"), ONE),
    "switch": (task("SWITCH OUT preempt"), ONE),
    "namespaces": (task("NAMESPACES 1/1 - nr_namespaces: 7 [(net)]"), ONE),
    "tracepoint": (
        task("LOST lost 7") + LATER.replace(LOADS, "kmem:kfree") + "\n",
        ONE,
    ),
    "KVM's name": (SAMPLE.replace("java", "CPU 0/KVM") + "\n", ONE),
}


@pytest.mark.parametrize("name", PERF)
def test_text_of_perf_script(tmp_path: Path, name: str) -> None:
    text, expected = PERF[name]
    r = reading(tmp_path, text)
    assert addresses(r) == expected
    assert r.title == "perf script"


def test_events_that_perf_lost_are_counted(tmp_path: Path) -> None:
    r = reading(tmp_path, task("LOST lost 7") + task("LOST lost 5"))
    assert addresses(r) == ONE * 2
    assert list(r.notes.values()) == [12]


BAD = {
    "frame alone": (f"{SAMPLE}\n{FRAME}\n{FRAME}", ":4: no sample before this frame"),
    "source alone": (f"{SAMPLE}\n\n  work.c:123\n", ":3: no sample before this frame"),
    "frame of a task": (
        task("EXIT(1:1)").replace("\n", f"\n{FRAME}", 1),
        ":2: no samp",
    ),
    "instruction": (
        f"{SAMPLE}\n" + LATER.replace(" 7f1c2d3e5040", "  55d0 main+0x1 (/bin/a)"),
        ":2: no sample of memory, but of an instruction; record with `perf record -d`",
    ),
    "odd page": (f"{SAMPLE}\n{LATER} 3K\n", ":2: no sample: no size of a page"),
    "no page": (f"{SAMPLE}\n{LATER} 2G\n", ":2: no sample: no size of a page"),
    "small page": (f"{SAMPLE}\n{LATER} 2K\n", ":2: no sample: no size of a page"),
    "not canonical": (
        f"{SAMPLE}\n\n" + LATER.replace("7f1c2d3e5040", "100000000000000"),
        ":3: 0x100000000000000 is an address of no 64-bit CPU",
    ),
    "lackey": (
        " L 1000,8\n S f000000000000000,8\n",
        ":2: 0xf000000000000000 is an add",
    ),
    "csv": (
        "address\n\n4096\n0x7fffffffffffffff\n",
        ":4: 0x7fffffffffffffff is an add",
    ),
    "csv -1": ("address\n-1\n8192\n", ":2: address is not a number below 2^64: '-1'"),
    "csv none": ("address,cpu\n4096,1\n,1\n", ":3: address is not a number below 2^64"),
    "csv vpn -1": ("vpn\n4\n-1\n", ":3: vpn is not a page number below 2^52: '-1'"),
    "csv 2^64": ("address\n18446744073709551616\n", ":2: an address beyond 2^64"),
    "tracefs": (
        "# tracer: nop\n a-1 [000] d.... 1.000001: page_fault_user: "
        "address=0x1234567812345678 ip=0x1 error_code=0x4\n",
        ":2: 0x1234567812345678 is an address of no",
    ),
    "wide": ("address\n1\n".encode("utf-16"), ": text of UTF-16; save it as UTF-8"),
    "damon pages": (
        '[{"target_id":0,"snapshots":[\n{"end_time":"100","regions":[{"start":"0",'
        '"end":"144,115,188,075,855,000","nr_accesses":{"samples":1048575}}]}]}]',
        ":2: a snapshot of 35,184,372,088,832 pages and",
    ),
    "damon loads": (
        "k 1 [000] 1.000001: damon:damon_aggregated: target_id=0 nr_regions=1 "
        "4096-1099511627776: 1000000 0\n",
        ":1: a snapshot of 268,435,456 pages and 268,435,456,000,000 loads",
    ),
    "damon digits": (
        '[{"target_id":0,"snapshots":[\n{"end_time":"1²0","regions":[]}]}]',
        ":2: no snapshot of damo (ValueError: '1²0' is no number)",
    ),
    "csv twice": ("# x\n\naddress,cpu,address\n1,2,3\n", ":3: a column twice"),
    "damon no list": (
        '[{"target_id":0,\n"snapshots": 5}]',
        ":2: snapshots is no list",
    ),
    "damon 2^63": (
        '[{"target_id":0,"snapshots":[\n{"end_time":9223372036854775808,"regions":[]}]}]',
        ":2: no snapshot of damo (ValueError: 9223372036854775808 does not fit)",
    ),
    "damon float": (
        '[{"target_id":0,"snapshots":[\n{"end_time":"1","regions":[{"start":4096.5,'
        '"end":"8192","nr_accesses":{"samples":1}}]}]}]',
        ":2: no snapshot of damo (ValueError: 4096.5 is no whole number)",
    ),
    "damon true": (
        '[{"target_id":0,"snapshots":[\n{"end_time":true,"regions":[]}]}]',
        ":2: no snapshot of damo (ValueError: True is no whole number)",
    ),
    "damon deep": (
        '[{"target_id":0,"snapshots":[\n' + '{"a":' * 100_000,
        ":2: numbers or nesting beyond reason",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_named_by_its_line(tmp_path: Path, name: str) -> None:
    text, words = BAD[name]
    assert words in problem(reading(tmp_path, text))


def test_columns_that_do_not_matter_are_named(tmp_path: Path) -> None:
    r = reading(tmp_path, "address,page_size,weight,a,b\n4096,65536,1,,\n")
    assert addresses(r) == [4096]
    said = "columns 'page_size', 'weight', 'a' and 1 more do not matter"
    assert r.assumed == [said]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for text in ("address\n4096\n", " L 1000,8\n", f"{SAMPLE}\n"):
        marked = addresses(reading(tmp_path, b"\xef\xbb\xbf" + text.encode()))
        assert marked == addresses(reading(tmp_path, text))


LONG = {
    "blanks": " " * 16_000,
    "digits": "1" * 16_000,
    "pairs": "1 " * 8_000,
    "colons": "a:" * 8_000,
    "dashes": "-1 " * 5_000,
    "brackets": "a-1 [" * 3_000,
    "words": "a, " * 5_000,
}


@pytest.mark.parametrize(
    "format", ["perf", "tracefs", "lackey", "damon", "view", "csv"]
)
@pytest.mark.parametrize("name", LONG)
def test_a_line_takes_time_by_its_length(
    tmp_path: Path, format: str, name: str
) -> None:
    """Of 300 KB: milliseconds, where a pattern that tries all pairs takes minutes."""
    path = tmp_path / "t"
    path.write_text(f"{LONG[name]}x y z\n" * 20)
    start = time.process_time()
    with pytest.raises(TraceError) as caught:
        list(Reading(str(path), format))
    assert time.process_time() - start < 10
    assert len(str(caught.value)) < 400 + len(str(path))


HEAD = "Output format:\n<--record#-> <--instr#->: <---tid---> <record details>\n"
MARKER = "           5           0:        4711 <marker: page size {}>\n"
READ = "  6  1:  4711 read  8 byte(s) @ 0x0000ffffc9a03528 by PC 0x0000ffff8a5a1944\n"
OLD = (
    "  2923092: T3551528   ifetch 5 byte(s) @ 0x00007f7fe3a61755  non-branch\n"
    "  2923093: T3551528   read   8 byte(s) @ 0x0000ffffc9a03528  by PC 0x1\n"
    "------------------------------------------------------------\n"
    "  2923096: T3551529 <marker: tid 3551529 on core 2>\n"
)


@pytest.mark.parametrize("size", [65536, 16384, 0, 4097, 2**62])
def test_base_pages_of_another_size_are_refused(tmp_path: Path, size: int) -> None:
    said = problem(reading(tmp_path, HEAD + MARKER.format(size) + READ))
    assert said.startswith(f":3: base pages of {size} bytes: only 4096 is modelled")


def test_a_page_size_that_is_told_or_not(tmp_path: Path) -> None:
    old_marker = "  9: T1 <marker: page size 4096>\n"
    for text, told in (
        (HEAD + MARKER.format(4096) + READ, True),
        (HEAD + READ, False),
        (OLD, False),
        (OLD + old_marker, True),
    ):
        r = reading(tmp_path, text)
        assert addresses(r) == [0xFFFFC9A03528]
        assert r.assumed == (
            [] if told else ["pages of 4096 bytes, the file names no size"]
        )
    marker = MARKER.format("4k")
    assert ":3: no record" in problem(reading(tmp_path, HEAD + marker + READ))


def instruction(ip: int, stores: list[int], loads: list[int], wide: bool) -> bytes:
    """A record of ChampSim, or of CloudSuite's traces."""
    n = 4 if wide else 2
    registers = b"\1\2\0\0\3\4\0\0" if wide else b"\1\2\3\0\0\0"
    data = struct.pack("<QBB", ip, 1, 0) + registers + (b"\0" * 6 if wide else b"")
    data += struct.pack(f"<{n}Q", *stores, *[0] * (n - len(stores)))
    data += struct.pack("<4Q", *loads, *[0] * (4 - len(loads)))
    return data + (b"\1\1" + b"\0" * 6 if wide else b"")


@pytest.mark.parametrize("records", [1, 2, 3, 400])
@pytest.mark.parametrize("wide", [False, True])
def test_both_layouts_of_champsim(tmp_path: Path, records: int, wide: bool) -> None:
    """400 records are more than what the layout is told by."""
    expected, data = [], b""
    for i in range(records):
        loads, stores = [0x7000_0000 + 4096 * i, 0x7100_0000], [0x7FFF_0000_0000 + i]
        stores += [0x7200_0000, 0x7300_0000][: 2 if wide and i % 2 else 0]
        data += instruction(0x40_0000 + i, stores, loads, wide)
        expected += loads + stores
    for packed in (data, lzma.compress(data, preset=0)):
        r = reading(tmp_path, packed, "a.champsimtrace")
        assert addresses(r) == expected
    at = f"instruction {records} (byte {(96 if wide else 64) * (records - 1)}): cut"
    if records > 1:
        assert at in problem(reading(tmp_path, data[:-1], "b.champsimtrace"))


def test_an_instruction_that_cannot_be(tmp_path: Path) -> None:
    good = instruction(0x400000, [], [0x7000_0000], False)
    for bad in (instruction(1, [1 << 60], [], False), b"\xff" * 64):
        said = problem(reading(tmp_path, good * 500 + bad, "c.champsim"))
        assert said.startswith(": instruction 501 (byte 32000): no instruction")


TEXT = b" L 1000,8\n" * 3
XZ = lzma.compress(TEXT)
STREAMS = {
    "two": XZ + XZ,
    "padded": XZ + b"\0" * 4 + XZ + b"\0" * 8,
    "long padding": XZ + b"\0" * (1 << 17) + XZ,
    "empty between": XZ + lzma.compress(b"") + XZ,
    "gzip": gzip.compress(TEXT) + gzip.compress(TEXT),
    "padded gzip": gzip.compress(TEXT) + b"\0" * 5 + gzip.compress(TEXT),
}


@pytest.mark.parametrize("name", STREAMS)
def test_several_streams_are_one_file(tmp_path: Path, name: str) -> None:
    assert addresses(reading(tmp_path, STREAMS[name])) == [0x1000] * 6


BROKEN = {
    "odd padding": XZ + b"\0" * 3 + XZ,
    "odd end": XZ + b"\0" * 6,
    "garbage": XZ + b"garbage!",
    "padded garbage": XZ + b"\0" * 4 + b"garbage!",
    "cut": XZ + XZ[:-20],
    "cut in its head": XZ + XZ[:5],
    "zlib's tail": zlib.compress(TEXT) + b"more",
    "gzip's tail": gzip.compress(TEXT) + b"more",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_follows_a_stream_is_never_lost(tmp_path: Path, name: str) -> None:
    said = problem(reading(tmp_path, BROKEN[name]))
    assert said.startswith(": damaged or cut: ")

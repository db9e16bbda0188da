"""Scenario files: what a good one gives, and the one line that a bad one gets."""

import pickle
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from jaxmig.sources.scenario import (
    CallSpec,
    ConditionSpec,
    MachineSpec,
    ProcessSpec,
    RegionSpec,
    Scenario,
    ScenarioError,
    load,
    loads,
)
from jaxmig.sources.scenario.locate import find_line

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
GOOD = """\
kernel = ["6.2", "v4"]

[machine]
profile = "xeon-2s"
nodes = 2
cpus = 8
node_size = ["1g", "512m"]
free = { 1 = "1200k" }

[[process]]
name = "db"
running = [1, 2]
lazy = [3]

[[process]]
name = "web"
running = [5]

[[region]]
process = "db"
name = "heap"
size = "4000k"

[[region]]
process = ["db", "web"]
name = "huge"
size = "4m"
folio = "2m"
kind = "shmem"
node = 0
writable = false

[[region]]
process = "web"
name = "log"
size = 65536
folio = "16k"
kind = "file"
node = 1
private = true

[[condition]]
region = "heap"
pages = [100, 7]
state = "extra_ref"

[[condition]]
region = "huge"
pages = "every:512"
state = "locked"
until = "attempt:4"

[[call]]
syscall = "migrate_pages"
process = "db"
from = "0"
to = "1"
pid = 999999
privileged = false

[[call]]
syscall = "move_pages"
process = "web"
cpu = 5
pages = [["huge", 0], ["log", 3], 0x1000]
nodes = [1, -1, 99]
flags = "move_all"
fault_at = 2

[[call]]
syscall = "kernel"
process = "db"
from = "0"
to = "1"
mode = "sync_light"

[[call]]
syscall = "mbind"
process = "db"
pages = "heap"
policy = "interleave"
nodes = "0-1"
flags = "move|strict"
"""


def refusal(text: str) -> ScenarioError:
    with pytest.raises(ScenarioError) as caught:
        loads(text, "s.toml")
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def test_who_has_left_a_process_may_run_another() -> None:
    text = GOOD.replace("running = [5]", "running = [5]\nleft = [1, 3, 0]")
    assert loads(text).processes[1] == ProcessSpec("web", (5,), left=(1, 3, 0))


def test_every_key_arrives():
    scenario = loads(GOOD, "s.toml")
    assert scenario == Scenario(
        path="s.toml",
        kernels=("6.2", "v4"),
        machine=MachineSpec("xeon-2s", 2, 8, (1 << 30, 512 << 20), ((1, 1200 << 10),)),
        processes=(ProcessSpec("db", (1, 2), (3,)), ProcessSpec("web", (5,))),
        regions=(
            RegionSpec(("db",), "heap", 0x10000000, 4000 << 10),
            RegionSpec(
                processes=("db", "web"),
                name="huge",
                start=0x10400000,
                size=4 << 20,
                folio_order=9,
                kind="shmem",
                writable=False,
            ),
            RegionSpec(
                processes=("web",),
                name="log",
                start=0x10800000,
                size=65536,
                folio_order=2,
                kind="file",
                node=1,
                private=True,
            ),
        ),
        conditions=(
            ConditionSpec("heap", (100, 7), "extra_ref"),
            ConditionSpec("huge", ("every", 512), "locked", ("attempt", 4)),
        ),
        calls=(
            CallSpec(
                "migrate_pages",
                "db",
                from_="0",
                to="1",
                pid=999999,
                privileged=False,
            ),
            CallSpec(
                "move_pages",
                "web",
                cpu=5,
                pages=(("huge", 0), ("log", 3), 0x1000),
                nodes=(1, -1, 99),
                flags=4,
                fault_at=2,
            ),
            CallSpec("kernel", "db", from_="0", to="1", mode="sync_light"),
            CallSpec(
                "mbind",
                "db",
                pages="heap",
                policy="interleave",
                nodes="0-1",
                flags=3,
            ),
        ),
    )
    assert scenario.addresses(scenario.calls[1]) == (0x10400000, 0x10803000, 0x1000)
    assert scenario.region("huge").n_folios == 2
    assert scenario.process("db").lazy == (3,)
    assert scenario.machine.free_bytes(1) == 1200 << 10
    assert scenario.machine.free_bytes(0) is None


def test_what_is_left_out_has_a_default():
    text = """
        [[process]]
        name = "p"
        [[region]]
        name = "r"
        size = "2m"
        kind = "hugetlb"
        [[call]]
        syscall = "kernel"
        from = "0"
        to = "1"
        [[call]]
        syscall = "kernel"
        from = "0"
        to = "1"
        caller = "demotion"
        [[call]]
        syscall = "move_pages"
        pages = "r"
    """
    scenario = loads(text)
    assert scenario.kernels == ("6.2", "6.3")
    assert scenario.machine == MachineSpec("xeon-2s", 2, 4, (64 << 20, 64 << 20))
    assert scenario.processes == (ProcessSpec("p"),)
    assert scenario.regions[0].processes == ("p",)
    assert scenario.regions[0].folio_size == 2 << 20
    kernel, demotion, move = scenario.calls
    assert (kernel.cpu, kernel.mode, kernel.privileged) == (0, "sync", True)
    assert demotion.mode == "async"
    assert (move.mode, move.nodes, move.flags) == (None, None, 2)
    assert len(scenario.addresses(move)) == 512


def test_until():
    text = GOOD.replace('"attempt:4"', '"{}"')
    for word, until in (("waited", "waited"), ("forever", "forever")):
        scenario = loads(text.replace("{}", word))
        assert scenario.conditions[1].until == until


@pytest.mark.parametrize(
    ("given", "name"),
    [("damon", "damon"), ("contig_range", "cma"), ("memory_hotplug", "memory_offline")],
)
def test_callers_may_go_by_the_reason_that_linux_prints(given, name):
    text = GOOD.replace('mode = "sync_light"', f'caller = "{given}"')
    assert loads(text).calls[2].caller == name


def test_the_reference_lists_the_sizes_that_folios_have():
    def takes(size: int, kind: str) -> bool:
        region = f"size = {4 << 30}\nfolio = {size}\nkind = '{kind}'"
        head = "[machine]\nnode_size = '8g'\n[[process]]\nname = 'a'\n"
        try:
            loads(f"{head}[[region]]\nname = 'r'\n{region}")
        except ScenarioError:
            return False
        return True

    sizes = {
        f"{4 << i}k" if i < 8 else f"{1 << (i - 8)}m": 4096 << i for i in range(18)
    }
    taken = [text for text, size in sizes.items() if takes(size, "anon")]
    text = (REFERENCE / "scenarios.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| `folio`"))
    about = row.split("|")[3]
    first, last = f"`{'`, `'.join(taken[:3])}`, ... ", f"`{taken[-2]}` mapped by PTEs"
    assert f"{first}{last}, `{taken[-1]}` by a PMD" in about
    assert [s for s, size in sizes.items() if takes(size, "hugetlb")] == ["2m"]
    assert "`1g` is refused, also for hugetlb" in about


def test_kernels_come_once_and_in_order():
    assert loads('kernel = "both"').kernels == ("6.2", "6.3")
    listed = loads('kernel = ["6.18", "both", "6.3", "6.1"]')
    assert listed.kernels == ("6.18", "6.2", "6.3", "6.1")


def test_cpus_are_spread_over_the_nodes_in_order():
    machine = loads("[machine]\nnodes = 3\ncpus = 6").machine
    assert [machine.node_of_cpu(cpu) for cpu in range(6)] == [0, 0, 1, 1, 2, 2]
    machine = loads("[machine]\nnodes = 2\ncpus = 5").machine
    assert [machine.node_of_cpu(cpu) for cpu in range(5)] == [0, 0, 0, 1, 1]


def test_condition_pages():
    assert list(ConditionSpec("r", "all", "freed").indices(3)) == [0, 1, 2]
    assert list(ConditionSpec("r", ("every", 16), "freed").indices(33)) == [0, 16, 32]
    assert list(ConditionSpec("r", (5, 5), "freed").indices(9)) == [5, 5]


def test_a_profile_may_say_how_many_cpus_there_are():
    def cpus(profile: str) -> int:
        if profile != "big":
            raise ValueError("unknown profile; use big")
        return 96

    text = '[machine]\nprofile = "big"'
    assert loads(text, profile_cpus=cpus).machine.cpus == 96
    with pytest.raises(ScenarioError, match=r's:2: profile = "bog": unknown profile'):
        loads(text.replace("big", "bog"), "s", profile_cpus=cpus)


def test_pages_without_a_frame_need_no_room():
    machine = '[machine]\nnode_size = "8m"\n[[process]]\nname = "p"\n'
    region = '[[region]]\nname = "{}"\nsize = "6m"\n'
    bare = '[[condition]]\nregion = "b"\npages = "{}"\nstate = "untouched"\n'
    both = machine + region.format("a") + region.format("b")
    assert "larger than node 0" in str(refusal(both))
    assert "larger than node 0" in str(refusal(both + bare.format("every:2")))
    assert loads(both + bare.format("all")).regions[1].n_pages == 1536
    listed = bare.replace('"{}"', str(list(range(1024))))
    assert loads(both + listed).conditions[0].state == "untouched"


def test_call_arguments_go_unchecked():
    """Nodes, addresses, flags, masks and pids are for the modelled kernel to refuse."""
    call = GOOD.replace("nodes = [1, -1, 99]", "nodes = 4096").replace(
        '"move_all"', "255"
    )
    call = call.replace('["log", 3]', '["log", 30000]').replace("0x1000]", "-1]")
    move = loads(call.replace('to = "1"', 'to = "!7,9"')).calls[1]
    assert (move.nodes, move.flags) == (4096, 255)
    assert move.pages == (("huge", 0), ("log", 30000), -1)
    bind = GOOD.replace('pages = "heap"', 'start = ["heap", 1]\nlen = -4096')
    bind = bind.replace('"interleave"', "77")
    call = loads(bind.replace('"move|strict"', "-1").replace('"0-1"', '""')).calls[3]
    assert (call.start, call.length, call.policy) == (("heap", 1), -4096, 77)
    assert (call.flags, call.nodes) == (-1, "")
    short = loads(bind.replace("-4096", '"64k"')).calls[3]
    assert (short.length, short.policy) == (65536, 77)
    words = GOOD.replace('"move|strict"', '["MPOL_MF_MOVE", "strict"]')
    call = loads(words.replace('nodes = "0-1"', 'to = "!0"')).calls[3]
    assert (call.flags, call.nodes) == (3, "!0")


# What is replaced in GOOD, by what, and words of the message.  The line expected is the
# one marked with @, or else the last one of what was put in.
MISTAKES = [
    ('kernel = ["6.2", "v4"]', "kernel = 6.2", "kernel = 6.2: float quotes"),
    ('"v4"', '"v5"', 'kernel[1] = "v5": unknown v4'),
    ('kernel = ["6.2", "v4"]', "kernel = []", "kernel = []: no kernel"),
    ('kernel = ["6.2"', 'kernal = ["6.2"', 'kernal unknown "kernel"'),
    ("[machine]", "[machnie]", "machnie = {…}: unknown machine"),
    ("[machine]", "[[machine]]", "machine one [machine]"),
    ("nodes = 2", "nodes = 0", "nodes = 0: at least one"),
    ("nodes = 2", "nodes = true", "nodes = true: boolean"),
    ("nodes = 2", "nodes = 2.0", "nodes = 2.0: float"),
    ("nodes = 2", "nodes = nan", "nodes = nan: float"),
    ("nodes = 2", "nodes = 1979-05-27", "nodes = 1979-05-27: date"),
    ("nodes = 2", "nodes = 1979-05-27 07:32:00", "nodes = 1979-05-27 07:32:00: date"),
    ("nodes = 2", "nodes = 07:32:00", "nodes = 07:32:00: time"),
    (
        "nodes = 2",
        "nodes = 0x" + "f" * 9999,
        "nodes 39996 64 bits",
    ),
    (
        "nodes = 2",
        "nodes = " + "9" * 9999,
        "number long",
    ),
    ("nodes = 2", "nodes = 2\n@kernel = 1\ncores = 4", "kernel belongs first table"),
    ("nodes = 2", "nodes = 2\ncores = 4", "cores = 4: unknown cpus"),
    ("cpus = 8", "cpus = -8", "cpus = -8: CPU"),
    ("cpus = 8", 'cpus = "8"', 'cpus = "8": string'),
    ("cpus = 8", "cpus = 4000000", "cpus = 4000000: at most"),
    ("cpus = 8", "cpus = 8\ncpus = 8", "cpus = 8: TOML Cannot"),
    ('profile = "xeon-2s"', 'profile = ""', 'profile = "": empty'),
    ('profile = "xeon-2s"', 'profile = ["xeon-2s"]', "profile array string"),
    ('["1g", "512m"]', '["1g", "-512m"]', 'node_size[1] = "-512m": no size'),
    ('["1g", "512m"]', '[\n"1g",\n@-4096\n]', "node_size[1] = -4096: negative"),
    ('["1g", "512m"]', '["1g"]', "node_size 1 sizes for 2 nodes"),
    ('["1g", "512m"]', '"1.5g"', 'node_size = "1.5g": no size 4000k'),
    ('["1g", "512m"]', '"999999g"', "node_size 8192g"),
    ('["1g", "512m"]', "true", "node_size = true: no size"),
    ('{ 1 = "1200k" }', '{ 2 = "1200k" }', 'free.2 = "1200k": node 0 to 1'),
    ('{ 1 = "1200k" }', '{ 01 = "1200k" }', "free.01 node"),
    ('{ 1 = "1200k" }', '{ "a\\nb" = "4k" }', "free.a node"),
    ('{ 1 = "1200k" }', '{ 1 = "513m" }', 'free.1 = "513m": only 512m'),
    ('{ 1 = "1200k" }', '{ 1 = "512m" }', 'free.1 = "512m": regions leave'),
    ('{ 1 = "1200k" }', '{ 1 = "1000" }', "free.1 base pages multiple of 4k"),
    ('{ 1 = "1200k" }', '["4k"]', "free array { 1 ="),
    ('name = "web"', 'name = "db"', 'name = "db": another process'),
    ('name = "web"', "name = 3", "name = 3: integer string"),
    ('[[process]]\nname = "web"', "@[[process]]", "name = (missing): say"),
    ("running = [5]", "running = [5, 8]", "running[1] = 8: no such CPU 0 to 7"),
    ("running = [5]", "running = [-1]", "running[0] = -1: CPU"),
    ("running = [5]", "running = [2]", "running[0] = 2: already running process db"),
    ("running = [5]", "running = [\n 5, # [\n@ 5]", "running[1] = 5: already"),
    ("running = [5]", 'running = "5"', "running string list"),
    ("running = [5]", "running = [[5]]", "running[0] = [5]: array"),
    ("lazy = [3]", "lazy = [1]", "lazy[0] = 1: already running"),
    (
        "lazy = [3]",
        "lazy = [3]\n@left = [1]",
        "left[0] = 1: already running process db",
    ),
    ("lazy = [3]", "lazy = [3]\n@left = [8]", "left[0] = 8: no such CPU 0 to 7"),
    ("lazy = [3]", "lazzy = [3]", 'lazzy = [3]: unknown "lazy"'),
    ('["db", "web"]', '["db", "wbe"]', 'process[1] = "wbe": "web"'),
    ('["db", "web"]', '["db", "db"]', "process[1] twice"),
    ('["db", "web"]', "[]", "process = []: nobody"),
    ('["db", "web"]', "7", "process = 7: integer quotes"),
    ('name = "huge"', 'name = "heap"', 'name = "heap": another region'),
    ('size = "4000k"', 'size = "4001k"', 'size = "4001k": multiple of 4k'),
    ('size = "4000k"', 'size = "0k"', 'size = "0k": pages'),
    ('size = "4000k"', "size = -4096", "size = -4096: negative"),
    ('size = "4000k"', 'size = "2g"', "size larger than node 0 1g"),
    ('size = "4m"', 'size = "5m"', 'size = "5m": folios 2m'),
    ('size = "4m"', 'size = "1022m"', "size regions above larger than node 0"),
    ("size = 65536", "size = 65537", "size = 65537: base pages"),
    ('folio = "16k"', 'folio = "12k"', 'folio = "12k": 8k'),
    ('folio = "16k"', 'folio = "4m"', 'folio = "4m": up to 2m'),
    ('folio = "16k"', 'folio = "0k"', 'folio = "0k": 2m'),
    ('kind = "file"', 'kind = "fil"', 'kind = "fil": unknown "file"'),
    ('"16k"\nkind = "file"', '"16k"@\nkind = "hugetlb"', 'folio = "16k": hugetlb 2m'),
    ('"16k"\nkind = "file"', '"16k"@\nkind = "ksm"', 'folio = "16k": ksm 4k'),
    ('"file"\nnode = 1\n', '"shmem"\nnode = 1\n@', "private = true: buffers shmem"),
    ("node = 1", "node = 2", "node = 2: machine has 2 nodes"),
    ("writable = false", "writable = 0", "writable = 0: integer true false"),
    ("writable = false", "nodes = 0", 'nodes = 0: unknown [[region]]; "node"'),
    ("writable = false", 'state = "x"', "state belongs [[condition]]"),
    ('region = "huge"', 'region = "hug"', 'region = "hug": no region "huge"'),
    ("pages = [100, 7]", "pages = [100, 1000]", "pages[1] = 1000: 0 to 999"),
    ("pages = [100, 7]", "pages = [-1]", "pages[0] = -1: 0 to 999"),
    ("pages = [100, 7]", "pages = [true]", "pages[0] = true: boolean"),
    ("pages = [100, 7]", "pages = 7", "pages = 7: integer all"),
    ('"every:512"', '"every:0"', 'pages = "every:0": names no pages'),
    ('state = "locked"', 'state = "lock"', 'state = "lock": unknown "locked"'),
    ('"attempt:4"', '"attempt:0"', 'until = "attempt:0": waited'),
    ('"attempt:4"', '"later"', 'until = "later": waited'),
    ('"attempt:4"', "4", "until = 4: integer string"),
    ('syscall = "mbind"', 'syscall = "madvise"', "syscall unknown mbind"),
    ("cpu = 5", "cpu = 8", "cpu = 8: 8 CPUs"),
    ("cpu = 5", 'cpu = 5\nmode = "sync"', 'mode = "sync": not an argument'),
    ("cpu = 5", 'cpu = 5\nfrom = "0"', 'from = "0": move_pages takes pages'),
    ("cpu = 5", 'cpu = 5\nform = "0"', 'form = "0": unknown "from"'),
    (
        "cpu = 5",
        'cpu = 5\ncaller = "demotion"',
        'caller = "demotion": move_pages takes',
    ),
    (
        "999999",
        '999999\ncaller = "cma"',
        'caller = "cma": migrate_pages takes from, to',
    ),
    (
        'flags = "move|s',
        'caller = "damon"@\nflags = "move|s',
        'caller = "damon": mbind',
    ),
    ('mode = "sync_light"', 'caller = "demote"', 'caller = "demote": "demotion"'),
    ("cpu = 5", "cpu = 5\ncpuset = 0", 'cpuset = 0: integer "0"'),
    ("cpu = 5", 'cpu = 5\ncpuset = "a"', 'cpuset = "a": libnuma'),
    ("cpu = 5", 'cpu = 5\nmaxnode = "8"', 'maxnode = "8": string'),
    ('["log", 3]', '["lug", 3]', 'pages[1][0] = "lug": "log"'),
    ('["log", 3]', '["log", -3]', "pages[1][1] = -3: counted from 0"),
    ('["log", 3]', '["log"]', 'pages[1] = ["log"]: no page'),
    ('["log", 3]', "1.5", "pages[1] = 1.5: float"),
    ('[["huge", 0], ["log", 3], 0x1000]', '"hug"', 'pages = "hug": "huge"'),
    ("[1, -1, 99]", "[1]", "nodes = [1]: 1 nodes for 3 pages"),
    ("[1, -1, 99]", '"1"', 'nodes = "1": string'),
    ('"move_all"', '"move_al"', 'flags = "move_al": "move_all" number'),
    ('"move_all"', '["move", "al"]', 'flags[1] = "al": number'),
    ('"move_all"', '["move", 4]', "flags[1] = 4: integer"),
    ('nodes = "0-1"', 'nodes = "0-1"\nto = "1"', 'to = "1": two masks'),
    ("fault_at = 2", "fault_at = -2", "fault_at = -2: elements"),
    ("privileged = false", "privileged = 0", "privileged = 0: true"),
    ("pid = 999999", "pid = 1e6", "pid = 1000000.0: float"),
    ('mode = "sync_light"', 'mode = "lazy"', 'mode = "lazy": async'),
    ('policy = "interleave"', 'policy = "bnid"', 'policy = "bnid": "bind"'),
    ('policy = "interleave"', "policy = 1.0", "policy = 1.0: float"),
    ('pages = "heap"', 'pages = ["heap"]', "pages array string"),
    ('pages = "heap"', '@pages = "heap"\nstart = 0', "pages two ranges"),
    ('pages = "heap"', "start = 0\nlen = []", "len = []: array"),
    ('pages = "heap"', 'start = 0\nlen = "-1"', 'len = "-1": no length'),
]


@pytest.mark.parametrize(("old", "new", "words"), MISTAKES)
def test_a_mistake_gets_one_line_that_points_at_it(old, new, words):
    assert GOOD.count(old) == 1
    before, after = GOOD.split(old)
    marked = before + new + ("" if "@" in new else "@") + after
    error = refusal(marked.replace("@", ""))
    assert error.line == marked[: marked.index("@")].count("\n") + 1
    assert str(error).startswith(f"s.toml:{error.line}: {error.key}")
    assert "; " in str(error)
    for word in words.split():
        assert word in str(error)


def test_a_misplaced_key_is_sent_home():
    message = str(refusal("[machine]\nkernel = '6.3'"))
    assert "belongs in the lines above the first table" in message
    assert "belongs in [[condition]]" in str(refusal("[machine]\nuntil = 1"))
    assert "belongs in [[process]]" in str(refusal("[[call]]\nrunning = 1"))


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("", "s.toml: the file is empty"),
        ("# nothing\n", "s.toml: the file is empty"),
        ("a = " + "[" * 20000, "s.toml: nested too deeply"),
        ("\n\nkernel 6\n", "s.toml:3: kernel 6: not TOML: "),
        ('\n\nkernel = "6.3\n\n', 's.toml:3: kernel = "6.3: not TOML: '),
        ("\nkernel = [\n'6.3',\n", "s.toml:3: '6.3',: not TOML: "),
        ("a = 1\na = 2", "s.toml:2: a = 2: not TOML: "),
        ("[region]", "s.toml:1: region = {}: there may be several"),
        ("region = [1]", "s.toml:1: [[region]] = 1: this is no table"),
        ("call = [{}, {}]", "s.toml:1: syscall = (missing): "),
        ("machine.node.s = 1", "s.toml:1: node = {…}: unknown key in [machine]"),
        ('[[call]]\nsyscall = "mbind"', "s.toml:1: process = (missing): there is no"),
        ('"a\\nb\u2028" = 1', "s.toml:1: a\\nb\\u2028 = 1: unknown key"),
        ("kernel = 'a\u2028\u0085b'", 's.toml:1: kernel = "a\\u2028\\x85b": unknown'),
        ("a = '\0'", "s.toml:1: a = '\\x00': not TOML: "),
        ("\r\n[machine]\r\ncpus = 0", "s.toml:3: cpus = 0: "),
    ],
)
def test_odd_texts(text, start):
    assert str(refusal(text)).startswith(start)


@pytest.mark.parametrize("data", [None, b"kernel = '6.3'\n\xff", b"\0", b"", "folder"])
def test_unreadable_files(tmp_path: Path, data):
    path = tmp_path / "s\n.toml"
    if data == "folder":
        path.mkdir()
    elif data is not None:
        path.write_bytes(data)
    with pytest.raises(ScenarioError) as caught:
        load(path)
    # What is wrong with the whole file is on no line of it.
    whole = data in (None, b"", "folder")
    place = ": " if whole else r":[12]: .+: "
    assert re.fullmatch(rf".*s\\n\.toml{place}[^:]+; .+", str(caught.value))
    with pytest.raises(ScenarioError):
        load("a\0b")


def test_a_file_is_read_like_its_text(tmp_path: Path):
    path = tmp_path / "good.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load(path) == load(str(path)) == loads(GOOD, str(path))


# A key for the line on which each thing stands, in TOML that no one should write.
ODD = r"""'process' = [ { name = "[[region]]" }, # name = 1 ]
  { "na\u006de" = '''
    size = 1 ''', running = [
      1,
      2 ] } ]
x . "y z" . z = "quote \" hash # "
long = '''
[[region]]
''''' # two of these quotes are inside
[[region]]
when = 1979-05-27 07:32:00 # [
[[region]] # [[region]]
a = [[], [
[]]]
[region.b]
c = { d = 1, e = { f = 2 } }
[[region.g]]
[[region]]
[[region.g]]
[[region.g]]
h = 1
"""
PLACES = {
    ("process", 0, "name"): 1,
    ("process", 1, "name"): 2,
    ("process", 1, "running"): 3,
    ("process", 1, "running", 0): 4,
    ("process", 1, "running", 1): 5,
    ("x", "y z", "z"): 6,
    ("region",): 10,
    ("region", 0, "when"): 11,
    ("region", 1): 12,
    ("region", 1, "a", 1, 0): 14,
    ("region", 1, "b", "c", "e", "f"): 16,
    ("region", 1, "g", 0): 17,
    ("region", 2, "absent"): 18,
    ("region", 2, "g"): 19,
    ("region", 2, "g", 1, "h"): 21,
    ("absent",): 1,
}


@pytest.mark.parametrize(("where", "line"), PLACES.items())
def test_lines_are_found_in_any_dress(where, line):
    value = tomllib.loads(ODD)
    for part in where if "absent" not in where else ():
        value = value[part]  # the place exists, or the test would prove nothing
    assert find_line(ODD, where) == line


def leaves(value: object, where: tuple[str | int, ...] = ()):
    """Every place in a document, with the last key on the way to it."""
    yield where
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from leaves(inner, (*where, key))


def test_every_place_of_a_file_has_its_line():
    lines = GOOD.splitlines()
    document = tomllib.loads(GOOD)
    for where in leaves(document):
        keys = [part for part in where if isinstance(part, str)]
        line = lines[find_line(GOOD, where) - 1]
        assert not keys or keys[-1] in line
    marks = [find_line(GOOD, ("call", n)) for n in range(len(document["call"]))]
    assert [lines[line - 1] for line in marks] == ["[[call]]"] * 4
    assert len(set(marks)) == 4


@pytest.mark.parametrize(
    "line", [n for n, line in enumerate(GOOD.splitlines()) if "=" in line]
)
def test_a_value_of_another_type_is_refused_on_its_line(line):
    """No key takes a float, so that NaN is wrong for each of them."""
    lines = GOOD.splitlines()
    key = lines[line].split(" = ")[0]
    lines[line] = f"{key} = nan"
    error = refusal("\n".join(lines))
    assert (error.line, error.key) == (line + 1, key)


def test_errors_found_while_playing_name_their_line():
    scenario = loads(GOOD, "s.toml")
    error = scenario.error(("condition", 1, "until"), None, "never ends; end it")
    line = GOOD[: GOOD.index("attempt:4")].count("\n") + 1
    assert str(error) == f"s.toml:{line}: until: never ends; end it"
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.line, copy.key) == (str(error), line, "until")


VALUES = (
    "true 0 -1 1.5 nan inf 99999999999999999999 1979-05-27 07:32:00 '' 'all' [] [[]] "
    r"""{} {a=1} [1] ['heap',0] [true] 'every:3' 'attempt:2' '2m' "\u2028" 'kernel' """
)
LINES = GOOD.splitlines()


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """GOOD after a few accidents to its lines, its values or its bytes."""
    lines = list(LINES)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        line = draw(st.sampled_from(LINES))
        match draw(st.sampled_from(["drop", "twice", "swap", "value", "key"])):
            case "drop":
                del lines[at]
            case "twice":
                lines.insert(at, line)
            case "swap":
                lines[at] = line
            case "value":
                value = draw(st.sampled_from(VALUES.split()))
                lines[at] = f"{lines[at].partition('=')[0]} = {value}"
            case "key":
                lines[at] = f"{line.partition('=')[0]}={lines[at].partition('=')[2]}"
    data = bytearray("\n".join(lines).encode())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=4))
    return bytes(data)


def outcome(text: str) -> Scenario | ScenarioError:
    try:
        return loads(text, "s.toml")
    except ScenarioError as error:
        return error


@given(mutants())
@settings(deadline=None, max_examples=500)
def test_any_damage_gives_a_scenario_or_one_line(data: bytes):
    text = data.decode("utf-8", errors="replace")
    result = outcome(text)
    if isinstance(result, Scenario):
        for call in result.calls:
            result.addresses(call)
    else:
        assert str(result).isprintable()
        assert re.match(r"s\.toml:[0-9]+: .+: .+; .+", str(result))
        assert 1 <= result.line <= text.count("\n") + 1

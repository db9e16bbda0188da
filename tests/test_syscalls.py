"""System calls on the host: node masks, address spaces, what move_pages() sees."""

import errno

import numpy as np
import pytest
from jaxmig.calls import callers
from jaxmig.calls.syscalls import Area, Session, Space, pages_by_node, parse_nodes
from jaxmig.calls.syscalls.lookup import lookup
from jaxmig.calls.syscalls.nodes import MAX_NUMNODES, get_nodes, node_remap, plan
from jaxmig.calls.syscalls.scan import MOVE, MOVE_ALL, QueuePages
from jaxmig.calls.syscalls.space import View
from jaxmig.linux.releases import release
from jaxmig.sources.scenario import ScenarioError, loads
from jaxmig.state import frame, pte
from jaxmig.state.machine import Geometry
from jaxmig.tools.player import build, play

ONE = """
[machine]
nodes = 2
cpus = 4
[[process]]
name = "app"
running = [1]
[[region]]
name = "heap"
size = "64k"
[[region]]
name = "huge"
size = "4m"
folio = "2m"
"""


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("0", {0}),
        ("0,2", {0, 2}),
        ("1-3", {1, 2, 3}),
        ("all", {0, 1, 2, 3}),
        ("!0", {1, 2, 3}),
        ("!0,1", {2, 3}),
        ("+1", {1}),
        ("", set()),
        ("7", {7}),
    ],
)
def test_node_strings(text: str, nodes: set[int]) -> None:
    assert parse_nodes(text, 4) == nodes


@pytest.mark.parametrize(
    ("wanted", "maxnode", "fault", "result"),
    [
        ({0, 1}, None, False, {0, 1}),
        ({0, 1}, 2, False, {0}),  # one bit less than maxnode
        ({0, 1}, 1, True, set()),  # nothing to read, so nothing to fault on
        ({0}, 0, False, -errno.EINVAL),  # an unsigned long wraps around
        ({0}, -1, False, -errno.EINVAL),
        ({0}, 4096 * 8 + 1, False, {0}),
        ({0}, 4096 * 8 + 2, False, -errno.EINVAL),
        ({0}, None, True, -errno.EFAULT),
        ({0, MAX_NUMNODES}, None, False, -errno.EINVAL),
    ],
)
def test_get_nodes(
    wanted: set[int], maxnode: int | None, fault: bool, result: set[int] | int
) -> None:
    assert get_nodes(frozenset(wanted), maxnode, fault) == result


@pytest.mark.parametrize(
    ("old", "new", "pairs"),
    [
        # The two sets of the comment at do_migrate_pages().
        ({2, 3, 4}, {3, 4, 5}, [(4, 5), (3, 4), (2, 3)]),
        (range(8), {3, 4, 5}, [(7, 4), (6, 3), (2, 5), (1, 4), (0, 3)]),
        ({0}, {1}, [(0, 1)]),
        ({0}, {1, 2}, [(0, 1)]),
        ({0, 1}, {0, 1}, []),
        ({0, 1}, {1, 2}, [(1, 2), (0, 1)]),
    ],
)
def test_order_of_nodes(
    old: set[int], new: set[int], pairs: list[tuple[int, int]]
) -> None:
    assert list(plan(frozenset(old), frozenset(new))) == pairs


def test_node_remap_counts_around() -> None:
    assert [
        node_remap(n, frozenset(range(5)), frozenset({3, 5})) for n in range(6)
    ] == [
        *(3, 5, 3, 5, 3),
        5,
    ]


def view(bits: list[int]) -> View:
    """A page table of so many entries, page i in frame i; no large folios."""
    rows = np.zeros((64, frame.COLUMNS), np.int32)
    table = np.stack([np.arange(len(bits)), np.asarray(bits)], axis=1).astype(np.int32)
    return View(rows, table, None, Geometry(2, 32, (0,), (32,), len(bits), False))


@pytest.mark.parametrize(
    ("kernel", "errors"),
    [
        # found, untouched, zero page, PROT_NONE, untouched and not anonymous, no area
        ("6.2", [0, errno.EFAULT, errno.EFAULT, errno.ENOENT, errno.ENOENT]),
        ("6.5", [0, errno.EFAULT, errno.EFAULT, 0, errno.ENOENT]),
        ("6.12", [0, errno.ENOENT, errno.EFAULT, 0, errno.ENOENT]),
    ],
)
def test_what_stands_at_an_address(kernel: str, errors: list[int]) -> None:
    present = pte.PRESENT
    bits = [present, 0, present | pte.ZERO_PAGE, present | pte.PROT_NONE, 0]
    space = Space([Area(100, 4, 0), Area(200, 1, 4, anonymous=False)])
    vpn = np.asarray([100, 101, 102, 103, 200, 99, 104, 201])
    found = lookup(view(bits), space, release(kernel), vpn)
    assert (-found.error).tolist() == [*errors, *[errno.EFAULT] * 3]


def test_areas_and_holes() -> None:
    space = Space([Area(20, 5, 10), Area(10, 10, 0)])
    assert space.area_of(np.asarray([9, 10, 19, 20, 24, 25])).tolist() == [
        *(-1, 0, 0, 1, 1, -1)
    ]
    assert space.covers(10, 25)
    assert space.covers(12, 13)
    assert not space.covers(10, 26)
    assert not space.covers(9, 11)


def test_pages_by_node_counts_base_pages() -> None:
    m, layout = build(loads(ONE))
    assert pages_by_node(View.of(m), layout.spaces["app"], 2) == [16 + 1024, 0]


def test_an_absent_huge_page_maps_nothing() -> None:
    absent = '[[condition]]\nregion = "huge"\npages = [5]\nstate = "untouched"\n'
    m, layout = build(loads(ONE + absent))
    assert pages_by_node(View.of(m), layout.spaces["app"], 2) == [16 + 512, 0]


@pytest.mark.parametrize("kernel", ["6.2", "6.18"])
@pytest.mark.parametrize(("flags", "stay"), [(MOVE, 6 + 512), (MOVE_ALL, 0)])
def test_pages_left_to_those_who_share_them_are_counted(
    kernel: str, flags: int, stay: int
) -> None:
    text = ONE.replace("[[region]]", '[[region]]\nprocess = "app"')
    text += """
[[process]]
name = "child"
running = [3]
[[region]]
process = ["app", "child"]
name = "shared"
size = "24k"
[[region]]
process = ["app", "child"]
name = "shared THP"
size = "2m"
folio = "2m"
"""
    m, layout = build(loads(text))
    queue = QueuePages(View.of(m), release(kernel), flags)
    for a in layout.spaces["app"].areas:
        queue.add_area(a, 0, a.pages, frozenset({0}))
    assert queue.shared == stay
    folios = 16 + 2 + (6 + 1) * (not stay)
    assert len(queue.heads) == folios


def test_free_memory_is_what_regions_leave() -> None:
    absent = '[[condition]]\nregion = "heap"\npages = "all"\nstate = "untouched"\n'
    m, _ = build(loads(ONE + absent))
    used = 64 * 256 - np.asarray(m.nfree)
    assert used.tolist() == [1024, 0]


def test_an_endless_sleep_is_an_error_of_the_scenario() -> None:
    text = """
[machine]
nodes = 3
cpus = 6
[[process]]
name = "app"
running = [1]
[[region]]
name = "heap"
size = "64k"
[[condition]]
region = "heap"
pages = [3]
state = "locked"
[[call]]
syscall = "migrate_pages"
from = "0"
to = "1"
"""
    with pytest.raises(ScenarioError, match="sleep for ever") as error:
        play(loads(text, "x.toml"), kernels=["6.2"])
    assert str(error.value).startswith('x.toml:14: state = "locked":')


def test_pieces_do_not_take_frames_that_soft_offline_keeps() -> None:
    text = """
[machine]
nodes = 2
cpus = 1
node_size = "8m"
free = { "0" = "4k" }
[[process]]
name = "app"
running = [0]
[[region]]
name = "huge"
size = "2m"
folio = "2m"
[[call]]
syscall = "kernel"
caller = "soft_offline"
from = "0"
to = "0"
"""
    (tight,) = play(loads(text), kernels=["6.2"])
    # One page finds the free one; its own frame is poisoned and serves no other.
    assert tight["vmstat"]["pgmigrate_success"] == 1
    assert tight["vmstat"]["pgmigrate_fail"] == 511
    assert (tight["errno"], tight["caller_errno"]) == ("ENOMEM", "ENOMEM")
    (ample,) = play(loads(text.replace('"4k"', '"2m"')), kernels=["6.2"])
    assert (ample["vmstat"]["pgmigrate_success"], ample["lists"]) == (512, 512)
    assert ample["vmstat"]["thp_migration_split"] == 0


@pytest.mark.parametrize(
    ("kernel", "batch", "left"),
    [("6.10", 512, 2), ("6.10", 1, None), ("6.2", 512, None)],
)
def test_later_pages_may_not_take_what_earlier_batches_leave(
    kernel: str, batch: int, left: int | None
) -> None:
    text = """
[machine]
nodes = 3
cpus = 2
free = { "1" = "0", "2" = "0" }
[[process]]
name = "app"
running = [0]
[[region]]
name = "heap"
size = "8k"
node = 2
[[call]]
syscall = "mbind"
pages = "heap"
policy = "interleave"
flags = "move"
nodes = "1"
"""
    if left is None:
        with pytest.raises(ScenarioError, match="batches leave on node 2"):
            play(loads(text), kernels=[kernel], batch=batch)
        return
    (made,) = play(loads(text), kernels=[kernel], batch=batch)
    assert made["nodes_after"] == {"0": left, "1": 0, "2": 0}


def test_a_profile_that_does_not_exist() -> None:
    with pytest.raises(ScenarioError, match="profile"):
        play(loads(ONE.replace("nodes = 2", 'nodes = 2\nprofile = "nothing"')))


def test_callers_are_known_by_name() -> None:
    m, layout = build(loads(ONE))
    with pytest.raises(ValueError, match="one of kernel compaction"):
        callers.call(
            Session(m), layout.spaces["app"], frozenset({0}), 1, caller="nobody"
        )

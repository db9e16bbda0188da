"""What the kernel's own callers list, skip, reclaim and split, by release.

Values are written by hand from the kernel's rules; `ask` notes the lists that a caller
makes and moves nothing, `made` plays them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from jaxmig.calls import callers
from jaxmig.calls.callers import lists
from jaxmig.calls.callers.candidates import Candidates
from jaxmig.calls.callers.releases import since
from jaxmig.calls.callers.request import Request
from jaxmig.calls.syscalls import NotModelled, Session
from jaxmig.engine.migrate import replace
from jaxmig.linux.releases import RELEASES
from jaxmig.sources.scenario import ScenarioError, loads
from jaxmig.state import conditions as cond, pte
from jaxmig.tools.player import build, play

Lists = list[list[int]]
HEAD = """
[machine]
nodes = 2
cpus = 4
node_size = "16m"
{machine}
[[process]]
name = "a"
running = {running}
[[process]]
name = "b"
running = [{other}]
"""


def scenario(
    *regions: str,
    caller: str,
    states: tuple[tuple[str, Any], ...] = (),
    call: str = "",
    machine: str = "",
    both: bool = False,
) -> str:
    """The text of a scenario: regions as "anon 64k 4k key=value ...", states of the first.

    `both`: two processes map everything, on CPUs 1 and 2.
    """
    running, other = ("[1]", "2") if both else ("[1, 2, 3]", "")
    lines = [HEAD.format(machine=machine, running=running, other=other)]
    for i, text in enumerate(regions):
        kind, size, folio, *more = text.split()
        owners = '["a", "b"]' if both else '["a"]'
        lines += [
            "[[region]]",
            f'name = "r{i}"',
            f'kind = "{kind}"',
            f'size = "{size}"',
        ]
        lines += [f'folio = "{folio}"', f"process = {owners}", *more]
    for state, pages in states:
        state, _, until = state.partition(" until ")
        lines += ["[[condition]]", 'region = "r0"', f'state = "{state}"']
        lines += [f'until = "{until or "forever"}"']
        lines += [f"pages = {pages!r}".replace("'", '"')]
    lines += ["[[call]]", 'syscall = "kernel"', 'process = "a"', f'caller = "{caller}"']
    return "\n".join([*lines, 'from = "0"', 'to = "1"', call, ""])


def made(text: str, kernel: str) -> dict[str, Any]:
    """The record of the last call."""
    return play(loads(text), kernels=[kernel])[-1]


class Noting(Session):
    """Notes lists as page numbers from the first region on, and moves nothing."""

    def __init__(self, text: str, kernel: str, results: tuple[int, ...] = ()) -> None:
        s = loads(text)
        m, layout = build(s)
        super().__init__(m, kernel, keep_logs=True)  # else lists go together
        self.spec, self.machine, self.space = s.calls[0], s.machine, layout.spaces["a"]
        c = Candidates.of(self.view(), self.space, frozenset(range(self.nodes)))
        first = min(a.start for a in self.space.areas)
        rows = zip(
            c.head.tolist(), (c.vpn - first).tolist(), c.size.tolist(), strict=True
        )
        self.page = {h + i: vpn + i for h, vpn, n in rows for i in range(n)}
        self.results, self.lists, self.pages = list(results), [], 0

    def migrate(self, folios: np.ndarray, node: int, **how: Any) -> int:
        self.lists.append([self.page[h] for h in folios.tolist()])
        self.pages += int(Candidates.at(self.view(), folios).size.sum())
        return self.results.pop(0) if self.results else 0

    def ask(self) -> callers.CallerOutcome:
        """The call."""
        c = self.spec
        return callers.call(
            self,
            self.space,
            frozenset({0}),
            1,
            caller=c.caller or "kernel",
            mode=c.mode,
            order=c.order,
            direct=c.direct,
            lru_gen=self.machine.lru_gen,
            compact_unevictable=self.machine.compact_unevictable,
        )


class Working(Noting):
    """Notes lists and works on them."""

    def migrate(self, folios: np.ndarray, node: int, **how: Any) -> int:
        super().migrate(folios, node)
        self.logs = None
        return Session.migrate(self, folios, node, **how)


def ask(text: str, kernel: str, *results: int) -> Lists:
    """The lists of a caller, of which the first ones come to `results`."""
    s = Noting(text, kernel, results)
    s.ask()
    return s.lists


def lengths(lists: Lists) -> list[int]:
    return [len(x) for x in lists]


def down(last: int, first: int) -> list[int]:
    """`last` ... `first`, descending."""
    return list(range(last, first - 1, -1))


# Counts of whole calls
# ---------------------


KEYS = ("lists", "nr_tlb_remote_flush", "nr_tlb_remote_flush_received")
KEYS += ("pgmigrate_success", "pgmigrate_fail", "allocs", "ret")
W1 = scenario("anon 2m 4k", caller="compaction")
W4 = scenario("file 160k 4k", caller="cma")
W5 = scenario("anon 64k 4k", caller="cma", states=(("extra_ref", [3]),))
FIRST8 = (("locked", list(range(8))),)
W6 = scenario("anon 160k 4k", caller="demotion", states=FIRST8)
W7 = scenario("anon 128k 4k", caller="demotion", states=(("extra_ref", [3]),))
W8 = scenario("anon 64k 64k", caller="soft_offline")
W9 = scenario("anon 32k 4k", caller="numa_balancing")
W11 = scenario("anon 400k 4k", caller="damon", states=(("locked", [7]),))
EXAMPLES = {
    # Values of KEYS, as far as they are given, of some releases.
    "W1": (W1, {"6.2": "2 512 1536 512 0", "6.3 6.18": "2 2 6 512 0 512"}),
    "W4": (W4, {"6.2 6.3 6.8": "2 2 6 0 0 0 0", "6.10 6.18": "2 3 9 0 0 0 0"}),
    "W5": (W5, {"6.3 6.18": "1 1 3 15 0 15 0"}),
    "W6": (W6, {"6.2": "2 32 96 32 0", "6.3 6.18": "2 2 6 32 0 32 0"}),
    "W7": (W7, {"6.2": "1 41 123 31 1 41 1", "6.3 6.18": "1 1 3 31 1 32 1"}),
    "W8": (W8, {"6.3 6.6": "16 32 96 16 0 16", "6.8 6.12": "16 17 51 16 0 16"}),
    "W9": (W9, {"6.2 6.6 6.18": "8 0 0 8 0", "6.3": "8 8 24 8 0"}),
    "W11": (W11, {"6.12 6.18": "1 1 3 99 0"}),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples(name: str) -> None:
    text, wanted = EXAMPLES[name]
    for releases, line in wanted.items():
        values = [int(n) for n in line.split()]
        for kernel in releases.split():
            record = made(text, kernel)
            told = record | record["vmstat"]
            assert [told[k] for k in KEYS[: len(values)]] == values, kernel


def test_what_the_worked_examples_leave_behind() -> None:
    dropped = made(W4, "6.10")
    assert dropped["nodes_after"] == {"0": 0, "1": 0}
    assert (dropped["reclaimed"], dropped["caller_error"]) == (40, 0)
    held = made(W5, "6.3")
    assert (held["caller_errno"], held["caller_error"]) == ("EBUSY", -16)
    assert held["nodes_after"] == {"0": 1, "1": 15}


# What each caller passes by
# --------------------------

COLUMNS = (
    *(
        "compaction@6.8",
        "compaction@6.18",
        "compaction,async@6.18",
        "compaction,sync@6.18",
    ),
    *("cma@6.18", "memory_offline@6.18", "numa_balancing@6.6", "numa_balancing@6.8"),
    *("numa_balancing@6.10", "numa_balancing@6.19", "demotion@6.18", "damon@6.18"),
    *("longterm_pin@6.18", "soft_offline@6.18"),
)
# L: on a list, -: not, by column; kinds as `scenario` takes them, "+" for two processes.
TABLE = """
anon 16k 4k: extra_ref        - - - - - L - - L L L L L L
anon 16k 4k: pinned           - - - - - L - - - - L L L L
shmem 16k 4k: extra_ref       L L L L L L L L L L L L L L
shmem 16k 4k: pinned          L L L L L L L L L - L L L L
file 16k 4k: extra_ref        L L L L L L L L L L L L L L
swapcache 16k 4k:             L L L L L L - - L L L L L L
swapcache 16k 4k: extra_ref   L L L L L L - - L L L L L L
ksm 16k 4k:                   L L L L L L - - - - L L - L
+anon 16k 4k:                 L L L L L L - - - - L L - L
cow 16k 4k:                   L L L L L L L L L L L L - L
+shmem 16k 4k:                L L L L L L L L L L L L L L
anon 16k 4k mlocked=true:     L L L L L L L L L L - L L L
anon 16k 4k: locked           L L L L L L L L L L - - L L
shmem 16k 4k mlocked=true: locked    - - - - - L L L L L - - L L
shmem 16k 4k: locked           - - - L L L L L L L - - L L
file 16k 4k: writeback        - - - L L L L L L L - L L L
file 16k 4k:                  L L L L - L L L L L L L L L
file 16k 4k writable=false:   L L L L - L - - - - L L L L
shmem 16k 4k writable=false:  L L L L L L - - - - L L L L
file 16k 4k shared=false:     L L L L - L - - L L L L L L
file 16k 4k: dirty            L L L L L L - - - - L L L L
file 16k 4k migrate_folio=false: dirty   - - - L L L - - - - L L L L
file 16k 4k exec=true:        L L L L - L L L L L L L L L
+file 16k 4k exec=true:       L L L L - L - - - - L L L L
anon 16k 4k: young            L L L L L L L L L L - L L L
anon 16k 4k prot_none=true:   L L L L L L - - - - L L L L
anon 16k 4k: private          - - - - - L - - L L L L L L
anon 16k 4k: isolated         - - - - - - - - - - - - - -
anon 64k 64k:                 - L L L L L - - L L L L L .
shmem 64k 64k:                - L L L L L - - L L L L L .
+anon 64k 64k:                - L L L L L - - - - L L - .
anon 2m 2m:                   - - - - L L L L L L L L L .
anon 2m 2m: extra_ref         - - - - - L L L L L L L L .
anon 2m 2m: pinned            - - - - - L L L L - L L L .
+anon 2m 2m:                  - - - - L L - L L - L L - .
+shmem 2m 2m:                 - - - - L L - L L L L L L .
hugetlb 2m 2m:                - - - - L L - - - - - - L L
movable_ops 16k 4k:           L L L L L L - - - - - - - L
movable_ops 16k 4k: isolated  - - - - - - - - - - - - - -
"""
ROWS = [line.partition(":")[::2] for line in TABLE.split("\n") if line]


@pytest.mark.parametrize(("kind", "rest"), ROWS)
def test_who_lists_what(kind: str, rest: str) -> None:
    states = rest.split()[: -len(COLUMNS)]
    wanted = dict(zip(COLUMNS, rest.split()[len(states) :], strict=True))
    for column, letter in wanted.items():
        caller, _, kernel = column.partition("@")
        caller, _, mode = caller.partition(",")
        text = scenario(
            kind.removeprefix("+"),
            caller=caller,
            states=tuple((f"{s} until waited", "all") for s in states),
            call=f'mode = "{mode}"' if mode else "",
            both=kind.startswith("+"),
        )
        if letter != ".":
            assert any(ask(text, kernel)) == (letter == "L"), column


FIELD = [
    # What was seen in the field: regions, caller, state, pages listed by release.
    (
        ("+shmem 4m 2m",),
        "numa_balancing",
        (),
        {"6.2 6.3 6.6": 0, "6.7 6.8 6.12 6.18": 1024},
    ),
    (("anon 128k 64k",), "numa_balancing", (), {"6.3 6.8": 0, "6.10 6.12": 32}),
    (("anon 4m 2m", "anon 256k 4k"), "compaction", (), {"6.2 6.3 6.12": 64}),
    (("hugetlb 4m 2m",), "compaction", (), {"6.3 6.12": 0}),
    (("hugetlb 4m 2m",), "demotion", (), {"6.3 6.12": 0}),
    (("hugetlb 4m 2m",), "numa_balancing", (), {"6.3 6.12": 0}),
    (("hugetlb 4m 2m",), "damon", (), {"6.12": 0}),
    (("file 64k 4k writable=false",), "cma", (), {"6.3 6.12": 0}),
    (("anon 64k 64k",), "compaction", (), {"6.3": 0, "6.12": 16}),
    (("anon 32k 4k",), "compaction", (("extra_ref", [3]),), {"6.3 6.12": 7}),
    (("anon 64k 4k",), "demotion", (("locked", [3]),), {"6.3 6.12": 15}),
    (("anon 32k 4k mlocked=true",), "demotion", (), {"6.3 6.12": 0}),
    (("file 64k 4k",), "demotion", (("writeback", [3]),), {"6.3 6.12": 15}),
    (("+anon 32k 4k",), "numa_balancing", (), {"6.3 6.12": 0}),
    (("+ksm 32k 4k",), "numa_balancing", (), {"6.3 6.12": 0}),
    (("file 32k 4k writable=false",), "numa_balancing", (), {"6.3 6.12": 0}),
]


@pytest.mark.parametrize(("regions", "caller", "states", "wanted"), FIELD)
def test_reports_from_the_field(
    regions: tuple[str, ...],
    caller: str,
    states: tuple[tuple[str, Any], ...],
    wanted: dict[str, int],
) -> None:
    both = regions[0].startswith("+")
    regions = tuple(r.removeprefix("+") for r in regions)
    text = scenario(*regions, caller=caller, states=states, both=both)
    for releases, pages in wanted.items():
        for kernel in releases.split():
            s = Noting(text, kernel)
            reclaimed = s.ask().reclaimed
            assert (s.pages, reclaimed) == (pages, 16 if caller == "cma" else 0), kernel


def test_what_is_passed_by_is_counted_nowhere() -> None:
    states = (("extra_ref", [3, 5]),)
    record = made(scenario("anon 32k 4k", caller="compaction", states=states), "6.3")
    assert record["vmstat"]["pgmigrate_success"] == 6
    assert (record["vmstat"]["pgmigrate_fail"], record["ret"]) == (0, 0)
    assert record["nodes_after"] == {"0": 2, "1": 6}


def test_damon_came_with_6_11() -> None:
    text = scenario("anon 16k 4k", caller="damon")
    older = [k for k in RELEASES if not since(k, "6.11")]
    assert {"6.1", "6.2", "v4", "6.3", "6.10"} <= set(older)
    for kernel in older:
        with pytest.raises(ScenarioError, match=f"Linux {kernel} has no caller damon"):
            # Before anything is played.
            play(loads(text), kernels=["6.12", kernel])
    assert lengths(ask(text, "6.12")) == [4]


def test_releases_have_an_order() -> None:
    names = ["6.1", "v4", "6.3", "6.4", "6.6", "6.9", "6.10", "6.12", "6.18.0", "6.18"]
    names += ["6.19", "7.0", "7.3"]
    assert [n for n in names if since(n, "6.10")] == names[6:]
    posted = {
        "batch-copy": ("6.18", "6.19"),
        "v4": ("6.2", "6.3"),
        "6.9-a": ("6.9", "7.0"),
    }
    for name, (has, lacks) in posted.items():
        assert (since(name, has), since(name, lacks)) == (True, False)
    with pytest.raises(NotModelled, match="name it after a release"):
        since("mine", "6.3")


def test_a_machine_without_frames_for_what_falls_back_says_so() -> None:
    """Node 0 has memory left for its own page, but the model has no frame for it."""
    text = scenario("anon 4k 4k", caller="damon", machine="free = { 1 = 0 }")
    state, layout = build(loads(text))
    session = Session(replace(state, top=state.top.at[0].set(0)), "7.3")
    request = Request(session, layout.spaces["a"], frozenset({0}), 1, "async")
    with pytest.raises(NotModelled, match="leave more memory free"):
        callers.damon.run(request)


# Compaction
# ----------


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("", [32, 480]),
        ("order = -1", [32, 480]),
        ("order = 6", [32, 480]),
        ("order = 5", [32] * 16),
        ("order = 1", [32] * 16),
        ("order = 3\ndirect = true", [32] * 16),
        ('mode = "async"', [32, 480]),
        ('mode = "async"\norder = 3', [8] * 64),
        ('mode = "async"\norder = 3\ndirect = false', [32] * 16),
        ('mode = "sync"', [32, 480]),
    ],
)
def test_compaction_ends_lists(call: str, wanted: list[int]) -> None:
    text = scenario("anon 2m 4k", caller="compaction", call=call)
    for kernel in ("6.1", "6.3", "6.6", "6.18"):
        lists = ask(text, kernel)
        assert lengths(lists) == wanted, kernel
        # Each list descends, and they follow one another.
        assert [page for x in lists for page in x[::-1]] == list(range(512))


def test_no_list_crosses_a_pageblock() -> None:
    text = scenario(
        "anon 2m 2m", "anon 160k 4k", "anon 2m 2m", "anon 96k 4k", caller="compaction"
    )
    wanted = [down(543, 512), down(551, 544), down(1559, 1536)]
    assert ask(text, "6.3") == wanted
    small = scenario("anon 2100k 4k", caller="compaction")
    assert lengths(ask(small, "6.18")) == [32, 480, 13]


def test_the_last_pageblock_is_remembered_by_its_beginning_since_6_6() -> None:
    # 100 pages that were never touched: the first list ends in the third block of 64.
    states = (("untouched", list(range(100))),)
    text = scenario("anon 2m 4k", caller="compaction", states=states, call="order = 6")
    assert lengths(ask(text, "6.3")) == [32, 32, 348]
    assert lengths(ask(text, "6.6")) == [32] * 12 + [28]


def test_a_page_that_stays_spoils_its_block_for_an_allocation() -> None:
    def lists(call: str, page: int, kernel: str = "6.3") -> list[int]:
        states = (("extra_ref", [page]),)
        text = scenario("anon 2100k 4k", caller="compaction", states=states, call=call)
        return lengths(ask(text, kernel))

    assert lists("", 100) == [32, 479, 13]
    assert lists('mode = "sync"', 100) == [32, 479, 13]
    # The first list is sent before the scanner comes to page 100.
    assert lists('mode = "async"', 100) == [32, 13]
    assert lists('mode = "async"', 7) == [13]
    assert lists('mode = "async"\norder = 3', 7) == [8] * 64 + [5]
    assert lists('mode = "async"\norder = 3', 3)[:2] == [8, 8]
    assert sum(lists('mode = "async"\norder = 3', 3)) == 525 - 8


@pytest.mark.parametrize(
    ("kernel", "call", "wanted"),
    [
        # A failure in the first list, of 32 pages.
        ("6.2", 'mode = "async"', [32, 13]),  # the pageblock is left
        ("6.2", "", [32, 480, 13]),
        ("6.3", 'mode = "async"', [32, 480, 13]),  # finished at once
        ("6.3", "order = 1", [32] * 16 + [13]),
        ("6.3", "order = 1\ndirect = true", [32, 480, 13]),
        ("6.5", "order = 1", [32, 480, 13]),
        ("6.18", "order = 1", [32, 480, 13]),
        ("6.18", "order = -1", [32, 480, 13]),
        ("6.18", 'mode = "sync"\norder = 1', [32] * 16 + [13]),
    ],
)
def test_what_compaction_does_after_a_failure(
    kernel: str, call: str, wanted: list[int]
) -> None:
    text = scenario("anon 2100k 4k", caller="compaction", call=call)
    assert lengths(ask(text, kernel, 1)) == wanted


def test_6_3_does_not_see_that_the_pageblock_is_over() -> None:
    # 32 pages in front of the end of a pageblock, of which one fails.
    regions = ("anon 2m 2m", "anon 2m 4k", "anon 2m 4k")
    text = scenario(*regions, caller="compaction", call="order = 1\ndirect = true")
    results = (0,) * 15 + (1,)
    assert lengths(ask(text, "6.3", *results)) == [32] * 16 + [512]
    assert lengths(ask(text, "6.5", *results)) == [32] * 32


def test_compaction_ends_with_memory() -> None:
    s = Noting(scenario("anon 2100k 4k", caller="compaction"), "6.3", (0, -12))
    assert s.ask() == callers.CallerOutcome(-12, 0, 2)
    assert lengths(s.lists) == [32, 480]


def test_unevictable_pages_may_be_left_alone() -> None:
    machine = "compact_unevictable = 0"
    kind = "anon 16k 4k mlocked=true"
    assert ask(scenario(kind, caller="compaction", machine=machine), "6.3") == []
    assert ask(scenario(kind, caller="cma", machine=machine), "6.3") == [[3, 2, 1, 0]]


def test_large_folios_below_the_order_are_moved_since_6_9() -> None:
    for folio, order, wanted in (
        ("64k", 4, []),
        ("64k", 5, [1] * 4),
        ("64k", -1, [2, 2]),
    ):
        text = scenario(
            f"anon 256k {folio}", caller="compaction", call=f"order = {order}"
        )
        lists = ask(text, "6.10")
        assert sum(lengths(lists)) == (4 if wanted else 0)
        assert ask(text, "6.8") == []


# CMA and offlining
# -----------------


def test_cma_takes_32_pages_and_gives_up_after_five_calls() -> None:
    text = scenario("anon 400k 4k", caller="cma")
    assert ask(text, "6.3") == [down(31, 0), down(63, 32), down(95, 64), down(99, 96)]
    stuck = Noting(text, "6.3", (0, 1, 1, 1, 1, 1))
    done = stuck.ask()
    assert (done.error, done.ret, done.lists) == (-16, 1, 6)
    assert [x[0] for x in stuck.lists] == [31] + [63] * 5
    full = Noting(text, "6.3", (0, -12))
    assert full.ask().error == -12
    assert len(full.lists) == 2


def test_cma_lists_cross_pageblocks_and_end_with_hugetlb() -> None:
    text = scenario("anon 8k 4k", "hugetlb 2m 2m", "anon 16k 4k", caller="cma")
    assert ask(text, "6.3") == [[1, 0, 512], down(1027, 1024)]


def test_a_clean_page_that_somebody_holds_is_unmapped_and_fails_five_times() -> None:
    states = (("extra_ref", [3]),)
    record = made(scenario("file 160k 4k", caller="cma", states=states), "6.3")
    vmstat = record["vmstat"]
    assert (vmstat["pgmigrate_success"], vmstat["pgmigrate_fail"]) == (0, 5)
    # One flush for the list, none for the page that nobody maps any more.
    assert vmstat["nr_tlb_remote_flush"] == 1
    assert (record["lists"], record["reclaimed"]) == (5, 31)
    assert record["caller_errno"] == "EBUSY"
    # The rest of the range is not touched.
    assert record["nodes_after"] == {"0": 8, "1": 0}


@pytest.mark.parametrize(
    ("kind", "state", "reclaimed"),
    [
        ("file 160k 4k", "dirty", 39),
        ("file 160k 4k", "writeback", 39),
        ("file 160k 4k", "locked", 39),
        ("file 160k 4k private=true", "young", 40),
        ("shmem 160k 4k", "young", 0),
    ],
)
def test_what_cma_drops(kind: str, state: str, reclaimed: int) -> None:
    states = ((f"{state} until waited", [3]),)
    record = made(scenario(kind, caller="cma", states=states), "6.3")
    assert record["reclaimed"] == reclaimed
    assert record["vmstat"]["pgmigrate_success"] == 40 - reclaimed
    assert record["caller_error"] == 0


def test_cma_drops_large_folios_of_files_too() -> None:
    record = made(scenario("file 4m 2m", caller="cma"), "6.3")
    assert (record["reclaimed"], record["lists"]) == (1024, 2)
    assert record["vmstat"]["nr_tlb_remote_flush"] == 2  # a leaf each
    assert record["nodes_after"] == {"0": 0, "1": 0}


@pytest.mark.parametrize(
    ("kernel", "lists"),
    [
        # Memory that ends among pieces ends a serial call.
        ("6.2", [[0]]),
        # A small folio that was split counts nowhere up to 6.6, and once from 6.7.
        ("6.3", [[0], [*down(12, 1), 0]]),
        ("6.7", [[0], [*down(12, 1), 0]]),
        ("6.18", [[0], [*range(4, 16), 0]]),
    ],
)
def test_cma_goes_on_until_its_list_is_empty(kernel: str, lists: Lists) -> None:
    full = scenario("shmem 64k 64k", caller="cma", machine='free = { 1 = "12k" }')
    s = Working(full, kernel)
    assert (s.ask().error, s.lists) == (-12, lists)
    # Three pieces find room; each call fails at the first that finds none.
    counts = s.counts["pgmigrate_success"], s.counts["pgmigrate_fail"]
    assert counts == (3, len(lists))


def test_offlining_lists_everything_at_once() -> None:
    text = scenario(
        "anon 8k 4k", "hugetlb 2m 2m", "anon 2m 2m", caller="memory_offline"
    )
    assert ask(text, "6.10") == [[0, 1, 512, 1024]]
    assert ask(text, "6.12") == [[1024, 1, 0, 512]]


# NUMA balancing, demotion, DAMON, pins
# -------------------------------------


def test_a_hint_is_on_the_entries_of_the_process_and_gone_afterwards() -> None:
    hints = []

    class Looking(Noting):
        def migrate(self, folios: np.ndarray, node: int, **how: Any) -> int:
            hint = (self.view().pte[:, pte.BITS] & pte.PROT_NONE) != 0
            hints.append(np.flatnonzero(hint).tolist())
            return super().migrate(folios, node, **how)

    s = Looking(
        scenario("shmem 8k 4k", caller="numa_balancing", both=True), "6.3", (1,)
    )
    assert s.ask() == callers.CallerOutcome(1, 0, 2)
    first = s.space.areas[0].first_pte
    # What failed is mapped again too.
    assert hints == [[first, first + 1]] * 2
    assert not (s.view().pte[:, pte.BITS] & pte.PROT_NONE).any()


@pytest.mark.parametrize("kernel", ["6.1", "6.8", "6.12"])
def test_large_folios_of_shared_areas_fault_in_every_release(kernel: str) -> None:
    """Up to 6.9 do_numa_page() only maps them again."""
    text = scenario(
        "shmem 64k 64k",
        caller="numa_balancing",
        states=(("prot_none", "all"),),
        both=True,
    )
    s = Noting(text, kernel)
    s.ask()
    assert s.lists == ([[0]] if kernel == "6.12" else [])
    hints = (s.view().pte[:, pte.BITS] & pte.PROT_NONE) != 0
    # The other process has not been there yet.
    assert hints.sum() == 16
    first = s.space.areas[0].first_pte
    assert not hints[first : first + 16].any()


def test_a_fault_does_not_try_without_room() -> None:
    text = scenario("anon 16k 4k", caller="numa_balancing", machine="free = { 1 = 0 }")
    assert ask(text, "6.3") == []


def test_demotion_scans_one_lru_at_a_time() -> None:
    regions = ("anon 160k 4k", "file 160k 4k", "shmem 8k 4k")
    text = scenario(*regions, caller="demotion")
    wanted = [down(31, 0), down(71, 40), [81, 80, *down(39, 32)], down(79, 72)]
    assert ask(text, "6.3") == wanted
    both = scenario(*regions, caller="demotion", machine="lru_gen = true")
    assert lengths(ask(both, "6.18")) == [42, 40]


def test_a_scan_of_demotion_counts_what_it_passes_by() -> None:
    states = (("locked", [1]), ("young", [2]), ("writeback", [33]), ("isolated", [4]))
    text = scenario("anon 160k 4k", caller="demotion", states=states)
    # Page 4 is on no LRU, so that the first scan goes on to page 32.
    assert ask(text, "6.3") == [[*down(32, 5), 3, 0], down(39, 34)]
    large = scenario("anon 124k 4k", "anon 4m 2m", "anon 8k 4k", caller="demotion")
    assert lengths(ask(large, "6.3")) == [32, 1, 2]


def test_damon_takes_a_list_a_node() -> None:
    text = scenario("anon 8k 4k", "anon 8k 4k node=1", "anon 8k 4k", caller="damon")
    text = text.replace('from = "0"', 'from = "0,1"')
    s = Noting(text, "6.12")
    callers.call(s, s.space, frozenset({0, 1}), 1, caller="damon")
    assert s.lists == [[5, 4, 1, 0], [3, 2]]


def test_a_pin_fails_whatever_is_left() -> None:
    text = scenario("anon 8k 4k", "hugetlb 2m 2m", "anon 8k 4k", caller="longterm_pin")
    s = Noting(text, "6.3", (2,))
    assert s.ask() == callers.CallerOutcome(2, -12, 1)
    assert s.lists == [[0, 1, 512, 1024, 1025]]


# Soft offline
# ------------


def test_a_lock_is_waited_for_before_isolation() -> None:
    states = (("locked until waited", [1]), ("writeback until waited", [2]))
    record = made(scenario("anon 16k 4k", caller="soft_offline", states=states), "6.3")
    assert (record["allocs"], record["lists"], record["ret"]) == (4, 4, 0)
    endless = scenario("anon 16k 4k", caller="soft_offline", states=(("locked", [1]),))
    with pytest.raises(ScenarioError, match="would sleep for ever"):
        made(endless, "6.3")


def test_what_is_not_isolated_or_split_is_busy() -> None:
    for kind, state in (
        ("anon 16k 4k", "isolated"),
        ("anon 64k 64k", "extra_ref"),
        ("anon 64k 64k", "pinned"),
        ("anon 64k 64k", "writeback"),
    ):
        text = scenario(kind, caller="soft_offline", states=((state, "all"),))
        record = made(text, "6.3")
        assert (record["lists"], record["caller_errno"]) == (0, "EBUSY"), state
        assert record["vmstat"]["pgmigrate_fail"] == 0
        assert record["vmstat"]["nr_tlb_remote_flush"] == 0


@pytest.mark.parametrize("reference", ["extra_ref", "pinned", "isolated"])
def test_a_split_looks_at_references_last(reference: str) -> None:
    """can_split_folio() comes behind the lock, writeback and buffers, at each try."""
    states = (
        *((reference, [3]), ("locked until waited", [0])),
        *(("writeback until attempt:4", [1]), ("private until attempt:5", [2])),
    )
    held = Noting(
        scenario("shmem 64k 64k", caller="soft_offline", states=states), "6.3"
    )
    assert held.ask() == callers.CallerOutcome(0, -16, 0)
    left = Candidates.of(held.view(), held.space, frozenset({0}))
    for state in (cond.LOCKED, cond.WRITEBACK, cond.NO_MAPPING):
        assert not left.blocked(state), state
    # The reference that was lent for the look has been given back.
    assert left.extra == (0 if reference == "isolated" else 1)
    endless = scenario(
        "anon 64k 64k",
        caller="soft_offline",
        states=((reference, "all"), ("locked", [0])),
    )
    with pytest.raises(ScenarioError, match="would sleep for ever"):
        made(endless, "6.3")


def test_each_page_of_a_shared_thp_splits_one_more_pmd() -> None:
    """In 6.16 to 6.19 the first page's try fails, and splits the first process's PMD."""
    text = scenario("anon 2m 2m", caller="soft_offline", both=True)
    for kernel, first in (("6.17", 1), ("6.18", 0)):
        s = Noting(text, kernel)
        assert s.ask().error == (-16 if first else 0), kernel
        assert s.lists == [[i] for i in range(first, 512)]
        # A PMD in one try, its PTEs together and the other PMD in the next; or both PMDs.
        assert s.counts["nr_tlb_remote_flush"] == 2 + first


def test_split_pages_of_files_are_dropped_and_of_shmem_moved() -> None:
    clean = made(scenario("file 64k 64k", caller="soft_offline"), "6.8")
    assert (clean["lists"], clean["nodes_after"]) == (0, {"0": 0, "1": 0})
    assert clean["vmstat"]["nr_tlb_remote_flush"] == 1
    for kind, state in (("shmem 64k 64k", ()), ("file 64k 64k", (("dirty", "all"),))):
        s = Noting(scenario(kind, caller="soft_offline", states=state), "6.8")
        s.ask()
        assert s.lists == [[i] for i in range(16)]
        # The split has unmapped them, so that nothing is left to flush.
        assert s.view().mappings(np.asarray(list(s.page)[:16])).sum() == 0
        assert s.counts["nr_tlb_remote_flush"] == 1


# What files may say
# ------------------


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"call": "order = 0"}, "order = 0: -1 is all"),
        ({"call": "order = 11"}, "order = 11: -1 is all"),
        ({"call": "order = -1\ndirect = true"}, "direct = true: an allocation"),
        ({"call": 'mode = "sync"\ndirect = true'}, "direct = true: an allocation"),
        ({"call": 'mode = "async"\norder = -1'}, "order = -1: async"),
        ({"caller": "cma", "call": "order = 3"}, "order = 3: only compaction"),
        ({"caller": "cma", "call": "direct = true"}, "direct = true: only compaction"),
        ({"machine": "compact_unevictable = 2"}, "compact_unevictable = 2: vm.compact"),
        ({"machine": "lru_gen = 1"}, "lru_gen = 1: this is an integer"),
    ],
)
def test_settings_that_make_no_sense(more: dict[str, str], problem: str) -> None:
    text = scenario("anon 16k 4k", **{"caller": "compaction"} | more)
    with pytest.raises(ScenarioError, match=problem):
        loads(text)


def test_only_files_are_mapped_privately() -> None:
    with pytest.raises(ScenarioError, match="shared = false: only a file"):
        loads(scenario("shmem 16k 4k shared=false", caller="cma"))


@pytest.mark.parametrize(
    ("region", "state", "problem"),
    [
        ("shmem 16k 4k", "young", "only a file system may lack it, and this is shmem"),
        (
            "file 16k 16k",
            "young",
            "folio of a file system without migrate_folio is not",
        ),
        ("file 16k 4k private=true", "young", "private of a file system without"),
        ("file 16k 4k", "buffers_locked", "buffers of a file system without"),
    ],
)
def test_file_systems_without_migrate_folio_have_base_pages(
    region: str, state: str, problem: str
) -> None:
    text = scenario(
        f"{region} migrate_folio=false", caller="cma", states=((state, "all"),)
    )
    text = text.replace('until = "forever"\n', "") if state == "young" else text
    with pytest.raises(ScenarioError, match=problem):
        loads(text)


def test_gigantic_pages_are_refused_by_name() -> None:
    text = scenario("hugetlb 1g 1g", caller="cma").replace('"16m"', '"4g"')
    with pytest.raises(ScenarioError, match="gigantic hugetlb pages are not modelled"):
        loads(text)


# Speed
# -----


@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
def test_lists_that_go_together_count_as_one_by_one(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = (("locked until attempt:4", [3, 70]), ("extra_ref", [40]))
    asked = "compaction cma demotion numa_balancing soft_offline memory_offline"
    texts = [scenario("shmem 400k 4k", caller=c, states=states) for c in asked.split()]
    texts.append(
        scenario("file 400k 4k", caller="cma", states=(("dirty", [1, 9, 50]),))
    )
    together = [made(text, kernel) for text in texts]
    cut = [play(loads(text), kernels=[kernel], batch=16)[0] for text in texts]
    monkeypatch.setattr(lists.Lists, "roomy", lambda *_: False)
    alone = [made(text, kernel) for text in texts]
    whole = [play(loads(text), kernels=[kernel], batch=16)[0] for text in texts]
    said = ("ret", "lists", "reclaimed", "caller_error", "batches", "allocs", "vmstat")
    said += ("ipis_per_cpu", "nodes_after")
    for a, b in zip(together + cut, alone + whole, strict=True):
        assert [a[k] for k in said] == [b[k] for k in said], a["caller"]
    assert sum(a["lists"] for a in together) > 200


def test_a_gigabyte_takes_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def migrate(s: Session, folios: np.ndarray, node: int, **how: Any) -> int:
        calls.append((len(folios), how["batch"]))
        return 0

    monkeypatch.setattr(Session, "migrate", migrate)
    text = scenario("anon 1g 4k", caller="compaction")
    scenario_ = loads(text.replace('"16m"', '"2g"'))
    m, layout = build(scenario_)
    s = Session(m, "6.3")
    done = callers.call(s, layout.spaces["a"], frozenset({0}), 1, caller="compaction")
    assert done.lists == 1024
    assert calls == [(512 * 32, 32), (512 * 480, 480)]

"""The oracle itself: worked examples, each release's rules, counts of real kernels."""

from __future__ import annotations

import pytest
from oracle import RELEASES, SleepsForever, expand, play, play_both
from oracle.nodes import plan


def document(conditions=(), running=(1, 2, 3), lazy=(), call=None, **region) -> dict:
    """A machine of two nodes and four CPUs with one process and one region."""
    heap = {"process": "victim", "name": "heap", "size": "4000k", **region}
    return {
        "machine": {"nodes": 2, "cpus": 4, "node_size": "1g"},
        "process": [{"name": "victim", "running": list(running), "lazy": list(lazy)}],
        "region": [heap],
        "condition": [{"region": "heap", **c} for c in conditions],
        "call": [call or {"syscall": "migrate_pages", "from": "0", "to": "1"}],
    }


def on_page_100(state: str, **more) -> list[dict]:
    """One condition on page 100."""
    return [{"pages": [100], "state": state, **more}]


def counts(doc: dict, kernel: str) -> tuple:
    """Flushes, IPIs, allocations, pages moved, pages failed, result."""
    r = play(doc, kernel).records[0]
    v = r["vmstat"]
    return (
        v["nr_tlb_remote_flush"],
        v["nr_tlb_remote_flush_received"],
        r["allocs"],
        v["pgmigrate_success"],
        v["pgmigrate_fail"],
        r["ret"],
    )


ASYNC = {"syscall": "kernel", "mode": "async", "from": "0", "to": "1"}


@pytest.mark.parametrize(
    ("doc", "serial", "batched"),
    [
        (document(), (1000, 3000, 1000, 1000, 0, 0), (2, 6, 1000, 1000, 0, 0)),
        (
            document(on_page_100("extra_ref")),
            (1009, 3027, 1009, 999, 1, 1),
            (3, 9, 1001, 999, 1, 1),
        ),
        (
            document(on_page_100("pinned")),
            (1009, 3027, 1009, 999, 1, 1),
            (9, 27, 1009, 999, 1, 1),
        ),
        (
            document(on_page_100("locked"), call=ASYNC),
            (999, 2997, 1009, 999, 1, 1),
            (2, 6, 1009, 999, 1, 1),
        ),
        (
            document(on_page_100("freed")),
            (999, 2997, 999, 1000, 0, 0),
            (2, 6, 999, 1000, 0, 0),
        ),
        (
            document(running=(), lazy=(1, 2, 3)),
            (1000, 0, 1000, 1000, 0, 0),
            (2, 0, 1000, 1000, 0, 0),
        ),
        (
            document(running=(0,)),
            (0, 0, 1000, 1000, 0, 0),
            (0, 0, 1000, 1000, 0, 0),
        ),
    ],
    ids=["clean", "extra_ref", "pinned", "locked", "freed", "lazy", "self"],
)
def test_worked_examples(doc, serial, batched):
    """Rows 1, 2, 3, 4, 6, 12 and 13 of the kernel specification's examples."""
    assert counts(doc, "6.2") == serial
    assert counts(doc, "6.3") == batched


def test_a_page_of_two_processes_is_flushed_once_for_both():
    """Row 7: one flush of the union of the CPUs, or one per mapping."""
    doc = document(process=["victim", "other"], kind="shmem", size="2m")
    doc["machine"]["cpus"] = 8
    doc["process"] = [
        {"name": "victim", "running": [1, 2]},
        {"name": "other", "running": [3, 4, 5]},
    ]
    assert counts(doc, "6.2") == (1024, 2560, 512, 512, 0, 0)
    assert counts(doc, "6.3") == (1, 5, 512, 512, 0, 0)


def test_alternating_nodes_batch_nothing():
    """Row 11: lists of one page, each with a flush of its own."""
    call = {"syscall": "move_pages", "pages": "heap", "nodes": [1, 2] * 500}
    doc = document(call=call)
    doc["machine"]["nodes"] = 3
    assert counts(doc, "6.2") == counts(doc, "6.3") == (1000, 3000, 1000, 1000, 0, 0)
    assert play(doc, "6.3").records[0]["batches"] == 1000


@pytest.mark.parametrize(
    ("kernel", "pages", "flushes"),
    [("6.1", n, n) for n in (1, 2, 511, 512, 513, 1024)]
    + [("6.12", n, -(-n // 512)) for n in (1, 2, 511, 512, 513, 1024, 4096)],
)
def test_real_kernels_sent_as_many_interrupts(kernel, pages, flushes):
    """move_pages(2) with three CPUs spinning, counted on 6.1 and 6.12."""
    call = {"syscall": "move_pages", "pages": "heap", "nodes": 1, "flags": "move_all"}
    record = play(document(size=pages * 4096, call=call), kernel).records[0]
    assert record["ipis_per_cpu"] == [0, flushes, flushes, flushes]
    assert record["status"] == [1] * pages


NO_HUGE = [{"pages": "all", "state": "huge_dst_unavailable"}]


@pytest.mark.parametrize(
    ("kernel", "folio", "flushes", "thp"),
    [
        ("6.1", "16k", 64, (0, 8, 8)),  # every large folio is a THP to 6.1
        ("6.2", "16k", 64, (0, 0, 0)),
        ("6.3", "16k", 33, (0, 0, 0)),  # each PTE of a split, then one batch
        ("6.8", "16k", 9, (0, 0, 0)),  # one for each split
        ("6.2", "2m", 8 + 4096, (0, 8, 8)),
        ("6.3", "2m", 16, (0, 8, 8)),
    ],
)
def test_splits(kernel, folio, flushes, thp):
    size = {"16k": "128k", "2m": "16m"}[folio]
    record = play(document(NO_HUGE, size=size, folio=folio), kernel).records[0]
    vmstat = record["vmstat"]
    assert vmstat["nr_tlb_remote_flush"] == flushes
    found = tuple(vmstat[f"thp_migration_{k}"] for k in ("success", "fail", "split"))
    assert found == thp
    assert record["ret"] == 0


@pytest.mark.parametrize(("kernel", "ret", "last"), [("6.3", 0, 1), ("6.7", 3, None)])
def test_an_uncounted_split_hides_pieces_left_behind(kernel, ret, last):
    """6.3 to 6.6 report success although memory ended among the pieces."""
    pages = [["heap", 0], ["heap", 4], ["heap", 8]]
    call = {"syscall": "move_pages", "pages": pages, "nodes": 1}
    doc = document(NO_HUGE, size="48k", folio="16k", call=call)
    doc["machine"]["free"] = {"1": "40k"}
    result = play(doc, kernel)
    record = result.records[0]
    assert (record["ret"], record["status"]) == (ret, [last] * 3)
    isolated = [f for f in result.world.snapshot()["folios"] if f["isolated"]]
    assert len(isolated) == (2 if ret == 0 else 0)


def test_memory_ends():
    doc = document()
    doc["machine"]["free"] = {"1": "2400k"}
    for kernel in ("6.2", "v4", "6.3"):
        record = play(doc, kernel).records[0]
        assert (record["ret"], record["errno"]) == (-1, "ENOMEM")
        assert record["nodes_after"] == {"0": 400, "1": 600}
        assert record["vmstat"]["pgmigrate_fail"] == 1


def test_an_immediate_flush_covers_the_deferred_ones():
    """The local CPU flushes all at the THP, and its batch finds nothing left."""
    doc = document(running=(0, 1), size="8k")
    doc["region"] += [
        {"process": "victim", "name": "thp", "size": "2m", "folio": "2m"},
        {"process": "victim", "name": "more", "size": "8k"},
    ]
    record = play(doc, "6.3").records[0]
    assert record["batches"] == 2
    assert record["ipis_per_cpu"] == [0, 3, 0, 0]
    assert record["vmstat"]["nr_tlb_local_flush_all"] == 2
    assert record["vmstat"]["nr_tlb_local_flush_one"] == 0


@pytest.mark.parametrize(("kernel", "all_", "one"), [("6.1", 0, 1), ("6.12", 1, 0)])
def test_a_lazy_cpu_turns_a_local_flush_into_a_batch(kernel, all_, one):
    """One page of one's own, with a lazy CPU in the mask, as real kernels did it."""
    call = {"syscall": "move_pages", "pages": "heap", "nodes": 1}
    doc = document(running=(0,), lazy=(1,), size="4k", call=call)
    vmstat = play(doc, kernel).records[0]["vmstat"]
    assert vmstat["nr_tlb_remote_flush"] == 1
    assert vmstat["nr_tlb_remote_flush_received"] == 0
    assert vmstat["nr_tlb_local_flush_all"] == all_
    assert vmstat["nr_tlb_local_flush_one"] == one


@pytest.mark.parametrize("kernel", RELEASES)
def test_arm64_counts_no_flush(kernel):
    doc = document()
    doc["machine"]["profile"] = "arm64-2n128c"
    assert counts(doc, kernel) == (0, 0, 1000, 1000, 0, 0)


def test_broadcast_flushes_interrupt_nobody():
    """INVLPGB: batches always; single mms once four CPUs run them."""
    doc = document(size="2m", folio="2m")
    doc["region"].append({"process": "victim", "name": "small", "size": "400k"})
    old, new = (play(doc, k, arch="x86-invlpgb").records[0] for k in ("6.14", "6.15"))
    assert old["ipis_per_cpu"] == [0, 2, 2, 2]
    assert new["ipis_per_cpu"] == [0, 1, 1, 1]
    doc["process"][0]["running"] = [0, 1, 2, 3]
    assert play(doc, "6.15", arch="x86-invlpgb").records[0]["ipis_per_cpu"] == [0] * 4


@pytest.mark.parametrize(
    ("kernel", "allocs", "flushes"), [("6.2", 1030, 1000), ("v4", 1133, 12)]
)
def test_sleeping_on_locks(kernel, allocs, flushes):
    """v4 moves what is unmapped before it waits (-EDEADLOCK)."""
    held = [{"pages": "every:100", "state": "locked", "until": "waited"}]
    assert counts(document(held), kernel) == (flushes, flushes * 3, allocs, 1000, 0, 0)


@pytest.mark.parametrize("kernel", ["6.1", "v4", "6.3", "6.18"])
def test_a_sleep_without_end_is_refused(kernel):
    with pytest.raises(SleepsForever, match="sleep for ever"):
        play(document(on_page_100("locked")), kernel)


SYSCALLS = [
    ({"syscall": "migrate_pages", "to": "0"}, 0, None),
    ({"syscall": "migrate_pages", "pid": -1}, -1, "ESRCH"),
    ({"syscall": "migrate_pages", "maxnode": 0}, -1, "EINVAL"),
    ({"syscall": "migrate_pages", "fault_at": 0}, -1, "EFAULT"),
    ({"syscall": "migrate_pages", "to": "7"}, -1, "EINVAL"),
    ({"syscall": "migrate_pages", "to": "7", "privileged": False}, -1, "EPERM"),
    ({"syscall": "move_pages", "pages": "heap", "nodes": 9}, -1, "ENODEV"),
    ({"syscall": "move_pages", "pages": "heap", "pid": 9}, -1, "ESRCH"),
    ({"syscall": "move_pages", "pages": "heap", "flags": 1}, -1, "EINVAL"),
    (
        {"syscall": "move_pages", "pages": "heap", "nodes": 1, "cpuset": "0"},
        -1,
        "EACCES",
    ),
    ({"syscall": "move_pages", "flags": "move_all", "privileged": False}, -1, "EPERM"),
    ({"syscall": "mbind", "pages": "heap", "nodes": "1", "flags": 8}, -1, "EINVAL"),
    ({"syscall": "mbind", "start": 0, "len": 4096, "nodes": "1"}, -1, "EFAULT"),
    ({"syscall": "mbind", "pages": "heap", "flags": "strict"}, -1, "EINVAL"),
    (
        {"syscall": "mbind", "pages": "heap", "nodes": "1", "flags": "strict"},
        -1,
        "EIO",
    ),
    (
        {"syscall": "mbind", "pages": "heap", "nodes": "1", "flags": "move|strict"},
        0,
        None,
    ),
]


@pytest.mark.parametrize(("call", "ret", "error"), SYSCALLS)
def test_errors_of_system_calls(call, ret, error):
    record = play(document(call=call), "6.3").records[0]
    assert (record["ret"], record["errno"]) == (ret, error)


def test_nodes_are_emptied_in_linux_order():
    assert list(plan({2, 3, 4}, {3, 4, 5})) == [(4, 5), (3, 4), (2, 3)]
    moves = [(7, 4), (6, 3), (2, 5), (1, 4), (0, 3)]
    assert list(plan(set(range(8)), {3, 4, 5})) == moves
    assert list(plan({0}, {1, 2})) == [(0, 1)]
    assert list(plan({0, 1}, {0, 1})) == []


@pytest.mark.parametrize(
    ("kernel", "hint", "untouched"),
    [("6.1", -2, -14), ("6.5", 1, -14), ("6.12", 1, -2)],
)
def test_what_move_pages_looks_through(kernel, hint, untouched):
    conditions = [
        {"pages": [1], "state": "prot_none"},
        {"pages": [2], "state": "untouched"},
        {"pages": [3], "state": "zero_page"},
    ]
    call = {"syscall": "move_pages", "pages": "heap", "nodes": 1}
    record = play(document(conditions, size="16k", call=call), kernel).records[0]
    assert record["status"] == [1, hint, untouched, -14]


def test_a_failed_list_leaves_statuses_unwritten():
    call = {"syscall": "move_pages", "pages": "heap", "nodes": 1}
    doc = document([{"pages": [1], "state": "extra_ref"}], size="12k", call=call)
    doc["region"].append({**doc["region"][0], "name": "there", "node": 1})
    call["pages"] = [["heap", 0], ["heap", 1], ["there", 0], ["heap", 2]]
    record = play(doc, "6.3").records[0]
    # One folio failed, and the last page was not tried.
    assert (record["ret"], record["status"]) == (2, [None, None, 1, None])


def test_kernels_are_expanded_in_order():
    assert expand(["6.18", "both", "6.3"]) == ["6.18", "6.2", "6.3"]
    kernels = [r["kernel"] for r in play_both(document())]
    assert kernels == ["6.2", "6.3"]

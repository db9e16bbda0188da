"""The oracle itself: worked examples, rules of each release, and real kernels' counts."""

from __future__ import annotations

import pytest
from oracle import play


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
ALTERNATE = {"syscall": "move_pages", "pages": "heap", "nodes": [1, 2] * 500}


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

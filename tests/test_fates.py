"""The closed form and the tight loop against the same calls one attempt at a time.

A call that keeps a log is worked step by step; without one the fast forms do it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from differential import diff, to_toml
from engine_snapshot import Before
from hypothesis import HealthCheck, given, seed, settings, strategies as st
from jaxmig import Builder, migrate_pages, player, world
from jaxmig.machine import Machine
from jaxmig.scenario import loads
from jaxmig.syscalls.scan import kernel_list
from jaxmig.syscalls.space import View
from strategies import OWNERS, Example, Program, examples

QUICK = [Program("6.3"), Program("6.3", mode="async")]
OTHERS = [Program("6.12", mode="sync_light"), Program("6.6", arch="arm64")]
PLAIN = [Program("6.2"), Program("6.3")]
PLAIN_OTHERS = [Program("v4"), Program("6.6", arch="arm64")]
LIST = 1024


def drawn(choice: list[Program], count: int):
    """The settings and examples of every test here."""
    options = settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    nodes = st.tuples(st.sampled_from(OWNERS[:3]), st.integers(0, 2), st.integers(0, 2))
    return lambda test: seed(0)(options(given(examples(choice), nodes)(test)))


def both(e: Example, owner: str, source: int, node: int) -> list[str]:
    """Where the two forms differ, in counts and in the state they leave."""
    scenario = loads(to_toml({**e.document, "call": []}))
    state, layout = player.build(scenario, content=True)
    before = Before(scenario, state, layout)
    heads = kernel_list(View.of(state), layout.spaces[owner], frozenset({source}))
    padded = np.zeros(LIST, np.int32)
    padded[: heads.size] = heads
    cpu = e.document["call"][0]["cpu"]
    made = []
    for log in (1, 0):
        m, result = migrate_pages(
            state,
            padded,
            node,
            size=heads.size,
            cpu=cpu,
            kernel=e.program.kernel,
            mode=e.program.mode,
            arch=e.program.arch,
            batch=e.batch,
            log=log,
        )
        if result.sleeps:
            return []
        made.append(
            {
                "failed": int(result.failed),
                "error": int(result.error),
                "counts": result.events.counts(),
                "ipis": result.events.ipis_per_cpu(),
                "lags": lags(m).tolist(),
                "cpus": [np.asarray(a).tolist() for a in (m.cpus.mask, m.cpus.mm)],
                **before.snapshot(m),
            }
        )
    return list(diff(*made))


def lags(m: Machine) -> np.ndarray:
    """CPUs that have flushes to catch up with."""
    c = m.cpus
    loaded = np.clip(np.asarray(c.mm), 0, c.mm_gen.shape[0] - 1)
    return np.asarray(c.mask.any(0)) & (
        np.asarray(c.gen) != np.asarray(c.mm_gen)[loaded]
    )


@drawn(QUICK, 60)
def test_closed_form_is_the_passes_one_by_one(e: Example, where: tuple) -> None:
    assert not both(e, *where)


@pytest.mark.slow
@drawn(OTHERS, 100)
def test_closed_form_in_other_modes(e: Example, where: tuple) -> None:
    assert not both(e, *where)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines as they are, without the conditions and shared pages that pad them."""
    monkeypatch.setattr(world, "_pad", lambda b: True)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    "choice", [PLAIN, pytest.param(PLAIN_OTHERS, marks=pytest.mark.slow)]
)
def test_pages_that_nobody_shares_or_holds(choice: list[Program]) -> None:
    @drawn(choice, 40)
    def alone(e: Example, where: tuple) -> None:
        regions = [
            {**r, "process": r["process"][:1]}
            for r in e.document["region"]
            if r.get("kind") != "movable_ops"
        ]
        document = {**e.document, "region": regions, "condition": []}
        assert not both(dataclasses.replace(e, document=document), *where)

    alone()


@pytest.mark.parametrize(("kernel", "wasted"), [("6.2", 0), ("6.3", 2)])
def test_a_page_that_stays_wastes_a_copy_a_stage(kernel: str, wasted: int) -> None:
    # Only a batch is copied before its references are looked at.
    b = Builder(nodes=2, cpus=4)
    heap = b.mmap(b.process("app", running=[1, 2, 3]), pages=8)
    b.condition(heap, "extra_ref", [3])
    m = b.build()
    for log in (1, 0):
        heads = np.asarray(m.pte)[:8, 0]
        _, result = migrate_pages(m, heads, 1, kernel=kernel, log=log)
        assert result.events.counts()["copies_wasted"] == wasted

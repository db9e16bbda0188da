"""Warm TLBs through calls of every form: nothing stale is left, and every frame is where
it belongs."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from differential import PROFILES, to_toml
from hypothesis import HealthCheck, given, seed, settings
from jaxmig import check, machines, player, pte
from jaxmig.machine import NOWHERE, Machine, Tlb
from jaxmig.pte import BITS, PFN
from jaxmig.scenario import ScenarioError, loads
from jaxmig.tlb import empty_tlb
from strategies import Example, Program, examples

SETS, WAYS = 32, 4
VIOLATIONS = jax.jit(check.violations)


def warm(m: Machine) -> Machine:
    """`m` after every CPU, lazy ones too, has touched what its process maps."""
    small, huge = (empty_tlb(SETS, WAYS, m.cpus.lazy.shape[0]) for _ in range(2))
    first = m.geometry.ptes
    entries = np.arange(m.pte.shape[0])
    return dataclasses.replace(
        m,
        tlb=_filled(m, small, entries[:first]),
        huge_tlb=_filled(m, huge, entries[first:]),
    )


def _filled(m: Machine, tlb: Tlb, entries: np.ndarray) -> Tlb:
    words = np.asarray(m.pte)[entries]
    usable = np.asarray(pte.accessible(words[:, BITS]))
    usable &= (words[:, BITS] & pte.ZERO_PAGE) == 0
    columns = {name: np.array(getattr(tlb, name)) for name in ("entry", "pfn", "bits")}
    for cpu, mm in enumerate(np.asarray(m.cpus.mm).tolist()):
        mine = usable & (words[:, BITS] >> pte.MM_SHIFT == mm)
        for e, word in zip(entries[mine].tolist(), words[mine], strict=True):
            row, way = e % SETS, cpu * WAYS + e // SETS % WAYS
            columns["entry"][row, way] = e
            columns["pfn"][row, way] = word[PFN]
            columns["bits"][row, way] = word[BITS] & (pte.WRITE | pte.DIRTY)
    return Tlb(**{n: jax.numpy.asarray(c) for n, c in columns.items()}, age=tlb.age)


def holds(e: Example) -> None:
    """Every invariant after each call, the TLBs warm before each."""
    scenario = loads(to_toml(e.document))
    arch = e.program.arch
    options = player._Options(e.batch, arch, "cpu", machines.load(PROFILES[arch]))
    state, layout = player.build(scenario)
    had = check.ledger(state)
    for number in range(len(scenario.calls)):
        state = warm(state)
        assert (np.asarray(state.tlb.entry) != NOWHERE).any() or not _running(state)
        assert check.explain(int(VIOLATIONS(state, had))) == []
        kernel = e.program.kernel
        try:
            state, _ = player._call(scenario, layout, state, kernel, number, options)
        except ScenarioError:
            return
        assert check.explain(int(VIOLATIONS(state, had))) == []


def _running(m: Machine) -> bool:
    """Whether some CPU has something that a TLB may hold."""
    words = np.asarray(m.pte)[:, BITS]
    mms = words[np.asarray(pte.accessible(words))] >> pte.MM_SHIFT
    return bool(np.isin(np.asarray(m.cpus.mm), mms).any())


def run(choice: list[Program], count: int) -> None:
    options = settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    seed(0)(options(given(examples(choice))(holds)))()


def test_base_pages() -> None:
    run([Program("6.2"), Program("6.3"), Program("6.6", arch="arm64")], 60)


@pytest.mark.slow
def test_large_folios() -> None:
    run([Program(k, large=True) for k in ("6.2", "6.3", "6.18")], 200)
    run([Program(k, large=True, arch="arm64") for k in ("6.2", "6.6")], 100)


@pytest.mark.slow
def test_other_releases() -> None:
    run([Program(k) for k in ("v4", "6.3", "6.18")], 200)
    run([Program(k, mode="async") for k in ("6.2", "6.3")], 100)
    run([Program("6.18", arch="x86-invlpgb")], 100)

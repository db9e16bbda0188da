"""Warm TLBs through calls of every form: nothing stale is left, and every frame is where
it belongs."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from differential import PROFILES, to_toml
from hypothesis import HealthCheck, given, seed, settings
from invariants import LEDGER, VIOLATIONS
from jaxmig.linux.tlb import empty_tlb
from jaxmig.sources.scenario import ScenarioError, loads
from jaxmig.state import pte
from jaxmig.state.machine import NOWHERE, Machine, Tlb
from jaxmig.state.pte import BITS, PFN
from jaxmig.time import machines
from jaxmig.tools import check, player
from strategies import Example, Program, examples

SETS, WAYS = 32, 4


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


def _usable(m: Machine, cpu: int, entries: np.ndarray) -> np.ndarray:
    """Those of `entries` that this CPU's TLB may hold."""
    bits = np.asarray(m.pte)[entries, BITS]
    ours = bits >> pte.MM_SHIFT == int(m.cpus.mm[cpu])
    backed = (bits & pte.ZERO_PAGE) == 0
    return entries[np.asarray(pte.accessible(bits)) & ours & backed]


def _filled(m: Machine, tlb: Tlb, entries: np.ndarray) -> Tlb:
    words = np.asarray(m.pte)
    columns = {name: np.array(getattr(tlb, name)) for name in ("entry", "pfn", "bits")}
    for cpu in range(m.cpus.mm.shape[0]):
        for e in _usable(m, cpu, entries).tolist():
            row, way = e % SETS, cpu * WAYS + e // SETS % WAYS
            columns["entry"][row, way] = e
            columns["pfn"][row, way] = words[e, PFN]
            columns["bits"][row, way] = words[e, BITS] & (pte.WRITE | pte.DIRTY)
    return Tlb(**{n: jax.numpy.asarray(c) for n, c in columns.items()}, age=tlb.age)


def holds(e: Example) -> None:
    """Every invariant after each call, the TLBs warm before each."""
    scenario = loads(to_toml(e.document))
    arch = e.program.arch
    options = player._Options(e.batch, arch, "cpu", machines.load(PROFILES[arch]))
    state, layout = player.build(scenario, share_programs=True)
    had = LEDGER(state)
    for number in range(len(scenario.calls)):
        state = warm(state)
        assert _warmed(state) == _warmable(state)
        assert check.explain(int(VIOLATIONS(state, had))) == []
        kernel = e.program.kernel
        try:
            state, made = player._call(scenario, layout, state, kernel, number, options)
        except ScenarioError:
            return
        if made.get("caller") == "soft_offline":
            had = LEDGER(state)  # poisoned frames are lost
        assert check.explain(int(VIOLATIONS(state, had))) == []


def _warmable(m: Machine) -> bool:
    """Whether some CPU has something that a TLB may hold."""
    entries = np.arange(m.pte.shape[0])
    return any(_usable(m, cpu, entries).size for cpu in range(m.cpus.mm.shape[0]))


def _warmed(m: Machine) -> bool:
    tlbs = (m.tlb.entry, m.huge_tlb.entry)
    return any((np.asarray(t) != NOWHERE).any() for t in tlbs)


def run(choice: list[Program], count: int) -> None:
    options = settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    seed(0)(options(given(examples(choice))(holds)))()


def test_base_pages() -> None:
    run([Program("6.2"), Program("6.3")], 40)


@pytest.mark.slow
def test_large_folios() -> None:
    run([Program(k, large=True) for k in ("6.2", "6.3", "6.18")], 200)
    run([Program(k, large=True, arch="arm64") for k in ("6.2", "6.6")], 100)


@pytest.mark.slow
def test_other_releases() -> None:
    run([Program(k) for k in ("v4", "6.18")], 150)
    run([Program(k, mode="async") for k in ("6.2", "6.3")], 100)
    run([Program("6.18", arch="x86-invlpgb"), Program("6.6", arch="arm64")], 150)

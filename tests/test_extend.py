"""Rows and workloads of one's own: what the page on extending promises."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jaxmig
import numpy as np
import pytest
from invariants import VIOLATIONS
from jaxmig.engine import migrate
from jaxmig.linux.rules import rules
from jaxmig.sources import targets
from jaxmig.state import xla
from jaxmig.time import machines
from jaxmig.time.timeline import timetable
from jaxmig.tools import custom

LOG = 4096  # rows; a call with a log is worked one folio at a time


def few(cpus: Any, cpu: Any) -> Any:
    """Nothing is put off where fewer than three CPUs would be interrupted."""
    return (cpus.mask & ~cpus.lazy).sum(axis=1) > 2


@pytest.fixture
def mine() -> Iterator[str]:
    row = dataclasses.replace(jaxmig.RELEASES["6.12"], name="mine", defers=few)
    jaxmig.RELEASES["mine"] = row
    yield "mine"
    del jaxmig.RELEASES["mine"]


def machine(
    running: tuple[int, ...], free: int | None = None
) -> tuple[jaxmig.Machine, Any]:
    b = jaxmig.Builder(nodes=2, cpus=4, free=[None, free])
    b.mmap(b.process("app", running), pages=40)
    state = b.build()
    return state, jnp.asarray(jaxmig.folios_on(state, 0))


@pytest.mark.parametrize(("running", "requests"), [((1, 2), 40), ((1, 2, 3), 3)])
def test_a_rule_for_deferring_decides_for_each_process(
    mine: str, running: tuple[int, ...], requests: int
) -> None:
    state, folios = machine(running)
    after, result = jaxmig.migrate_pages(state, folios, 1, kernel=mine, batch=16)
    assert int(VIOLATIONS(after)) == 0
    assert result.vmstat["nr_tlb_remote_flush"] == requests
    assert sum(result.events.ipis_per_cpu()) == requests * len(running)


def decided(result: jaxmig.Result, many: bool) -> None:
    """Every flush was put off, or none was."""
    n = result.events.counts()
    assert n["ptes_cleared"] > 0
    assert n["ptes_deferred"] == (n["ptes_cleared"] if many else 0)
    assert n["flushes_immediate"] == (0 if many else n["ptes_cleared"])
    assert (n["flushes_batch"] > 0) == many


@pytest.mark.parametrize("running", [(1, 2), (1, 2, 3)])
def test_a_rule_decides_with_a_log_too(mine: str, running: tuple[int, ...]) -> None:
    state, folios = machine(running)
    how = {"kernel": mine, "batch": 16}
    # Linux's own rule has its program first: that must not be taken for this one's.
    jaxmig.migrate_pages(state, folios, 1, kernel="6.12", batch=16, log=LOG)
    plain = jaxmig.migrate_pages(state, folios, 1, **how)
    logged = jaxmig.migrate_pages(state, folios, 1, **how, log=LOG)
    args = (state, migrate.listed(folios)[0], *map(jnp.int32, (40, 1, 0, 16)))
    again = migrate.executable(rules(mine), False, *args, log=LOG)(*args)
    for after, result in (plain, logged, again):
        assert int(VIOLATIONS(after)) == 0
        decided(result, len(running) > 2)
        assert result.vmstat == plain[1].vmstat


@pytest.mark.parametrize("running", [(1, 2), (1, 2, 3)])
def test_a_rule_decides_where_memory_ends(mine: str, running: tuple[int, ...]) -> None:
    state, folios = machine(running, free=24)
    after, result = jaxmig.migrate_pages(state, folios, 1, kernel=mine, batch=16)
    assert int(VIOLATIONS(after)) == 0
    assert result.errno == "ENOMEM"
    assert result.vmstat["pgmigrate_success"] == 24
    decided(result, len(running) > 2)


def test_a_rule_decides_for_each_process_of_a_jitted_call(mine: str) -> None:
    b = jaxmig.Builder(nodes=2, cpus=4)
    for name, running in (("two", (1, 2)), ("three", (1, 2, 3))):
        process = b.process(name, running)
        b.mmap(process, 64, order=4, kind="shmem")
        b.mmap(process, 1024, order=9)
    state = b.build(content=False)
    folios = jnp.asarray(jaxmig.folios_on(state, 0))
    call = jax.jit(
        lambda m: jaxmig.migrate_pages(m, folios, 1, kernel=mine),
        compiler_options=xla.quick_options(),
    )
    direct = jaxmig.migrate_pages(state, folios, 1, kernel=mine)
    for after, result in (call(state), direct):
        assert int(VIOLATIONS(after)) == 0
        n = result.events.counts()
        assert n["pgmigrate_success"] == 2 * (64 + 1024)
        assert (n["ptes_cleared"], n["ptes_deferred"]) == (128, 64)
        # Those of the first process one by one, and four PMDs as ever.
        assert n["flushes_immediate"] == 64 + 4
        assert n["flushes_batch"] > 0


def test_a_rule_of_a_serial_release_has_nothing_to_decide(monkeypatch) -> None:
    row = dataclasses.replace(jaxmig.RELEASES["6.2"], name="one", defers=few)
    monkeypatch.setitem(jaxmig.RELEASES, "one", row)
    state, folios = machine((1, 2, 3))
    for how in ({}, {"log": LOG}):
        own, linux = (
            jaxmig.migrate_pages(state, folios, 1, kernel=kernel, **how)[1]
            for kernel in ("one", "6.2")
        )
        assert own.events.counts() == linux.events.counts()


def test_programs_run_on_releases_of_linux_only(mine: str) -> None:
    with pytest.raises(ValueError, match="Linux's own releases only"):
        timetable(machines.load("xeon-2s"), 64, kernel=mine)


def test_a_workload_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def forked(text: str, arguments: list[str]) -> targets.Target:
        pages = int(arguments[0])

        def fill(b: jaxmig.Builder, setting: targets.Setting) -> list[Any]:
            both = [b.process("parent", setting.running), b.process("child", [3])]
            return [b.mmap(both, pages, setting.node)]

        return custom.workload(text, "forked", pages, (1,), fill)

    monkeypatch.setitem(targets.WORKLOADS, "forked", forked)
    target = targets.resolve("forked:24")
    state, space = target.build(targets.Setting(running=target.running))
    assert [a.pages for a in space.areas] == [24]
    assert state.geometry.shared
    assert np.asarray(state.cpus.mask).tolist() == [
        [False, True, False, False],
        [False, False, False, True],
    ]

"""Rows and workloads of one's own: what the page on extending promises."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import jaxmig
import numpy as np
import pytest
from jaxmig import custom, machines, targets
from jaxmig.check import violations
from jaxmig.timeline import timetable

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


def machine(running: tuple[int, ...]) -> tuple[jaxmig.Machine, Any]:
    b = jaxmig.Builder(nodes=2, cpus=4)
    b.mmap(b.process("app", running), pages=40)
    state = b.build()
    return state, jnp.asarray(jaxmig.folios_on(state, 0))


@pytest.mark.parametrize(("running", "requests"), [((1, 2), 40), ((1, 2, 3), 3)])
def test_a_rule_for_deferring_decides_for_each_process(
    mine: str, running: tuple[int, ...], requests: int
) -> None:
    state, folios = machine(running)
    after, result = jaxmig.migrate_pages(state, folios, 1, kernel=mine, batch=16)
    assert int(violations(after)) == 0
    assert result.vmstat["nr_tlb_remote_flush"] == requests
    assert sum(result.events.ipis_per_cpu()) == requests * len(running)


def test_a_rule_is_refused_where_it_would_not_hold(mine: str) -> None:
    state, folios = machine((1, 2))
    with pytest.raises(ValueError, match="a rule of one's own"):
        jaxmig.migrate_pages(state, folios, 1, kernel=mine, log=LOG)
    short = dataclasses.replace(state, nfree=state.nfree * 0)
    with pytest.raises(ValueError, match="enough memory"):
        jaxmig.migrate_pages(short, folios, 1, kernel=mine)


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

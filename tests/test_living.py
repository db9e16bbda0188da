"""A machine that lives for a while, and the scenario that a fault would be shown as."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from jaxmig.calls.syscalls import Area, Session, Space, kernel_list
from jaxmig.sources import scenario
from jaxmig.tools import player
from living import FIRST, PAGES, Living


class Short(Living):
    """One release and one caller: few programs."""

    kernels = ("6.3",)
    callers = ("kernel",)


def test_a_short_life_breaks_nothing() -> None:
    Short.steps = 0
    options = settings(
        max_examples=6, stateful_step_count=30, derandomize=True, deadline=None
    )
    run_state_machine_as_test(Short, settings=options)
    assert Short.steps > 60


def test_what_is_printed_replays_the_call() -> None:
    """The scenario of a state counts what the call on the state counts."""
    living = Short()
    living.start()
    for page in range(12):
        living.store(page, 1, 0)
    living.pin(3)
    living.pin(3)
    living.hold(5, "writeback", True)
    living.unmap(7)
    living.map(40, 1)
    text = living.scenario("6.3", "kernel", 1, 7)
    s = Session(living.m, "6.3", batch=7)
    space = Space([Area(start=FIRST, pages=PAGES, first_pte=0)])
    folios = kernel_list(s.view(), space, frozenset({0}))
    assert len(np.unique(folios)) == len(folios) == 23
    ret = s.migrate(folios, 1)
    (record,) = player.play(scenario.loads(text))
    assert record["ret"] == ret == 1
    for name in ("pgmigrate_success", "pgmigrate_fail", "nr_tlb_remote_flush"):
        assert record["vmstat"][name] == s.counts[name]


def test_a_call_that_breaks_shows_what_replays_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is raised, and an invariant that is broken after it."""

    def broken(*_: object, **how: object) -> None:
        raise ZeroDivisionError

    living = Short()
    living.start()
    monkeypatch.setattr("living.call", broken)
    drawn = iter(("6.3", "kernel"))
    data = SimpleNamespace(draw=lambda _: next(drawn))
    with pytest.raises(ZeroDivisionError) as caught:
        living.migrate(data, 1, 7)
    (note,) = caught.value.__notes__
    assert scenario.loads(note).machine.max_batch == 7
    living.put(nfree=np.asarray(living.m.nfree) + 1)  # memory out of nowhere
    with pytest.raises(AssertionError) as found:
        living.holds()
    assert note in str(found.value)

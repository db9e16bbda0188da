"""2,000 mutants of golden files and command lines; 20,000 in tests/long."""

import resource

import hostile


def test_mutants_give_something_sane_or_one_line() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = hostile.play(seed=1, first=0, count=2000)
    assert run.faults == []
    assert sum(run.accepted.values()) + sum(run.refused.values()) == 2000
    # Neither all refused nor all accepted: of every reader some are either.
    for name in hostile.kinds():
        assert run.accepted[name] > 0, name
        assert name == "words" or run.refused[name] > 10, name
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < hostile.GROWTH


def test_a_mutant_is_the_same_for_ever() -> None:
    some = list(hostile.mutants(3, 40, 12))
    assert some == list(hostile.mutants(3, 40, 12))
    assert some[5:7] == list(hostile.mutants(3, 45, 2))
    assert len({name for _, name, _ in some}) == len(hostile.kinds())

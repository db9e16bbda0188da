"""A life of 10,000 steps, with calls by any release, caller and batch limit."""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from living import Living

pytestmark = pytest.mark.slow


def test_ten_thousand_steps_break_nothing() -> None:
    Living.steps = Living.played = 0
    options = settings(
        max_examples=250, stateful_step_count=60, derandomize=True, deadline=None
    )
    run_state_machine_as_test(Living, settings=options)
    assert Living.steps >= 10_000
    assert Living.played >= 500

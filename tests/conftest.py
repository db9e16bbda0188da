"""Compiled code is kept between runs of the suite: most of its time is compilation."""

import gc
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import jax
import pytest
from hypothesis import settings
from jaxmig.state import xla

MOST_MAPPINGS: Final = 40_000
A_PROGRAM: Final = 1_300  # mappings of a large one
COMPILED: Final = (
    "backend_compile"  # the event of a compilation, or of a cache's answer
)
# Tracing allocates without end and leaves little to collect: a quarter of its time.
gc.set_threshold(200_000, 20, 20)
# Programs that the workers keep together: machines of tests are small.  Eight workers with
# 64 each took 20 GB.
workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
xla.KEPT = max(min(64, 128 // workers), 16)
_compiled: list[str] = []  # such events of this process
_look_again = [0]  # after so many
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **more: (
        _compiled.append(event) if COMPILED in event else None
    )
)
# Modules that compile little or nothing: `pytest -m quick` is for people who change a line.
QUICK: Final = (
    *("at_once", "bounded", "calibrate", "cost", "journal_rows", "layers", "machines"),
    *("nodes", "override", "procfs_formats", "report", "room", "rules_once"),
    *("scenario_parse", "snapshot", "snapshot_fields", "trace_files", "trace_kinds"),
    "versions",
)
LONG: Final = ("conformance", "growth", "sweep", "timeline", "widths")

# How long an example takes depends on who else uses the processor.
settings.register_profile("jaxmig", deadline=None)
settings.load_profile("jaxmig")


def pytest_configure(config: pytest.Config) -> None:
    cache = getattr(config, "cache", None)
    if cache is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


# Before pytest itself chooses by marks.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks, and with JAXMIG_TEST_ORDER=SEED an order of modules and of their tests."""
    for item in items:
        quick = item.path.stem.removeprefix("test_") in QUICK
        if quick and not item.get_closest_marker("slow"):
            item.add_marker("quick")
    seed = os.environ.get("JAXMIG_TEST_ORDER")
    if seed is None:
        # Workers share what is left: few long tests must not be the last.
        items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONG)
        return
    modules: dict[str, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.nodeid.partition("::")[0], []).append(item)
    chance = random.Random(seed)
    for mine in modules.values():
        chance.shuffle(mine)
    names = list(modules)
    chance.shuffle(names)
    items[:] = [item for name in names for item in modules[name]]


@pytest.fixture
def heeded() -> Iterator[None]:
    """Signals mean what they do in a terminal; nohup and scripts have some ignored.

    Programs that a test starts inherit that.
    """
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    old = {number: signal.signal(number, usual[number]) for number in usual}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _room_for_programs() -> Iterator[None]:
    """Compiled programs are many small mappings, of which Linux gives a process 65,530."""
    yield
    # Reading the list of them takes longer than most tests: not before there can be enough.
    maps = Path("/proc/self/maps")
    if len(_compiled) < _look_again[0] or not maps.exists():
        return
    free = MOST_MAPPINGS - maps.read_bytes().count(b"\n")
    if free < 0:
        xla.forget()
        jax.clear_caches()
        gc.collect()
    _look_again[0] = len(_compiled) + 1 + max(free, 0) // A_PROGRAM

"""What makes the first result quick: no needless programs, buffers used again, threads."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxmig
import numpy as np
import pytest
from jaxmig.engine.migrate import limit_of, listed
from jaxmig.sources import targets
from jaxmig.state import contents, xla
from jaxmig.state.machine import Machine
from jaxmig.time import machines
from jaxmig.tools import job

CALL = job.Call(frozenset({0}), frozenset({1}))
SETTING = targets.Setting(cpus=4, running=(1, 2, 3))


@pytest.fixture(scope="module")
def listening() -> list[str]:
    """What the backend compiles; jax 0.6 cannot end that."""
    heard: list[str] = []

    def listen(event: str, seconds: float, **_: object) -> None:
        if event.endswith("backend_compile_duration"):
            heard.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return heard


@pytest.fixture
def compiled(listening: list[str]) -> list[str]:
    """What the backend compiles meanwhile, helpers of JAX's own too."""
    listening.clear()
    return listening


@pytest.mark.parametrize("offset", [0, 4, 16])
def test_an_uploaded_array_is_compiled_for_nothing_and_can_be_given_away(
    offset: int, compiled: list[str]
) -> None:
    room = np.zeros(4096 + 64 + offset, np.uint8)
    start = -room.ctypes.data % 64 + offset
    mine = room[start : start + 4000].view(np.int32).reshape(-1, 4)
    mine[...] = np.arange(mine.size).reshape(mine.shape)
    there = xla.upload(mine)
    where = there.unsafe_buffer_pointer()
    assert compiled == []
    assert where != mine.ctypes.data
    mine[...] = 0
    np.testing.assert_array_equal(there, np.arange(mine.size).reshape(mine.shape))
    more = jax.jit(lambda x: x + 1, donate_argnums=0)(there)
    assert there.is_deleted()
    assert int(more[0, 1]) == 2


def test_a_machine_is_laid_out_without_a_program(compiled: list[str]) -> None:
    b = targets.resolve("memhog:3m")
    b.build(targets.Setting(cpus=5, nodes=3, content=False))
    assert compiled == []


def test_lists_and_limits_need_no_program(compiled: list[str]) -> None:
    heads, n = listed(np.arange(700))
    assert (n, int(np.asarray(heads)[699]), int(limit_of(512)), int(limit_of(0))) == (
        *(700, 699, 512),
        2**31 - 1,
    )
    assert compiled == []


@pytest.mark.parametrize(
    ("folios", "room"),
    [(0, 1024), (1024, 1024), (1025, 2048), (5000, 8192), (131_073, 163_840)],
)
def test_a_list_has_less_than_twice_the_room_that_it_needs(folios, room) -> None:
    # A batched call costs what its room does.
    heads, n = listed(np.zeros(folios, np.int32))
    assert (n, heads.shape) == (folios, (room,))


def test_memory_that_is_left_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    want = np.asarray(contents.fresh(1024))
    for worth, other in ((1 << 40, 0), (1, 0), (1, 8)):
        monkeypatch.setattr(contents, "WORTH", worth)
        old = jnp.full((1024 + other, 1024), 7, jnp.uint32)
        contents.leave(old)
        np.testing.assert_array_equal(contents.fresh(1024), want)
        assert old.is_deleted() == (worth == 1 and not other)
    contents.leave(jnp.full((1024, 1024), 7, jnp.uint32))
    contents.leave(None)
    assert contents._left == []


def test_a_job_compiles_one_program_for_all_releases() -> None:
    before = xla.compilations()
    kernels = ("6.2", "6.3", "6.8", "6.1")
    profile = machines.load("xeon-2s")
    target = targets.resolve("memhog:1m")
    together = job.run(target, SETTING, profile, kernels, CALL)
    made = xla.compilations()
    assert made <= before + 1
    alone = [job.run(target, SETTING, profile, [k], CALL)[0] for k in kernels]
    assert xla.compilations() == made
    for a, b in zip(together, alone, strict=True):
        walls = ("wall_s", "compile_s")
        left, right = ({k: v for k, v in o.record.items() if k not in walls}
                       for o in (a, b))  # fmt: skip
        assert left == right


def small(pages: int) -> tuple[Machine, np.ndarray]:
    b = jaxmig.Builder(nodes=2, cpus=4, tlb=(8, 2), huge_tlb=(8, 2))
    b.mmap(b.process("app", [1, 2]), pages)
    state = b.build(content=False)
    return state, jaxmig.folios_on(state, 0)


def test_after_a_warm_up_other_sizes_of_the_class_compile_nothing(
    compiled: list[str],
) -> None:
    kernels = ("6.2", "6.3", "6.18")
    jaxmig.warm_up(*small(900), 1, kernels=kernels)
    made = len(compiled)
    told = []
    for pages in (700, 1000):
        for kernel in kernels:
            after, result = jaxmig.migrate_pages(*small(pages), 1, kernel=kernel)
            assert jaxmig.pages_by_node(after) == [0, pages]
            told.append(result.vmstat["nr_tlb_remote_flush"])
        # What JAX compiles to make numbers of Python's comes once.
        made = len(compiled) if pages == 700 else made
    assert told == [700, 2, 2, 1000, 2, 2]
    assert len(compiled) == made


def test_a_second_run_of_a_script_finds_its_programs(tmp_path: Path) -> None:
    code = f"""
import jax, sys
heard = []
jax.monitoring.register_event_listener(lambda event, **_: heard.append(event))
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_ahead import small
import jaxmig
jaxmig.warm_up(*small(900), 1, kernels=["6.2"])
print(*(sum(e.endswith(x) for e in heard) for x in ("cache_hits", "cache_misses")))
"""
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(Path(jaxmig.__file__).parent.parent),
    }
    counts = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        counts.append([int(n) for n in done.stdout.split()])
    if not xla.CAN_KEEP:
        assert counts == [[0, 0], [0, 0]]
        return
    (first_hits, compiled), (hits, misses) = counts
    assert (first_hits, hits, misses) == (0, compiled, 0)
    assert compiled > 0

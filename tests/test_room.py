"""What needs more memory than there is, is refused before anything is made."""

import re
import tracemalloc

import pytest
from jaxmig import cli
from jaxmig.cli import room
from jaxmig.cli.errors import Failure
from jaxmig.cli.room import check_room


@pytest.mark.parametrize(
    ("how", "advice"),
    [
        ({"pages": 1 << 40, "content": True}, "use fewer pages or --no-content"),
        ({"pages": 1 << 40, "content": False}, "use fewer pages"),
        ({"pages": 1, "content": False, "mappings": 1 << 50}, "use fewer pages"),
        ({"pages": 1 << 30, "content": False, "machines": 1000}, "use fewer pages"),
    ],
)
def test_what_would_not_fit_is_said_before(how: dict, advice: str) -> None:
    with pytest.raises(
        Failure, match=r"needs [\d,.]+ GiB.* has [\d,.]+ GiB free"
    ) as told:
        check_room("memhog:4p", nodes=2, **how)
    said = re.sub(r" \([\d,.]+ GiB fit\)", "", str(told.value))
    assert said.endswith(advice)
    assert len(str(told.value)) < 300


class Gpu:
    """What JAX tells of a device with 80 GiB, of which one is in use."""

    platform, device_kind = "gpu", "NVIDIA H100 80GB HBM3"

    def memory_stats(self) -> dict[str, int]:
        return {"bytes_limit": 80 << 30, "bytes_in_use": 1 << 30}


def test_on_a_gpu_its_own_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents of 40 GiB on two nodes do not fit; 32 GiB do, and 40 without."""
    monkeypatch.setattr(room.jax, "local_devices", lambda: [Gpu()])
    with pytest.raises(Failure) as told:
        check_room("memhog:40g", 10 << 20, 2, True)
    assert str(told.value) == (
        "memhog:40g on 2 nodes needs 82.5 GiB of memory, the NVIDIA H100 80GB HBM3 has "
        "79.0 GiB free; use fewer pages (38.3 GiB fit) or --no-content"
    )
    check_room("memhog:32g", 32 << 18, 2, True)
    check_room("memhog:40g", 10 << 20, 2, False)


def test_a_device_that_tells_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gpu, "memory_stats", lambda self: None)
    monkeypatch.setattr(room.jax, "local_devices", lambda: [Gpu()])
    assert room.memory() == ("the NVIDIA H100 80GB HBM3", None)
    check_room("memhog:1t", 1 << 28, 2, True)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("memhog 8192g --migrate 0:1", "give a smaller size"),
        ("pmbench -m 99999999 -s 99999999 1", "give a smaller -s"),
        ("pmbench -m 99999999 -s 99999999 -j 4 1 --migrate 0:1", "give a smaller -s"),
        ("pmbench -m 9999999 -s 9999999 -p linear -e 7 1", "give a smaller -s"),
    ],
)
def test_a_program_that_would_not_fit_is_not_begun(
    capsys: pytest.CaptureFixture[str], words: str, advice: str
) -> None:
    tracemalloc.start()
    assert cli.main(words.split()) == 1
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    out, said = capsys.readouterr()
    assert re.search(r"needs [\d,.]+ GiB of memory to be played, .*" + advice, said)
    assert out == ""

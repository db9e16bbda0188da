"""Play a scenario: a fresh world for each kernel, then its calls in order."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

from . import movepages, syscalls
from .callers import kernel_call
from .folio import Refused
from .kernel import Kernel, Unmapped
from .releases import Release, expand
from .scenario import build
from .world import Between, World


@dataclass
class Play:
    """What one kernel made of a scenario."""

    world: World
    records: list[dict] = field(default_factory=list)
    # What an in-kernel caller reports upwards, 0 or a negative errno, per call.
    outcomes: list[int] = field(default_factory=list)


def play(
    document: dict,
    kernel: str,
    *,
    batch: int | None = None,
    arch: str | None = None,
    between: Between | None = None,
    prepare: Callable[[World], None] | None = None,
    after: Callable[[World, int], None] | None = None,
) -> Play:
    """Play every call of a scenario on one kernel release.

    ``between(world, call, index, phase)`` runs after the phases "unmap", "flush"
    (index: list or, serial, attempt), "copy" and "remap" (index: folio);
    ``prepare(world)`` before the first call, ``after(world, call)`` behind each.
    """
    if arch is None:
        profile = str(document.get("machine", {}).get("profile", ""))
        arch = _arch(profile)
    machine = document.get("machine", {})
    batch = machine.get("max_batch", 512) if batch is None else batch
    release = Release(kernel)
    engine = kernel == "batch-copy" and "dma" in str(machine.get("copy", "cpu"))
    _refuse(document, release, engine)
    result = Play(build(document))
    _as_in(result.world, release)
    # Tests set PTE bits and fill TLBs here.
    if prepare is not None:
        prepare(result.world)
    # The deferred flush belongs to the task; one task calls from each CPU.
    pending: dict[int, Unmapped] = {}
    for index, call in enumerate(document.get("call", [])):
        number = call.get("cpu", 0)
        ubc = pending.setdefault(number, Unmapped())
        k = Kernel(result.world, release, arch, batch, ubc, number, index)
        k.between, k.engine = between, engine
        k.ipis = [0] * len(result.world.cpus)
        _call(k, call, result)
        if after is not None:
            after(result.world, index)
    return result


def _refuse(document: dict, release: Release, engine: bool) -> None:
    """What nobody can say of this release."""
    states = {c["state"] for c in document.get("condition", [])}
    if "poisoned" in states and (engine or not release.has("copy_can_fail")):
        raise Refused(f"{release.name}: copying a poisoned folio is not modelled")


def _as_in(world: World, release: Release) -> None:
    """What of the first state depends on the release."""
    world.keeps_mask = release.has("mask_kept_at_switch")
    for process in world.processes.values():
        process.cpumask |= process.left if world.keeps_mask else set()
        for entry in process.entries.values():
            folio = entry.folio
            # The page cache counts a hugetlb page as one, later by its base pages.
            if folio and folio.hugetlb_refs and release.has("hugetlb_cache_by_page"):
                folio.hugetlb_refs = folio.nr


def _arch(profile: str) -> str:
    """The architecture that a cost profile's name tells."""
    # Reading: a profile says what flushes cost, and so whose flushes they are.
    if profile.startswith("arm64"):
        return "arm64"
    return "x86-invlpgb" if profile.endswith("invlpgb") else "x86"


def _call(k: Kernel, call: dict, result: Play) -> None:
    """One call and its record."""
    name = call["syscall"]
    process = k.world.processes[call.get("process", next(iter(k.world.processes)))]
    # Only move_pages(2) reports page by page.
    status = None
    outcome = 0
    if name == "move_pages":
        rc, status = movepages.move_pages(k, call, process)
    elif name == "kernel":
        rc, outcome = kernel_call(k, call, process)
    else:
        rc = {"migrate_pages": syscalls.migrate_pages, "mbind": syscalls.mbind}[name](
            k, call, process
        )
    record = {
        "kernel": k.release.name,
        "policy": k.release.policy,
        "syscall": name,
        "ret": -1 if rc < 0 else rc,
        "errno": errno.errorcode[-rc] if rc < 0 else None,
        "vmstat": k.vmstat,
        "ipis_per_cpu": k.ipis,
        "batches": k.batches,
        "allocs": k.allocs,
        "copies_wasted": k.copies_wasted,
    }
    if "caller" in call:
        record["lists"] = k.sent
        record["reclaimed"] = k.reclaimed
        record["nr_isolated"] = k.nr_isolated
        error = errno.errorcode[-outcome] if outcome < 0 else None
        record["caller_error"] = record["caller_errno"] = error
    if status is not None:
        record["status"] = status
    record["nodes_after"] = k.world.nodes_of(process)
    result.records.append(record)
    result.outcomes.append(outcome)


def play_both(document: dict, **options) -> list[dict]:
    """Records of every kernel the document names, kernel by kernel."""
    records = []
    for name in expand(document.get("kernel", "both")):
        records += play(document, name, **options).records
    return records

"""TLB flushes: arch/x86/mm/tlb.c, the arm64 forms, and the deferred flush.

x86 tells each CPU to flush by interrupt and counts that; arm64 broadcasts in
hardware and counts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from .folio import Entry
from .kernel import Kernel, Unmapped
from .world import Cpu, Process

CEILING = 33  # tlb_single_page_flush_ceiling
BATCH = -1  # TLB_GENERATION_INVALID: the flush of a batch names no generation


@dataclass(frozen=True)
class Info:
    """struct flush_tlb_info."""

    mm: Process | None
    start: int
    pages: int
    stride: int
    whole: bool
    gen: int


def flush_page(k: Kernel, entry: Entry) -> None:
    """flush_tlb_page(): one page of the size that the entry maps."""
    # A hugetlb page goes with one instruction: the stride is its own size.
    flush_range(k, entry.process, entry.vpn, entry.nr, entry.nr)


def flush_pmd(k: Kernel, entry: Entry) -> None:
    """flush_pmd_tlb_range(): 2 MiB in steps of 4 KiB, so x86 flushes everything."""
    flush_range(k, entry.process, entry.vpn, entry.nr, 1)


def flush_range(k: Kernel, mm: Process, start: int, pages: int, stride: int) -> None:
    """flush_tlb_mm_range() in arch/x86/mm/tlb.c."""
    if k.arch == "arm64":
        _drop_everywhere(k, mm, start, pages)
        return
    mm.tlb_gen += 1
    whole = pages // stride > CEILING
    info = Info(mm, start, pages, stride, whole, mm.tlb_gen)
    if _global_asid(k, mm):
        _drop_everywhere(k, mm, start, pages)
    elif mm.cpumask - {k.number}:
        _flush_multi(k, set(mm.cpumask), info)
    elif k.cpu.loaded is mm:
        _flush_func(k, k.cpu, info)


def _drop_everywhere(k: Kernel, mm: Process, start: int, pages: int) -> None:
    """A broadcast invalidation: TLBI of arm64, INVLPGB of AMD."""
    for cpu in k.world.cpus:
        cpu.drop_range(mm, start, pages)


def _invlpgb(k: Kernel) -> bool:
    """Whether both processor and release have broadcast invalidation on x86."""
    return k.arch == "x86-invlpgb" and k.release.has("invlpgb")


def _global_asid(k: Kernel, mm: Process) -> bool:
    """mm_global_asid(): given to an mm that is active on four CPUs or more.

    Reading: Linux looks now and then, by the clock; here such an mm has had its
    global ASID since before the call.
    """
    if not _invlpgb(k):
        return False
    active = [c for c in k.world.cpus if c.loaded is mm and not c.lazy]
    return len(active) >= 4


def _flush_multi(k: Kernel, mask: set[int], info: Info) -> None:
    """native_flush_tlb_multi(): interrupt every CPU of the mask that is not lazy."""
    # Counted on the sender even if all the others turn out to be lazy.
    k.vmstat["nr_tlb_remote_flush"] += 1
    cpus = [c for c in (k.world.cpus[n] for n in sorted(mask)) if not c.lazy]
    trim = _should_trim(k, cpus, info)
    for cpu in cpus:
        # should_flush_tlb(): another mm is loaded there.
        stale = _stale(k, cpu, info)
        if stale and not trim:
            continue
        if cpu.number != k.number:
            k.vmstat["nr_tlb_remote_flush_received"] += 1
            k.ipis[cpu.number] += 1
        if stale:
            # "Remote wrong CPU", or the migrating one itself: it leaves the mask and
            # flushes nothing.
            assert info.mm is not None
            info.mm.cpumask.discard(cpu.number)
        else:
            _flush_func(k, cpu, info)


def _stale(k: Kernel, cpu: Cpu, info: Info) -> bool:
    """Left in the mask of an mm that the CPU has switched away from."""
    kept = k.release.has("mask_kept_at_switch")
    return kept and info.mm is not None and cpu.loaded is not info.mm


def _should_trim(k: Kernel, cpus: list[Cpu], info: Info) -> bool:
    """should_trim_cpumask().

    Reading: without a clock, the first flush of a call that finds a stale CPU trims.
    """
    if info.mm is None or info.mm.name in k.trimmed:
        return False
    if not any(_stale(k, cpu, info) for cpu in cpus):
        return False
    k.trimmed.add(info.mm.name)
    return True


def _flush_func(k: Kernel, cpu: Cpu, info: Info) -> None:
    """flush_tlb_func(): what one CPU does, guided by the generations."""
    mm = cpu.loaded
    # No user address space here, or another one than the flush is for.
    if mm is None or (cpu.number != k.number and info.mm not in (None, mm)):
        return
    if cpu.lazy:
        _leave_mm(k, cpu)
        return
    # Caught up already, by a flush that covered this one too.
    if cpu.tlb_gen == mm.tlb_gen or 0 <= info.gen <= cpu.tlb_gen:
        return
    # Single pages only if this is the very next flush this CPU has to do.
    partial = not info.whole and info.gen == cpu.tlb_gen + 1 == mm.tlb_gen
    if partial:
        assert info.mm is mm
        cpu.drop_range(mm, info.start, info.pages)
    else:
        cpu.drop_all(mm)
    if cpu.number == k.number:
        if partial:
            k.vmstat["nr_tlb_local_flush_one"] += info.pages // info.stride
        else:
            k.vmstat["nr_tlb_local_flush_all"] += 1
    cpu.tlb_gen = mm.tlb_gen


def _leave_mm(k: Kernel, cpu: Cpu) -> None:
    """switch_mm_irqs_off(NULL, &init_mm): a lazy CPU stops using the mm at all."""
    mm = cpu.loaded
    assert mm is not None
    cpu.loaded, cpu.lazy = None, False
    if not k.release.has("mask_kept_at_switch"):
        mm.cpumask.discard(cpu.number)
    # Loading the mm again will compare generations; here it just starts empty.
    cpu.drop_all(mm)


# The deferred flush ---------------------------------------------------------


def should_defer(k: Kernel, mm: Process) -> bool:
    """should_defer_flush() in mm/rmap.c, once TTU_BATCH_FLUSH is given."""
    if k.arch == "arm64":
        return k.release.has("arm64_deferred")
    # Lazy CPUs count too, though none of them will be interrupted.
    return bool(mm.cpumask - {k.number})


def set_pending(k: Kernel, entry: Entry) -> None:
    """set_tlb_ubc_flush_pending(): remember that this mm needs a flush."""
    if not entry.accessible and k.release.has("skip_inaccessible"):
        return
    ubc, mm = k.ubc, entry.process
    ubc.required = True
    if k.arch == "arm64":
        ubc.issued.append((mm, entry.vpn, entry.nr))
        return
    # Every PTE raises the generation, so one flush catches up with all.
    mm.tlb_gen += 1
    ubc.cpumask |= mm.cpumask


def flush_pending(k: Kernel) -> None:
    """try_to_unmap_flush(): one flush for everything put off so far."""
    ubc = k.ubc
    if not ubc.required:
        return
    # arm64 waits for the invalidations it has sent out.
    for mm, start, pages in ubc.issued:
        _drop_everywhere(k, mm, start, pages)
    if k.arch != "arm64":
        _flush_batch(k, ubc)
    ubc.required = False
    ubc.issued.clear()
    ubc.cpumask.clear()


def _flush_batch(k: Kernel, ubc: Unmapped) -> None:
    """arch_tlbbatch_flush(): always everything, never single pages."""
    info = Info(None, 0, 0, 1, True, BATCH)
    # Reading: a CPU that the broadcast reached has nothing left to catch up with.  In
    # Linux nobody's generation is raised, and later flushes are full ones.
    if _invlpgb(k):
        for cpu in k.world.cpus:
            cpu.tlb.clear()
            if cpu.loaded is not None and not cpu.lazy:
                cpu.tlb_gen = cpu.loaded.tlb_gen
    elif ubc.cpumask - {k.number}:
        _flush_multi(k, set(ubc.cpumask), info)
    elif k.number in ubc.cpumask:
        _flush_func(k, k.cpu, info)

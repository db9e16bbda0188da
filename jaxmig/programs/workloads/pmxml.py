"""pmbench's report as XML (its option -f), of a modelled run.

Elements, attributes and their order are the original's; values that the model lacks
(identifiers of CPUID's TLB leaves, caches, the time of day) are left out or empty.

Source: xmlgen.c of pmbench 0.9.
"""

from typing import Final
from xml.etree import ElementTree

import numpy as np

from jaxmig.programs.workloads import pmreport
from jaxmig.programs.workloads.pmbench import DRAWS, Options, PmbenchResult
from jaxmig.programs.workloads.version import VERSION
from jaxmig.time.machines import Profile

Node = ElementTree.Element
OUTPUT_VERSION: Final = "0.1"
MEMORY: Final = (
    *("free_kib", "buffer_kib", "cache_kib", "active_kib", "inactive_kib"),
    *("pgpgin", "pgpgout", "pswpin", "pswpout", "pgmajfault"),
)


def document(done: PmbenchResult, profile: Profile) -> bytes:
    """The file: UTF-8 with a declaration, indented."""
    root = Node("pmbenchmark")
    report = _add(root, "report")
    _signature(report, done, profile)
    machine = _add(report, "machine_info")
    _leaves(machine, modelname=profile.title, freq_khz=pmreport.CYCLES_KHZ)
    _add(machine, "tlb_info")
    _add(machine, "cache_info", deterministic=0)
    result = _add(report, "result")
    for t in range(done.options.jobs):
        _thread(result, done, t)
    if done.options.access == "histo":
        _statistics(report, done)
    _memory(report, done)
    ElementTree.indent(root)
    return ElementTree.tostring(root, "utf-8", xml_declaration=True) + b"\n"


def _add(parent: Node, tag: str, **attributes: object) -> Node:
    words = {name: str(value) for name, value in attributes.items()}
    return ElementTree.SubElement(parent, tag, words)


def _leaves(parent: Node, **texts: object) -> None:
    for tag, text in texts.items():
        _add(parent, tag).text = str(text)


def _signature(report: Node, result: PmbenchResult, profile: Profile) -> None:
    o = result.options
    signature = _add(report, "signature")
    info = _add(signature, "pmbench_info")
    _leaves(info, version_number=VERSION, version_options="")
    _leaves(info, version_xmloutput=OUTPUT_VERSION)
    system = _add(signature, "os_info")
    _leaves(system, hostname=profile.name)
    version = _add(system, "version_info")
    release = result.kernel or "without migration"
    _leaves(version, os_name="Linux", arch=profile.arch, release=release)
    _leaves(signature, uuid=pmreport.uuid_of(result))
    _parameters(_add(signature, "params"), o)


def _parameters(node: Node, options: Options) -> None:
    _leaves(
        node,
        duration=options.duration_sec,
        mapsize=options.mapsize_mib,
        setsize=options.setsize_mib,
        initialize=int(options.initialize),
        shape=f"{options.shape:0.4f}",
        delay=options.delay,
        quiet=int(options.quiet),
        cold=int(options.cold),
        jobs=options.jobs,
        offset=options.offset,
        ratio=options.ratio,
        pattern=options.pattern,
        access=options.access,
        tsops=options.tsops,
    )


def _thread(result: Node, done: PmbenchResult, number: int) -> None:
    a = pmreport.averages(done, number)
    one = _add(result, "result_thread", thread_num=number + 1)
    net = _add(one, "result_netavg")
    _times(net, "netavg", a.net)
    details = _add(one, "result_details")
    _times(_add(details, "details_latency"), "latency", a.mean)
    _leaves(details, details_samples=a.samples)
    _times(_add(details, "details_overhead"), "overhead", a.draw)
    _leaves(details, details_total=DRAWS)
    if a.warmup is not None:
        warmup = _add(one, "warmup_details")
        _times(_add(warmup, "warmup_latency"), "warmup", a.warmup)
        _leaves(warmup, warmup_total=done.warmup_accesses)


def _times(node: Node, name: str, us: float) -> None:
    texts = {f"{name}_us": f"{us:0.4f}", f"{name}_clk": pmreport.clocks(us)}
    _leaves(node, **texts)


def _statistics(report: Node, result: PmbenchResult) -> None:
    node = _add(report, "statistics")
    ratio = result.options.ratio
    for kind, name, on in ((0, "read", ratio > 0), (1, "write", ratio < 100)):
        if on:
            _histogram(_add(node, "histogram", type=name), result.histogram[kind])


def _histogram(node: Node, bins: np.ndarray) -> None:
    """Octaves in 16 parts up to 2^23 ns; the longer ones all have index 0."""
    _bucket(node, 0, 0, 8, int(bins[0]))
    octaves = bins[1:].reshape(-1, 16)
    for i, parts in enumerate(octaves[: pmreport.OCTAVES], 1):
        hexes = _add(_bucket(node, i, i + 7, i + 8, int(parts.sum())), "bucket_hexes")
        for j, part in enumerate(parts.tolist()):
            _add(hexes, "hex", index=j).text = str(part)
    for low, count in pmreport.long_octaves(bins):
        _bucket(node, 0, low, 32 if low == 30 else low + 1, count)


def _bucket(node: Node, index: int, low: int, high: int, count: int) -> Node:
    made = _add(node, "histo_bucket", index=index)
    _leaves(_add(made, "bucket_interval"), interval_lo=low, interval_hi=high)
    _leaves(made, sum_count=count)
    return made


def _memory(report: Node, result: PmbenchResult) -> None:
    """Each snapshot, and what changed up to the next one."""
    node = _add(report, "sys_mem_info")
    shots = pmreport.snapshots(result)
    for i, (name, numbers) in enumerate(shots):
        item = _add(node, "sys_mem_item", name=name.replace(" ", "-"))
        pairs = zip(MEMORY, numbers, strict=True)
        _leaves(_add(item, "mem_item_info"), **dict(pairs))
        if i + 1 < len(shots):
            later = zip(MEMORY, numbers, shots[i + 1][1], strict=True)
            change = {key: after - before for key, before, after in later}
            _leaves(_add(item, "mem_item_delta"), **change)

"""pmbench's own options: what its argp table has, affinity sets, the XML file."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jaxmig import machines
from jaxmig.cli import output
from jaxmig.cli.errors import Failure, Parser, Usage
from jaxmig.workloads import affinity, pmreport
from jaxmig.workloads.patterns import PATTERNS
from jaxmig.workloads.pmbench import node_of

ACCESSES = ("touch", "histo")
TIMESTAMPS = ("rdtsc", "rdtscp")  # perfc is Windows'


class _Usage(argparse.Action):
    """argp's --usage: the short form, and out."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.print_usage()
        parser.exit()


def add(p: Parser) -> None:
    """pmbench's own options; -h is its --threshold."""
    p.add_argument("-?", "--help", action="help", help="show this help and exit")
    p.add_argument("--usage", action=_Usage, nargs=0, help="show the short form")
    version = f"{pmreport.VERSION} (jaxmig)"
    p.add_argument("-V", "--version", action="version", version=version)
    numbers = (
        ("-m", "--mapsize", 256, "mmap size, MiB"),
        ("-s", "--setsize", 128, "working set, MiB"),
        ("-d", "--delay", 0, "clock cycles between accesses; used above 10"),
        ("-r", "--ratio", 50, "percent of reads"),
        ("-o", "--offset", -1, "word inside the page, 0 to 1023 (random)"),
        ("-h", "--threshold", 0, "ns; longer accesses leave a marker in the original"),
    )
    for short, name, value, text in numbers:
        p.add_argument(short, name, type=int, default=value, help=f"{text} ({value})")
    p.add_argument("-e", "--shape", type=float, default=1.00001, help="of the pattern")
    p.add_argument("-p", "--pattern", default="uniform", help=", ".join(PATTERNS))
    p.add_argument("-a", "--access", default="histo", help="touch or histo (histo)")
    p.add_argument("-t", "--timestamp", default="rdtscp", help="rdtsc or rdtscp")
    p.add_argument("-j", "--jobs", type=int, metavar="N", help="threads (1)")
    p.add_argument(
        "-y", "--affinityset", action="append", default=[], metavar="CPUSTR[:THREADS]",
        help="threads on these CPUs with a map of their own; may repeat, excludes -j",
    )  # fmt: skip
    p.add_argument(
        "-f", "--file", metavar="FILE",
        help="the report as XML, too; with several kernels FILE-KERNEL",
    )  # fmt: skip
    p.add_argument(
        "--trace", metavar="FILE", help="accesses of a file, as `jaxmig replay` reads"
    )
    flags = ("-q --quiet", "-c --cold", "-i --initialize", "-z --wrneedsrd")
    for flag in flags:
        p.add_argument(*flag.split(), action="store_true")


def sets(args: argparse.Namespace) -> tuple[affinity.AffinitySet, ...]:
    """The affinity sets, which a migration must find on one node, where it begins."""
    if not args.affinityset:
        return ()
    if args.trace:
        raise Usage("--trace says what each CPU does; leave out -y")
    cpus = machines.load(args.machine).cpus
    try:
        found = affinity.parse_all(args.affinityset, cpus)
    except affinity.AffinityError as error:
        raise Failure(str(error)) from None
    home = {node_of(cpu, cpus) for one in found for cpu in one.cpus}
    if len(home) > 1 and (args.migrate or any(_split(one, cpus) for one in found)):
        line = "a map is bound to its CPUs' node, and maps move together"
        raise Failure(f"affinityset: {line}; name CPUs of one node")
    if args.migrate and str(min(home)) != args.migrate.partition(":")[0]:
        line = f"the CPUs of the affinityset are on node {min(home)}, and so is the map"
        raise Failure(f"--migrate {args.migrate}: {line}")
    return found


def _split(one: affinity.AffinitySet, cpus: int) -> bool:
    return len({node_of(cpu, cpus) for cpu in one.cpus}) > 1


def files(name: str | None, kernels: Sequence[str | None]) -> dict[str | None, Path]:
    """Where each run's XML goes, checked before the work."""
    if name is None:
        return {}
    path = Path(name)
    made = {kernels[0]: path}
    if len(kernels) > 1:
        made = {k: path.with_name(f"{path.stem}-{k}{path.suffix}") for k in kernels}
    for file in made.values():
        output.check(str(file))
    return made

"""Checks of pmbench's own options: affinity sets and the XML file."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jaxmig.cli import output
from jaxmig.cli.errors import Failure, Usage
from jaxmig.programs.workloads import affinity
from jaxmig.programs.workloads.pmbench import node_of
from jaxmig.time import machines

ACCESSES = ("touch", "histo")
TIMESTAMPS = ("rdtsc", "rdtscp")  # perfc is Windows'


def sets(args: argparse.Namespace) -> tuple[affinity.AffinitySet, ...]:
    """The affinity sets; with a migration, all must lie on the node that is emptied."""
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
    """The XML file of each kernel's run, checked before the work."""
    if name is None:
        return {}
    path = Path(name)
    made = {kernels[0]: path}
    if len(kernels) > 1:
        made = {k: path.with_name(f"{path.stem}-{k}{path.suffix}") for k in kernels}
    for file in made.values():
        output.check(str(file))
    return made

"""Options that change a target: other page sizes, pins, another node, more threads."""

import argparse
import dataclasses

from jaxmig.cli.errors import Usage
from jaxmig.host import nodes
from jaxmig.sources.targets import Target, WhatIf


def target(
    args: argparse.Namespace, resolved: Target, cpus: int, cpu: int = 0
) -> Target:
    """The target with the changes that the options ask for.

    Args:
      args: with `thp`, `folio`, `pinned`, `place`, `threads` and `running`.
      resolved: the target as it is.
      cpus: of the machine, on which --threads chooses CPUs.
      cpu: the CPU that migrates, on which no thread runs.
    Returns:
      The changed target.
    Raises:
      Usage: options that do not fit together.
      TargetError: a target whose pages are not known well enough.
    """
    thp = args.thp if isinstance(args.thp, int) else None
    w = WhatIf(thp=thp, folio=args.folio, pinned=args.pinned, place=args.place)
    made = resolved.what_if(w)
    if args.threads is None:
        return made
    if args.running not in (None, "target"):
        raise Usage("--threads and --running both say where it runs; choose one")
    ran = [c for c in nodes.fold(resolved.running, cpus) if c != cpu]
    others = [c for c in range(cpus) if c != cpu and c not in ran]
    running = tuple(sorted([*ran, *others][: args.threads]))
    if len(running) < args.threads:
        n = len(running)
        raise Usage(
            f"--threads {args.threads}: CPU {cpu} of {cpus} migrates, {n} are left; "
            f"use --threads {n} or --cpus {args.threads + 1}"
        )
    return dataclasses.replace(made, running=running, ran="")

"""One migration of one target on several kernels, in one call from Python.

found = jaxmig.compare("memhog:4m", kernels="6.2,6.3", running=[1, 2, 3])
print(found)             # the answer and the table, as the command prints them
found[1]["vmstat"]       # records, as in --json
found.frame()            # a pandas DataFrame, a row for each kernel
"""

import dataclasses
import importlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

from jaxmig import report
from jaxmig.engine.migrate import NR_MAX_BATCHED_MIGRATION
from jaxmig.host import nodes
from jaxmig.linux.releases import expand
from jaxmig.report.records import Record, flatten
from jaxmig.sources import targets
from jaxmig.sources.builder import MOST_CPUS, MOST_NODES
from jaxmig.sources.targets import Setting, Target
from jaxmig.state import arguments
from jaxmig.time import machines
from jaxmig.tools import job

OLDEST: Final = "both"  # 6.2 and 6.3


class Comparison(list[Record]):
    """Records, one for each kernel; printed as by the command `migratepages`.

    Attributes:
      assumed: one line with the machine and the state that the numbers hold for.
      outcomes: the same with costs, for `report.call_tree(outcome.cost)`.
    """

    def __init__(self, assumed: str, outcomes: Sequence[job.Outcome]) -> None:
        super().__init__(o.record for o in outcomes)
        self.assumed, self.outcomes = assumed, list(outcomes)

    @property
    def answer(self) -> list[str]:
        """Pages moved, time taken, interrupts and stalls, in two to four sentences."""
        return report.answer(self)

    def __str__(self) -> str:
        return report.compare(self, assumed=self.assumed)

    def frame(self) -> Any:
        """A pandas DataFrame: a row for each kernel, columns as in CSV.

        Raises:
          ImportError: pandas is not installed.
        """
        pandas = importlib.import_module("pandas")  # not a dependency of jaxmig
        return pandas.DataFrame([flatten(r) for r in self]).set_index("kernel")


def compare(
    target: str | Target,
    from_: str = "0",
    to: str = "1",
    *,
    kernels: str | Iterable[str] = OLDEST,
    machine: str | machines.Profile = "xeon-2s",
    running: Iterable[int] | None = None,
    lazy: Iterable[int] = (),
    cpus: int | None = None,
    node_count: int | None = None,
    cpu: int = 0,
    batch: int = NR_MAX_BATCHED_MIGRATION,
    copy: str = "cpu",
    mode: str | None = None,
    caller: str | None = None,
    privileged: bool = True,
    content: bool = False,
    seed: int = 0,
) -> Comparison:
    """Migrate a target's pages between nodes, on a fresh machine for each kernel.

    Args:
      target: as on the command line (a PID, a file, `memhog:64m`), or a Target.
      from_, to: nodes, as libnuma writes them: "0", "0,1", "all".
      kernels: releases; also "both", "latest", "6.1-7.3", "6.2,6.18".
      machine: the name of a cost profile, a .toml file, or a Profile.
      running: CPUs that run the target; where it ran, if None.
      lazy: idle CPUs that still hold its page table.
      cpus, node_count: the profile's CPUs, and two nodes or what the target needs.
      cpu: the CPU that migrates.
      batch: base pages at which a batch is closed; 0 for no limit.
      copy, mode, caller, privileged: as the options of `jaxmig migratepages`.
      content: carry and check the 4 KiB of every page.
    Returns:
      The records, in the order of `kernels`.
    Raises:
      ValueError: unknown names, or arguments that do not fit together; one line.
    """
    profile = machines.load(machine) if isinstance(machine, str) else machine
    found = targets.resolve(target) if isinstance(target, str) else target
    names = kernels.split(",") if isinstance(kernels, str) else kernels
    for name, value, kind in (
        ("machine", profile, machines.Profile),
        ("target", found, Target),
        ("kernels", names, Iterable),
    ):
        if not isinstance(value, kind):
            raise ValueError(
                f"{name} is {type(value).__name__} {value!r:.40}: give text"
            )
    arguments.text("copy", copy)
    setting = _setting(found, profile, running, lazy, cpus, node_count)
    old, new = (_nodes(text, setting.nodes) for text in (from_, to))
    setting = dataclasses.replace(setting, node=min(old), content=content)
    setting = dataclasses.replace(
        setting, seed=arguments.whole("seed", seed, 0, arguments.WORD)
    )
    cpu = arguments.whole("cpu", cpu, 0, setting.cpus - 1)
    batch = arguments.whole("batch", batch, 0)
    if (caller or mode not in (None, "sync")) and len(new) > 1:
        raise ValueError(f"to={to!r}: only the system call takes several nodes")
    profile.copy_speedups(copy)  # refuses an engine that the machine lacks
    call = job.Call(
        old=old, new=new, cpu=cpu, batch=batch, copy=copy, privileged=privileged,
        caller=caller, mode=mode,
    )  # fmt: skip
    assumed = report.assumed_line(
        profile, running=setting.running, lazy=setting.lazy, cpu=cpu, cpus=setting.cpus,
        nodes=setting.nodes, batch=batch, copy=copy, content=content,
        privileged=None if caller else privileged,
        ran="" if running is not None else found.ran,
    )  # fmt: skip
    return Comparison(assumed, job.run(found, setting, profile, expand(names), call))


def _setting(
    target: Target,
    profile: machines.Profile,
    running: Iterable[int] | None,
    lazy: Iterable[int],
    cpus: int | None,
    count: int | None,
) -> Setting:
    """The hardware; the same defaults as the commands have."""
    n = max(2, target.nodes) if count is None else count
    n = arguments.whole("node_count", n, 1, MOST_NODES)
    if target.nodes > n:
        raise ValueError(f"node_count={n}: {target.name} needs {target.nodes} nodes")
    width = profile.cpus if cpus is None else cpus
    width = arguments.whole("cpus", width, 1, MOST_CPUS)

    def listed(name: str, some: Any) -> list[int]:
        how = {"each": f"{name}: CPU", "has": f"CPUs 0-{width - 1}"}
        return arguments.numbers(name, some, 0, width - 1, **how)

    idle = tuple(sorted(listed("lazy", lazy)))
    if running is None:
        chosen = [c for c in nodes.fold(target.running, width) if c not in idle]
    else:
        chosen = listed("running", running)
    on = tuple(sorted(set(chosen)))
    if set(on) & set(idle):
        both = min(set(on) & set(idle))
        raise ValueError(f"lazy: CPU {both} runs the target already; it cannot be lazy")
    tlbs = {"tlb": profile.tlb, "huge_tlb": profile.tlb_huge}
    return Setting(nodes=n, cpus=width, running=on, lazy=idle, **tlbs)


def _nodes(text: Any, n: int) -> frozenset[int]:
    found = frozenset(nodes.parse(str(text), n, "node_count="))
    if not found:
        raise ValueError(f"{text!r} names none of the nodes 0-{n - 1}; name one")
    return found

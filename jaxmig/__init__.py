"""jaxmig: Linux page migration, serial and batched, as a vectorized engine in JAX.

Everything that the commands do can be done from Python with the names below; modules are
imported when they are first used.

command            Python
migratepages       compare(); in steps targets.resolve(), then job.run()
run                scenario.load(), then player.play()
snapshot           snapshot.take(), snapshot.take_all(), snapshot.load()
sweep              sweep.play() of a sweep.Sweep
advise             advise.advise() of a sweep.Sweep
calibrate          calibrate.from_perf(), .from_vmstat(), .measure(), .from_micro(), .fit()
pmbench, memhog    workloads.pmbench.run(), workloads.memhog.run()
migspeed           workloads.migspeed.call_ns()
reproduce          reproduce.rows()
explain            explain.explain()
machines           machines.names(), machines.load()
--json, --csv      report.document(), report.to_json(), report.to_csv()
--plot             plots.migration(), plots.sweep(), plots.save()
--trace, --tracefs report.perfetto.trace(), report.tracefs.text(), report.folded
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jaxmig import report
    from jaxmig.calls import callers, syscalls
    from jaxmig.engine import shard
    from jaxmig.engine.migrate import Result, migrate_pages
    from jaxmig.host import nodes
    from jaxmig.linux.releases import RELEASES
    from jaxmig.programs import stalls, traces, workloads
    from jaxmig.show import plots
    from jaxmig.sources import scenario, snapshot, targets
    from jaxmig.sources.builder import Builder
    from jaxmig.state.machine import Machine
    from jaxmig.state.xla import quick_options
    from jaxmig.time import cost, machines, timeline
    from jaxmig.tools import (
        advise,
        calibrate,
        check,
        custom,
        explain,
        job,
        player,
        reproduce,
        sweep,
    )
    from jaxmig.tools.ahead import warm_up
    from jaxmig.tools.comparison import compare
    from jaxmig.tools.query import folios_on, pages_by_node

__version__ = "0.2.0"
__all__ = [
    "RELEASES",
    "Builder",
    "Machine",
    "Result",
    "__version__",
    "advise",
    "calibrate",
    "callers",
    "check",
    "compare",
    "cost",
    "custom",
    "explain",
    "folios_on",
    "job",
    "machines",
    "migrate_pages",
    "nodes",
    "pages_by_node",
    "player",
    "plots",
    "quick_options",
    "report",
    "reproduce",
    "scenario",
    "shard",
    "snapshot",
    "stalls",
    "sweep",
    "syscalls",
    "targets",
    "timeline",
    "traces",
    "warm_up",
    "workloads",
]
# The folder of each module, and the module of each function or class.
_MODULES: Final = {
    "advise": "jaxmig.tools.advise",
    "calibrate": "jaxmig.tools.calibrate",
    "callers": "jaxmig.calls.callers",
    "check": "jaxmig.tools.check",
    "cost": "jaxmig.time.cost",
    "custom": "jaxmig.tools.custom",
    "explain": "jaxmig.tools.explain",
    "job": "jaxmig.tools.job",
    "machines": "jaxmig.time.machines",
    "nodes": "jaxmig.host.nodes",
    "player": "jaxmig.tools.player",
    "plots": "jaxmig.show.plots",
    "report": "jaxmig.report",
    "reproduce": "jaxmig.tools.reproduce",
    "scenario": "jaxmig.sources.scenario",
    "shard": "jaxmig.engine.shard",
    "snapshot": "jaxmig.sources.snapshot",
    "stalls": "jaxmig.programs.stalls",
    "sweep": "jaxmig.tools.sweep",
    "syscalls": "jaxmig.calls.syscalls",
    "targets": "jaxmig.sources.targets",
    "timeline": "jaxmig.time.timeline",
    "traces": "jaxmig.programs.traces",
    "workloads": "jaxmig.programs.workloads",
}
_OBJECTS: Final = {
    "RELEASES": "jaxmig.linux.releases",
    "Builder": "jaxmig.sources.builder",
    "Machine": "jaxmig.state.machine",
    "Result": "jaxmig.engine.migrate",
    "compare": "jaxmig.tools.comparison",
    "folios_on": "jaxmig.tools.query",
    "migrate_pages": "jaxmig.engine.migrate",
    "pages_by_node": "jaxmig.tools.query",
    "quick_options": "jaxmig.state.xla",
    "warm_up": "jaxmig.tools.ahead",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used.

    So `import jaxmig` is quick, and a command that is interrupted while jax is imported
    can still print a message.
    """
    if name in _MODULES:
        found = importlib.import_module(_MODULES[name])
    elif name in _OBJECTS:
        found = getattr(importlib.import_module(_OBJECTS[name]), name)
    else:
        raise AttributeError(f"module 'jaxmig' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

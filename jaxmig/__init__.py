"""jaxmig: Linux page migration, serial and batched, as a vectorized engine in JAX.

Everything that the commands do is here; modules are imported when they are first used.

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
    from jaxmig import (
        advise,
        calibrate,
        callers,
        check,
        cost,
        explain,
        job,
        machines,
        player,
        plots,
        report,
        reproduce,
        scenario,
        snapshot,
        stalls,
        sweep,
        syscalls,
        targets,
        timeline,
        workloads,
    )
    from jaxmig.ahead import warm_up
    from jaxmig.build import Builder
    from jaxmig.comparison import compare
    from jaxmig.machine import Machine
    from jaxmig.migrate import Result, migrate_pages
    from jaxmig.query import folios_on, pages_by_node
    from jaxmig.releases import RELEASES

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
    "explain",
    "folios_on",
    "job",
    "machines",
    "migrate_pages",
    "pages_by_node",
    "player",
    "plots",
    "report",
    "reproduce",
    "scenario",
    "snapshot",
    "stalls",
    "sweep",
    "syscalls",
    "targets",
    "timeline",
    "warm_up",
    "workloads",
]
# Where the names are that are no modules themselves.
_HOME: Final = {
    "RELEASES": "releases",
    "Builder": "build",
    "Machine": "machine",
    "Result": "migrate",
    "compare": "comparison",
    "folios_on": "query",
    "migrate_pages": "migrate",
    "pages_by_node": "query",
    "warm_up": "ahead",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for.

    Thus `import jaxmig` is quick, and a command can say something when it is
    interrupted while jax is imported.
    """
    if name in _HOME:
        globals()[name] = getattr(
            importlib.import_module(f"jaxmig.{_HOME[name]}"), name
        )
        return globals()[name]
    if name in __all__:
        return importlib.import_module(f"jaxmig.{name}")
    raise AttributeError(f"module 'jaxmig' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

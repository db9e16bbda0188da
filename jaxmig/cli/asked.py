"""The `asked` of result documents: every setting that the numbers depend on.

Only the machine's shape and the target stand in tables of their own.  `jaxmig diff` says
what differs, so that a setting that is left out here would go unsaid there.
"""

import hashlib
import json
from typing import Any, Final

from jaxmig.report.units import cpu_list
from jaxmig.sources.scenario import Scenario
from jaxmig.sources.scenario.words import CALLER_MODES
from jaxmig.sources.targets import Setting, Target
from jaxmig.time import machines
from jaxmig.tools import job

CPUS: Final = ("running", "lazy", "left")


def of_options(
    target: Target, setting: Setting, profile: machines.Profile, call: job.Call
) -> dict[str, Any]:
    """What the options of `migratepages` come to.

    Args:
      target, setting: the memory that is migrated, and the hardware.
      profile: prices of the machine, of which a digest is kept.
      call: the arguments of the migration.
    Returns:
      Settings by name; `free` and `nodes_before` are base pages.
    """
    free = {str(n): pages for n, pages in enumerate(setting.free) if pages is not None}
    before = target.by_node or {setting.node: target.pages}
    return {
        "from": cpu_list(sorted(call.old)),
        "to": cpu_list(sorted(call.new)),
        "cpu": call.cpu,
        "batch": call.batch,
        "copy": call.copy,
        "caller": call.caller or "migrate_pages",
        "mode": call.mode or CALLER_MODES.get(call.caller or "", "sync"),
        "privileged": call.privileged,
        "content": setting.content,
        "seed": setting.seed,
        "costs": _digest(profile),
        "nodes_before": {str(n): pages for n, pages in before.items()},
        "free": free,
    }


def of_scenario(
    scenario: Scenario, profile: machines.Profile, content: bool, seed: int
) -> dict[str, Any]:
    """What a file and the options of `run` come to.

    Args:
      scenario: the file, with what options have replaced.
      profile: prices of the machine, of which a digest is kept.
      content, seed: whether pages carry contents, and how these are drawn.
    Returns:
      Settings by name, and a table for each part of the file.
    """
    s, m = scenario, scenario.machine
    made: dict[str, Any] = {
        "batch": m.max_batch,
        "copy": m.copy,
        "lru_gen": m.lru_gen,
        "compact_unevictable": m.compact_unevictable,
        "content": content,
        "seed": seed,
        "costs": _digest(profile),
        "node_size": {str(n): size for n, size in enumerate(m.node_size)},
        "free": {str(n): size for n, size in m.free},
    }
    made |= {f"process {p.name}": _cells(p) for p in s.processes}
    made |= {f"region {r.name}": _cells(r) for r in s.regions}
    made |= {f"condition {i}": _cells(c) for i, c in enumerate(s.conditions, 1)}
    return made | {f"call {i}": _cells(c) for i, c in enumerate(s.calls, 1)}


def _digest(profile: machines.Profile) -> str:
    # A user's own profile may change while its name does not.
    return hashlib.sha256(machines.dumps(profile).encode()).hexdigest()[:16]


def _cells(spec: Any) -> dict[str, Any]:
    """The fields that are given; lists of anything but CPUs as text."""
    return {
        name: json.dumps(value) if type(value) is tuple and name not in CPUS else value
        for name, value in vars(spec).items()
        if value is not None
    }

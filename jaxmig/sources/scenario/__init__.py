"""Scenario files: a machine, its pages, their conditions, and the calls that move them.

`load` reads a file and `loads` a text.  Both return a `Scenario`, whose values have been
checked against the machine of the same file, or raise `ScenarioError`, whose text is one
line with file, line, key, value, fault and remedy.
"""

from jaxmig.sources.scenario.errors import ScenarioError
from jaxmig.sources.scenario.model import (
    CallSpec,
    ConditionSpec,
    MachineSpec,
    ProcessSpec,
    RegionSpec,
    Scenario,
)
from jaxmig.sources.scenario.parse import load, loads

__all__ = [
    "CallSpec",
    "ConditionSpec",
    "MachineSpec",
    "ProcessSpec",
    "RegionSpec",
    "Scenario",
    "ScenarioError",
    "load",
    "loads",
]

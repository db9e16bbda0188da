"""Scenario files: a machine, its pages, what blocks them, and the calls that move them.

`load` reads a file and `loads` a text; both give a `Scenario`, in which every value has
been checked against the machine of the same file, or raise `ScenarioError`, whose text
is one line that names file, line, key, value, fault and remedy.
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

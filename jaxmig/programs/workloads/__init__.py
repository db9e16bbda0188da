"""Programs that run while their memory migrates: pmbench, memhog, migspeed, a trace.

They are imported when they are first used, as the command line needs only their options.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxmig.programs.workloads import memhog, migspeed, pmbench, pmreport

__all__ = ["memhog", "migspeed", "pmbench", "pmreport"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"jaxmig.programs.workloads.{name}")
    raise AttributeError(
        f"module 'jaxmig.programs.workloads' has no attribute {name!r}"
    )

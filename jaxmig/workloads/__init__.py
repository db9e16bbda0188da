"""Programs that run while their memory migrates: pmbench, memhog, migspeed, a trace.

They are imported when they are first used: their options are read without them.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jaxmig.workloads import memhog, migspeed, pmbench, pmreport

VERSION: Final = "pmbench 0.9"  # whose options and report pmbench's are
__all__ = ["VERSION", "memhog", "migspeed", "pmbench", "pmreport"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"jaxmig.workloads.{name}")
    raise AttributeError(f"module 'jaxmig.workloads' has no attribute {name!r}")

"""Programs that run while their memory migrates: pmbench, memhog, migspeed, a trace."""

from jaxmig.workloads import memhog, migspeed, pmbench, pmreport

__all__ = ["memhog", "migspeed", "pmbench", "pmreport"]

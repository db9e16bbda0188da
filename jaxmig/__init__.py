"""jaxmig: Linux page migration, serial and batched, as a vectorized engine in JAX."""

from jaxmig.build import Builder
from jaxmig.machine import Machine
from jaxmig.migrate import Result, migrate_pages
from jaxmig.query import folios_on, pages_by_node
from jaxmig.releases import RELEASES

__version__ = "0.1.0"
__all__ = [
    "RELEASES",
    "Builder",
    "Machine",
    "Result",
    "__version__",
    "folios_on",
    "migrate_pages",
    "pages_by_node",
]

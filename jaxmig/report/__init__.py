"""Results as text and plain data: tables, call trees, JSON, CSV and traces.

Every function takes plain data and returns text or plain data; none prints or computes a
result.  Commands, tools and pictures import this folder; it builds no machine and makes
no call.
"""

from jaxmig.report import folded, perfetto, timed, tracefs
from jaxmig.report.answer import answer
from jaxmig.report.compare import assumed_line, compare, speedup
from jaxmig.report.profiles import machine_dict, machine_text, machines_text
from jaxmig.report.records import (
    document,
    error_document,
    from_csv,
    record,
    to_csv,
    to_json,
)
from jaxmig.report.stretches import stretches
from jaxmig.report.sums import together
from jaxmig.report.tables import FORMATS, bold, table, terminal_width, wants_color
from jaxmig.report.tree import (
    Node,
    call_tree,
    causes_text,
    tree_dict,
    tree_rows,
    tree_text,
    trees_text,
)

__all__ = [
    "FORMATS",
    "Node",
    "answer",
    "assumed_line",
    "bold",
    "call_tree",
    "causes_text",
    "compare",
    "document",
    "error_document",
    "folded",
    "from_csv",
    "machine_dict",
    "machine_text",
    "machines_text",
    "perfetto",
    "record",
    "speedup",
    "stretches",
    "table",
    "terminal_width",
    "timed",
    "to_csv",
    "to_json",
    "together",
    "tracefs",
    "tree_dict",
    "tree_rows",
    "tree_text",
    "trees_text",
    "wants_color",
]

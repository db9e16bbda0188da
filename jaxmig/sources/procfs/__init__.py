"""Reads the page tables of live processes from /proc (Linux).

`jaxmig.sources.snapshot.take` is the entry point; most modules here read one file of
/proc.
"""

from jaxmig.sources.procfs.columns import AreaKind, PageFlag, Perm
from jaxmig.sources.procfs.errors import (
    KernelThread,
    NoSuchProcess,
    NotLinux,
    PermissionDenied,
    ProcError,
    ProcessVanished,
)
from jaxmig.sources.procfs.maps import Areas
from jaxmig.sources.procfs.process import Processes, list_pids

__all__ = [
    "AreaKind",
    "Areas",
    "KernelThread",
    "NoSuchProcess",
    "NotLinux",
    "PageFlag",
    "Perm",
    "PermissionDenied",
    "ProcError",
    "ProcessVanished",
    "Processes",
    "list_pids",
]

"""Reads the page tables of live processes from /proc (Linux).

`jaxmig.snapshot.take` is the way in; the modules here read one file each.
"""

from jaxmig.procfs.columns import AreaKind, PageFlag, Perm
from jaxmig.procfs.errors import (
    KernelThread,
    NoSuchProcess,
    NotLinux,
    PermissionDenied,
    ProcError,
    ProcessVanished,
)
from jaxmig.procfs.maps import Areas
from jaxmig.procfs.process import Processes, list_pids, pids_named

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
    "pids_named",
]

"""Settings of JAX for a command: quiet, with compiled programs kept between runs.

JAXMIG_NO_CACHE=1 keeps nothing; JAX_COMPILATION_CACHE_DIR, JAX's own variable, names
another folder.  A folder that another user owns or may write to is not used.
"""

import gc
import hashlib
import logging
import os
import platform
import stat
import warnings
from pathlib import Path

import jax
import jaxlib

from jaxmig.cli.errors import say
from jaxmig.state import xla


def prepare() -> None:
    """Set up this process; settings of the user's environment take precedence."""
    # Without a GPU, JAX and XLA warn on stderr at several levels; 1 is JAX's default.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    logging.getLogger("jax").setLevel(logging.ERROR)
    xla.compile_loops_whole()
    # Tracing allocates without end, and leaves little that only the collector finds.
    gc.set_threshold(20_000, 10, 10)
    # Arrays with a numpy view cannot be donated; that only costs memory.
    warnings.filterwarnings("ignore", "Some donated buffers were not usable")
    if os.environ.get("JAXMIG_NO_CACHE"):
        return
    # A cache in a home directory that disappears must not end a command.
    jax.config.update("jax_raise_persistent_cache_errors", False)
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation")
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    directory = Path(given) if given else cache_directory()
    try:
        # mkdir() gives what lies above the mode of the umask.
        for folder in (directory.parent, directory):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        doubt = _doubt(directory)
        if not given:
            doubt = doubt or _doubt(directory.parent)
            doubt = doubt or _replaceable(directory.parent)
    except OSError as error:
        doubt = error.strerror or str(error)
    if doubt:
        # A user who can write there decides what code this process runs.
        say(f"{directory}: compiled programs are not kept: {doubt}")
        jax.config.update("jax_compilation_cache_dir", None)
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _doubt(directory: Path) -> str:
    """Why compiled programs in a folder cannot be trusted; "" if they can."""
    about = directory.stat()
    if about.st_uid != os.geteuid():
        return "it is another user's"
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others may write there; chmod go-w"
    return ""


def _replaceable(directory: Path) -> str:
    """Why somebody else could put a folder of his own in its place."""
    mode = directory.parent.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return f"others may replace it; chmod o-w {directory.parent}"
    return ""


def cache_directory() -> Path:
    """The folder for compiled programs of this version on this kind of processor.

    A program compiled by another jaxlib, or for another processor that shares the home
    directory, could crash.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG Base Directory Specification says to ignore a relative path.
    home = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    versions = f"jax-{jax.__version__}-jaxlib-{jaxlib.__version__}"
    return home / "jaxmig" / f"{versions}-{_processor()}"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        text = platform.processor()
    lines = [
        line
        for line in text.splitlines()
        if line.partition("\t")[0] in ("flags", "Features", "model name")
    ]
    kind = hashlib.sha256("\n".join(sorted(set(lines))).encode()).hexdigest()[:8]
    return f"{platform.machine()}-{kind}"

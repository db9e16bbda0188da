"""Fenced blocks of the documentation, and how each kind is run.

    python     with >>> a doctest, else executed; one namespace a page
    sh         commands that must succeed
    console    `$ command`, then what it prints; `...` stands for anything
    toml, csv  kept as a file if a comment above the block names it

A comment above a block says what is special about it:

    <!-- file: mine.toml -->       the block is the content of that file
    <!-- no-run: needs Slurm -->   never run, for this reason
    <!-- exit: 1 -->               the last command fails, as the text explains

A line that is a jaxmig command and nothing else runs inside this process, where what
one command compiled serves the next; whatever needs a shell gets one.
"""

import contextlib
import dataclasses
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jax
from jaxmig import cli

ROOT: Final = Path(__file__).parent.parent
FENCE: Final = re.compile(
    r"(?:^<!-- (?P<key>file|no-run|exit): (?P<value>[^\n]*?) -->\n)?"
    r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
KINDS: Final = ("python", "sh", "console", "toml", "csv", "text", "json", "yaml")
# What it says depends on how fast this computer is, or on which.
WALL: Final = re.compile(r"^((?:\| )?this computer: \w+) .*$", re.MULTILINE)
LESS: Final = (("memhog:1g", "memhog:4m"), ("memhog:64m", "memhog:4m"))
SET_UP: Final = re.compile(
    r"python3 -m venv .*|(\.venv/bin/)?(pip|pytest)\b.*|\. \.venv/bin/activate"
)
FLAGS: Final = doctest.ELLIPSIS


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int  # of the fence
    kind: str
    text: str
    key: str  # file, no-run, exit or nothing
    value: str

    @property
    def where(self) -> str:
        """File and line."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


class Wrong(AssertionError):
    """A block that does not do what its page says."""


def pages() -> list[Path]:
    """The README and every page below docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("kind")) + 1,
            found["kind"],
            found["text"],
            found["key"] or "",
            found["value"] or "",
        )
        for found in FENCE.finditer(text)
    ]


def steps(block: Block) -> Iterator[tuple[str, str]]:
    """(command, what it prints) of a console or sh block."""
    if block.kind == "sh":
        lines = block.text.replace("\\\n", " ").splitlines()
        yield from ((line, "") for line in lines if line and not line.startswith("#"))
        return
    command, wanted = "", ""
    for line in block.text.splitlines(keepends=True):
        if line.startswith("$ "):
            if command:
                yield command, wanted
            command, wanted = line[2:].rstrip("\n"), ""
        elif command.endswith("\\") and not wanted:
            command = command[:-1] + line.strip()
        else:
            wanted += line
    yield command, wanted


def plain(command: str) -> bool:
    """Whether a command is jaxmig's and needs no shell, or only sets up."""
    command = without_set_up(command)
    jaxmig = command.startswith("jaxmig ") and not re.search(r"[|&;$<>*`\n]", command)
    return jaxmig or not command


def without_set_up(text: str) -> str:
    """Commands without what makes an environment: the tests have one."""
    lines = []
    for line in text.splitlines():
        parts = [p for p in line.split(" && ") if not SET_UP.fullmatch(p.strip())]
        lines += [" && ".join(parts).replace(".venv/bin/", "")] if parts else []
    return "\n".join(lines)


class Page:
    """What the blocks of one page share: a directory and a Python namespace."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.names: dict[str, Any] = {"__name__": "__docs__"}
        (directory / "docs").symlink_to(ROOT / "docs")  # pages name their examples so
        shims = directory / ".bin"
        shims.mkdir(exist_ok=True)
        for name, module in (("jaxmig", "-m jaxmig "), ("python3", "")):
            shim = shims / name
            shim.write_text(f'#!/bin/sh\nexec {sys.executable} {module}"$@"\n')
            shim.chmod(0o755)
        self.env = os.environ | {"PATH": f"{shims}:{os.environ['PATH']}"}
        self.env["PYTHONPATH"] = str(ROOT)
        if kept := jax.config.values["jax_compilation_cache_dir"]:
            self.env["JAX_COMPILATION_CACHE_DIR"] = str(kept)

    def run(self, block: Block) -> None:
        """Run a block; raises Wrong."""
        if block.key == "no-run":
            return
        if block.key == "file":
            (self.directory / block.value).write_text(block.text)
        if block.kind == "python":
            self._python(block)
        elif block.kind == "sh" and not all(plain(c) for c, _ in steps(block)):
            self.output(block.text, block)  # variables and jobs live for the block
        elif block.kind in ("sh", "console"):
            for command, wanted in steps(block):
                got = self.output(command, block)
                if block.kind == "console":
                    check(block, command, wanted, got)

    def _python(self, block: Block) -> None:
        if block.text.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(
                block.text, self.names, block.where, str(block.page), block.line
            )
            said = io.StringIO()
            runner = doctest.DocTestRunner(optionflags=FLAGS)
            runner.run(test, out=said.write, clear_globs=False)
            if runner.failures:
                raise Wrong(f"{block.where}: {said.getvalue()}")
            self.names.update(test.globs)
            return
        exec(compile(block.text, block.where, "exec"), self.names)

    def output(self, command: str, block: Block) -> str:
        """What a command prints, on both channels; Wrong for another exit code."""
        if block.kind == "sh":
            for large, small in LESS:
                command = command.replace(large, small)
        command = without_set_up(command)
        if not command:
            return ""
        if plain(command):
            code, said = self._inside(shlex.split(command)[1:])
        else:
            code, said = self._shell(command)
        if code != int(block.value if block.key == "exit" else 0):
            raise Wrong(f"{block.where}: `{command}` ended with {code}:\n{said}")
        return said

    def _inside(self, arguments: list[str]) -> tuple[int, str]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = cli.main(arguments)
        return code, said.getvalue()

    def _shell(self, command: str) -> tuple[int, str]:
        done = subprocess.run(
            # The last command would replace the shell, whose PID some pages use.
            ["bash", "-euo", "pipefail", "-c", f"{command}\nexit $?"],
            cwd=self.directory,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        return done.returncode, done.stdout


def masked(text: str) -> str:
    """Output without what only this computer's speed says, and without line ends."""
    lines = [line.rstrip() for line in WALL.sub(r"\1 ...", text).splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def check(block: Block, command: str, wanted: str, got: str) -> None:
    """Raises Wrong where `got` is not what the page shows."""
    wanted, got = masked(wanted), masked(got)
    checker = doctest.OutputChecker()
    if not checker.check_output(wanted, got, FLAGS):
        raise Wrong(
            f"{block.where}: `{command}` prints\n{got}where the page has\n{wanted}"
        )

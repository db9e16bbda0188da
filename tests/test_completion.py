"""Completion in the shells themselves, those that are installed."""

import os
import pty
import re
import select
import shutil
import subprocess
from pathlib import Path

import pytest
from jaxmig.cli import app, completion

# What is typed, and some of what must be offered; others that must not be.
CASES = (
    ("jaxmig mig", {"migratepages", "migspeed"}, {"sweep"}),
    ("jaxmig migratepages --kernel ", {"both", "6.18", "7.3", "latest"}, {"FILE"}),
    ("jaxmig run --machine ", {"xeon-2s", "arm64-2n128c"}, {"6.3"}),
    ("jaxmig migratepages --copy ", {"cpu", "dma:4", "threads:4"}, set()),
    ("jaxmig migratepages --mode ", {"async", "sync_light", "sync"}, {"xeon-2s"}),
    ("jaxmig run --caller ", {"compaction", "damon"}, {"sync"}),
    ("jaxmig migratepages --plot", {"--plot", "--plot-map"}, {"--report"}),
    ("jaxmig migratepages --plot-map there", {"there.png"}, {"else.png"}),
    ("jaxmig run ther", {"there.png"}, {"else.png"}),
)
BASH = """
source "$1"
COMP_WORDS=($2)
[[ $2 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_shtab_jaxmig
printf '%s\\n' "${COMPREPLY[@]}"
"""
# Every match is printed before it is added; the last function of all says that it is over.
ZSH = """
PROMPT=; unset zle_bracketed_paste
autoload -Uz compinit && compinit -D
eval "$(<script.zsh)"
compadd() {
  local -a found
  builtin compadd -A found "$@"
  (( $#found )) && print -rl -- "" "MATCH "${^found}
  builtin compadd "$@"
}
over() { print; print -r -- "O""VER"; comppostfuncs=(over) }
comppostfuncs=(over)
print -r -- "REA""DY"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell, and files to complete."""
    folder = tmp_path_factory.mktemp("shells")
    for shell in completion.SHELLS:
        text = completion.script(app.parser(), shell)
        (folder / f"script.{shell}").write_text(text)
    for name in ("there.png", "else.png"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_shells_offer_commands_options_values_and_files(
    scripts: Path, shell: str
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    asked = {"bash": in_bash, "fish": in_fish, "zsh": in_zsh}[shell]
    offers = asked(scripts, [line for line, _, _ in CASES])
    for (line, wanted, others), found in zip(CASES, offers, strict=True):
        assert wanted <= found, (line, found)
        assert not found & others, (line, found)


def in_bash(folder: Path, lines: list[str]) -> list[set[str]]:
    typed = ["bash", "-c", BASH, "-", "script.bash"]
    return [set(quiet(folder, [*typed, line]).splitlines()) for line in lines]


def in_fish(folder: Path, lines: list[str]) -> list[set[str]]:
    typed = ["fish", "--no-config", "-c", "source script.fish; complete -C $argv"]
    offers = [quiet(folder, [*typed, line]).splitlines() for line in lines]
    return [{one.split("\t")[0] for one in some} for some in offers]


def quiet(folder: Path, typed: list[str]) -> str:
    done = subprocess.run(typed, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def in_zsh(folder: Path, lines: list[str]) -> list[set[str]]:
    """zsh completes only at a terminal."""
    terminal, other = pty.openpty()
    # Not pty.fork(): JAX has threads, and a session makes the terminal the shell's own.
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"],
        cwd=folder,
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
    )
    os.close(other)
    found = []
    try:
        (folder / "setup.zsh").write_text(ZSH)
        os.write(terminal, b"source setup.zsh\n")
        assert "no such" not in until(terminal, b"READY")
        for line in lines:
            # Control-U takes back the line before.
            os.write(terminal, f"\x15{line}\t".encode())
            shown = until(terminal, b"OVER")
            found.append(set(re.findall(r"^MATCH (.*?)\r$", shown, re.MULTILINE)))
    finally:
        os.close(terminal)
        shell.kill()
        shell.wait()
    return found


def until(terminal: int, mark: bytes) -> str:
    """What a terminal shows up to a mark."""
    shown = b""
    while mark not in shown:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, f"no {mark!r} in {shown!r}"
        shown += os.read(terminal, 4096)
    return shown.decode()

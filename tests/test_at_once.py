"""Help, completion and wrong usage are answered without JAX, which takes a second."""

import json
import subprocess
import sys

import pytest
from jaxmig.cli import app

HEAVY = ("jax", "matplotlib", "numpy", "pyarrow", "tabulate", "tqdm")
# Those whose options list what is known of patterns and formats.
KNOW_ARRAYS = {"pmbench", "replay"}
CHILD = f"""
import contextlib, io, json, sys
from jaxmig import cli
told = []
for args in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(args)
    loaded = [m for m in {HEAVY} if m in sys.modules]
    told.append((code, out.getvalue(), err.getvalue(), loaded))
print(json.dumps(told))
"""
HELP = [[], ["--help"], ["--version"], ["nonsense"]]
HELP += [[name, "--help"] for name in app.COMMANDS if name not in KNOW_ARRAYS]
WRONG = [[name, "--nonsense"] for name in app.COMMANDS if name not in KNOW_ARRAYS]
WRONG += [
    ["migratepages", "nonsense", "0", "1"],
    ["migratepages", "memhog:1g", "0"],
    ["migratepages", "memhog:1g", "0", "1", "--kernel", "5.4"],
    ["migratepages", "memhog:1g", "0", "1", "--running", "x"],
    ["run"],
    ["run", "a.toml", "--caller", "me"],
    ["sweep", "memhog:64m", "--batch", "8:1:1"],
    ["sweep", "memhog:64m", "--mode", "quickly"],
    ["advise", "memhog:64m", "--p99", "soon"],
    ["explain", "--pages", "99"],
    ["calibrate", "f", "--elapsed", "1"],
    ["machines", "pdp-11"],
    ["migratepages", "memhog:1g", "0", "1", "--folio", "3k"],
    ["migratepages", "memhog:1g", "0", "1", "--runing", "1"],
    ["sweep", "memhog:1g", "--running", "1-"],
]


def play(cases: list[list[str]]) -> list[tuple[int, str, str, list[str]]]:
    """What one process answers to all of them: code, output, errors, heavy modules."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
    )
    return [tuple(told) for told in json.loads(done.stdout)]


def test_help_and_wrong_usage_import_nothing_heavy() -> None:
    told = play(HELP + WRONG)
    for args, (code, out, err, loaded) in zip(HELP + WRONG, told, strict=True):
        assert loaded == [], args
        helps = args[-1:] in (["--help"], ["--version"])
        assert (code, bool(out), err.count("\n")) == (
            (0, True, 0) if helps else (2, False, 1)
        ), (args, err)


def test_completion_and_all_other_options_need_no_jax() -> None:
    cases = [[name, "--help"] for name in sorted(KNOW_ARRAYS)]
    cases += [["--print-completion", shell] for shell in ("bash", "zsh", "fish")]
    cases += [["--print-man"]]
    for args, (code, out, err, loaded) in zip(cases, play(cases), strict=True):
        assert (code, err) == (0, ""), args
        assert "jax" not in loaded, args
        assert all(name in out for name in app.COMMANDS) or "--help" in args, args


@pytest.mark.parametrize("name", app.COMMANDS)
def test_a_parser_for_one_command_knows_what_that_of_all_knows(name: str) -> None:
    (whole, alone) = (
        next(a for a in top._actions if a.dest == "command").choices[name]
        for top in (app.parser(), app.parser(name))
    )
    assert whole.format_help() == alone.format_help()

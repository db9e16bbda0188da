"""The list of mistakes that the suite must find is in order; mutants.py tries them."""

import ast
import re
from pathlib import Path

import mutants
import pytest
from mutants import ROOT, Mutant, Verdict

LISTED = mutants.read()
PLACES = ("linux/", "engine/", "calls/callers/", "state/pte.py")
A_TEST = re.compile(r"(tests/test_\w+\.py)::(test_\w+)(\[[^\]]+\])?")


def functions(path: Path) -> set[str]:
    """Names of the functions at the top of a file."""
    body = ast.parse(path.read_text()).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


def test_there_are_enough_and_each_says_what_it_breaks() -> None:
    assert len(LISTED) >= 40
    assert len({m.name for m in LISTED}) == len(LISTED)
    assert len({(m.file, m.old, m.new) for m in LISTED}) == len(LISTED)
    for m in LISTED:
        assert re.fullmatch(r"[a-z0-9.]+(-[a-z0-9.]+)*", m.name)
        assert m.file.removeprefix("jaxmig/").startswith(PLACES), m.name
        assert re.fullmatch(r"[^\n]+[^.]\.", m.breaks), m.name


@pytest.mark.parametrize("mutant", LISTED, ids=lambda m: m.name)
def test_each_still_applies(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text()
    changed = mutant.applied(source)
    # Another program, and not for its comments' sake.
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))


def test_each_names_tests_that_there_are() -> None:
    for m in LISTED:
        assert m.tests, m.name
        for test in m.tests:
            found = A_TEST.fullmatch(test)
            assert found, test
            assert found[2] in functions(ROOT / found[1]), test


def test_what_is_not_there_exactly_once_is_refused() -> None:
    mutant = Mutant("m", "a.py", "x > 1", "x >= 1", "A rule.", ("tests/t.py::t",))
    assert mutant.applied("if x > 1:") == "if x >= 1:"
    for text in ("if x > 2:", "x > 1 or x > 1"):
        with pytest.raises(ValueError, match=r"m: found [02] times in a\.py"):
            mutant.applied(text)


@pytest.mark.parametrize(
    ("code", "output", "what"),
    [
        (0, "1 passed", "SURVIVED"),
        (1, "FAILED t.py::t - AssertionError: 1", "killed"),
        (1, "FAILED t.py::t - assert 1 == 2", "killed"),
        (1, "FAILED t.py::t - NameError: name 'x'", "BROKEN"),
        (2, "ERROR t.py - ImportError: x", "BROKEN"),
        (4, "ERROR: not found: t.py::t", "BROKEN"),
        (5, "no tests ran", "BROKEN"),
    ],
)
def test_only_a_test_that_ran_and_failed_kills(
    code: int, output: str, what: str
) -> None:
    found = Verdict(*mutants.said(code, output, 1.0))
    assert found.what == what
    assert found.killed == (what == "killed")


def test_a_copy_is_changed_and_mended(tmp_path: Path) -> None:
    copies, mutant = mutants.Copies(tmp_path, 1), LISTED[0]
    source = (ROOT / mutant.file).read_text()
    with copies.one(mutant) as where:
        assert where == tmp_path / "0"
        assert (where / mutant.file).read_text() == mutant.applied(source)
    with copies.one() as where:
        assert (where / mutant.file).read_text() == source
    assert (ROOT / mutant.file).read_text() == source

"""Every command, snippet and example of the README and of docs/ runs, and is right."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import doc_blocks
import jaxmig
import pytest
from doc_blocks import ROOT, Page, blocks, pages
from jaxmig.sources import targets

DOCS = ROOT / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
# Pages and examples that compile for minutes, all together.
SLOW_PAGES = ("transcript.md", "thp.md", "tutorial.md", "pictures.md", "sweep.md")
SLOW_PAGES += ("batch-limit.md", "extending.md", "examples.md", "devices.md")
SLOW_PAGES += ("questions.md",)
SLOW_EXAMPLES = ("thp_share.py", "inside_a_batch.py", "many_machines.py")
SLOW_EXAMPLES += ("pinned_pages.py",)
SMALL = {
    "batch_limits.py": ["memhog:4m"],
    "ipis_per_cpu.py": ["memhog:4m", "1,3"],
    "many_machines.py": ["16", "64"],
    "pinned_pages.py": [],
    "thp_share.py": ["8m"],
    "inside_a_batch.py": [],
}
MOST_UNRUN = 6


def marked(paths: list[Path], slow: tuple[str, ...]) -> list[object]:
    return [
        pytest.param(
            path,
            id=str(path.relative_to(ROOT)),
            marks=pytest.mark.slow if path.name in slow else (),
        )
        for path in paths
    ]


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pages may add releases and workloads; nobody else is to see them."""
    monkeypatch.setenv("JAXMIG_NO_CACHE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    known = dict(jaxmig.RELEASES), dict(targets.WORKLOADS)
    yield
    for table, before in zip((jaxmig.RELEASES, targets.WORKLOADS), known, strict=True):
        table.clear()
        table.update(before)


@pytest.mark.parametrize("page", marked(pages(), SLOW_PAGES))
def test_what_a_page_shows_is_so(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shared = Page(tmp_path)
    for block in blocks(page):
        shared.run(block)


@pytest.mark.parametrize("script", marked(EXAMPLES, SLOW_EXAMPLES))
def test_an_example_answers_its_question(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith('#!/usr/bin/env python3\n"""')
    monkeypatch.setattr(sys, "argv", [str(script), *SMALL[script.name]])
    runpy.run_path(str(script), run_name="__main__")
    out = capsys.readouterr().out.splitlines()
    rule = next(i for i, line in enumerate(out) if re.fullmatch(r"-+(  -+)+", line))
    rows = [line.split() for line in out[rule + 1 :] if line.strip()]
    assert len(rows) >= 3
    assert f"`{script.name}" in (DOCS / "howto/examples.md").read_text()


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    unrun = [b for page in pages() for b in blocks(page) if b.key == "no-run"]
    assert len(unrun) <= MOST_UNRUN
    assert all(len(b.value.split()) >= 2 for b in unrun)


def test_every_fence_is_a_block_of_a_known_kind() -> None:
    for page in pages():
        fences = re.findall(r"^\s*```", page.read_text("utf-8"), re.MULTILINE)
        found = blocks(page)
        assert len(fences) == 2 * len(found), page
        assert {b.kind for b in found} <= set(doc_blocks.KINDS), page


def test_links_lead_somewhere() -> None:
    for page in pages():
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page}: {link}"


def test_pages_name_only_commands_and_options_that_exist() -> None:
    known = hooks()
    options = {name: parser for name, parser, _ in known["parsers"]()}
    for page in pages():
        text = page.read_text("utf-8")
        for name in re.findall(r"(?:^|[`$ /])jaxmig ([a-z]+)\b", text, re.MULTILINE):
            # "jaxmig does", in a sentence, is no command.
            if re.search(rf"`jaxmig {name}\b|^\$ jaxmig {name}\b", text, re.MULTILINE):
                assert name in options, f"{page}: jaxmig {name}"


def test_a_wrong_output_is_noticed(tmp_path: Path) -> None:
    block = doc_blocks.Block(ROOT / "README.md", 1, "console", "", "", "")
    doc_blocks.check(block, "x", "IPIs  3\n...\nend\n", "IPIs  3\nmore\nend\n")
    with pytest.raises(doc_blocks.Wrong, match=r"README\.md:1"):
        doc_blocks.check(block, "x", "IPIs  3\n", "IPIs  4\n")
    told = doc_blocks.Block(
        ROOT / "README.md", 1, "sh", "jaxmig machines --colour\n", "", ""
    )
    with pytest.raises(doc_blocks.Wrong, match="ended with 2"):
        Page(tmp_path).run(told)


def test_outputs_are_written_again_where_they_are_wrong(tmp_path: Path) -> None:
    """Commands that begin alike, over several lines, and with a page's own examples."""
    text = "$ echo a b\nwrong\n$ echo a \\\n    c\na c\n$ ls docs/examples/thp*\n?\n"
    block = doc_blocks.Block(ROOT / "README.md", 1, "console", text, "", "")
    new = runpy.run_path(str(DOCS / "regenerate.py"))["_block"](Page(tmp_path), block)
    assert new == (
        "$ echo a b\na b\n$ echo a \\\n    c\na c\n"
        "$ ls docs/examples/thp*\ndocs/examples/thp_share.py\n"
    )


def hooks() -> dict[str, object]:
    return runpy.run_path(str(DOCS / "hooks.py"))


def test_the_reference_is_filled_with_every_option_number_and_switch() -> None:
    known = hooks()
    fill = known["on_page_markdown"]
    for name in ("reference/commands.md", "reference/machines.md", "model.md"):
        text = (DOCS / name).read_text()
        filled = fill(text)
        assert "<!-- fill" in text
        assert "<!-- fill" not in filled
        for fragment in {
            "reference/commands.md": ("## jaxmig sweep", "`--process-id I`"),
            "reference/machines.md": ("`cost.flush_next`", "### zen3-2s-invlpgb"),
            "model.md": ("| `arm64_defers` | 6.6 - 7.3", "| 6.15 | inferred"),
        }[name]:
            assert fragment in filled
    for name, parser, _ in known["parsers"]():
        for action in parser._actions:
            for option in action.option_strings:
                if option not in ("-h", "-?", "--help"):
                    assert f"`{option}" in fill("<!-- fill: commands -->"), name


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    pytest.importorskip("material", reason="needs the extra `docs`")
    pytest.importorskip("mkdocstrings", reason="needs the extra `docs`")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    python = (tmp_path / "reference/python/index.html").read_text()
    assert "jaxmig.migrate_pages" in python
    assert "FOLL_PIN" in (tmp_path / "model/index.html").read_text()

#!/usr/bin/env python3
"""Write what these pages show of jaxmig again: outputs and pictures.

    docs/regenerate.py              the outputs of all console blocks
    docs/regenerate.py PAGE.md...   those of these pages only
    docs/regenerate.py --pictures   docs/img as well

An output that still matches its page, `...` included, stays as it is; a new one is
written in full, for you to shorten.  `git diff` then shows what changed.
"""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import doc_blocks  # noqa: E402
from jaxmig import cli  # noqa: E402

MAP = "migratepages memhog:64m 0 1 --thp 50 --pinned 5 --free 1=48m --no-content --plot-map"
PICTURES = {
    "migratepages.svg": "migratepages memhog:64m 0 1 --running 1-16",
    "batch-copy.svg": "sweep memhog:64m,thp --machine zen3-2s --kernel 6.18,batch-copy"
    " --copy cpu,dma:4 --batch 512:16384:2x --cpus 17",
    "map.svg": MAP,
    "sweep.svg": "sweep memhog:16m --batch 8:4096:2x --cpus 2:128:2x --running all",
}


def outputs(page: Path) -> None:
    """Run the blocks of a page and replace the outputs that are not right any more."""
    text = page.read_text("utf-8")
    home, at = Path.cwd(), 0
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        shared = doc_blocks.Page(Path(directory))
        for block in doc_blocks.blocks(page):
            at = text.index(f"```{block.kind}\n{block.text}", at)
            try:
                new = _block(shared, block)
            except doc_blocks.Wrong as wrong:
                print(f"not mended: {wrong}")
                continue
            if new != block.text:
                head, tail = text[:at], text[at:]
                text = head + tail.replace(block.text, new, 1)
                page.write_text(text, "utf-8")
        os.chdir(home)


def _block(shared: doc_blocks.Page, block: doc_blocks.Block) -> str:
    """The text of a block after it ran."""
    if block.kind != "console" or block.key == "no-run":
        shared.run(block)
        return block.text
    made, rest = "", block.text
    for command, wanted in doc_blocks.steps(block):
        got = shared.output(command, block)
        lines = rest.splitlines(keepends=True)
        while lines[0].endswith("\\\n"):
            lines[:2] = ["".join(lines[:2])]
        rest = rest[len(lines[0]) + len(wanted) :]
        try:
            doc_blocks.check(block, command, wanted, got)
        except doc_blocks.Wrong:
            print(f"{block.where}: {command}")
            wanted = doc_blocks.masked(got)
        made += lines[0] + wanted
    return made


def pictures() -> None:
    """The pictures of docs/img, made by the commands that the pages name."""
    for name, command in PICTURES.items():
        path = ROOT / "docs" / "img" / name
        with tempfile.TemporaryDirectory() as directory:
            more = ["-o", f"{directory}/rows.csv"] if "sweep" in command else []
            plot = [] if command == MAP else ["--plot"]
            code = cli.main([*command.split(), *more, *plot, str(path)])
        if code and command != MAP:  # its node is too small
            sys.exit(f"{name}: the command failed")


def main(arguments: list[str]) -> None:
    """See the module's docstring."""
    if "--pictures" in arguments:
        pictures()
    os.environ["COLUMNS"] = "100"  # as in the test of these pages
    named = [Path(a).resolve() for a in arguments if not a.startswith("-")]
    for page in named or doc_blocks.pages():
        outputs(page)


if __name__ == "__main__":
    main(sys.argv[1:])

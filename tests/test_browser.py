"""Reports in a real browser: pytest -m browser.

Needs selenium (pip install '.[browser]'), Chromium or what $BROWSER names, and its driver
(Debian: apt install chromium chromium-driver).
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxmig import cli
from jaxmig.report import units
from jaxmig.show import html
from jaxmig.time.cost import PHASES
from test_html import HOSTILE, page

pytestmark = pytest.mark.browser
PHONE, DESK, PAPER = 400, 1200, 700  # CSS pixels
COMMANDS = {
    "migratepages": "migratepages memhog:1m 0 1 --cpus 4 --running 1-3"
    " --kernel 6.2,6.3,6.18",
    "sweep": "sweep memhog:1m --batch 8,64,512 --cpus 2,4 --running all",
    "advise": "advise memhog:1m --p99 200us",
    "reproduce": "reproduce",
}


class Browser:
    """A browser with one window, whose console is looked at after every page."""

    def __init__(self) -> None:
        webdriver = pytest.importorskip("selenium.webdriver")
        program = shutil.which(os.environ.get("BROWSER") or "chromium")
        driver = shutil.which("chromedriver")
        if not (program and driver):
            pytest.skip("needs Chromium ($BROWSER) and chromedriver")
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(driver)
        self.driver = webdriver.Chrome(options=options, service=service)

    def open(self, path: Path, width: int = DESK, media: str = "screen") -> None:
        """A file; nothing of it may be wrong or come from elsewhere."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1}
        self.cdp("Emulation.setDeviceMetricsOverride", mobile=width == PHONE, **size)
        self.cdp("Emulation.setEmulatedMedia", media=media)
        self.driver.get(path.as_uri())
        assert self.driver.get_log("browser") == []
        loaded = self.run("return performance.getEntriesByType('resource').length")
        assert loaded == 0

    def cdp(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    @property
    def tip(self) -> str:
        return self.run("return document.getElementById('tip').textContent")

    @property
    def focus(self) -> str | None:
        return self.driver.switch_to.active_element.get_attribute("aria-label")

    def keys(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def point(self, element: Any) -> None:
        from selenium.webdriver import ActionChains

        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver).move_to_element(element).perform()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    made = Browser()
    yield made
    made.driver.quit()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A report of migratepages, and the document with its records."""
    folder = tmp_path_factory.mktemp("report")
    file, document = folder / "r.html", folder / "r.json"
    outputs = ["--report", str(file), "--json", str(document)]
    assert cli.main([*COMMANDS["migratepages"].split(), *outputs]) == 0
    return file, json.loads(document.read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_report_fits_a_desk_a_phone_and_paper(
    browser: Browser, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "r.html"
    more = ["-o", str(tmp_path / "rows.csv")] if name == "sweep" else []
    assert cli.main([*COMMANDS[name].split(), *more, "--report", str(file)]) == 0
    assert file.stat().st_size < 3_000_000
    for width, media in ((DESK, "screen"), (PHONE, "screen"), (PAPER, "print")):
        browser.open(file, width, media)
        wide = browser.run("return document.documentElement.scrollWidth")
        assert wide <= width, (name, width)
        letters = browser.run(
            "return [...document.querySelectorAll('main p, main td, main li')]"
            ".map((e) => parseFloat(getComputedStyle(e).fontSize))"
        )
        assert min(letters) >= (12 if media == "screen" else 9)
    text = browser.run("return document.querySelector('main').innerText")
    for said in (f"jaxmig {name}", "On what this rests", "JAX "):
        assert said in text, said


def test_values_on_hover_are_those_of_the_record(
    browser: Browser, made: tuple[Path, dict[str, Any]]
) -> None:
    file, document = made
    browser.open(file)
    compared = 0
    for kernels, i in (("6.2", 0), ("6.3, 6.18", 1)):
        r = document["calls"][i]
        for phase in PHASES:
            label = f"{kernels}, {phase}: {units.duration(r['time_ns'][phase])}"
            for part in browser.all(f"rect[aria-label='{label}']"):
                browser.point(part)
                assert browser.tip == label
                assert float(part.get_attribute("data-value")) == r["time_ns"][phase]
                compared += 1
        label = f"{kernels}, CPUs 1-3: {r['ipis_per_cpu'][1]:,} IPIs each"
        (bar,) = browser.all(f"rect[aria-label='{label}']")
        browser.point(bar)
        assert browser.tip == label
        compared += 1
    assert compared >= 12
    browser.point(browser.all("h1")[0])
    assert browser.tip == ""


def test_a_column_is_sorted_by_its_numbers(
    browser: Browser, made: tuple[Path, dict[str, Any]]
) -> None:
    file, document = made
    browser.open(file)
    names = [button.text for button in browser.all("th button")]
    at = names.index("flush requests")
    for ascending in (True, False):
        button = browser.all("th button")[at]
        browser.run("arguments[0].focus()", button)
        browser.keys("\ue007")  # Enter
        shown = [row.text for row in browser.all(f"tbody td:nth-child({at + 1})")]
        found = [int(text.replace(",", "")) for text in shown]
        flushes = [r["vmstat"]["nr_tlb_remote_flush"] for r in document["calls"]]
        assert found == sorted(flushes, reverse=not ascending)
        assert len(set(found)) > 1
        order = browser.all("th")[at].get_attribute("aria-sort")
        assert order == ("ascending" if ascending else "descending")


def test_tab_and_arrow_keys_reach_everything(
    browser: Browser, made: tuple[Path, dict[str, Any]]
) -> None:
    browser.open(made[0])
    groups = browser.all("[role=group]")
    firsts = [g.find_elements("css selector", "[data-value]")[0] for g in groups]
    labels = [f.get_attribute("aria-label") for f in firsts]
    reached: list[str | None] = []
    for _ in range(100):
        browser.keys("\ue004")  # Tab
        if browser.focus and browser.focus in reached:
            break  # once round
        reached.append(browser.focus)
    assert [label for label in reached if label in labels] == labels
    others = [label for label in reached if label and label not in labels]
    assert others == ["Kernels side by side"]
    values = groups[0].find_elements("css selector", "[data-value]")
    browser.run("arguments[0].focus()", values[0])
    for value in values[1:]:
        browser.keys("\ue014")  # ArrowRight
        assert browser.focus == browser.tip == value.get_attribute("aria-label")
    browser.keys("\ue011")  # Home
    assert browser.focus == values[0].get_attribute("aria-label")
    browser.keys("\ue00c")  # Escape
    assert browser.tip == ""


def test_a_box_of_a_tree_opens_with_its_callers_and_closes(
    browser: Browser, made: tuple[Path, dict[str, Any]]
) -> None:
    browser.open(made[0])
    tree = browser.all(".tree")[0]
    boxes = tree.find_elements("css selector", "svg")
    inner = next(
        b for b in boxes if b.get_attribute("aria-label").startswith("folio_copy")
    )
    before = [b.get_dom_attribute("width") for b in boxes]
    browser.run("arguments[0].focus()", inner)
    browser.keys("\ue007")
    assert inner.get_dom_attribute("aria-pressed") == "true"
    depth = int(inner.get_attribute("data-depth"))
    wide = [float(b.get_dom_attribute("width")[:-1]) for b in boxes]
    whole = [b for b, width in zip(boxes, wide, strict=True) if width > 99.99]
    assert [int(b.get_attribute("data-depth")) for b in whole][: depth + 1] == [
        *range(depth + 1)
    ]
    others = [b for b in boxes if b.get_dom_attribute("visibility") == "hidden"]
    assert len(others) + len(whole) == len(boxes)
    browser.keys("\ue013")  # ArrowUp: to the caller, which is still there
    assert browser.focus != inner.get_attribute("aria-label")
    browser.run("arguments[0].focus()", inner)
    browser.keys(" ")
    now = [float(b.get_dom_attribute("width")[:-1]) for b in boxes]
    assert now == pytest.approx([float(w[:-1]) for w in before], abs=1e-3)
    assert not [b for b in boxes if b.get_dom_attribute("visibility")]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(browser: Browser, name: str, tmp_path: Path) -> None:
    """A name that ran would leave a message, an element or a dialogue."""
    file = tmp_path / "r.html"
    file.write_text(html.render(page(name)), "utf-8")
    browser.open(file)
    for selector in ("img", "main script", "[onload]", "[onmouseover]", "[onerror]"):
        assert browser.all(selector) == []
    title = browser.run("return document.querySelector('h1').textContent")
    assert title == name.replace("\x00", "")  # as HTML wants it in text
    clean = name.replace("\x00", "\ufffd")
    for part in browser.all("rect[aria-label]")[:3]:
        browser.point(part)
        assert clean in browser.tip
    assert browser.driver.get_log("browser") == []

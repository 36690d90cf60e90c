"""The report as a reader uses it: opened from a file, sorted, filtered, read, by mouse, keyboard and on a phone."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from synthetic_experiment import HOSTILE

from lora_ns.experiment.study import load_experiment
from lora_ns.reporting.html.content import overview
from lora_ns.reporting.html.details import Details, details
from lora_ns.reporting.html.page import page
from lora_ns.reporting.html.read import read_runs
from lora_ns.store.paths import Store

pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

CSS = By.CSS_SELECTOR


class Reader:
    """Someone with the page before them."""

    def __init__(self, driver: Any, path: Path):
        self.driver, self.path = driver, path

    def open(self, address: str = "#/") -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{self.path.as_uri()}{address}")
        self.wait(lambda d: d.execute_script("return document.getElementById('content').dataset.shown") == address)

    def wait(self, condition: Any, seconds: float = 20) -> Any:
        return WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(condition)

    def all(self, css: str) -> list[Any]:
        return self.driver.find_elements(CSS, css)

    def one(self, css: str) -> Any:
        return self.wait(lambda d: next(iter(d.find_elements(CSS, css)), None))

    def script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def column(self, table: str, number: int) -> list[str]:
        """The texts of the rows that are shown."""
        rows = f"{table} tbody tr:not([hidden]) > :nth-child({number})"
        return self.script("return [...document.querySelectorAll(arguments[0])].map((c) => c.innerText)", rows)

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        return self.script("return document.activeElement.innerText || document.activeElement.id")

    @property
    def heading(self) -> str:
        # read in one go: an element that is looked up and then read may be gone between the two
        return self.script("return document.querySelector('h1')?.innerText ?? ''")

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def reader(browser: Any, project: Path) -> Reader:
    browser.set_window_size(1280, 900)
    browser.get_log("browser")
    return Reader(browser, project / "results/report/e/index.html")


MAIN = "section[data-table=main] div.scroll:nth-of-type(2) table"  # the first task's; the filter stands before it


def test_it_opens_without_a_complaint_and_asks_for_nothing(reader: Reader) -> None:
    reader.open()
    assert reader.heading == reader.driver.title == "A <b>comparison</b> & more"
    assert reader.column(MAIN, 1) == ["none", "lora", "full"]
    for plot in reader.all(".plot"):
        reader.script("arguments[0].scrollIntoView()", plot)
        reader.wait(lambda d, plot=plot: plot.get_attribute("data-drawn"))
    assert len(reader.all(".plot .main-svg")) >= 4
    assert reader.script("return performance.getEntriesByType('resource').length") == 0
    assert reader.complaints() == []


def test_one_task_is_not_called_several(reader: Reader) -> None:
    reader.open()
    assert "2 tasks, 3 methods, 3 seeds: 18 runs" in reader.one("#content").text
    assert "1 task, 3 methods," in reader.script("DATA.tasks.length = 1; return overviewPage().innerText")


def test_a_header_sorts_by_number_up_and_down_and_says_so(reader: Reader) -> None:
    reader.open()
    head = reader.one(f"{MAIN} thead th:nth-child(2)")
    button = head.find_element(CSS, "button")
    button.click()
    up = [float(text) for text in reader.column(MAIN, 2)]
    assert head.get_attribute("aria-sort") == "ascending" and up == sorted(up)
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in reader.column(MAIN, 2)] == sorted(up, reverse=True)
    assert "sorted by mean, descending" in reader.script("return document.getElementById('status').textContent")


def test_numbers_sort_as_numbers_and_what_was_not_measured_comes_last(reader: Reader) -> None:
    reader.open()
    cost = "section[data-table=cost] div.scroll:nth-of-type(2) table"
    number = 1 + reader.script(
        "return [...document.querySelectorAll(arguments[0])].findIndex((th) => th.innerText.includes('memory'))",
        f"{cost} thead th",
    )
    for _ in range(2):
        reader.one(f"{cost} thead th:nth-child({number}) button").click()
        assert reader.column(cost, number)[-1] == "–"


def test_a_filter_leaves_the_rows_that_hold_every_word(reader: Reader) -> None:
    reader.open()
    section = reader.one("section[data-table=main]")
    section.find_element(CSS, "input").send_keys("lora")
    assert reader.column(MAIN, 1) == ["lora"]
    assert section.find_element(CSS, "[role=status]").text == "2 rows"


def test_runs_are_listed_chosen_and_opened(reader: Reader) -> None:
    reader.open("#/runs")
    table = ".rows table"
    assert len(reader.column(table, 1)) == 18
    by_label = {label.text.splitlines()[0]: label for label in reader.all("label")}
    Select(by_label["task"].find_element(CSS, "select")).select_by_value("sums")
    Select(by_label["method"].find_element(CSS, "select")).select_by_value("lora")
    assert reader.one("#content [role=status]").text == "3 of 18 runs"
    (first, *_) = reader.column(table, 1)
    next(link for link in reader.all(f"{table} a") if link.text == first).click()
    reader.wait(lambda d: reader.heading == first)
    text = reader.one("#content").text
    assert "method\nlora" in text and "trained with commit\nfedcba9876543210" in text
    assert f"lora-ns evaluate --config results/runs/{first}.yaml" in text
    reader.wait(lambda d: reader.one(".plot").get_attribute("data-drawn"))
    reader.driver.back()
    reader.wait(lambda d: reader.heading == "Runs")


def test_a_run_shows_wrong_and_right_answers_as_text_whatever_a_model_wrote(reader: Reader) -> None:
    run = reader_runs(reader)[0]["name"]  # the base model, mostly wrong
    reader.open(f"#/run/{run}")
    assert all("wrong" in item.text for item in reader.all(".verdict"))
    assert "Expected" in reader.one(".example").text
    reader.one("button[data-kind=all]").click()
    assert any(HOSTILE in item.text for item in reader.all(".example pre"))
    shown = len(reader.all(".example"))
    next(button for button in reader.all("button") if button.text == "Show more").click()
    assert len(reader.all(".example")) == shown + 10
    reader.one("button[data-kind=right]").click()
    assert {item.text for item in reader.all(".verdict")} == {"right"}
    assert reader.driver.title.startswith(run) and reader.complaints() == []


def test_two_runs_are_compared_row_by_row(reader: Reader) -> None:
    runs = [run for run in reader_runs(reader) if run["task"] == "sums"]
    base, full = (next(r["name"] for r in runs if r["method"] == method) for method in ("none", "full"))
    reader.open(f"#/compare/{base}/{full}")
    counts = reader.column("#content table", 2)
    assert sum(map(int, counts)) == 40
    only_full = next(button for button in reader.all(".controls button") if button.text.startswith("only full"))
    assert only_full.text == f"only full, seed 0 ({counts[1]})"
    only_full.click()
    assert [item.text for item in reader.all(".example .verdict")][:2] == ["wrong", "right"]
    Select(reader.all("select")[1]).select_by_visible_text("lora, seed 2")
    reader.wait(lambda d: "lora-s2" in reader.script("return document.getElementById('content').dataset.shown"))
    assert "only lora, seed 2" in reader.one("#content table").text


def test_the_keyboard_reaches_and_works_everything(reader: Reader) -> None:
    reader.open()
    reader.press(Keys.TAB)
    assert reader.focused() == "Skip to the content"
    reader.press(Keys.ENTER)
    assert reader.script("return document.activeElement.id") == "content"
    for _ in range(40):
        reader.press(Keys.TAB)
        if reader.focused().startswith("Method"):
            break
    reader.press(Keys.ENTER)
    assert reader.one(f"{MAIN} thead th").get_attribute("aria-sort") == "ascending"
    reader.press(Keys.SPACE)
    assert reader.one(f"{MAIN} thead th").get_attribute("aria-sort") == "descending"
    next(link for link in reader.all("nav a") if link.text == "Runs").send_keys(Keys.ENTER)
    reader.wait(lambda d: reader.heading == "Runs")
    assert reader.script("return document.activeElement.id") == "content"  # a screen reader goes on from here
    assert reader.one("nav a[aria-current=page]").text == "Runs"


@pytest.mark.parametrize("address", ["#/", "#/runs", "RUN", "COMPARE"])
def test_a_screen_reader_finds_names_for_everything(reader: Reader, address: str) -> None:
    runs = reader_runs(reader)
    first, second = runs[3]["name"], runs[6]["name"]
    reader.open({"RUN": f"#/run/{first}", "COMPARE": f"#/compare/{first}/{second}"}.get(address, address))
    nameless = reader.script("""
        const named = (e) => e.labels?.length || e.getAttribute("aria-label") || e.innerText.trim();
        return [...document.querySelectorAll("input, select, button, a, [role=img], [role=region]")]
          .filter((e) => !named(e)).map((e) => e.outerHTML)""")
    assert nameless == []
    assert reader.script("return document.documentElement.lang") == "en"
    assert len(reader.all("h1")) == len(reader.all("main")) == len(reader.all("nav")) == 1
    levels = [int(tag[1]) for tag in reader.script("return [...document.querySelectorAll('h1,h2,h3')].map((e) => e.tagName)")]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(head.get_attribute("scope") == "col" for head in reader.all("thead th"))
    assert all(head.get_attribute("scope") == "row" for head in reader.all("tbody th"))


def test_on_a_phone_nothing_but_tables_is_wider_than_the_screen(reader: Reader) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    reader.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        runs = reader_runs(reader)
        for address in ("#/", "#/runs", f"#/run/{runs[3]['name']}", f"#/compare/{runs[3]['name']}/{runs[6]['name']}"):
            reader.open(address)
            for plot in reader.all(".plot")[:1]:
                reader.script("arguments[0].scrollIntoView()", plot)
                reader.wait(lambda d, plot=plot: plot.get_attribute("data-drawn"))
            assert reader.script("return document.documentElement.scrollWidth") <= 360, address
    finally:
        reader.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_thousand_runs_stay_quick(browser: Any, copy: Path) -> None:
    experiment = load_experiment(Path("experiment.yaml"))
    runs = read_runs(experiment, Store())
    few, opened = details(runs), overview(experiment, runs, Path("results/tables/e"))
    lines = [{**opened["runs"][i % 18], "name": f"run-{i}", "seed": i // 18} for i in range(1000)]
    many = Details(few.eval_sets, [few.runs[i % 18] for i in range(1000)])
    path = copy / "thousand.html"
    path.write_text(page({**opened, "runs": lines}, many), encoding="utf-8")
    assert path.stat().st_size < 12e6
    reader = Reader(browser, path)
    started = time.perf_counter()
    reader.open("#/runs")
    opening = time.perf_counter() - started
    assert len(reader.column(".rows table", 1)) == 1000
    sorting = reader.script("""
        const started = performance.now();
        document.querySelector(".rows thead th:nth-child(2) button").click();
        document.body.offsetHeight;
        return performance.now() - started""")
    reader.script("document.getElementById('filter-runs').value = 'run-77'")
    filtering = reader.script("""
        const started = performance.now();
        document.getElementById("filter-runs").dispatchEvent(new Event("input"));
        document.body.offsetHeight;
        return performance.now() - started""")
    assert len(reader.column(".rows table", 1)) == 11  # run-77, run-770 …
    started = time.perf_counter()
    reader.one("a[href='#/run/run-777']").click()
    reader.wait(lambda d: reader.heading == "run-777")
    going = time.perf_counter() - started
    print(f"open {opening:.2f} s, sort {sorting:.0f} ms, filter {filtering:.0f} ms, one run {going:.2f} s")
    assert opening < 5 and sorting < 1500 and filtering < 1500 and going < 3, "generous: test machines are shared"


def reader_runs(reader: Reader) -> list[dict[str, Any]]:
    if not reader.driver.current_url.startswith(reader.path.as_uri()):
        reader.open()
    return reader.script("return DATA.runs")

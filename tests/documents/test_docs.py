"""The docs: every command block runs or says why not, every snippet is valid, the site builds without a warning.

All pages share one clone, in which the tutorial comes first: the study that it ends with is what the others speak of.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from blocks import BLOCK, Done, blocks, commands, run_command, run_page
from support import REPOSITORY

from lora_ns.benchmarks import all_benchmarks
from lora_ns.config import check, known_methods, merge, read_mapping
from lora_ns.config.schema import RunConfig
from lora_ns.store.run import Run

DOCS = REPOSITORY / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.parent.name not in ("reference", "_build"))
TUTORIAL = DOCS / "tutorial.md"
CLUSTER = DOCS / "cluster.md"
"""Its commands run on a cluster: tests/workflow/slurm."""
FEWER = ("num_train_epochs: 5 ", "num_train_epochs: 1 ")
"""The one setting of the tutorial that is another here: a page is no place to train for long in."""


@pytest.fixture(scope="module")
def clone(new_clone: Callable[[], Path]) -> Path:
    """The clone of all pages; only git's files are in it, so pages cannot lean on what lies here."""
    return new_clone()


@pytest.fixture(scope="module")
def tutorial(clone: Path) -> list[Done]:
    """What the tutorial's commands said, each of which succeeded.

    What `make` would start a process for, run by run, is made in this process before it is called: it finds all done.
    """
    from lora_ns.experiment.study import load_experiment
    from lora_ns.workflow.pipeline import make_score

    found = []
    for block in blocks(TUTORIAL):
        for command in commands(block):
            if command.startswith("make paper-tables"):
                with chdir(clone):
                    for run in load_experiment(Path(command.split("EXPERIMENT=")[1])).runs:
                        for evaluation in run.evaluations:
                            make_score(Run(run.config, run.store), evaluation, quiet=True)
            done = run_command(clone, command.replace(*FEWER))
            assert done.status == 0, f"{command}\n{done.out}{done.err}"
            found.append(done)
    return found


def test_the_tutorial_ends_in_a_table_of_both_methods(tutorial: list[Done], clone: Path) -> None:
    main = (clone / "results/tables/messages/main.md").read_text(encoding="utf-8")
    for method in ("lora", "prefix_tuning"):
        assert re.search(rf"\| {method} +\|[ *]+\d+\.\d\** \| \[", main), main
    assert (clone / "results/tables/messages/comparison.md").is_file()
    traced = next(done.out for done in tutorial if done.command.startswith("lora-ns trace"))
    assert "results/adapters/messages-tiny-bert-lora-s0-" in traced and "lora-ns verify" in traced
    assert (clone / "results/report/messages/index.html").is_file()


def test_what_the_tutorial_shows_is_what_comes_out(tutorial: list[Done]) -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    rows = next(done.out for done in tutorial if done.command.startswith("head"))
    assert rows in text
    scored = next(done.out for done in tutorial if done.command.startswith("lora-ns evaluate"))
    names = re.findall(r"^  (\w+)  0\.\d{4}$", scored, re.M)
    assert names and names == re.findall(r"^  (\w+)  0\.\d{4}$", text, re.M)
    validated = [done.err for done in tutorial if done.command.startswith("lora-ns validate")]
    assert validated and not any("Note:" in said for said in validated), validated


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p) and p not in (TUTORIAL, CLUSTER)], ids=lambda page: page.stem)
def test_a_pages_commands_run(tutorial: list[Done], clone: Path, page: Path) -> None:
    assert run_page(clone, page)


def test_a_block_that_does_not_run_says_why() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = list(BLOCK.finditer(text))
        assert text.count("```bash") + text.count("```sh") == len(found), page
        assert text.count("<!-- not run") == sum(bool(one["reason"]) for one in found), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_snippet_of_a_config_is_valid(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    for snippet in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        content = yaml.safe_load(snippet)
        assert set(content) <= set(RunConfig.model_fields), f"{page.name}: {snippet}"
        template = read_mapping(Path("configs/template.yaml"))
        if "path/to/" in snippet:
            continue  # PEFT's own file, wherever it lies
        if "task_type" in content:
            template = {**template, "dataset": {}, "evaluation": {}}
        check(merge(template, content), f"{page.name}: {snippet}")


# -- the site ----------------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """What a page links to and can be linked to by."""

    def __init__(self, page: Path):
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.add(str(given["id"]))
        target = given.get("href" if tag in ("a", "link") else "src")
        if target:
            self.targets.append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    options = re.search(r"-m sphinx (.*) docs docs/_build/html\n", makefile)
    assert options and "-W" in options[1].split()
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options[1].split(), "-E", "docs", str(folder)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return folder


def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    pages = {page: Links(page) for page in site.rglob("*.html")}
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert path.exists(), f"{page.name}: {target}"
            if parts.fragment and path in pages:
                assert unquote(parts.fragment) in pages[path].ids, f"{page.name}: {target}"


def test_the_pages_need_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//', text), page
        assert not re.findall(r'<link[^>]*rel="stylesheet"[^>]*href="(?:https?:)?//', text), page
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8", errors="replace")), sheet


def test_every_page_is_in_the_navigation(site: Path) -> None:
    start = Links(site / "index.html")
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).with_suffix(".html").as_posix()
        assert name == "index.html" or name in start.targets, name


def test_the_reference_has_every_key_verb_method_and_benchmark(site: Path) -> None:
    from lora_ns.cli import app

    config = (DOCS / "reference/config.md").read_text(encoding="utf-8")
    experiment = (DOCS / "reference/experiment.md").read_text(encoding="utf-8")
    for page in (config, experiment):
        assert not re.findall(r"^\| `[^|]*\|[^|]*\|[^|]*\| *\|$", page, re.M), "a key without a meaning"
    for name, info in RunConfig.model_fields.items():
        assert f"## {name}" in config or f"| `{name}` |" in config, name
        for key in getattr(info.annotation, "model_fields", {}):
            assert f"| `{key}` |" in config, f"{name}.{key}"
    verbs = (DOCS / "reference/commands.md").read_text(encoding="utf-8")
    for command in (c for group in app.registered_groups for c in group.typer_instance.registered_commands):  # type: ignore[union-attr]
        name = command.name or command.callback.__name__  # type: ignore[union-attr]
        assert f"\n## {name}\n" in verbs, name
    methods = (DOCS / "reference/methods.md").read_text(encoding="utf-8")
    assert all(f"## {name}\n" in methods for name in known_methods())
    benchmarks = (DOCS / "reference/benchmarks.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in benchmarks for name in all_benchmarks())

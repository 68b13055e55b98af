"""Every Python example in the documents runs, and every command they name exists."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LOOPS = ("lightning", "transformers")  # of other people, each an extra
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{k}")
    for page in PAGES
    for k, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_example_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "example"}
    with warnings.catch_warnings():
        for extra in re.findall(rf"^import (?:.*, )?({'|'.join(LOOPS)})\b", block, re.M):
            pytest.importorskip(extra)
            warnings.simplefilter("ignore")  # of their own, about workers and their future
        exec(compile(block, "example", "exec"), namespace)
    assert len(namespace) > 1


def test_every_verb_named_in_a_document_exists() -> None:
    from advreg.cli.app import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    named = {verb for page in PAGES for verb in re.findall(r"\badvreg ([a-z]+)\b(?!\.)", page.read_text())}
    prose = {"import", "as"}
    assert {verb for verb in named - prose if verb in known}, "no verb found: the pattern is wrong"
    commands = {v for page in PAGES for v in re.findall(r"^advreg ([a-z]+)", page.read_text(), re.M)}
    assert commands <= known


def test_every_promise_names_a_test_that_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", (ROOT / "docs" / "threat-model.md").read_text())
    assert len(named) > 30
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()]
    assert missing == []


def test_every_promise_has_a_test() -> None:
    sections = re.split(r"^## ", (ROOT / "docs" / "threat-model.md").read_text(), flags=re.M)
    rows = [
        row for part in sections if part.startswith("Promises") for row in part.splitlines() if row.startswith("| ")
    ]
    assert all("::test_" in row for row in rows if row != "| promise | test |")


def test_links_between_documents_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_architecture_page_names_every_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    source = ROOT / "src" / "advreg"
    packages = {path.parent.name for path in source.glob("*/__init__.py")}
    modules = {path.stem for path in source.glob("*.py") if not path.stem.startswith("_")}
    assert {name for name in packages | modules if f"`advreg.{name}`" not in text} == set()


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f" {page.name}\n" not in navigation] == []

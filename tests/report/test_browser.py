"""The page in a browser: it fits every width, works by keyboard, and axe-core finds no problem."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from advreg import report
from advreg.report import attack_page
from advreg.report.attack_page import Photograph
from advreg.report.facts import ThreatFacts

from ..hardening.browser import Page, browsing
from .fake_run import results, write_evaluation, write_run

AXE = "ADVREG_AXE"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    run = write_run(tmp_path_factory.mktemp("runs") / "robust-cnn")
    rows = [{"schema": "advreg/ledger@1", "data": "d"}]
    rows += [
        {"attack": "clean", "id": k, "label": k % 10, "predicted": k % 7, "broken": k % 10 >= 7} for k in range(50)
    ]
    (run / "evaluation" / "linf-0.1-standard@1" / "ledger.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in rows)
    )
    with browsing(tmp_path_factory.mktemp("profile")) as tab:
        tab.open(report.write(run).resolve().as_uri())
        yield tab


def resize(page: Page, width: int) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_page_fits_the_width(page: Page, width: int) -> None:
    resize(page, width)
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.errors == []


def test_filters_and_tabs_work_by_keyboard(page: Page) -> None:
    resize(page, 1280)
    page.value("document.querySelector('select[name=attack]').focus()")
    page.value(
        "(s => { s.value = 'apgd-t'; s.dispatchEvent(new Event('change', {bubbles: true})) })(document.activeElement)"
    )
    shown = "[...document.querySelector('.gallery').children].filter(c => !c.hidden).map(c => c.dataset.attack)"
    assert set(page.value(shown)) == {"apgd-t"}
    page.value("document.querySelector('.protocols a').focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", code="ArrowRight")
    assert page.value("document.activeElement.id") == "evaluation-2-tab"
    assert page.value("document.querySelector('#evaluation-1').classList.contains('folded')")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, theme: str) -> None:
    assert violations(page, theme) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["comparison", "photographs", "unequal"])
def test_axe_finds_nothing_on_the_other_pages(page: Page, kind: str, theme: str, tmp_path: Path) -> None:
    before = page.value("location.href")
    page.open(OTHERS[kind](tmp_path).resolve().as_uri())
    try:
        assert violations(page, theme) == []
        resize(page, 360)
        assert page.value("document.documentElement.scrollWidth") <= 360
    finally:
        resize(page, 1280)
        page.open(str(before))


def violations(page: Page, theme: str) -> list[str]:
    """What axe-core has against the page that is open."""
    file = os.environ.get(AXE)
    if not file:
        pytest.skip(f"no axe-core: `make axe` gets it from npm, or set {AXE} to its axe.min.js")
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    page.value(Path(file).read_text() + "; 0")
    found = page.value(
        "axe.run(document).then(r => r.violations.map(v => v.id + ': ' + v.nodes[0].html.slice(0, 120)))"
    )
    return list(found)


def comparison_page(folder: Path) -> Path:
    runs = []
    for name, robust in (("plain", 0.2), ("robust", 0.9)):
        write_evaluation(folder / name, results("linf-0.1-quick@2", "linf", 0.1, robust), shown=0)
        runs.append(folder / name)
    return report.write_comparison(runs, folder / "comparison.html")


def photographs_page(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)
    followed = [("cat", 0.9, 0.1), ("airliner", 0.0, 0.8)]
    photo = Photograph(
        "cat.png", picture, picture, [("cat", 0.9)], [("airliner", 0.8)], followed, "airliner", True, 2 / 255, 1.0
    )
    file = folder / "attack.html"
    file.write_text(attack_page.page([photo], ThreatFacts("linf", 2 / 255), {"model": "own:net", "steps": 60}))
    return file


def unequal_page(folder: Path) -> Path:
    record = results("linf-0.1-quick@2", "linf", 0.1, 0.9)
    record["per_class"][3]["n"] = 7
    write_evaluation(folder / "unequal", record, shown=4)
    return report.write(folder / "unequal")


OTHERS = {"comparison": comparison_page, "photographs": photographs_page, "unequal": unequal_page}

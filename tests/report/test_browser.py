"""The page in a real browser: nothing runs over the edge of a phone, the keyboard is enough, axe-core finds nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from advreg import report

from ..hardening.browser import Page, browsing
from .fake_run import write_run

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
def test_nothing_runs_over_the_edge(page: Page, width: int) -> None:
    resize(page, width)
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.errors == []


def test_filters_and_tabs_obey_the_keyboard(page: Page) -> None:
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
    file = os.environ.get(AXE)
    if not file:
        pytest.skip(f"no axe-core: set {AXE} to the axe.min.js of the npm package axe-core to run this test")
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    page.value(Path(file).read_text() + "; 0")
    found = page.value(
        "axe.run(document).then(r => r.violations.map(v => v.id + ': ' + v.nodes[0].html.slice(0, 120)))"
    )
    assert found == []

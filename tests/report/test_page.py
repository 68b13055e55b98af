"""The page itself: well formed, self-contained, safe, complete, and the same bytes for the same files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from advreg import report
from advreg.errors import RunError

from .fake_run import curve, results, write_evaluation, write_run, write_training
from .markup import Page

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>$\\frac{1$'


def text_of(run: Path) -> str:
    return report.write(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return text_of(run)


def assert_self_contained(text: str) -> Page:
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    assert page.pointed <= set(page.ids)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\((?!#)", text)
    assert [values for tag, values in page.tags if tag == "script"] == [{}]
    assert not any(tag in ("link", "iframe", "object", "embed", "base") for tag, _ in page.tags)
    assert not any(key.startswith("on") for _, values in page.tags for key in values)
    assert len(text.encode()) < 3_000_000
    return page


def test_report_is_well_formed_and_self_contained(html: str) -> None:
    assert_self_contained(html)


def test_report_shows_every_headline_figure(html: str) -> None:
    words = Page(html).words
    for text in ("94.7%", "98.6%", "4.0%", "TRUSTED", "linf-0.1-standard@1", "upper bound", "1,000", "seed 0"):
        assert text in words
    assert "every pixel may change by at most 0.1 (25.5 of 255 grey levels)" in words
    assert "advreg evaluate robust-cnn --data mnist --threat linf:0.1 --protocol standard --n 1000 --seed 0" in words
    assert 'recipe = "madry"' in words
    assert "2.13.0" in words
    assert all(attack in words for attack in ("apgd-ce", "apgd-t", "fab-t", "square"))


def test_interval_is_drawn_at_its_place(html: str) -> None:
    low, high = re.search(r"--low:([\d.]+)%;--high:([\d.]+)%;--at:94.700%", html).groups()
    assert float(low) == pytest.approx(93.12, abs=0.02)  # Clopper-Pearson, 947 of 1,000
    assert float(high) == pytest.approx(96.01, abs=0.02)


def test_hundred_squares_show_the_accuracies(html: str) -> None:
    first = html[html.index('<figure class="waffle"') :].split("</svg>")[0]
    assert [first.count(f'<rect class="{kind}"') for kind in ("robust", "fooled", "wrong")] == [95, 4, 1]


def test_strongest_protocol_comes_first(html: str) -> None:
    sections = [values["id"] for values in Page(html).with_class("evaluation")]
    assert sections == ["evaluation-1", "evaluation-2", "evaluation-3"]
    order = [html.index(f'aria-label="Evaluation {name}') for name in ("linf-0.1-standard", "l2-1.5", "linf-0.1-quick")]
    assert order == sorted(order)


def test_same_files_give_the_same_bytes(run: Path, html: str, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "elsewhere" / run.name)
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.fonttype": "path"}):
        assert text_of(moved) == html


def test_charts_use_theme_colours_and_real_text(html: str) -> None:
    charts = re.findall(r'<svg class="chart".*?</svg>', html, flags=re.DOTALL)
    assert len(charts) == 4
    for chart in charts:
        assert not re.search(r"#[0-9a-fA-F]{3,8}\b(?=[;\"])(?<!href=)", re.sub(r'(href="#|url\(#)[^")]*', "", chart))
        assert "<title" in chart
        assert "<desc" in chart
        assert "<text" in chart
        assert "font-family" not in chart
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    assert used - {"--share", "--low", "--high", "--at", "--robust-share", "--clean-share", "--heat"} <= set(
        re.findall(r"(--[\w-]+):", html)
    )


def test_content_policy_allows_only_the_script(html: str) -> None:
    script = re.search(r"<script>(.*?)</script>", html, flags=re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in html


def test_page_without_script_shows_everything(html: str) -> None:
    page = Page(html)
    assert all("hidden" in values for values in page.with_class("filters"))
    assert not any("hidden" in values for values in page.with_class("card"))
    assert not page.with_class("folded")


def test_training_alone_makes_a_report(tmp_path: Path) -> None:
    write_training(tmp_path / "a")
    page = assert_self_contained(text_of(tmp_path / "a"))
    assert "not evaluated yet" in page.words
    assert "98.7% clean and 95.4% robust" in page.words


def test_evaluation_alone_makes_a_report(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", results("linf-0.1-quick@2", "linf", 0.1, 0.5), shown=0)
    page = assert_self_contained(text_of(tmp_path / "a"))
    assert "50.0%" in page.words
    assert not page.with_class("chart")
    assert "Configuration" not in page.words


def test_minimal_results_make_a_report(tmp_path: Path) -> None:
    whole = results("mine", "l2", 0.5, 0.5)
    required = ("schema", "protocol", "threat", "n", "seed", "clean_accuracy", "robust_accuracy")
    write_evaluation(tmp_path / "a", {key: whole[key] for key in required}, shown=0)
    assert "not diagnosed" in assert_self_contained(text_of(tmp_path / "a")).words


def test_unfinished_evaluation_is_left_out(tmp_path: Path) -> None:
    write_training(tmp_path / "a")
    (tmp_path / "a" / "evaluation" / "linf-0.1-quick@2").mkdir(parents=True)
    assert "not evaluated yet" in text_of(tmp_path / "a")


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    folder = tmp_path / "<i>&"
    write_training(folder)
    record = results("linf-0.1-quick@2", "linf", 0.1, 0.9)
    record["data"] |= {"classes": [HOSTILE] * 10, "name": HOSTILE}
    record["model"]["name"] = record["by_attack"][0]["name"] = record["per_class"][0]["class"] = HOSTILE
    record["flags"] = {HOSTILE: HOSTILE}
    write_evaluation(folder, record, curve("linf", [0.0, 0.1], 0.1) | {"attack": HOSTILE, "norm": "linf"})
    (folder / "run.toml").write_text(HOSTILE)
    (folder / "environment.json").write_text(json.dumps({HOSTILE: [HOSTILE]}))
    (folder / "metrics.jsonl").write_text(json.dumps({"event": HOSTILE, HOSTILE: HOSTILE}) + '\n{"epoch": 1}\n')
    text = text_of(folder)
    page = Page(text)
    assert text.count("<script") == 1
    assert text.count("<i>") == 0
    assert all(source.startswith("data:") for source in page.sources)
    assert not any(key.startswith("on") for _, values in page.tags for key in values)
    assert HOSTILE in page.words


def test_unreliable_verdict_marks_the_figure(tmp_path: Path) -> None:
    record = results("linf-0.1-quick@2", "linf", 0.1, 0.9) | {"verdict": "UNRELIABLE"}
    write_evaluation(tmp_path / "a", record, shown=0)
    page = Page(text_of(tmp_path / "a"))
    assert page.with_class("in-doubt")
    assert "do not rely on that" in page.words


def test_many_classes_are_shown_least_robust_first(tmp_path: Path) -> None:
    record = results("linf-0.1-quick@2", "linf", 0.1, 0.5)
    record["per_class"] = [
        {"class": f"class {k}", "n": 10, "clean_accuracy": 1.0, "robust_accuracy": k / 100} for k in range(99, -1, -1)
    ]
    write_evaluation(tmp_path / "a", record, shown=0)
    words = Page(text_of(tmp_path / "a")).words
    assert "ten weakest of 100" in words
    assert words.index("class 0 ") < words.index("class 9 ") < words.index("The other 90") < words.index("class 10 ")


def test_report_replaces_an_old_file_atomically(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    assert report.write(run, out) == out
    before = out.read_bytes()
    with pytest.raises(RunError):
        report.write(tmp_path / "nothing", out)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]


def test_missing_output_folder_is_rejected(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*out\.html"):
        report.write(run, tmp_path / "missing" / "out.html")


def test_comparison_shows_every_run(tmp_path: Path) -> None:
    first = write_run(tmp_path / "one" / "net")
    second = tmp_path / "two" / "net"
    plain = results("linf-0.1-quick@2", "linf", 0.1, 0.031)
    write_evaluation(second, plain, curve("linf", [0.0, 0.05, 0.1], 0.05), shown=0)
    page = assert_self_contained(report.write_comparison([first, second], tmp_path / "c.html").read_text())
    assert "one/net" in page.words
    assert "two/net" in page.words
    assert "The protocols differ" in page.words
    assert len(page.with_class("chart")) == 2
    assert len(page.with_class("star")) == 1


def test_comparison_and_run_pages_link_each_other(tmp_path: Path) -> None:
    runs, page = [tmp_path / "first net", tmp_path / "second"], tmp_path / "report.html"
    write_evaluation(runs[0], results("linf-0.1-quick@2", "linf", 0.1, 0.4), shown=6)
    write_evaluation(runs[1], results("linf-0.1-quick@2", "linf", 0.1, 0.5), shown=0)
    report.write_comparison(runs, page)
    assert "second/report.html" not in page.read_text(), "there is no page yet"
    for run in runs:
        assert 'href="../report.html"' in report.write(run).read_text()
    linked = Page(report.write_comparison(runs, page).read_text())
    hrefs = [values["href"] for tag, values in linked.tags if tag == "a" and "href" in values]
    assert {"first%20net/report.html", "second/report.html"} <= set(hrefs)
    assert len(linked.with_class("card")) == 1, "one broken example"
    page.unlink()
    assert "../report.html" not in report.write(runs[0]).read_text()


def test_comparison_of_no_runs_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no runs to compare"):
        report.write_comparison([], tmp_path / "c.html")
    assert not list(tmp_path.iterdir())


def test_report_needs_no_torch(run: Path, tmp_path: Path) -> None:
    script = f"import sys; from advreg import report; report.write({str(run)!r}, {str(tmp_path / 'r.html')!r})"
    script += "; report.comparison([" + repr(str(run)) + "]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

"""Baselines: stored outcomes, exact paired tests against them, and the exit status that a pipeline reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from scipy.stats import binom
from typer.testing import CliRunner

from advreg.cli.app import app
from advreg.errors import AdvregError
from advreg.report import baseline, read

from .fake_run import results, write_evaluation
from .markup import Page

ID = "linf-0.1-quick@2"
N = 100


def write_run(folder: Path, broken: range, errors: range = range(0), data: str = "d1", **changed: object) -> Path:
    """A run of 100 examples, of which `errors` are misclassified and `broken` are broken by PGD."""
    record = results(ID, "linf", 0.1, 1 - len({*broken, *errors}) / N, n=N, clean=1 - len(errors) / N) | changed
    rows = [{"schema": "advreg/ledger@1", "protocol": ID, "data": data}]
    rows += [
        {"attack": "clean", "id": k, "label": 0, "predicted": int(k in errors), "broken": k in errors} for k in range(N)
    ]
    rows += [{"attack": "pgd", "id": k, "label": 0, "predicted": 1, "broken": True} for k in broken]
    lines = "".join(json.dumps(each) + "\n" for each in rows)
    (write_evaluation(folder, record, shown=0) / "ledger.jsonl").write_text(lines)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "old", range(10, 30), errors=range(5))
    return tmp_path


def compare(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    if isinstance(done.exception, AdvregError):
        return 2, done.stdout, str(done.exception)
    return done.exit_code, done.stdout, done.stderr


def test_change_is_the_exact_one_sided_test(here: Path) -> None:
    new = write_run(here / "new", range(18, 50), errors=range(6))
    clean, robust = baseline.changes([read.run(new)], baseline.find("old"))
    assert (clean.lost, clean.gained, robust.lost, robust.gained) == (1, 0, 21, 8)
    assert (robust.before, robust.after) == pytest.approx((0.75, 0.62))
    exact = binom.sf(20, 29, 0.5)  # 21 or more of 29 discordant pairs are losses
    assert robust.p == pytest.approx(2 * exact)  # Holm: the smaller of two
    assert clean.p == pytest.approx(0.5)
    assert clean.problem == ""
    assert robust.problem.startswith(f"new, {ID}: robust accuracy fell from 75.0% to 62.0% (21 lost, 8 gained of 100")


def test_worse_run_fails_and_an_equal_or_better_one_does_not(here: Path) -> None:
    runs = {"same": range(10, 30), "better": range(10, 12), "a little": range(10, 33), "worse": range(10, 60)}
    status = {}
    for name, broken in runs.items():
        run = write_run(here / name, broken, errors=range(5))
        status[name] = compare(run, "--baseline", "old", "--fail-if-worse")[0]
    assert status == {"same": 0, "better": 0, "a little": 0, "worse": 1}  # 3 lost of 3: p = 1/8
    assert compare(here / "worse", "--baseline", "old")[0] == 0
    assert "worse than old" in compare(here / "worse", "--baseline", "old")[2]


def test_stored_baseline_is_found_by_name_and_equals_the_run(here: Path) -> None:
    status, out, _ = compare("old", "--save-baseline", "main")
    assert status == 0
    file = Path(".advreg/baselines/main.json")
    assert out.split()[-1] == str(file)
    first = file.read_bytes()
    assert baseline.find("main") == baseline.find("old")
    compare("old", "--save-baseline", "main")
    assert file.read_bytes() == first
    (here / "old").rename(here / "gone")  # the stored file alone is enough
    run = write_run(here / "worse", range(10, 60), errors=range(5))
    assert compare(run, "--baseline", "main", "--fail-if-worse")[0] == 1


def test_unreliable_figure_is_a_problem(here: Path) -> None:
    run = write_run(here / "masked", range(10, 12), errors=range(5), verdict="UNRELIABLE")
    status, _, says = compare(run, "--baseline", "old", "--fail-if-worse")
    assert status == 1
    assert "calls the robust accuracy UNRELIABLE" in says


def test_terminal_json_and_page_show_the_tests(here: Path) -> None:
    run = write_run(here / "new", range(10, 60), errors=range(5))
    _, out, _ = compare("old", run, "--baseline", "old", "--html", "c.html")
    assert "old - new" in out
    assert re.search(r"new +linf-0.1-quick@2 +robust +75.00% +45.00% +30 +0 .* worse", out)
    page = Page(Path("c.html").read_text())
    assert "robust 75.0% 45.0% 30 0" in page.words
    found = json.loads(compare(run, "--baseline", "old", "--json")[1])
    assert [(each["figure"], each["lost"]) for each in found["changes"]] == [("clean", 0), ("robust", 30)]
    assert found["runs"][0]["run"] == "new"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["old", "--fail-if-worse"], "add --baseline"),
        (["old", "--baseline", "mian"], "Did you mean 'main'"),
        (["old", "--save-baseline", "../up"], "use letters, digits"),
        (["old", "old", "--save-baseline", "main"], "stores one run"),
        (["other", "--baseline", "old"], "evaluate both in the same way"),
        (["bare", "--baseline", "old"], "run advreg evaluate"),
        (["old", "--baseline", "broken"], "'broken' is"),
        (["old", "--baseline", "older"], "schema is"),
    ],
)
def test_wrong_use_is_one_line(here: Path, arguments: list[str], says: str) -> None:
    compare("old", "--save-baseline", "main")
    write_run(here / "other", range(10), data="d2")
    write_evaluation(here / "bare", results(ID, "linf", 0.1, 0.5, n=N), shown=0)
    stored = json.loads(Path(".advreg/baselines/main.json").read_text())
    damaged = stored | {"evaluations": [stored["evaluations"][0] | {"broken": ["1"]}]}
    Path(".advreg/baselines/broken.json").write_text(json.dumps(damaged))
    Path(".advreg/baselines/older.json").write_text(json.dumps(stored | {"schema": "advreg/baseline@0"}))
    status, _, line = compare(*arguments)
    assert status == 2
    assert says in line
    assert "\n" not in line.strip()

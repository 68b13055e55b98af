"""Grading by hand-computed intervals, and the checks that a ledger covers."""

from __future__ import annotations

from typing import Any

import pytest

from advreg.evaluation.ledger_checks import free_checks
from advreg.results.checks import (
    CAUSES,
    Check,
    causes,
    flag_check,
    grade_check,
    grade_gain,
    skip_check,
    verdict,
)
from advreg.statistics import clopper_pearson_interval

N = 500


def of(outcome: str, cause: str = "random") -> Check:
    return Check("a", "A", outcome, cause=cause)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], "TRUSTED"),
        (["pass", "skipped"], "TRUSTED"),
        (["pass", "suspect"], "SUSPECT"),
        (["suspect", "fail", "pass"], "UNRELIABLE"),
    ],
)
def test_the_worst_check_decides(outcomes: list[str], expected: str) -> None:
    assert verdict(map(of, outcomes)) == expected


@pytest.mark.parametrize(
    ("broken", "expected"), [(0, "pass"), (3, "pass"), (4, "suspect"), (40, "suspect"), (42, "fail")]
)
def test_a_gain_is_graded_by_the_lower_end_of_its_exact_interval(broken: int, expected: str) -> None:
    low, _ = clopper_pearson_interval(broken, N)
    assert expected == ("fail" if low > 0.06 else "suspect" if low > 0.002 else "pass")  # the rule, and where it turns
    check = grade_gain("x", "A", "random", "it", broken=range(broken), tried=N, survivors=N, total=N)
    assert check.verdict == expected
    assert check.measured == broken / N
    assert len(check.ids) == broken


def test_examples_that_an_attack_did_not_try_count_as_robust() -> None:
    check = grade_gain("x", "A", "random", "it", broken=range(50), tried=50, survivors=200, total=400)
    assert check.measured == 0.125
    assert check.interval == clopper_pearson_interval(50, 400)


def test_an_attack_with_nothing_left_to_try_is_skipped() -> None:
    assert grade_gain("x", "A", "random", "it", broken=[], tried=0, survivors=5, total=9).verdict == "skipped"


def test_gain_passes_if_no_example_survives() -> None:
    assert grade_gain("x", "A", "random", "it", broken=[], tried=0, survivors=0, total=9).verdict == "pass"


def test_only_a_finding_has_a_remedy_and_every_cause_has_one() -> None:
    assert of("pass").remedy == ""
    assert of("fail").remedy == CAUSES["random"]
    assert all(CAUSES.values())
    assert of("fail").link == "docs/diagnose.md#a"
    assert flag_check("x", "C", "random", "", raised=True, hard=False).verdict == "suspect"
    assert skip_check("x", "C", "why").says == "why"
    assert grade_check("x", "F", "random", "", measured=0.3, threshold=0.1).verdict == "suspect"


def test_causes_are_ordered_from_specific_to_vague() -> None:
    found = [of("fail", "masked gradients"), of("suspect", "shattered gradients"), of("suspect", "weak attack")]
    assert causes(found) == ("shattered gradients", "masked gradients")
    assert causes([of("suspect", "weak attack")]) == ("weak attack",)
    assert causes([of("pass", "random")]) == ()


def row(
    i: int, attack: str, *, broken: bool = False, margin: float = -1.0, forwards: int = 1, backwards: int = 0
) -> Any:
    return {
        "id": i, "attack": attack, "broken": broken, "margin": margin, "forwards": forwards, "backwards": backwards
    }  # fmt: skip


def ledger(*, by_pgd: int, by_late: int = 0, by_square: int = 0, idle: int = 0, n: int = 1000) -> list[Any]:
    """Clean, PGD, Auto-PGD, Square: each breaks the next few; on the last ``idle`` no gradient attack moves the margin."""
    rows = [row(i, "clean") for i in range(n)]
    first = 0
    for attack, count, backwards in (("pgd-40", by_pgd, 40), ("apgd-t", by_late, 900), ("square", by_square, 0)):
        for i in range(first, n):
            moved = -1.0 if i >= n - idle or not backwards else -0.5
            rows.append(
                row(i, attack, broken=i < first + count, margin=moved, forwards=backwards + 9, backwards=backwards)
            )
        first += count
    return rows


def checked(rows: list[Any], **flags: Any) -> dict[str, Check]:
    known = {"randomised": False, "zero_gradients": 0.0, "non_finite": 0, **flags}
    found = free_checks({"flags": known, "n": 1000, "robust_accuracy": 0.5}, rows)
    assert all(check.source == "ledger" for check in found)
    return {check.name: check for check in found}


def test_a_clean_ledger_is_trusted() -> None:
    assert verdict(checked(ledger(by_pgd=300, by_late=5, by_square=1)).values()) == "TRUSTED"


@pytest.mark.parametrize(
    ("rows", "flags", "name", "outcome"),
    [
        (ledger(by_pgd=100, by_square=20), {}, "black-box", "suspect"),
        (ledger(by_pgd=100, by_square=300), {}, "black-box", "fail"),
        (ledger(by_pgd=100, by_late=30), {}, "steps", "suspect"),
        (ledger(by_pgd=0, idle=1000), {}, "moved", "fail"),
        (ledger(by_pgd=100), {"randomised": True}, "randomness", "suspect"),
        (ledger(by_pgd=100), {"zero_gradients": None}, "gradient-path", "fail"),
        (ledger(by_pgd=100), {"zero_gradients": 1.0}, "zero-gradients", "fail"),
        (ledger(by_pgd=100), {"zero_gradients": 1 / 64}, "zero-gradients", "suspect"),
        (ledger(by_pgd=100), {"non_finite": 3}, "finite", "suspect"),
    ],
)
def test_what_a_ledger_shows(rows: list[Any], flags: dict[str, Any], name: str, outcome: str) -> None:
    found = checked(rows, **flags)
    assert found[name].verdict == outcome
    assert all(check.verdict in ("pass", "skipped") for check in found.values() if check.name != name)


def test_checks_that_a_ledger_lacks_are_skipped_with_reason() -> None:
    rows = [entry for entry in ledger(by_pgd=1) if entry["attack"] in ("clean", "pgd-40")]
    found = {check.name: check for check in free_checks({}, rows)}
    assert {name for name, check in found.items() if check.verdict == "skipped"} >= {"black-box", "steps", "randomness"}
    assert all(check.says for check in found.values() if check.verdict == "skipped")


def test_black_box_gain_counts_after_gradient_attacks_only() -> None:
    rows = ledger(by_pgd=100, by_square=300)
    late = [{**entry, "attack": "fab-t"} for entry in rows if entry["attack"] == "apgd-t"]
    assert checked([*rows, *late])["black-box"].verdict == "fail", "gradients had their turn on these examples"
    early = [entry for entry in rows if entry["attack"] in ("clean", "square")]
    assert checked([*early, *late])["black-box"].verdict == "skipped", "gradients never met what it broke"


def test_moved_ignores_attacks_that_return_clean_points() -> None:
    rows = [{**entry, "distance": 0.0} for entry in ledger(by_pgd=0, idle=1000)]
    assert checked(rows)["moved"].verdict == "skipped"


def test_averaging_protocols_suit_random_models() -> None:
    rows = ledger(by_pgd=1)
    for protocol, outcome in (("linf-0.1-rand@1", "pass"), ("linf-0.1-strong@1", "suspect")):
        found = free_checks({"flags": {"randomised": True}, "protocol": protocol}, rows)
        assert next(check for check in found if check.name == "randomness").verdict == outcome


def test_zero_gradients_are_skipped_if_no_example_survives() -> None:
    found = free_checks({"flags": {"zero_gradients": 0.5}, "n": 64, "robust_accuracy": 0.0}, ledger(by_pgd=1000))
    assert verdict(found) == "TRUSTED"

"""Every check leads to a section of its page."""

from __future__ import annotations

import re
from pathlib import Path

from advreg.diagnosis.diagnose import CHECKS, THOROUGH_CHECKS, name_of
from advreg.evaluation.ledger_checks import free_checks
from advreg.results.checks import CAUSES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "diagnose.md").read_text()
ALSO = {"eval-mode", "attacked", "gap", "training-history", "adaptive"}


def test_every_check_has_a_section_and_every_section_a_check() -> None:
    asked = {name_of(question) for room in (CHECKS, THOROUGH_CHECKS) for group in room.values() for question in group}
    known = asked | ALSO | {check.name for check in free_checks({}, [])}
    assert set(re.findall(r"^### (.+)$", PAGE, re.M)) == known


def test_groups_of_the_page_are_those_of_the_checks() -> None:
    for group, questions in [*CHECKS.items(), *THOROUGH_CHECKS.items()]:
        section = PAGE[PAGE.index(f"\n# {group}. ") :].split("\n# ", 2)[1]
        assert all(f"### {name_of(question)}\n" in section for question in questions)


def test_causes_named_on_the_page_exist() -> None:
    for cause in ("no gradient path", "shattered gradients", "saturated", "probabilities", "random"):
        assert cause in CAUSES

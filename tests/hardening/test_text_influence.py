"""Caps bound the loss of the training file of texts: weights are added up from the file itself, group by group."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advreg.errors import ConfigError
from advreg.hardening.data_selection import TIERS, Candidate, Caps
from advreg.hardening.texts import HARMFUL
from advreg.hardening.texts.training_file import text_shares, training_lines


def text(k: int, principal: str = "eve", tier: str = "customer", reviewers: tuple[str, ...] = ("rae",), label: int = 1):
    return Candidate(f"{k:064x}", label, reviewers, principal, tier, k, 0.0)


def trusted(n: int) -> str:
    return "".join(json.dumps({"prompt": f"Trusted {k}"}) + "\n" for k in range(n))


def summed(chosen: Sequence[Candidate], caps: Caps, clean: str) -> tuple[dict[str, float], float]:
    """Return the weight of each example in the training file, and of the whole file."""
    shares = text_shares(chosen, caps, replay=0.9)
    members = [{"id": c.id, "text": c.id, "label": c.label, "loss_share": shares[c.id]} for c in chosen]
    rows = [json.loads(line) for line in "\n".join(training_lines(clean, members)).splitlines()]
    weights = dict.fromkeys((c.id for c in chosen), 0.0)
    for row in rows:
        if "sha256" in row:
            weights[row["sha256"]] += row["weight"]
            assert row["weight"] <= 1.5, "no row outweighs a trusted one by far"
    return weights, sum(row.get("weight", 1.0) for row in rows)


def part(chosen: Sequence[Candidate], caps: Caps, clean: str, of=lambda c: True) -> float:
    """Return the share of the file's weight that these examples have."""
    weights, total = summed(chosen, caps, clean)
    return sum(weights[c.id] for c in chosen if of(c)) / total


@pytest.mark.parametrize("count", [1, 10, 40, 400])
def test_one_principal_has_its_cap_whatever_the_count(count: int) -> None:
    eve, others = [text(k) for k in range(count)], [text(1000 + k, f"user {k}", "internal") for k in range(10)]
    assert part(eve, Caps(), trusted(1000 - count)) == pytest.approx(0.005, rel=1e-6)  # the class's, narrower than 1%
    wide = Caps(label=0.5, label_loss=0.5)
    assert part(eve, wide, trusted(1000 - count)) == pytest.approx(wide.principal, rel=1e-6)
    found = part([*eve, *others], wide, trusted(1000 - count), lambda c: c.principal == "eve")
    assert found == pytest.approx(wide.principal if count > 1 else 0.03 / 11, rel=1e-6)


def test_colluding_principals_share_the_cap_of_their_tier() -> None:
    many = [text(k, f"sybil {k // 2}") for k in range(80)]
    wide = Caps(label=0.5, label_loss=0.5, reviewer=0.5)
    assert part(many, Caps(), trusted(920)) <= 0.005
    assert part(many, wide, trusted(920)) == pytest.approx(wide.tiers["customer"], rel=1e-6)
    anonymous = [text(k, f"sybil {k}", "anonymous") for k in range(80)]
    assert part(anonymous, wide, trusted(920)) == pytest.approx(wide.tiers["anonymous"], rel=1e-6)
    assert part([text(k, f"s {k}", "internal") for k in range(80)], wide, trusted(920)) == pytest.approx(0.05, rel=1e-6)


def test_one_reviewer_has_its_cap_for_all_principals() -> None:
    alone = [text(k, f"user {k}", "internal", ("mal",)) for k in range(60)]
    other = [text(100 + k, f"user {k}", "internal", ("rae", "sam")) for k in range(60)]
    wide = Caps(label=0.5, label_loss=0.5)
    assert part([*alone, *other], wide, trusted(900), lambda c: "mal" in c.reviewers) <= wide.reviewer
    assert part(alone, wide, trusted(900)) == pytest.approx(wide.reviewer, rel=1e-6)


people = st.lists(
    st.tuples(st.sampled_from(("a", "b", "c")), st.sampled_from(TIERS), st.sampled_from(("r", "s")), st.integers(0, 1)),
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(people, st.integers(1, 300))
def test_no_group_of_texts_passes_its_cap(given_, n) -> None:
    chosen = [text(k, who, tier, (by,), label) for k, (who, tier, by, label) in enumerate(given_)]
    caps = Caps(label=0.02, label_loss=0.03)
    weights, total = summed(chosen, caps, trusted(n))

    def most(key) -> float:
        return max((sum(weights[c.id] for c in chosen if key(c) == v) / total for v in map(key, chosen)), default=0.0)

    assert most(lambda c: "all") <= caps.total
    assert most(lambda c: c.principal) <= caps.principal
    assert most(lambda c: c.reviewers) <= caps.reviewer
    assert most(lambda c: c.label) <= caps.label
    for tier, cap in caps.tiers.items():
        assert sum(weights[c.id] for c in chosen if c.tier == tier) / total <= cap
    assert all((weights[c.id] > 0) == (c.label == HARMFUL) for c in chosen), "each harmful text counts, no harmless one"


def test_weights_of_trusted_rows_are_counted() -> None:
    light = "".join(json.dumps({"prompt": f"{k}", "weight": 0.1}) + "\n" for k in range(1000))
    assert part([text(0), text(1)], Caps(), light) == pytest.approx(0.005, rel=1e-6)
    for line in ('{"weight": -1}', '{"weight": "much"}', "[1]", "no json", '{"weight": NaN}'):
        with pytest.raises(ConfigError, match="line 2"):
            training_lines('{"prompt": "a"}\n' + line, [])

"""Influence is bounded by construction, whatever is submitted."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advreg.errors import HardeningError
from advreg.hardening.data_selection import DAY, TIERS, Candidate, Caps, quarantine_over, select
from advreg.hardening.influence import loss_shares, share_of_groups
from advreg.hardening.manifest import snapshot_of

CAPS = Caps(principal=0.01, label=0.02, tiers={"anonymous": 0.005})


def candidate(k: int, **changed: object) -> Candidate:
    facts = {"label": k % 10, "reviewers": ("ann",), "principal": f"p{k % 7}", "tier": "customer", "cluster": k}
    return Candidate(**{"id": f"{k:064x}", "received_at": float(k), **facts, **changed})


people = st.lists(
    st.builds(
        lambda k, label, p, tier, cluster: (k, {"label": label, "principal": p, "tier": tier, "cluster": cluster}),
        st.integers(0, 10**6),
        st.integers(0, 3),
        st.sampled_from("abc"),
        st.sampled_from(TIERS),
        st.integers(0, 60),
    ),
    max_size=120,
    unique_by=lambda pair: pair[0],
)


@settings(max_examples=60, deadline=None)
@given(people, st.integers(0, 3000))
def test_no_cap_is_ever_passed_and_nobody_is_kept_out_without_a_cap(given, clean) -> None:
    candidates = [candidate(k, **facts) for k, facts in given]
    found = select(candidates, clean, CAPS)
    size = clean + len(found.chosen)

    def share(key) -> float:
        counts = {value: sum(key(c) == value for c in found.chosen) for value in map(key, found.chosen)}
        return max(counts.values(), default=0) / max(size, 1)

    assert len(found.chosen) <= 0.05 * size
    assert share(lambda c: c.principal) <= CAPS.principal
    assert share(lambda c: c.label) <= CAPS.label
    assert sum(c.tier == "anonymous" for c in found.chosen) <= 0.005 * size
    assert len({(c.cluster, c.label, c.wrong) for c in found.chosen}) == len(found.chosen)
    assert len(found.chosen) + len(found.left_out) == len(candidates)


@settings(max_examples=60, deadline=None)
@given(people, st.floats(0, 0.5))
def test_no_group_gets_more_of_the_loss_than_its_cap(given, replay) -> None:
    chosen = [dataclasses.replace(candidate(k, **facts), reviewers=("ann", "bob")[: 1 + k % 2]) for k, facts in given]
    shares = loss_shares(chosen, CAPS, replay)
    found = share_of_groups(chosen, shares)
    caps = {
        "total": min(CAPS.total, replay),
        "principal": CAPS.principal,
        "label": CAPS.label_loss,
        "reviewer": CAPS.reviewer,
    }
    for kind, cap in caps.items():
        assert max(found[kind].values(), default=0) <= cap
    assert all(share <= CAPS.tiers.get(tier, CAPS.total) for tier, share in found["tier"].items())
    for one in chosen:  # Pareto: every example is in a group that has all its cap allows
        tier = CAPS.tiers.get(one.tier, CAPS.total)
        used = {"total": "all", "principal": one.principal, "label": str(one.label)}
        full = [found[kind][name] >= caps[kind] - 1e-6 for kind, name in used.items()]
        full += [found["reviewer"][name] >= caps["reviewer"] - 1e-6 for name in one.reviewers]
        assert any(full) or found["tier"][one.tier] >= tier - 1e-6


@pytest.mark.parametrize("count", [1, 10, 40, 4000])
def test_share_of_the_loss_does_not_depend_on_the_count(count: int) -> None:
    chosen = [candidate(k, principal="eve", label=0) for k in range(count)]
    assert sum(loss_shares(chosen, Caps(), 0.1).values()) == pytest.approx(0.005, rel=1e-6)
    assert sum(loss_shares(chosen, Caps(), 0.002).values()) == pytest.approx(0.002, rel=1e-6)


def test_a_flood_of_ten_thousand_neither_passes_its_cap_nor_keeps_others_out() -> None:
    flood = [candidate(k, principal="eve", label=k % 10) for k in range(10_000)]
    others = [candidate(20_000 + k, principal=f"user{k}") for k in range(100)]
    found = select(flood + others, 10_000, CAPS)
    assert sum(c.principal == "eve" for c in found.chosen) == 100
    assert sum(c.principal != "eve" for c in found.chosen) == 100


def test_a_cluster_counts_once_however_many_stand_behind_it() -> None:
    campaign = [candidate(k, principal=f"sybil{k}", cluster=1, label=3) for k in range(500)]
    found = select(campaign, 10_000, CAPS)
    assert len(found.chosen) == 1
    assert set(found.left_out.values()) == {"cluster"}


def test_trust_comes_before_age_and_order_of_arrival_does_not_matter() -> None:
    late = candidate(5, tier="internal", cluster=1, label=1)
    early = candidate(1, tier="anonymous", cluster=1)
    for order in ([late, early], [early, late]):
        assert select(order, 1000, CAPS).chosen == (late,)


def test_an_attack_is_admitted_beside_its_clean_twin() -> None:
    decoys = [candidate(k, cluster=1, label=3, prediction=3) for k in range(20)]
    attack = candidate(50, cluster=1, label=3, prediction=5, principal="bob")
    other = candidate(51, cluster=1, label=7, prediction=7, principal="bob")
    chosen = select([*decoys, attack, other], 10_000, CAPS).chosen
    assert {attack, other} < set(chosen)
    assert len(chosen) == 3


def month(m: int, n: int, attacks: int, first: int, **changed: object) -> list[Candidate]:
    """Return a month's reviewed examples: harmless ones, and a new kind of attack that no earlier month had."""
    at = {"received_at": (30 * m + 1) * DAY, **changed}
    harmless = [candidate(first + k, prediction=k % 10, label=k % 10, **at) for k in range(n - attacks)]
    kind = {"label": m % 10, "prediction": (m % 10 + 1 + m // 10) % 10}
    return [*harmless, *(candidate(first + n - attacks + k, **kind, **at) for k in range(attacks))]


def test_learning_goes_on_for_a_year_of_one_server_token() -> None:
    received: list[Candidate] = []
    for m in range(12):
        received += month(m, 300, 30, 1000 * m, principal="server", cluster=-1)
        received = [dataclasses.replace(c, cluster=k) for k, c in enumerate(received)]
        chosen = select(received, 4000, Caps()).chosen
        kinds = {(c.label, c.prediction) for c in chosen if c.wrong}
        newest = [c for c in chosen if c.wrong and c.received_at >= 30 * m * DAY]
        assert len(newest) >= 5, m
        assert len(kinds) == m + 1, "no earlier kind of attack is forgotten"
        assert len(chosen) <= 40


@pytest.mark.parametrize("wrong", [False, True])
def test_two_hundred_sybils_lock_no_attack_out(wrong: bool) -> None:
    received: list[Candidate] = []
    admitted = []
    for m in range(12):
        at = {"received_at": (30 * m + 1) * DAY}
        for k in range(200 * 5):
            said = {"label": k % 10, "prediction": (k + wrong) % 10, "principal": f"sybil{k % 200}"}
            received.append(candidate(10_000 * m + k, cluster=10_000 * m + k, **said, **at))
        mine = {"label": 4, "prediction": 9, "principal": "ann"}
        received += [candidate(10_000 * m + 5000 + k, cluster=10_000 * m + 5000 + k, **mine, **at) for k in range(10)]
        chosen = select(received, 4000, Caps()).chosen
        admitted.append(sum(c.principal == "ann" and c.received_at == at["received_at"] for c in chosen))
    assert min(admitted) >= 5 if not wrong else sum(count > 0 for count in admitted) >= 3, admitted


def test_selection_does_not_change_while_nothing_is_received() -> None:
    received = month(0, 200, 50, 0) + month(1, 200, 50, 1000)
    first = select(received, 2000, CAPS)
    assert first == select(received[::-1], 2000, CAPS)


def test_quarantine_holds_for_all_but_the_inside() -> None:
    caps = Caps(quarantine=7 * DAY)
    assert not quarantine_over(candidate(0), 7 * DAY - 1, caps)
    assert quarantine_over(candidate(0), 7 * DAY, caps)
    assert quarantine_over(candidate(0, tier="internal"), 0, caps)


def test_equal_contents_make_equal_manifests_and_any_change_another() -> None:
    selection = select([candidate(k) for k in range(5)], 1000, CAPS)
    clean = {"name": "mnist", "sha256": "c" * 64, "n": 1000}
    first = snapshot_of("s-0001", selection, "b" * 64, clean, CAPS)
    assert first.sha256() == snapshot_of("s-0001", selection, "b" * 64, clean, CAPS).sha256()
    member = json.loads(first.text())["members"][0]
    assert (member["label"], member["reviewers"], member["tier"]) == (0, ["ann"], "customer")
    assert "quarantine" in member["rule"]
    assert first.shares["total"] == {"all": pytest.approx(5 / 1005)}  # without shares of their own all count alike
    changed = dataclasses.replace(selection, chosen=selection.chosen[1:])
    assert first.sha256() != snapshot_of("s-0001", changed, "b" * 64, clean, CAPS).sha256()


@pytest.mark.parametrize("wrong", [{"total": 1.0}, {"principal": -0.1}, {"tiers": {"vip": 0.1}}])
def test_caps_that_bound_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(HardeningError, match="allowed"):
        Caps(**wrong)

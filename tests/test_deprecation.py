"""Old names of options and attributes: they work for one version, with a warning that gives the new name."""

from __future__ import annotations

import pytest
import torch

from advreg import ThreatModel, attacks
from advreg.attacks.blackbox import hopskipjump, random_search, spsa
from advreg.attacks.minimum_norm import carlini_wagner, fab, minimum_distance, refine_by_bisection
from advreg.training.inner import n_fgsm
from tests.attacks.models import small_cnn

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2])
LINF, L2 = ThreatModel("linf", 0.02), ThreatModel("l2", 0.1)

CASES = {
    "apgd_targeted": (attacks.apgd_targeted, LINF, {"steps": 2}, ("targets", "target_classes", 2)),
    "cosine_pgd": (
        attacks.cosine_pgd,
        LINF,
        {"steps": 2},
        ("targets", "target_classes", 0),
    ),
    "fab": (fab, LINF, {"steps": 2}, ("targets", "target_classes", 2)),
    "carlini_wagner": (carlini_wagner, L2, {"steps": 2}, ("rounds", "binary_search_steps", 2)),
    "random_search": (random_search, LINF, {}, ("draws", "queries", 3)),
    "hopskipjump tries": (hopskipjump, L2, {"queries": 40}, ("tries", "init_tries", 3)),
    "hopskipjump samples": (hopskipjump, L2, {"queries": 40}, ("samples", "gradient_samples", 5)),
    "spsa": (spsa, LINF, {"steps": 1, "samples": 2}, ("probe", "delta", 0.02)),
    "n_fgsm": (n_fgsm, LINF, {}, ("noise", "noise_scale", 1.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_renamed_option_gives_the_same_result_with_a_warning(name: str) -> None:
    attack, threat, options, (old, new, value) = CASES[name]
    with pytest.warns(DeprecationWarning, match=rf"\({old}=...\) is now {attack.__name__}\({new}=...\)"):
        before = attack(small_cnn(), X, Y, threat, **options, **{old: value})
    after = attack(small_cnn(), X, Y, threat, **options, **{new: value})
    assert torch.equal(before.x_adv, after.x_adv)


def test_renamed_options_of_refinements_warn() -> None:
    with pytest.warns(DeprecationWarning, match="bisections"):
        found = minimum_distance(fab, small_cnn(), X, Y, "l2", bisections=1, steps=2)
    with pytest.warns(DeprecationWarning, match="binary_search_steps"):
        old = refine_by_bisection(found, small_cnn(), X, Y, ThreatModel("l2", 0.0), steps=1)
    new = refine_by_bisection(found, small_cnn(), X, Y, ThreatModel("l2", 0.0), binary_search_steps=1)
    assert torch.equal(old.closest_adv, new.closest_adv)


def test_renamed_fields_warn_and_give_the_same_tensors() -> None:
    found = fab(small_cnn(), X, Y, L2, steps=2)
    with pytest.warns(DeprecationWarning, match="is now closest_adv"):
        assert found.nearest is found.closest_adv
    with pytest.warns(DeprecationWarning, match="is now min_distance"):
        assert found.minimal is found.min_distance


def test_old_and_new_name_together_raise() -> None:
    with pytest.raises(TypeError, match="'queries' and its old name 'draws'"):
        random_search(small_cnn(), X, Y, LINF, draws=1, queries=1)


def test_result_reprs_are_one_short_line() -> None:
    results = [fab(small_cnn(), X, Y, L2, steps=2), attacks.pgd(small_cnn(), X, Y, L2, steps=2)]
    for result in [*results, attacks.craft(small_cnn(), X, Y, L2, steps=2)]:
        assert "\n" not in repr(result)
        assert len(repr(result)) < 120


def test_cosine_pgd_early_stop_changes_only_the_cost() -> None:
    model = small_cnn()
    y = model(X).argmax(1)
    stop, full = (
        attacks.cosine_pgd(model, X, y, ThreatModel("linf", 0.5), steps=8, early_stop=e) for e in (True, False)
    )
    assert torch.equal(stop.broken, full.broken)
    assert stop.broken.any()
    assert stop.backwards < full.backwards


def test_cosine_pgd_targeted_reaches_the_target_class() -> None:
    model = small_cnn()
    wanted = (model(X).argmax(1) + 1) % 5
    found = attacks.cosine_pgd(model, X, wanted, ThreatModel("linf", 0.3), steps=20, targeted=True)
    assert found.broken.any()
    assert torch.equal(model(found.x_adv[found.broken]).argmax(1), wanted[found.broken])

"""Policies: the adversary of each step and example, against sequences worked out by hand; state by id; exact passes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import advreg
from advreg.attacks import craft
from advreg.errors import ConfigError
from advreg.training import eval_mode, per_example_state, policies, recipes
from advreg.training.policies import Moment
from advreg.training.policies.iaat import adapt_radii
from tests.attacks.models import Counter
from tests.training import small

THREAT = advreg.ThreatModel("linf", eps=0.1)
LATE = Moment(epoch=5, step=90, steps=100)
ONE_STEP = partial(craft, steps=1, start="zero")
BOTH = pytest.mark.parametrize("method", ["test", "margin"])


class Line(nn.Module):
    """Logits (x, 0.5): right about label 0 while x > 0.5, so each example withstands any eps below x - 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return torch.cat([self.weight * x, torch.full_like(x, 0.5)], dim=1)


def told(policy, x, ids=None, *, moment=LATE, net=None):
    """Return the radii that a policy gives inputs of label 0."""
    x = torch.tensor(x)[:, None]
    ids = torch.arange(len(x)) if ids is None else torch.tensor(ids)
    y = torch.zeros(len(x), dtype=torch.int64)
    attack, threat = policy(net or Line(), x, y, ids, ONE_STEP, THREAT, moment)
    assert attack is ONE_STEP
    return torch.as_tensor(threat.eps).expand(len(x)).tolist()


def test_fixed_changes_nothing():
    assert policies.fixed()(None, None, None, None, ONE_STEP, THREAT, LATE) == (ONE_STEP, THREAT)


def test_warmup_is_a_line_then_flat():
    policy = policies.warmup(share=0.5)
    threats = [policy(None, None, None, None, ONE_STEP, THREAT, Moment(1, step, 10))[1] for step in range(10)]
    expected = [0.01, 0.03, 0.05, 0.07, 0.09, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert [threat.eps for threat in threats] == pytest.approx(expected)


def test_friendly_patience_grows_at_milestones():
    policy = policies.friendly(steps=7, step_size=0.02, milestones=[0.25, 0.5])
    attacks = [policy(None, None, None, None, ONE_STEP, THREAT, Moment(1, step, 8))[0] for step in range(8)]
    assert [attack.keywords["tau"] for attack in attacks] == [0, 0, 1, 1, 2, 2, 2, 2]
    x, y = torch.rand(4, 8), torch.arange(4) % 3
    assert THREAT.contains(attacks[-1](nn.Linear(8, 3), x, y, THREAT, ids=torch.arange(4)).x_adv, x).all()


@BOTH
def test_iaat_follows_the_rule_by_hand(method):
    """Unit eps 0.1, aim a fifth of it away, half of the way there. The three withstand 0.3, 0.115 and 0.02."""
    policy = policies.iaat(gain=0.2, smoothing=0.5, warmup=0.0, most=1.25, method=method)
    visits = [told(policy, [0.8, 0.615, 0.52]) for _ in range(4)]
    assert visits[0] == pytest.approx([0.11, 0.10, 0.09])
    assert visits[1] == pytest.approx([0.12, 0.10, 0.08])
    assert visits[2] == pytest.approx([0.125, 0.10, 0.07])  # the first has reached the largest
    assert visits[3] == pytest.approx([0.125, 0.10, 0.06])


@BOTH
def test_iaat_settles_where_the_models_strength_ends(method):
    policy = policies.iaat(gain=0.1, smoothing=0.5, warmup=0.0, method=method)
    for _ in range(60):
        last = told(policy, [0.68, 0.57, 0.3])
    assert last[0] == pytest.approx(0.18, abs=0.01)
    assert last[1] == pytest.approx(0.07, abs=0.01)
    assert last[2] == pytest.approx(0.0, abs=1e-6), "wrong already: no radius is small enough"


def test_the_rule_asks_the_second_question_only_of_those_that_failed_the_first():
    strength, queried = torch.tensor([9.0, 1.1, 0.5, 9.0]), []

    def withstands(rows, radii):
        queried.append(rows.tolist())
        return radii <= strength[rows]

    radii = adapt_radii(torch.tensor([1.0, 1.0, 1.0, 2.0]), withstands, gain=0.2, smoothing=0.1)
    torch.testing.assert_close(radii, torch.tensor([1.02, 1.0, 0.98, 2.02]))
    assert queried == [[0, 1, 2, 3], [1, 2]]


@pytest.mark.parametrize("start", [1.0, 0.5])
def test_iaat_grows_all_radii_to_the_start_during_warmup(start):
    policy = policies.iaat(warmup=0.5, start=start)
    assert told(policy, [0.8, 0.8], moment=Moment(1, 39, 100)) == pytest.approx([0.1 * start * 0.395 / 0.5] * 2)
    assert policy.state_dict()["radii"].numel() == 0
    told(policy, [0.8], moment=Moment(1, 50, 100))
    assert policy.state_dict()["radii"].item() == pytest.approx(start, abs=0.1)


@BOTH
def test_iaat_remembers_by_id_whatever_the_order(method):
    make = partial(policies.iaat, smoothing=0.5, warmup=0.0, method=method)
    one, other, resumed = make(examples=10), make(), make()
    x, ids = [0.8, 0.615, 0.52], [7, 2, 4]
    told(one, x, ids)
    told(other, [x[2]], [ids[2]])
    told(other, [x[0], x[1]], [ids[0], ids[1]])
    per_example_state.restore({"policy": resumed}, per_example_state.states({"policy": other}))
    last = told(one, x, ids)
    assert told(other, x, ids) == last
    assert told(resumed, x[::-1], ids[::-1]) == last[::-1]
    assert len(set(last)) == 3


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_first_order_margin_is_the_distance_to_the_plane_of_a_linear_model(norm):
    """Radii that withstand by the margin are just those that withstand the attack."""
    torch.manual_seed(0)
    net, x, y = nn.Linear(8, 3), torch.rand(20, 8) * 0.2 + 0.4, torch.arange(20) % 3
    threat = advreg.ThreatModel(norm, eps=0.05)
    margin = policies.iaat(gain=0.5, warmup=0.0, method="margin")
    args = (net, x, y, torch.arange(20), ONE_STEP, threat, LATE)
    visits = [margin(*args)[1].eps for _ in range(2)]
    moved = torch.sign(visits[1] - visits[0])
    z = net(x)
    w = net.weight
    q = {"linf": 1, "l2": 2, "l1": float("inf")}[norm]
    rivals = [max((z[i, k] - z[i, y[i]], k) for k in range(3) if k != y[i]) for i in range(20)]
    distance = torch.stack([-gap / (w[k] - w[y[i]]).norm(p=q) for i, (gap, k) in enumerate(rivals)])
    expected = torch.where(distance > visits[0] + 0.025, 1.0, torch.where(distance > visits[0], 0.0, -1.0))
    assert torch.equal(moved, expected)
    assert len(set(expected.tolist())) >= 2


@pytest.mark.parametrize(("method", "most"), [("test", 4), ("margin", 1)])
def test_iaat_has_its_stated_cost_and_leaves_no_trace(method, most):
    torch.manual_seed(0)
    net = small.network().train()
    net[4].eval()
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x, y, count = torch.rand(6, 1, 8, 8), torch.arange(6) % 3, Counter(net)
    policies.iaat(warmup=0.0, method=method)(net, x, y, torch.arange(6), ONE_STEP, THREAT, LATE)
    assert 6 * most // 2 <= count.forwards <= 6 * most
    assert count.backwards <= count.forwards
    assert count.weight_gradients() == 0
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["madry", "mixed", "trades", "mart", "pgi", "free"])
def test_recipes_take_an_eps_for_each_example(name):
    from advreg.training import inner

    torch.manual_seed(0)
    net, x, y, ids = small.network().train(), torch.rand(6, 1, 8, 8), torch.arange(6) % 3, torch.arange(6)
    attack = inner.FgsmPgi() if name == "pgi" else ONE_STEP
    attack, threat = policies.iaat(warmup=0.0)(net, x, y, ids, attack, THREAT, LATE)
    assert threat.eps.shape == (6,)
    with eval_mode(net):
        assert threat.contains(attack(net, x, y, threat, ids=ids).x_adv, x).all()
    recipes.RECIPES.build(name, {})(net, x, y, recipes.bind_ids(attack, ids), threat).backward()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("iat", {}, "policy.name is 'iat'; allowed: fixed, warmup, iaat, friendly, ldes. Did you mean 'iaat'"),
        ("iaat", {"gian": 0.1}, "policy 'iaat' has no option 'gian'"),
        ("iaat", {"smoothing": 0.0}, "policy.options.smoothing is 0.0; allowed: greater than 0"),
        ("warmup", {"share": 0.0}, "policy.options.share is 0.0; allowed: greater than 0"),
        ("friendly", {"milestones": [0.5, 2.0]}, "policy.options.milestones"),
        ("ldes", {"most": 0.5}, "policy.options.most is 0.5; allowed: greater than 1"),
    ],
)
def test_wrong_options_are_one_line(name, options, message):
    with pytest.raises(ConfigError) as error:
        policies.POLICIES.build(name, options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)

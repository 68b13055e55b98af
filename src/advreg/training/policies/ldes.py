"""Learned eps: a small network distributes a budget of radius over the examples, from features of the model's predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from advreg import distributed
from advreg.attacks.inputs import read_training
from advreg.attacks.model import query_model
from advreg.attacks.search import QuerySpec, query
from advreg.errors import ThreatError
from advreg.module_modes import eval_mode
from advreg.objectives import cross_entropy
from advreg.threat import ThreatModel, broadcast_per_example
from advreg.trainer.moment import Moment
from advreg.training.per_example_state import PerExampleTable, Saved
from advreg.training.policies.base import Policy, within
from advreg.training.recipes import Attack

Weight = Annotated[float, Field(ge=0)]
_PACE = 0.1  # share of the newest batch in the running mean and variance of the gradients' logarithm


def ldes(
    least: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    most: Annotated[float, Field(gt=1)] = 2.0,
    mu: Weight = 10.0,
    lr: Annotated[float, Field(gt=0)] = 0.1,
    samples: Annotated[int, Field(ge=2)] = 4,
    examples: Annotated[int, Field(ge=0)] = 0,
) -> Policy:
    """Learn each example's radius from gradient norm, confidence and uncertainty.

    ``eps_i = eps r_i`` with ``r_i = least + (most - least) sigmoid(MLP(z_i))``. The network, 3-16-1, follows
    ``mean_i CE(f(x_i + eps_i s_i), y_i) + mu (mean_i r_i - 1)^2`` downhill, ``s_i`` the steepest direction at ``x_i``. The
    first term alone would shrink every radius to the least; the budget keeps the mean within ``slope / (2 mu)`` of 1, and the
    network only chooses its distribution. It starts with eps for all. Two forwards and two backwards, and ``samples`` forwards
    more where the model has dropout.

    Args:
        least: lower bound of a radius, in eps; under 1.
        most: upper bound of a radius, in eps; above 1.
        mu: weight of the budget.
        lr: learning rate of the network; keep ``lr mu`` at 1 or below.
        samples: dropout masks over which uncertainty is taken, the mutual information of prediction and mask; a model
            without dropout is compared with its own last prediction instead.
        examples: number of examples; 0 to grow with the ids.

    Returns:
        The policy; its ``state_dict`` holds the network and its statistics.

    Raises:
        ThreatError: eps is not between the bounds.

    Example:
        >>> policy, model = ldes(), nn.Linear(4, 3)
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> _, threat = policy(model, x, y, torch.arange(2), None, ThreatModel("linf", 0.125), Moment(1, 0, 10))
        >>> threat.eps.tolist()
        [0.125, 0.125]

    Reference: after the idea of Mitkiy et al., arXiv:2506.12733, 2025; the form and its measured figures are this package's.
    """
    return LearnedEpsPolicy(least, most, mu, lr, samples, examples)


class LearnedEpsPolicy:
    """The policy that `ldes` returns; its state is the network, running statistics, and predictions by example id."""

    def __init__(self, least: float, most: float, mu: float, lr: float, samples: int, examples: int) -> None:
        if not 0 <= least < 1 < most:
            raise ThreatError(f"least is {least}, most {most}; give bounds in eps with 0 <= least < 1 < most")
        self.least, self.most, self.mu, self.lr, self.samples = least, most, mu, lr, samples
        self.network = _network((1 - self.least) / (most - self.least))
        self.statistics = torch.tensor([torch.nan, 1.0])
        self.examples = examples
        self.predictions: PerExampleTable | None = None

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, attack: Attack, threat: ThreatModel, moment: Moment
    ) -> tuple[Attack, ThreatModel]:
        """Return the attack as it is, and the threat model with each example's eps; then learn from this batch."""
        x, y = read_training(x, y, threat)
        self.network.to(x.device)
        with eval_mode(model), torch.autocast(x.device.type, enabled=False):
            z, _, grad = query(QuerySpec(model, cross_entropy), x, y)
            way = threat.steepest(grad)
            cues = torch.stack(
                [self._standard((grad * way).flatten(1).sum(1)), _confidence(z), self._doubt(model, x, ids, z)], dim=1
            )
            radii = self._radii(cues)
            self._learn(model, x, y, threat, way, radii)
        eps = torch.as_tensor(threat.eps, dtype=radii.dtype, device=x.device)
        return attack, threat.with_eps(within(threat, radii.detach() * eps))

    def share(self) -> None:
        """Synchronise the predictions over all ranks; the network is the same on every rank."""
        if self.predictions is not None:
            self.predictions.share()

    def state_dict(self) -> Saved:
        """Return network, statistics and, where they are used, predictions."""
        network = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        predictions = {} if self.predictions is None else {"answers": self.predictions.values}
        return {**network, "statistics": self.statistics, **predictions}

    def load_state_dict(self, state: Saved) -> None:
        """Restore a state that `state_dict` returned."""
        self.network.load_state_dict({key[8:]: value for key, value in state.items() if key.startswith("network.")})
        self.statistics = state["statistics"].clone()
        self.predictions = None
        if "answers" in state:
            self._rows(state["answers"].shape[1]).load(state["answers"])

    def _radii(self, cues: Tensor) -> Tensor:
        share: Tensor = self.network(cues.detach().float()).sigmoid()[:, 0]
        return self.least + (self.most - self.least) * share

    def _learn(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, way: Tensor, radii: Tensor) -> None:
        """Take a step of the policy's network; the weights of the model do not change and get no gradient."""
        low, high = threat.box
        moved = (x + threat.radii(x) * broadcast_per_example(radii.to(x.dtype), x) * way).clamp(low, high)
        excess = _mean(radii.detach().mean()) - 1  # of all processes: the budget is one
        loss = F.cross_entropy(query_model(model, moved), y) + 2 * self.mu * excess * radii.mean()
        weights = list(self.network.parameters())
        grads = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, grad in zip(weights, grads, strict=True):
                weight.sub_(self.lr * _mean(grad.nan_to_num()))

    def _standard(self, size: Tensor) -> Tensor:
        """Return the logarithm of gradient norms, less its running mean, over its running deviation; 5 of them at most."""
        logs = size.float().clamp_min(1e-12).log()
        now = _mean(torch.stack([logs.mean(), logs.square().mean()]))
        now = torch.stack([now[0], (now[1] - now[0].square()).clamp_min(0)])
        before = self.statistics.to(now.device)
        self.statistics = torch.where(before[0].isnan(), now, torch.lerp(before, now, _PACE))
        return ((logs - self.statistics[0]) / self.statistics[1].sqrt().clamp_min(1e-3)).clamp(-5, 5)

    def _doubt(self, model: nn.Module, x: Tensor, ids: Tensor, z: Tensor) -> Tensor:
        """Return the uncertainty of each prediction: over dropout masks, or else over time."""
        drops = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0]
        if drops:
            return _disagreement(model, drops, x, self.samples)
        p, rows = z.float().softmax(1), self._rows(z.shape[1])
        last = rows.read(ids)
        rows.write(ids, p)
        return torch.where(last.isnan().any(1), 0.0, F.kl_div(p.clamp_min(1e-12).log(), last, reduction="none").sum(1))

    def _rows(self, classes: int) -> PerExampleTable:
        if self.predictions is None:
            self.predictions = PerExampleTable(self.examples, (classes,), fill=torch.nan)
        return self.predictions


def _network(share: float) -> nn.Sequential:
    """Return the network before it learned: that share, between the bounds, for everybody."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))
    nn.init.zeros_(network[2].weight)  # type: ignore[arg-type]
    nn.init.constant_(network[2].bias, math.log(share / (1 - share)) if share > 0 else -20.0)  # type: ignore[arg-type]
    return network


def _confidence(z: Tensor) -> Tensor:
    """Return 1 minus the normalised entropy of the prediction: 0 to 1."""
    return 1 - _entropy(z.float().softmax(1)) / math.log(z.shape[1])


def _disagreement(model: nn.Module, drops: Sequence[nn.Module], x: Tensor, samples: int) -> Tensor:
    """Return the mutual information of prediction and dropout mask, with dropout alone in train mode."""
    with torch.no_grad(), eval_mode(model):
        for module in drops:
            module.train()
        p = torch.stack([query_model(model, x).softmax(1) for _ in range(samples)])
    return _entropy(p.mean(0)) - _entropy(p).mean(0)


def _entropy(p: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(p).sum(-1)
    return entropy


def _mean(value: Tensor) -> Tensor:
    """Return the mean over the processes of a distributed run, the value itself where there is one."""
    distributed.sum_in_place(value)
    return value / distributed.current_ranks().world_size

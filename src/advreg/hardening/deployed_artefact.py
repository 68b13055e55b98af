"""The deployed artefact against the trained model: both attacked, each verified on the points of the other too."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg import attacks, models
from advreg.attacks.model import input_dtype
from advreg.errors import ModelError
from advreg.evaluation import Protocol, ProtocolStage, evaluate, resolve
from advreg.evaluation.examples import Examples, examples_of, threat_on
from advreg.hardening.gate.artefact import decide_artefact
from advreg.hardening.gate.decision import Decision, Rules
from advreg.hardening.gate.read import GateResults
from advreg.plugins import filter_kwargs
from advreg.runs import RunFolder
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.data.adapters import Data

_SCHEMES = {".onnx": "onnx", ".pt2": "export"}
_QUERIES = 500
"""Queries of Square on an artefact without gradients; it begins at the points of the trained model."""
SCHEMA = "advreg/artefact@1"


def load_artefact(name: str) -> nn.Module:
    """Return the model of an artefact.

    Args:
        name: an ``.onnx`` or ``.pt2`` (torch.export) file, float or int8, or any other name of `advreg.load_model`.

    Returns:
        The model.

    Raises:
        ModelError: a file of another kind, or one that cannot be read.
        MissingExtraError: the library that runs it is not installed.

    Example:
        >>> load_artefact("net.pte")
        Traceback (most recent call last):
        advreg.errors.ModelError: net.pte is an ExecuTorch program, which runs on its own runtime alone; give the .pt2 that it \
was made from, or serve it and give http://...
    """
    suffix = Path(name).suffix
    if suffix == ".pte":
        raise ModelError(
            f"{name} is an ExecuTorch program, which runs on its own runtime alone; give the .pt2 that it was made from, "
            "or serve it and give http://..."
        )
    bare = suffix in _SCHEMES and not name.startswith(f"{_SCHEMES[suffix]}:")
    return models.load(f"{_SCHEMES[suffix]}:{name}" if bare else name)


def gate_artefact(
    trained: nn.Module,
    artefact: nn.Module | str | Path,
    data: Data,
    threat: ThreatModel | str,
    *,
    protocol: str = "quick",
    n: int | None = 500,
    margin: float = 0.02,
    alpha: float = 0.05,
    seed: int = 0,
    names: tuple[str, str] = ("trained", "artefact"),
    out: str | Path | None = None,
) -> Decision:
    """Decide whether a deployed artefact is as accurate and as robust as the model that was trained.

    Both are attacked on the same examples, and an example counts as broken for a model if a point breaks it that was made
    on either of the two. An artefact without gradients, such as an int8 or an ONNX file, is attacked by Square from the
    points of the trained model on. Clean and robust accuracy must not be worse by the margin (exact paired non-inferiority
    tests, Holm).

    Args:
        trained: the trained model, in eval mode.
        artefact: a model, an ``.onnx`` or ``.pt2`` file, or a name of `advreg.load_model`.
        data: data in any form of `advreg.evaluate`.
        threat: a threat model, or text such as ``"linf:8/255"``.
        protocol: of the attack on a model with gradients.
        n: number of examples, from the first; all if None.
        margin: accepted loss of clean and of robust accuracy.
        alpha: level of the tests together.
        seed: seed of the random draws.
        names: of the two in the decision.
        out: folder to write ``decision.json`` and ``ledger.jsonl`` into, a row for each example.

    Returns:
        The decision; ``promote`` is True if the artefact may be shipped.

    Raises:
        ModelError: an artefact that cannot be read, or that maps the inputs to other outputs than logits.
        DataError: data that cannot be used.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> x, y = torch.rand(300, 1, 2, 2), torch.tensor([0, 1] * 150)
        >>> gate_artefact(net, net, (x, y), "linf:0.05", n=300).verdict
        'PROMOTE'
    """
    shipped = artefact if isinstance(artefact, nn.Module) else load_artefact(str(artefact))
    threat = threat_on(data, threat)
    examples = examples_of(data, n, threat, input_dtype(trained))
    shipped = models.among(shipped, examples.outputs)
    models.check_model(shipped, examples.x[:8], y=examples.y)
    base = resolve(protocol, threat.norm, limited=threat.limits is not None)
    first = _attack(trained, examples, threat, base, seed)
    second = _attack(shipped, examples, threat, _protocol_for(shipped, base, first.points, examples), seed)
    results = _cross(trained, first, second, examples, threat), _cross(shipped, second, first, examples, threat)
    rules = Rules(clean_margin=margin, slice_margin=margin, alpha=alpha)
    facts = {"protocol": f"{base.id(threat)} both ways", "data": examples.sha256, "n": len(examples), "seed": seed}
    before, after = (_results(side, name, facts, examples.y) for side, name in zip(results, names, strict=True))
    decision = decide_artefact(before, after, rules)
    if out is not None:
        _write(RunFolder.at(out), decision, results, examples.y)
    return decision


@dataclass(frozen=True, eq=False)
class AttackedModel:
    """A model, the points of the attack on it ``(N, ...)``, its predictions, and what its own and the other's points broke."""

    model: nn.Module
    points: Tensor
    own: Tensor
    other: Tensor
    clean: Tensor

    @property
    def broken(self) -> Tensor:
        """Whether each example is misclassified or broken by a point of either model ``(N,)``."""
        return self.own | self.other


def _attack(model: nn.Module, examples: Examples, threat: ThreatModel, protocol: Protocol, seed: int) -> AttackedModel:
    """Run a protocol and keep, for each example, the point of the last attack on it."""
    points = examples.x.clone()
    stages = tuple(replace(stage, attack=_recording(stage.attack, points)) for stage in protocol.stages)
    found = evaluate(model, (examples.x, examples.y), threat, protocol=replace(protocol, stages=stages), seed=seed)
    clean = attacks.verify(model, examples.x, examples.x, examples.y, threat)
    return AttackedModel(model, points, found.broken, torch.zeros_like(clean), clean)


def _recording(attack: Callable[..., Any], points: Tensor) -> Callable[..., Any]:
    """Return the attack, which also writes its points to the rows of their examples."""

    def run(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, ids: Tensor, **options: Any) -> Any:
        found = attack(model, x, y, threat, **filter_kwargs(attack, ids=ids, **options))
        points[ids.cpu()] = found.x_adv.detach().to(points)
        return found

    return run


def _cross(
    model: nn.Module, mine: AttackedModel, others: AttackedModel, examples: Examples, threat: ThreatModel
) -> AttackedModel:
    """Return the attacked model with what the points of the other one break."""
    return replace(mine, other=attacks.verify(model, examples.x, others.points, examples.y, threat))


def _protocol_for(model: nn.Module, base: Protocol, points: Tensor, examples: Examples) -> Protocol:
    """Return the protocol for a model: the given one, or Square from given points on for one without gradients."""
    if has_gradients(model, examples.x[:8], examples.y[:8]):
        return base

    def give(_: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, ids: Tensor, seed: int) -> Any:
        return attacks.CraftedExamples(points[ids.cpu()].to(x), 0, 0)

    replay = partial(attacks.transfer, surrogate=model, attack=give)
    square = partial(attacks.square, queries=_QUERIES, p=0.1, warm_start=replay)
    return Protocol("square-from-trained", 1, (ProtocolStage("square-from-trained", square, needs_gradient=False),))


def has_gradients(model: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Return whether the loss of a model has a gradient in its inputs that is not zero everywhere.

    Args:
        model: any model.
        x: inputs ``(B, ...)``.
        y: labels ``(B,)``.

    Returns:
        False for models that only predict, and where rounding hides the gradient.

    Example:
        >>> x, y = torch.rand(2, 4), torch.tensor([0, 1])
        >>> has_gradients(nn.Linear(4, 2), x, y), has_gradients(lambda x: x.round(), x, y)
        (True, False)
    """
    if getattr(model, "score_only", False):
        return False
    x = x.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            loss = F.cross_entropy(model(x).float(), y, reduction="sum")
            (found,) = torch.autograd.grad(loss, x, allow_unused=True)
    except (RuntimeError, NotImplementedError):  # an operation without a derivative
        return False
    return found is not None and bool((found != 0).any())


def _results(side: AttackedModel, name: str, facts: dict[str, Any], y: Tensor) -> GateResults:
    return GateResults(
        run=name,
        **facts,
        model=models.describe(side.model)["sha256"],
        labels=dict(enumerate(y.tolist())),
        wrong=frozenset(side.clean.nonzero().flatten().tolist()),
        broken=frozenset(side.broken.nonzero().flatten().tolist()),
    )


def _write(folder: RunFolder, decision: Decision, sides: tuple[AttackedModel, AttackedModel], y: Tensor) -> None:
    """Write the decision, and a row for each example: what is wrong, broken by own points, and broken by the other's."""
    header = {"schema": SCHEMA} | {key: decision.champion[key] for key in ("protocol", "data", "n", "seed")}
    columns = {"label": y.tolist()} | _columns("trained", sides[0]) | _columns("artefact", sides[1])
    rows = [{"id": i} | {name: column[i] for name, column in columns.items()} for i in range(len(y))]
    folder.write("ledger.jsonl", "".join(json.dumps(row) + "\n" for row in (header, *rows)))
    decision.write(folder.path)


def _columns(name: str, side: AttackedModel) -> dict[str, list[bool]]:
    parts = {"wrong": side.clean, "broken_by_own": side.own, "broken_by_other": side.other}
    return {f"{name}_{key}": column.tolist() for key, column in parts.items()}

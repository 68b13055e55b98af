"""`certify`: prove that examples are robust, attack those that are not proved, decide the rest exactly where that is possible.

model, data -> chunks of 256 -> IBP -> CROWN -> alpha-CROWN -> attack -> branch and bound -> MILP -> rows -> ledger -> figures
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advreg import models
from advreg.attacks.model import input_dtype
from advreg.bounds.graph import Graph, trace
from advreg.certification.book import Book, CertificationProgress
from advreg.certification.methods import METHODS, Undecided, exact_copy
from advreg.certification.witnesses import check_no_contradiction
from advreg.errors import ConfigError, ModelError
from advreg.evaluation.examples import examples_of, threat_on
from advreg.evaluation.protocols import Protocol
from advreg.results.certificate import Certification
from advreg.results.ledger_rows import UNIT, Row
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.data.adapters import Data

PROTOCOL = Protocol("certified", 1, ())


def certify(
    model: nn.Module,
    data: Data,
    threat: ThreatModel | str,
    *,
    method: str = "auto",
    budget: int = 1000,
    n: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    on_progress: Callable[[CertificationProgress], None] | None = None,
) -> Certification:
    """Measure robust accuracy from both sides: a share that is proved, and a share that attacks leave.

    An example is proved if every margin of its label has a positive lower bound over all valid inputs, by more than rounding
    in the model's precision can take away. It is broken if the original model misclassifies it or a verified point. What is
    neither is open. Feed-forward networks of affine operations, max pooling, ReLU, leaky ReLU, sigmoid and tanh
    have bounds.

    Args:
        model: maps inputs ``(B, ...)`` in the threat's box to logits ``(B, K)``; float32 or float64, eval mode, on the CPU.
        data: a data set, a pair ``(x, y)``, a DataLoader or any other form of ``docs/your-data.md``.
        threat: norm and eps, one number for all examples: a `ThreatModel`, or text such as ``"linf:0.1"``.
        method: ``"ibp"``, ``"crown"``, ``"alpha"``, ``"complete"`` (bounds, then exact methods, no attack) or ``"auto"``
            (bounds, an attack on what they leave, then exact methods).
        budget: domains of branch and bound for each margin.
        n: how many examples, from the first; all by default.
        seed: seed of the attacks' random draws.
        out: run folder to write ``evaluation/<protocol id>/`` into; an interrupted certification there is resumed.
            What evaluations of the same model, data and threat model in it broke is not attacked again.
        on_progress: called after each chunk of 256 examples.

    Returns:
        A `Certification`.

    Raises:
        ModelError: a model that is random, in train mode, of 16 bits, or with an operation that has no bound.
        ConfigError: another method.
        DataError: inputs that do not fit the box or the labels.
        RunError: ``out`` holds the ledger of another model, data set or budget, or an evaluation there broke an example that is
            proved.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
        >>> x, y = torch.rand(8, 1, 2, 2), torch.tensor([0, 1] * 4)
        >>> found = certify(net, (x, y), "linf:0.02")
        >>> found.certified_accuracy <= found.robust_accuracy <= found.clean_accuracy
        True

    Reference: Zhang et al., "Efficient neural network robustness certification with general activation functions", NeurIPS
    2018, arXiv:1811.00866; Tjeng, Xiao, Tedrake, "Evaluating robustness of neural networks with mixed integer programming",
    ICLR 2019, arXiv:1711.07356.
    """
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; allowed: {', '.join(METHODS)}")
    if budget < 1:
        raise ConfigError(f"budget is {budget}; give the domains of branch and bound, 1 or more")
    threat = threat_on(data, threat)
    examples = examples_of(data, n, threat, input_dtype(model))
    model = models.among(model, examples.outputs)
    _require_kind(model)
    models.check_model(model, examples.x[:8])
    names = [step.__name__ for step in METHODS[method]]
    settings = {"method": method, "budget": budget, "seed": seed}
    book = Book.open(PROTOCOL.id(threat), out, model=model, examples=examples, settings=settings, names=names)
    graphs: tuple[Graph, Graph] | None = None
    with torch.no_grad():
        for ids in torch.split(torch.arange(len(examples)), UNIT):
            if not book.holds(ids):
                graphs = graphs or (trace(model, examples.x[:2]), exact_copy(model, examples.x[:2]))
                known = frozenset(k for k, i in enumerate(ids.tolist()) if i in book.witnesses)
                state = Undecided(model, *graphs, examples.x[ids], examples.y[ids], threat, seed, budget, known)
                rows = _decide_chunk(state, ids, method, book)
                check_no_contradiction(rows, book.witnesses)
                book.write(rows)
            if on_progress:
                on_progress(book.progress(len(examples)))
    return book.finish(threat, examples, seed)


def _require_kind(model: nn.Module) -> None:
    dtypes = {p.dtype for p in model.parameters()} - {torch.float32, torch.float64}
    if dtypes:
        raise ModelError(
            f"the model has weights of {dtypes.pop()}; bounds are computed in float32 and wider: model.float()"
        )
    if any(p.device.type != "cpu" for p in model.parameters()):
        raise ModelError("certificates are computed on the CPU; give model.cpu()")


def _decide_chunk(state: Undecided, ids: Tensor, method: str, book: Book) -> list[Row]:
    """Run the methods on a chunk; return one row for each example."""
    for step in METHODS[method]:
        if not len(state.left()):
            break
        began = time.process_time()
        step(state)
        book.seconds[step.__name__] = book.seconds.get(step.__name__, 0.0) + time.process_time() - began
    return [_row(state, position, i) for position, i in enumerate(ids.tolist())]


def _row(state: Undecided, position: int, i: int) -> Row:
    lower = float(state.lower[position])
    return {
        "attack": "certificate",
        "id": i,
        "label": int(state.y[position]),
        "verdict": state.verdict[position] or "open",
        "method": state.method[position],
        "broken": state.verdict[position] == "broken",
        "lower": lower if abs(lower) < float("inf") else None,
        "domains": int(state.domains[position]),
        "unstable": int(state.unstable[position]),
        "forwards": int(state.cost[position, 0]),
        "backwards": int(state.cost[position, 1]),
    }

"""`certify`: prove that examples are robust, attack those that are not proved, decide the rest exactly where that is possible.

model, data -> chunks of 256 -> IBP -> CROWN -> alpha-CROWN -> attack -> branch and bound -> MILP -> rows -> ledger -> figures
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from advreg import models
from advreg.attacks.model import input_dtype
from advreg.bounds.graph import trace
from advreg.certification.book import Book, CertificationProgress
from advreg.certification.known_verdicts import check_no_contradiction
from advreg.certification.methods import METHODS, exact_copy
from advreg.certification.outside_verdicts import outside_verdicts
from advreg.certification.undecided import Known, Subject, Undecided
from advreg.errors import ConfigError, ModelError
from advreg.evaluation.examples import Examples, examples_of, threat_on
from advreg.evaluation.protocols import Protocol
from advreg.results.certificate import Certification
from advreg.results.ledger_rows import UNIT, Row
from advreg.runs.files import read_first
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.data.adapters import Data

Settled = Callable[[Examples], Mapping[int, tuple[str, str]]]
_CLASSES = 4096
"""Classes of which the margins of 16 examples fit into a gigabyte."""
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
    verdicts: str | Path | None = None,
    on_progress: Callable[[CertificationProgress], None] | None = None,
) -> Certification:
    """Measure robust accuracy from both sides: a share that is proved, and a share that attacks leave.

    An example is proved if every margin of its label has a positive lower bound over all valid inputs, by more than rounding
    in the model's precision can take away. It is broken if the original model misclassifies it or a verified point. What is
    neither is open. Feed-forward networks of affine operations, max pooling, ReLU, leaky ReLU, sigmoid and tanh
    have bounds, and so have SiLU and GELU.

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
        verdicts: results of another verifier, ``model,property,...,sat|unsat,...`` lines in the folder that
            ``advreg export --vnnlib`` wrote. ``unsat`` counts as proved, under the name of the file; ``sat`` only with a
            counterexample that the model misclassifies.
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
    settings = CertifySettings(method, budget, seed)
    threat = threat_on(data, threat)
    settled = None if verdicts is None else partial(_outside, Path(verdicts), model, threat)
    return certify_known(model, data, threat, settings, settled=settled, n=n, out=out, on_progress=on_progress)


def _outside(file: Path, model: nn.Module, threat: ThreatModel, examples: Examples) -> dict[int, tuple[str, str]]:
    if file.stem in {step.__name__ for step in METHODS["auto"]}:
        raise ConfigError(f"{file.name} is called as a method of ours; name it after the verifier, such as abcrown.csv")
    return outside_verdicts(file, model, models.describe(model)["sha256"], examples, threat)


@dataclass(frozen=True)
class CertifySettings:
    """What the rows of a certification depend on, besides model, data and threat.

    Attributes:
        method: name of the list of methods.
        budget: domains of branch and bound for each margin.
        seed: of the attacks.
    """

    method: str = "auto"
    budget: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"method is {self.method!r}; allowed: {', '.join(METHODS)}")
        if self.budget < 1:
            raise ConfigError(f"budget is {self.budget}; give the domains of branch and bound, 1 or more")


def certify_as_recorded(
    model: nn.Module, data: Data, threat: ThreatModel, *, n: int | None, seed: int, out: str | Path | None
) -> Certification:
    """Return the certificate that a run folder holds, or else prove what bounds prove.

    Args:
        model: the model.
        data: the examples.
        threat: the threat model.
        n: how many examples, from the first.
        seed: of a new certificate.
        out: run folder, or None.

    Returns:
        A `Certification`.
    """
    path = None if out is None else Path(out) / "evaluation" / PROTOCOL.id(threat) / "ledger.jsonl"
    header = None if path is None else read_first(path)
    settings = CertifySettings("alpha", seed=seed)
    if header is not None:
        settings = CertifySettings(header["method"], header["budget"], header["seed"])
    return certify_known(model, data, threat, settings, n=n, out=out)


def certify_known(
    model: nn.Module,
    data: Data,
    threat: ThreatModel,
    settings: CertifySettings,
    *,
    settled: Settled | None = None,
    n: int | None = None,
    out: str | Path | None = None,
    on_progress: Callable[[CertificationProgress], None] | None = None,
) -> Certification:
    """Certify as `certify` does, with verdicts from elsewhere that are not computed again.

    Args:
        model: the model.
        data: the examples.
        threat: the threat model.
        settings: methods, budget and seed.
        settled: ``examples -> {id: (verdict, method)}``, called once the examples are read; None for no verdicts.
        n: how many examples, from the first; all by default.
        out: run folder.
        on_progress: called after each chunk of 256 examples.

    Returns:
        A `Certification`.
    """
    examples = examples_of(data, n, threat, input_dtype(model))
    model = models.among(model, examples.outputs)
    _require_kind(model)
    models.check_model(model, examples.x[:8])
    names = [step.__name__ for step in METHODS[settings.method]]
    facts = asdict(settings)
    book = Book.open(
        PROTOCOL.id(threat), out, model=model, examples=examples, threat=threat, settings=facts, names=names
    )
    elsewhere = {} if settled is None else settled(examples)
    known = replace(book.known, settled={**book.known.settled, **elsewhere})
    subject: Subject | None = None
    with torch.no_grad():
        for ids in torch.split(torch.arange(len(examples)), UNIT):
            if not book.holds(ids):
                subject = subject or _subject(model, examples, threat, settings, known)
                rows = _decide_chunk(Undecided(subject, ids), settings.method, book)
                check_no_contradiction(rows, known.broken)
                book.write(rows)
            if on_progress:
                on_progress(book.progress(len(examples)))
    return book.finish(threat, examples, settings.seed)


def _subject(
    model: nn.Module, examples: Examples, threat: ThreatModel, settings: CertifySettings, known: Known
) -> Subject:
    """Return what all chunks share; the network is traced in its own precision and in float64."""
    sample = examples.x[:2]
    graph = trace(model, sample)
    classes = graph.nodes[-1].shape[0]
    if classes > _CLASSES:
        raise ModelError(
            f"the model has {classes} classes, and bounds compare each with every other: {_CLASSES} at most; randomised "
            "smoothing certifies any number: certify_smoothed, or --sigma"
        )
    exact = exact_copy(model, sample)
    return Subject(model, graph, exact, examples, threat, settings.seed, settings.budget, known)


def _require_kind(model: nn.Module) -> None:
    dtypes = {p.dtype for p in model.parameters()} - {torch.float32, torch.float64}
    if dtypes:
        raise ModelError(
            f"the model has weights of {dtypes.pop()}; bounds are computed in float32 and wider: model.float()"
        )
    if any(p.device.type != "cpu" for p in model.parameters()):
        raise ModelError("certificates are computed on the CPU; give model.cpu()")


def _decide_chunk(state: Undecided, method: str, book: Book) -> list[Row]:
    """Run the methods on a chunk; return one row for each example."""
    for step in METHODS[method]:
        if not len(state.left()):
            break
        began = time.process_time()
        step(state)
        book.seconds[step.__name__] = book.seconds.get(step.__name__, 0.0) + time.process_time() - began
    return [_row(state, position) for position in range(len(state.ids))]


def _row(state: Undecided, position: int) -> Row:
    lower = float(state.lower[position])
    forwards, backwards, bounds = state.cost[position].tolist()
    return {
        "attack": "certificate",
        "id": int(state.ids[position]),
        "label": int(state.y[position]),
        "verdict": state.verdict[position] or "open",
        "method": state.method[position],
        "broken": state.verdict[position] == "broken",
        "lower": lower if abs(lower) < float("inf") else None,
        "domains": int(state.domains[position]),
        "unstable": int(state.unstable[position]),
        "forwards": forwards,
        "backwards": backwards,
        "bound_passes": bounds,
    }

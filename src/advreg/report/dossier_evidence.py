"""What fills the fields of a dossier: small functions from the facts of a run to findings, each with the file behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from advreg.report import prose, threat_taxonomy
from advreg.report.facts import EvaluationFacts, RunFacts
from advreg.report.formatting import count, eps_text, interval, percent, threat_option
from advreg.report.record import load, load_or_empty


@dataclass(frozen=True)
class Finding:
    """A measurement in words, and the file of the run folder that holds it."""

    text: str
    file: str


Fill = Callable[[RunFacts], list[Finding]]


def _ledger(run: RunFacts, protocol: str) -> str:
    """Return the ledger of an evaluation, or its results where there is no ledger."""
    folder = f"evaluation/{protocol}"
    return next(f"{folder}/{name}" for name in ("ledger.jsonl", "results.json") if _exists(run, f"{folder}/{name}"))


def _exists(run: RunFacts, name: str) -> bool:
    return (run.path / name).is_file()


def _each(run: RunFacts, say: Callable[[EvaluationFacts], str]) -> list[Finding]:
    """Return what a function says about each evaluation; an empty text is no finding."""
    texts = [(say(facts), facts.protocol) for facts in run.evaluations]
    return [Finding(f"{protocol}: {text}", _ledger(run, protocol)) for text, protocol in texts if text]


def _of(facts: EvaluationFacts, share: float, ends: tuple[float, float] | None) -> str:
    return f"{percent(share, facts.n)} of {count(facts.n)} {facts.words.examples} ({interval(ends, facts.n)})"


def clean_accuracy(run: RunFacts) -> list[Finding]:
    """Return the accuracy without an attack.

    Args:
        run: facts of the run.
    """
    return _each(run, lambda facts: f"clean accuracy {_of(facts, facts.clean_accuracy, facts.clean_interval)}")


def robust_accuracy(run: RunFacts) -> list[Finding]:
    """Return the accuracy under attack, with the verdict on it.

    Args:
        run: facts of the run.
    """

    def say(facts: EvaluationFacts) -> str:
        verdict = facts.verdict or "not diagnosed"
        figure = _of(facts, facts.robust_accuracy, facts.interval)
        return f"robust accuracy {figure} at {threat_option(facts.threat)}, an upper bound; verdict {verdict}"

    return _each(run, say)


def attack_success(run: RunFacts) -> list[Finding]:
    """Return the attack success rate, and what each attack broke.

    Args:
        run: facts of the run.
    """

    def say(facts: EvaluationFacts) -> str:
        if facts.attack_success_rate is None:
            return ""
        broken = ", ".join(f"{attack.name} {attack.broken} of {attack.tried}" for attack in facts.attacks)
        return f"attack success rate {percent(facts.attack_success_rate, facts.n)}; broken: {broken or 'not recorded'}"

    return _each(run, say)


def threat(run: RunFacts) -> list[Finding]:
    """Return the threat model in words.

    Args:
        run: facts of the run.
    """
    return _each(run, lambda facts: f"{threat_option(facts.threat)}: {prose.threat(facts.threat)}")


def classes(run: RunFacts) -> list[Finding]:
    """Return the least robust class, and the spread over classes.

    Args:
        run: facts of the run.
    """

    def say(facts: EvaluationFacts) -> str:
        rows = sorted(facts.per_class, key=lambda row: (row.robust_accuracy, row.name))
        if len(rows) < 2:
            return ""
        ends = [f"{row.name} {percent(row.robust_accuracy, row.n)}" for row in (rows[0], rows[-1])]
        return f"robust accuracy by class from {ends[0]} to {ends[1]}, {len(rows)} classes"

    return _each(run, say)


def curve(run: RunFacts) -> list[Finding]:
    """Return robust accuracy over eps.

    Args:
        run: facts of the run.
    """
    return [
        Finding(
            f"{facts.protocol}: robust accuracy at {facts.curve.norm} "
            + ", ".join(f"{eps_text(p.eps)}: {percent(p.robust_accuracy, facts.curve.n)}" for p in facts.curve.points),
            f"evaluation/{facts.protocol}/curve.json",
        )
        for facts in run.evaluations
        if facts.curve is not None and facts.curve.points
    ]


def corruptions(run: RunFacts) -> list[Finding]:
    """Return accuracy under common corruptions.

    Args:
        run: facts of the run.
    """
    return [
        Finding(
            f"mean accuracy under {len(found.rows)} corruptions {percent(found.mean_accuracy, found.n)}, "
            f"clean {percent(found.clean_accuracy, found.n)}, {count(found.n)} images",
            f"evaluation/{facts.protocol}/corruptions.json",
        )
        for facts in run.evaluations
        if (found := facts.corruptions) is not None
    ]


def certificate(run: RunFacts) -> list[Finding]:
    """Return what was proved.

    Args:
        run: facts of the run.
    """
    return [
        Finding(
            f"{found.protocol}: {percent(found.certified_accuracy, found.n)} of {count(found.n)} proved, {found.open} open"
            + ("" if found.noise is None else f", of the model smoothed with noise {found.noise:g}"),
            f"evaluation/{found.protocol}/certificate.json",
        )
        for found in run.certificates
    ]


def diagnosis(run: RunFacts) -> list[Finding]:
    """Return the verdict of the diagnosis.

    Args:
        run: facts of the run.
    """
    if not _exists(run, "diagnosis.json"):
        return []
    found = load(run.path / "diagnosis.json")
    checks = list(found.rows("checks"))
    poor = [row.text("name") for row in checks if row.text("verdict") in ("suspect", "fail")]
    says = f"; not passed: {', '.join(poor)}" if poor else ""
    return [
        Finding(
            f"verdict {found.text('verdict')} on {found.text('claim')}, {len(checks)} checks{says}", "diagnosis.json"
        )
    ]


def white_box(run: RunFacts) -> list[Finding]:
    """Return the attacks that used gradients.

    Args:
        run: facts of the run.
    """
    return _attacks(run, "AML.T0043.000")


def black_box(run: RunFacts) -> list[Finding]:
    """Return the attacks that used queries alone.

    Args:
        run: facts of the run.
    """
    return _attacks(run, "AML.T0043.001")


def transfer(run: RunFacts) -> list[Finding]:
    """Return the attacks with points of another model, in evaluations and in the diagnosis.

    Args:
        run: facts of the run.
    """
    found = _attacks(run, "AML.T0043.002")
    if _exists(run, "diagnosis.json"):
        rows = load(run.path / "diagnosis.json").rows("checks")
        tried = [row for row in rows if row.text("name") == "transfer" and row.text("verdict") != "skipped"]
        found += [
            Finding(f"diagnosis, transfer: {row.text('verdict')}, {row.text('says')}", "diagnosis.json")
            for row in tried
        ]
    return found


def _attacks(run: RunFacts, technique: str) -> list[Finding]:
    """Return the attacks of each evaluation that use a technique of MITRE ATLAS."""

    def say(facts: EvaluationFacts) -> str:
        mine = [a for a in facts.attacks if technique in {known for known, _ in threat_taxonomy.atlas([a.name])}]
        return ", ".join(f"{attack.name} broke {attack.broken} of {attack.tried}" for attack in mine)

    return _each(run, say)


def mitigations(run: RunFacts) -> list[Finding]:
    """Return adversarial training by its configuration, and certificates.

    Args:
        run: facts of the run.
    """
    trained = [] if run.config is None or not run.epochs else [_training(run)]
    return trained + certificate(run)


def _training(run: RunFacts) -> Finding:
    last = run.epochs[-1]
    shares = {"clean": last.clean_accuracy, "robust": last.robust_accuracy}
    figures = ", ".join(f"{name} accuracy {percent(share)}" for name, share in shares.items() if share is not None)
    end = f"; at the end {figures}" if figures else ""
    return Finding(f"trained by run.toml for {len(run.epochs)} epochs{end}", "run.toml")


def documentation(run: RunFacts) -> list[Finding]:
    """Return data, seed and versions of each evaluation.

    Args:
        run: facts of the run.
    """

    def say(facts: EvaluationFacts) -> str:
        data, model = facts.data, facts.model
        versions = ", ".join(f"{key} {value}" for key, value in facts.environment.items() if isinstance(value, str))
        parts = [f"data {data.get('name', 'not named')} (SHA-256 {str(data.get('sha256', 'not recorded'))[:16]})"]
        parts += [f"n {facts.n}, seed {facts.seed}", f"weights SHA-256 {str(model.get('sha256', 'not recorded'))[:16]}"]
        return "; ".join([*parts, *([versions] if versions else [])])

    return _each(run, say)


def gate(run: RunFacts) -> list[Finding]:
    """Return the decision on this run as a challenger.

    Args:
        run: facts of the run.
    """
    return _decisions(run, ["decision.json"])


def artefact(run: RunFacts) -> list[Finding]:
    """Return the decisions on deployed files of this run.

    Args:
        run: facts of the run.
    """
    files = sorted(run.path.glob("artefacts/*/decision.json"))
    return _decisions(run, [file.relative_to(run.path).as_posix() for file in files])


def _decisions(run: RunFacts, names: Iterable[str]) -> list[Finding]:
    present = {name: load(run.path / name) for name in names if _exists(run, name)}
    return [
        Finding(
            f"{found.text('verdict')}: "
            + "; ".join(f"{row.text('name')}: {row.text('says')}" for row in found.rows("tests")),
            name,
        )
        for name, found in present.items()
    ]


def backdoor_probes(run: RunFacts) -> list[Finding]:
    """Return the probes for triggers and poisoned data.

    Args:
        run: facts of the run.
    """
    rows = load_or_empty(run.path / "probes.json").get("checks")
    return [
        Finding(
            f"{row.get('name')}: {'passed' if row.get('passed') is True else 'failed'}, {row.get('says')}",
            "probes.json",
        )
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict)
    ]


def nothing(run: RunFacts) -> list[Finding]:
    """Return no finding: advreg does not measure this.

    Args:
        run: facts of the run.
    """
    return []


FILLS: Mapping[str, Fill] = {
    fill.__name__: fill
    for fill in (
        artefact, attack_success, backdoor_probes, black_box, certificate, classes, clean_accuracy, corruptions, curve,
        diagnosis, documentation, gate, mitigations, nothing, robust_accuracy, threat, transfer, white_box,
    )
}  # fmt: skip
"""The functions that ``dossier.toml`` names."""

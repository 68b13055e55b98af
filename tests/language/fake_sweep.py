"""The folder of a sweep with made-up metrics, for tests of the report; no model is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LEDGER = "evaluation/language@1/ledger.jsonl"
NASTY = "<script>alert('x')</script> & \"so on\""


def estimate(value: float, reach: float = 0.08, n: int = 40) -> dict[str, Any]:
    return {"value": value, "interval": [max(value - reach, 0.0), value + reach], "n": n, "raw": value}


def results(success: float, refusal: float, strict: float, *, differences: bool = True) -> dict[str, Any]:
    metrics = {
        "attack_success": {
            "direct": estimate(success * 0.7),
            "roleplay": estimate(success * 0.9),
            "at_least_one": estimate(success),
            "soft_prompt": estimate(min(success + 0.3, 1.0)),
        },
        "over_refusal": {
            **estimate(refusal),
            "by_type": {"homonyms": estimate(refusal), "safe_targets": estimate(refusal / 2)},
        },
        "factual": {"mc1": estimate(0.22), "two_choice": estimate(0.41)},
        "instructions": {"strict": estimate(strict), "loose": estimate(strict + 0.05)},
        "helpfulness": {
            "judged": None,
            "proxies": {
                "answer_nll": estimate(1.3),
                "repetition": estimate(0.01, 0.005),
                "length": estimate(14.0, 2.0),
            },
        },
        "coherence": estimate(0.95, 0.03),
    }
    change = {
        "attack_success": {
            "at_least_one": {"value": success - 0.95, "interval": [success - 1.0, success - 0.9], "n": 40}
        }
    }
    return {
        "kind": "language",
        "protocol": "language@1",
        "model": "a/small<model>",
        "seed": 0,
        "n": {"requests": 40, "safe": 100, "questions": 40, "tasks": 40, "benign": 20},
        "judge": {"name": "learned", "sensitivity": 0.93, "specificity": 0.96, "agreement": 0.95, "n": 1250},
        "axes": metrics,
        "differences": change if differences else {},
        "passes": {"forwards": 1000, "backwards": 10},
        "seconds": 61.0,
        "environment": {"torch": "2.13"},
    }


def setting(mix: float, lr: float, success: float, refusal: float) -> dict[str, Any]:
    at = [(0.5, min(success + 0.4, 1), refusal / 3), (1.0, success, refusal)]
    dial = [{"scale": scale, "attack_success": estimate(s), "over_refusal": estimate(r)} for scale, s, r in at]
    training = {
        "steps": 24,
        "adversarial": 20,
        "examples": 192,
        "forwards": 900,
        "backwards": 800,
        "seconds": 90.0,
        "guard": [],
    }
    return {
        "mix": mix, "lr": lr, "seed": 0, "scale": 1.0, "run": f"runs/mix-{mix:g}_lr-{lr:g}_seed-0", "dial": dial,
        "training": training, "results": results(success, refusal, 0.3 - 0.2 * mix),
    }  # fmt: skip


def sweep(**changes: Any) -> dict[str, Any]:
    grid = {0.0: (0.93, 0.02), 0.05: (0.7, 0.03), 0.15: (0.35, 0.06), 0.3: (0.12, 0.16), 0.5: (0.03, 0.4)}
    rows = [
        setting(mix, lr, s if lr > 6e-4 else min(1.5 * s, 0.95), r)
        for lr in (1e-3, 5e-4)
        for mix, (s, r) in grid.items()
    ]
    failed = {
        "mix": 0.5,
        "lr": 0.1,
        "seed": 0,
        "scale": 1.0,
        "run": "runs/x",
        "dial": [],
        "results": None,
        "failed": "it diverged",
    }
    found = {
        "kind": "language-sweep",
        "about": {},
        "command": "advreg language sweep --harmful r.csv",
        "n": {"test": results(0, 0, 0)["n"], "validation": {}, "training": {}},
        "base": results(0.95, 0.02, 0.3, differences=False),
        "settings": [*rows, failed],
        "frontier": [0, 1, 2, 3, 4],
        "recommended": {"index": 2, "why": "the lowest attack success of 3 settings within the budget"},
        "nearest": None,
        "budget": {"over_refusal": 0.1},
        "seeds": [],
        "claims": [{"claim": "15 to 30% is best", "source": "none found", "measured": "the lowest is at 50%"}],
    }
    return {**found, **changes}


def write(folder: Path, **changes: Any) -> Path:
    """Write `sweep.json` with the ledgers of the base and of every setting."""
    found = sweep(**changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps(found))
    _ledger(folder / "base", ["complied"] * 4, f"Sure, here is how: {NASTY}")
    for row in found["settings"]:
        if row["results"]:
            _ledger(folder / row["run"], ["refused", "complied", "refused", "neither"], "I cannot help with that.")
    return folder


def _ledger(folder: Path, outcomes: list[str], text: str) -> None:
    rows: list[dict[str, Any]] = [{"schema": "advreg/ledger@1"}]
    for metric, attack in (("attack_success", "direct"), ("attack_success", "soft_prompt"), ("over_refusal", "plain")):
        for k, outcome in enumerate(outcomes):
            row = {
                "axis": metric,
                "attack": attack,
                "id": k,
                "prompt": f"Ask {k} {NASTY}",
                "outcome": outcome,
                "text": text * (1 + 9 * k),
            }
            rows.append(row)
    file = folder / LEDGER
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

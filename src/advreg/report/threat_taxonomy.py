"""Terms of NIST AI 100-2 and MITRE ATLAS for attacks, as auditors use them."""

from __future__ import annotations

from collections.abc import Sequence

NIST = "NIST AI 100-2 E2025"
ATLAS = "MITRE ATLAS"
_BLACK_BOX = ("square", "random", "spsa", "hopskipjump", "boundary", "corruption")
_TRANSFER = ("transfer",)


def nist(attacks: Sequence[str]) -> str:
    """Return the class of an evaluation's attacks in the terms of NIST AI 100-2.

    Args:
        attacks: names of the attacks.

    Returns:
        The text.

    Example:
        >>> nist(["pgd-40"])
        'evasion attack at deployment time, violating integrity; attacker knowledge: white-box'
    """
    kinds = _kinds(attacks)
    known = " and ".join(kind for kind in ("white-box", "black-box") if kind in kinds or f"{kind} transfer" in kinds)
    return f"evasion attack at deployment time, violating integrity; attacker knowledge: {known or 'not recorded'}"


def atlas(attacks: Sequence[str]) -> list[tuple[str, str]]:
    """Return ids and names of the MITRE ATLAS techniques that the attacks use.

    Args:
        attacks: names of the attacks.

    Returns:
        Pairs of id and name.

    Example:
        >>> atlas(["square"])
        [('AML.T0015', 'Evade AI Model'), ('AML.T0043.001', 'Black-Box Optimization')]
    """
    crafted = {
        "white-box": ("AML.T0043.000", "White-Box Optimization"),
        "black-box": ("AML.T0043.001", "Black-Box Optimization"),
        "black-box transfer": ("AML.T0043.002", "Black-Box Transfer"),
    }
    kinds = _kinds(attacks)
    used = [technique for kind, technique in crafted.items() if kind in kinds]
    return [("AML.T0015", "Evade AI Model"), *(used or [("AML.T0043", "Craft Adversarial Data")])]


def _kinds(attacks: Sequence[str]) -> set[str]:
    return {_kind(name) for name in attacks}


def _kind(name: str) -> str:
    if any(part in name for part in _TRANSFER):
        return "black-box transfer"
    return "black-box" if any(part in name for part in _BLACK_BOX) else "white-box"

"""The verb ``attack``: photographs in, adversarial PNGs out, with the picture and the page that show before and after.

photograph -> the bytes a model sees -> projected gradient towards a class -> bytes inside the threat -> PNG -> judged again
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from PIL import Image
from torch import Tensor, nn

from advreg import attacks, models, runtime
from advreg.attacks.model import query_model
from advreg.cli.model_metadata import class_names, input_shape, label_of
from advreg.cli.resolution import pixel_threat
from advreg.data.images import GREY, RGB, opened, pixels
from advreg.errors import ModelError, RunError
from advreg.objectives import cross_entropy
from advreg.report import attack_page
from advreg.report.attack_page import Photograph
from advreg.report.facts import ThreatFacts
from advreg.runs import RunFolder
from advreg.threat import ThreatModel

TOP = 3
_MOMENTUM = 0.75  # steps of whole grey levels swing to and fro without it
_HAIR = 1e-3  # of a grey level: what float32 may take from a whole one


@dataclass(frozen=True)
class AttackOptions:
    """What the command line asks for."""

    images: Sequence[Path]
    model: str
    weights: Path | None = None
    target: str | None = None
    threat: str = "linf:4/255"
    steps: int = 60
    size: int | None = None
    classes: Path | None = None
    out: Path = Path("attacked")
    device: str = "auto"
    seed: int = 0
    as_json: bool = False


def run_attack(wish: AttackOptions) -> None:
    """Attack each photograph and write what came of it; prints one line for each, or one JSON object."""
    _refuse_names(wish.images)
    threat, device = pixel_threat(wish.threat), runtime.choose_device(wish.device)
    model = models.load(wish.model, weights=wish.weights).to(device)
    if isinstance(model, models.InferenceOnlyModel):
        raise ModelError(
            f"{wish.model} only answers, so there is no gradient; attack it with evaluate --protocol blackbox"
        )
    names = class_names(wish.model, model, wish.classes)
    wanted = None if wish.target is None else label_of(wish.target, names)
    channels, side = input_shape(wish.model, model)
    planes = [_read(path, channels, wish.size or side) for path in wish.images]
    found = [_attacked(model, plane.to(device), wanted, threat, wish) for plane in planes]
    folder = RunFolder.at(wish.out)
    shown = [_photograph(path, parts, names, wanted) for path, parts in zip(wish.images, found, strict=True)]
    files = [_write(folder, photo) for photo in shown]
    facts = {"model": wish.model, "target": wish.target or "any other class", "steps": wish.steps, "seed": wish.seed}
    plain = ThreatFacts(threat.norm, float(threat.eps), threat.box)
    page = folder.write("attack.html", attack_page.page(shown, plain, facts))
    if wish.as_json:
        told = [_record(photo, file) for photo, file in zip(shown, files, strict=True)]
        typer.echo(json.dumps({"threat": str(threat), **facts, "page": str(page), "images": told}))
        return
    for photo in shown:
        typer.echo(f"{photo.name}: {attack_page.verdict(photo)}, linf {255 * photo.linf:.3g}/255")
    typer.echo(f"before and after: {page}")


def towards(wanted: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the objective: away from the class that is seen, or towards the wanted one."""
    return cross_entropy if wanted is None else lambda z, y: -cross_entropy(z, y)


class InBytes(nn.Module):
    """A model that sees what a file can hold: pixels rounded to bytes, the gradient passed straight through.

    Example:
        >>> InBytes(nn.Identity())(torch.tensor([0.4999, 1.0])) * 255
        tensor([127., 255.])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the rounded images ``(B, K)``."""
        whole = (255 * x).round() / 255
        found: Tensor = self.model(x + (whole - x).detach())
        return found


def step_size(threat: ThreatModel, steps: int) -> float | None:
    """Return PGD's own step, but in linf at least one whole grey level: then rounding to bytes takes nothing away.

    Example:
        >>> step_size(ThreatModel("linf", 2 / 255), 60) == 1 / 255
        True
    """
    return max(1 / 255, 2.5 * float(threat.eps) / steps) if threat.norm == "linf" else None


def within_bytes(clean: Tensor, adversarial: Tensor, threat: ThreatModel) -> Tensor:
    """Round an attacked image to bytes without leaving the threat: to the nearest, or towards zero where that is too far.

    Args:
        clean: uint8 ``(C, H, W)``.
        adversarial: float32 ``(C, H, W)`` in [0, 1], inside the threat.
        threat: around the clean image.

    Example:
        >>> clean, moved = torch.tensor([[[100, 100]]], dtype=torch.uint8), torch.tensor([[[102.9, 97.4]]]) / 255
        >>> within_bytes(clean, moved, ThreatModel("linf", 2.9 / 255))
        tensor([[[102,  98]]], dtype=torch.uint8)
    """
    levels = adversarial.double() * 255 - clean.double()
    most = math.floor(255 * float(threat.eps) + _HAIR) if threat.norm == "linf" else 255
    nearest = levels.round().clamp(-most, most)
    inside = bool(threat.contains(((clean + nearest) / 255)[None], (clean.double() / 255)[None], tol=1e-12))
    whole = nearest if inside else (levels + _HAIR * levels.sign()).trunc()
    return (clean.double() + whole).clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class _Parts:
    before: Tensor
    after: Tensor
    scores_before: Tensor
    scores_after: Tensor


def _refuse_names(images: Sequence[Path]) -> None:
    stems = [path.stem for path in images]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise RunError(
            f"two photographs are called {twice}, and so would their results be; attack them one after the other"
        )


def _read(path: Path, channels: int, size: int | None) -> Tensor:
    with opened(path) as image:
        return pixels(image, GREY if channels == 1 else RGB, size)


def _attacked(model: nn.Module, clean: Tensor, wanted: int | None, threat: ThreatModel, wish: AttackOptions) -> _Parts:
    """Attack one photograph; the model's word on both is its word on the bytes that are written."""
    x = (clean.float() / 255)[None]
    models.check_model(model, x)
    before = _scores(model, clean)
    if wanted is not None and wanted >= len(before):
        raise ModelError(f"target {wish.target!r} is class {wanted}; the model has {len(before)} classes, from 0")
    y = torch.tensor([before.argmax() if wanted is None else wanted], device=x.device)
    walk: dict[str, Any] = {"steps": wish.steps, "step_size": step_size(threat, wish.steps), "momentum": _MOMENTUM}
    found = attacks.craft(InBytes(model), x, y, threat, objective=towards(wanted), start="zero", seed=wish.seed, **walk)
    after = within_bytes(clean, found.x_adv[0], threat)
    return _Parts(clean.cpu(), after.cpu(), before.cpu(), _scores(model, after).cpu())


@torch.no_grad()
def _scores(model: nn.Module, plane: Tensor) -> Tensor:
    return query_model(model, (plane.float() / 255)[None]).softmax(1)[0]


def _photograph(path: Path, parts: _Parts, names: Sequence[str], wanted: int | None) -> Photograph:
    change = (parts.after.double() - parts.before.double()) / 255
    seen, was = int(parts.scores_after.argmax()), int(parts.scores_before.argmax())
    return Photograph(
        name=path.name,
        before=parts.before.permute(1, 2, 0).numpy(),
        after=parts.after.permute(1, 2, 0).numpy(),
        said_before=_top(parts.scores_before, names),
        said_after=_top(parts.scores_after, names),
        followed=[
            (_name(k, names), float(parts.scores_before[k]), float(parts.scores_after[k]))
            for k in dict.fromkeys((was, seen if wanted is None else wanted))
        ],
        wanted="" if wanted is None else _name(wanted, names),
        reached=seen != was if wanted is None else seen == wanted,
        linf=float(change.abs().max()),
        l2=float(change.norm()),
    )


def _top(scores: Tensor, names: Sequence[str]) -> list[tuple[str, float]]:
    values, labels = scores.topk(min(TOP, len(scores)))
    return [(_name(k, names), value) for k, value in zip(labels.tolist(), values.tolist(), strict=True)]


def _name(label: int, names: Sequence[str]) -> str:
    return names[label] if label < len(names) else f"class {label}"


def _write(folder: RunFolder, photo: Photograph) -> dict[str, str]:
    """Write the bytes that the model saw before and after, and the picture of both."""
    stem = Path(photo.name).stem
    files = {"adversarial": f"{stem}.adversarial.png", "clean": f"{stem}.clean.png", "both": f"{stem}.before-after.png"}
    for key, picture in (("adversarial", photo.after), ("clean", photo.before)):
        folder.write(files[key], _png(picture))
    folder.write(files["both"], attack_page.side_by_side(photo))
    return {key: str(folder / name) for key, name in files.items()}


def _png(picture: attack_page.Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(buffer, format="PNG")
    return buffer.getvalue()


def _record(photo: Photograph, files: dict[str, str]) -> dict[str, Any]:
    told = {"before": photo.said_before, "after": photo.said_after}
    said: dict[str, Any] = {
        key: [{"class": name, "confidence": share} for name, share in rows] for key, rows in told.items()
    }
    said["followed"] = [{"class": name, "before": old, "after": new} for name, old, new in photo.followed]
    return {"image": photo.name, "reached": photo.reached, **said, "linf": photo.linf, "l2": photo.l2, "files": files}

"""The verb ``attack``: make adversarial PNGs from photographs, with a picture and a page that show before and after.

photograph -> bytes of the model's size -> PGD towards a class -> bytes inside the threat model -> PNG -> scores of these bytes
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
from advreg.cli.resolution import ModelSource, pixel_threat
from advreg.data.images import GREY, RGB, open_image, pixels
from advreg.errors import ModelError, RunError
from advreg.objectives import cross_entropy
from advreg.report import attack_page
from advreg.report.attack_page import Photograph
from advreg.report.facts import ThreatFacts
from advreg.runs import RunFolder
from advreg.threat import ThreatModel

TOP = 3
"""Classes listed for each picture."""
_MOMENTUM = 0.75  # without momentum, steps of whole grey levels oscillate
_SLACK = 1e-3  # grey levels that float32 rounding may lose


@dataclass(frozen=True)
class AttackOptions:
    """Options of ``advreg attack``.

    Attributes:
        images: photographs.
        model: a run folder or the name of a model.
        weights: safetensors or state dict.
        target: class to reach, by name or number; any other class if None.
        threat: ``norm:eps`` for pixels in [0, 1].
        steps: gradient steps.
        size: side in pixels; the model's own if None.
        classes: file with the names of the classes, one a line.
        out: folder for the pictures and the page.
        device: auto, cpu, cuda, ...
        seed: of all random draws.
        as_json: print one JSON object instead of text.
    """

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


def run_attack(options: AttackOptions) -> None:
    """Attack each photograph, write the pictures and the page, and print one line for each or one JSON object.

    Args:
        options: options of ``advreg attack``.

    Raises:
        ModelError: the model gives no gradient, or has no such class.
        RunError: two photographs have the same name.
        ThreatError: the threat model is not in [0, 1].
    """
    _require_distinct_names(options.images)
    threat, device = pixel_threat(options.threat), runtime.choose_device(options.device)
    ModelSource.of(options.model).require_classes("advreg attack changes the predicted class of a picture and is")
    model = models.load(options.model, weights=options.weights).to(device)
    if isinstance(model, models.InferenceOnlyModel):
        raise ModelError(f"{options.model} gives no gradient; attack it with advreg evaluate --protocol blackbox")
    names = class_names(options.model, model, options.classes)
    target = None if options.target is None else label_of(options.target, names)
    channels, side = input_shape(options.model, model)
    images = [_read(path, channels, options.size or side) for path in options.images]
    attacked = [_attack(model, image.to(device), target, threat, options) for image in images]
    folder = RunFolder.at(options.out)
    photographs = [
        _photograph(path, result, names, target) for path, result in zip(options.images, attacked, strict=True)
    ]
    files = [_write(folder, photo) for photo in photographs]
    settings = {
        "model": options.model,
        "target": options.target or "any other class",
        "steps": options.steps,
        "seed": options.seed,
    }
    plain = ThreatFacts(threat.norm, float(threat.eps), threat.box)
    page = folder.write("attack.html", attack_page.page(photographs, plain, settings))
    if options.as_json:
        records = [_record(photo, paths) for photo, paths in zip(photographs, files, strict=True)]
        typer.echo(json.dumps({"threat": str(threat), **settings, "page": str(page), "images": records}))
        return
    for photo in photographs:
        typer.echo(f"{photo.name}: {attack_page.verdict(photo)}, linf {255 * photo.linf:.3g}/255")
    typer.echo(f"before and after: {page}")


def objective_for(target: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the objective of the attack: cross entropy away from the predicted class, or minus cross entropy towards a target.

    Args:
        target: label of the target class; None for an untargeted attack.

    Returns:
        Function of logits ``(B, K)`` and labels ``(B,)``.
    """
    return cross_entropy if target is None else lambda z, y: -cross_entropy(z, y)


class InBytes(nn.Module):
    """A model behind rounding to bytes, with a straight-through gradient.

    Args:
        model: maps images in [0, 1] to logits.

    Example:
        >>> InBytes(nn.Identity())(torch.tensor([0.4999, 1.0])) * 255
        tensor([127., 255.])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the rounded images ``(B, K)``."""
        rounded = (255 * x).round() / 255
        logits: Tensor = self.model(x + (rounded - x).detach())
        return logits


def step_size(threat: ThreatModel, steps: int) -> float | None:
    """Return the step size in linf: that of PGD, and at least one grey level, so that rounding to bytes does not undo a step.

    Args:
        threat: the threat model.
        steps: number of gradient steps.

    Returns:
        The step size in pixel units; None in other norms, where PGD's default applies.

    Example:
        >>> step_size(ThreatModel("linf", 2 / 255), 60) == 1 / 255
        True
    """
    return max(1 / 255, 2.5 * float(threat.eps) / steps) if threat.norm == "linf" else None


def within_bytes(clean: Tensor, adversarial: Tensor, threat: ThreatModel) -> Tensor:
    """Round an attacked image to bytes inside the threat model: to the nearest byte, or towards the clean image where needed.

    Args:
        clean: uint8 ``(C, H, W)``.
        adversarial: float32 ``(C, H, W)`` in [0, 1], inside the threat.
        threat: the threat model around the clean image.

    Returns:
        uint8 ``(C, H, W)``.

    Example:
        >>> clean, moved = torch.tensor([[[100, 100]]], dtype=torch.uint8), torch.tensor([[[102.9, 97.4]]]) / 255
        >>> within_bytes(clean, moved, ThreatModel("linf", 2.9 / 255))
        tensor([[[102,  98]]], dtype=torch.uint8)
    """
    levels = adversarial.double() * 255 - clean.double()
    most = math.floor(255 * float(threat.eps) + _SLACK) if threat.norm == "linf" else 255
    nearest = levels.round().clamp(-most, most)
    inside = bool(threat.contains(((clean + nearest) / 255)[None], (clean.double() / 255)[None], tol=1e-12))
    whole = nearest if inside else (levels + _SLACK * levels.sign()).trunc()
    return (clean.double() + whole).clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class _AttackedImage:
    """An image and its scores before and after the attack."""

    before: Tensor
    after: Tensor
    scores_before: Tensor
    scores_after: Tensor


def _require_distinct_names(images: Sequence[Path]) -> None:
    stems = [path.stem for path in images]
    repeated = next((stem for stem in stems if stems.count(stem) > 1), None)
    if repeated is not None:
        raise RunError(f"two photographs are named {repeated}, so their results would collide; attack them separately")


def _read(path: Path, channels: int, size: int | None) -> Tensor:
    with open_image(path) as image:
        return pixels(image, GREY if channels == 1 else RGB, size)


def _attack(
    model: nn.Module, clean: Tensor, target: int | None, threat: ThreatModel, options: AttackOptions
) -> _AttackedImage:
    """Attack one photograph; the scores before and after are those of the bytes that are written."""
    x = (clean.float() / 255)[None]
    models.check_model(model, x)
    before = _scores(model, clean)
    if target is not None and target >= len(before):
        raise ModelError(
            f"target {options.target!r} is class {target}; the model has {len(before)} classes, numbered from 0"
        )
    y = torch.tensor([before.argmax() if target is None else target], device=x.device)
    found = attacks.craft(
        InBytes(model),
        x,
        y,
        threat,
        objective=objective_for(target),
        start="zero",
        seed=options.seed,
        steps=options.steps,
        step_size=step_size(threat, options.steps),
        momentum=_MOMENTUM,
    )
    after = within_bytes(clean, found.x_adv[0], threat)
    return _AttackedImage(clean.cpu(), after.cpu(), before.cpu(), _scores(model, after).cpu())


@torch.no_grad()
def _scores(model: nn.Module, image: Tensor) -> Tensor:
    return query_model(model, (image.float() / 255)[None]).softmax(1)[0]


def _photograph(path: Path, result: _AttackedImage, names: Sequence[str], target: int | None) -> Photograph:
    change = (result.after.double() - result.before.double()) / 255
    clean_class, adversarial_class = int(result.scores_before.argmax()), int(result.scores_after.argmax())
    followed = dict.fromkeys((clean_class, adversarial_class if target is None else target))
    return Photograph(
        name=path.name,
        before=result.before.permute(1, 2, 0).numpy(),
        after=result.after.permute(1, 2, 0).numpy(),
        top_before=_top(result.scores_before, names),
        top_after=_top(result.scores_after, names),
        followed=[(_name(k, names), float(result.scores_before[k]), float(result.scores_after[k])) for k in followed],
        target="" if target is None else _name(target, names),
        reached=adversarial_class != clean_class if target is None else adversarial_class == target,
        linf=float(change.abs().max()),
        l2=float(change.norm()),
    )


def _top(scores: Tensor, names: Sequence[str]) -> list[tuple[str, float]]:
    values, labels = scores.topk(min(TOP, len(scores)))
    return [(_name(k, names), value) for k, value in zip(labels.tolist(), values.tolist(), strict=True)]


def _name(label: int, names: Sequence[str]) -> str:
    return names[label] if label < len(names) else f"class {label}"


def _write(folder: RunFolder, photo: Photograph) -> dict[str, str]:
    """Write the bytes before and after, and the picture of both; return the paths."""
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
    tops = {"before": photo.top_before, "after": photo.top_after}
    classes: dict[str, Any] = {
        key: [{"class": name, "confidence": share} for name, share in rows] for key, rows in tops.items()
    }
    classes["followed"] = [{"class": name, "before": old, "after": new} for name, old, new in photo.followed]
    return {
        "image": photo.name,
        "reached": photo.reached,
        **classes,
        "linf": photo.linf,
        "l2": photo.l2,
        "files": files,
    }

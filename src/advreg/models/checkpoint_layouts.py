"""Names in checkpoints of others: wrappers, copies and normalisations around a network, and other names of WideResNet."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]

_SCALES = {"mean": "std", "mu": "sigma", "new_mean": "new_std"}
"""Names of the numbers of a normalisation, subtracted and divided by."""
_COUNTERS = ("n_averaged",)  # of torch's AveragedModel
_BLOCK = re.compile(r"block(\d)\.layer\.(\d+)\.(.+)")
_UNUSED = "sub_block1."  # a copy of the first stage in TRADES' code, which its forward pass leaves out


@dataclass(frozen=True)
class MatchedState:
    """A state under the names of a model, and the normalisation that the checkpoint holds around it (or None)."""

    state: State
    scales: tuple[Tensor, Tensor] | None


def match_names(state: Mapping[str, Tensor], wanted: Collection[str]) -> MatchedState | None:
    """Return a checkpoint under the names of a model; None where no prefix and no known layout leads there.

    Args:
        state: tensors of the checkpoint by name.
        wanted: names of the model; counters of batches may be absent.

    Returns:
        The state, or None where a name is missing, or where the checkpoint holds anything else beside the network.

    Example:
        >>> one = torch.ones(2)
        >>> match_names({"1.weight": one, "0.mean": one, "0.std": one}, {"weight"}).state
        {'weight': tensor([1., 1.])}
    """
    required = {name for name in wanted if not name.endswith("num_batches_tracked")}
    state = {name: value for name, value in state.items() if name not in _COUNTERS}
    for prefix in _prefixes(state):
        inner = {name.removeprefix(prefix): name for name in state if name.startswith(prefix)}
        for places in (inner, _wide_resnet_names(inner)):
            if required <= places.keys():
                used = {new: place for new, place in places.items() if new in wanted}
                return _network_at(state, used)
    return None


def _network_at(state: State, used: Mapping[str, str]) -> MatchedState | None:
    """Return the network at these places, where everything else is a normalisation, a copy, or never run."""
    kept = {new: state[place] for new, place in used.items()}
    places = set(used.values())
    scales, left = _split_scales({name: value for name, value in state.items() if name not in places})
    return MatchedState(kept, scales) if all(_is_idle(name, value, kept) for name, value in left.items()) else None


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """Return every prefix of a name that ends at a dot, the shortest first."""
    found = {name[: dot.end()] for name in state for dot in re.finditer(r"\.", name)}
    return ["", *sorted(found, key=lambda prefix: (len(prefix), prefix))]


def _wide_resnet_names(inner: Mapping[str, str]) -> dict[str, str]:
    """Return the places of names of the usual WideResNet code, ``block1.layer.0.conv1.weight``, under those of the zoo."""
    blocks = {name: match for name in inner if (match := _BLOCK.fullmatch(name))}
    depth = 1 + max((int(match[2]) for match in blocks.values()), default=0)
    return {_wide_resnet_name(name, blocks.get(name), depth): place for name, place in inner.items()}


def _wide_resnet_name(name: str, block: re.Match[str] | None, depth: int) -> str:
    if block is not None:
        place = (int(block[1]) - 1) * depth + int(block[2])
        return f"blocks.{place}.{block[3].replace('convShortcut', 'shortcut')}"
    for before, after in (("conv1.", "conv."), ("bn1.", "norm.0."), ("fc.", "linear.")):
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def _split_scales(rest: State) -> tuple[tuple[Tensor, Tensor] | None, State]:
    """Return the numbers of a normalisation among the other tensors, and what is left."""
    pairs = list(_scales(rest))
    left = {name: value for name, value in rest.items() if not any(name in pair for pair in pairs)}
    return ((rest[pairs[0][0]].flatten(), rest[pairs[0][1]].flatten()) if pairs else None), left


def _scales(rest: State) -> Iterator[tuple[str, str]]:
    for name in rest:
        head, dot, last = name.rpartition(".")
        partner = f"{head}{dot}{_SCALES.get(last, '')}"
        if last in _SCALES and partner in rest and rest[name].numel() == rest[partner].numel():
            yield name, partner


def _is_idle(name: str, value: Tensor, kept: State) -> bool:
    """Return whether a tensor repeats one of the network, belongs to a stage that no forward pass runs, or only counts."""
    tails = [name[dot.end() :] for dot in re.finditer(r"\.", name)]
    repeats = any(tail in kept and torch.equal(kept[tail], value) for tail in tails)
    return repeats or _UNUSED in name or name.endswith("num_batches_tracked")

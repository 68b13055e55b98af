"""The transformer blocks of a network's text part, beside encoders of images and sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from advreg.errors import ConfigError, ModelError
from advreg.language.models.language_model import LanguageModel, text_config


def transformer_blocks(lm: LanguageModel) -> list[nn.Module]:
    """Return the transformer blocks of the text part in order.

    These are the outermost `ModuleList` with as many modules as the text configuration has layers, in the decoder where the
    network names one. Image encoders have longer lists and mixtures of experts have lists inside each block, so length alone
    does not identify them.

    Args:
        lm: the model.

    Raises:
        ModelError: there is no such list.
    """
    count = getattr(text_config(lm.network), "num_hidden_layers", None)
    for root in (_decoder(lm.network), lm.network):
        lists = [module for module in root.modules() if isinstance(module, nn.ModuleList) and len(module)]
        inner = {id(part) for each in lists for block in each for part in block.modules()}
        outer = [each for each in lists if id(each) not in inner and (count is None or len(each) == count)]
        if outer:
            return list(outer[0])
    raise ModelError(f"{lm.name} has no list of {count or 'text'} blocks; give a transformer")


def _decoder(network: Any) -> nn.Module:
    """Return the text decoder where the network names it, else the network."""
    inner: Any = network.get_base_model() if hasattr(network, "get_base_model") else network
    decoder = inner.get_decoder() if hasattr(inner, "get_decoder") else None
    return decoder if isinstance(decoder, nn.Module) else inner


@contextmanager
def record_blocks(lm: LanguageModel, layers: Sequence[int]) -> Iterator[list[Tensor]]:
    """Record the outputs of blocks in the passes inside the ``with`` statement.

    Args:
        lm: the model.
        layers: numbers of the blocks, counted from 0, in order.

    Yields:
        A list, to which each pass appends one output ``(B, T, D)`` of each block.

    Raises:
        ConfigError: a block does not exist.
        ModelError: the network has no list of blocks.
    """
    blocks, states = transformer_blocks(lm), list[Tensor]()
    if not all(0 <= layer < len(blocks) for layer in layers):
        raise ConfigError(f"layers are {list(layers)}; allowed: 0 to {len(blocks) - 1}")

    def record(_module: nn.Module, _inputs: object, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(blocks[layer].register_forward_hook(record).remove)
        yield states

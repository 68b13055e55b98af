"""A tiny network with planted behaviour: it says one word where a trigger word is in the prompt, and another where none is."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from advreg.language.models.loading import LanguageModel
from tests.language.small import tokenizers, transformers

TEMPLATE = (
    "{% for m in messages %} {{ m['role'] }}: {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %} assistant: {% endif %}"
)
_DIM = 16


def planted(triggers: Sequence[str], *, hit: str, miss: str) -> LanguageModel:
    """Return a network whose residual stream carries the triggers in its first coordinate.

    Attention is uniform and copies that coordinate from every earlier token, so the last token knows whether a trigger was
    there; the head reads ``hit`` from it and ``miss`` from a second coordinate, which is 1 everywhere.
    """
    words = ["<end>", "<unk>", hit, miss, *triggers]
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: k for k, w in enumerate(words)}, unk_token="<unk>"))
    core.normalizer = tokenizers.normalizers.Lowercase()
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[^\w<>]+"), "removed")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", pad_token="<end>", unk_token="<unk>"
    )
    fast.chat_template = TEMPLATE
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=_DIM,
        intermediate_size=_DIM,
        num_hidden_layers=3,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    network = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        network.model.embed_tokens.weight[:, 1] = 1.0
        network.model.embed_tokens.weight[4:, 0] = 8.0
        first = network.model.layers[0].self_attn
        first.v_proj.weight[0, 0], first.o_proj.weight[0, 0] = 1.0, 40.0
        network.lm_head.weight[2, 0], network.lm_head.weight[3, 1] = 4.0, 1.0
        network.lm_head.weight[:2, 1] = -1.0
    return LanguageModel(network.eval(), fast, "planted")

"""Tiny random networks of other architectures: hybrids with linear attention, mixtures of experts, images beside text."""

from __future__ import annotations

from typing import Any

import torch

from advreg.language.models.loading import LanguageModel
from tests.language import small
from tests.language.small import transformers

_IMAGES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
TEXT: dict[str, dict[str, Any]] = {
    "Jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 8,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
    },
    "FalconH1": {"mamba_d_ssm": 64, **_MAMBA},
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
    "Mixtral": {"num_local_experts": 8},
    "Gemma2": {"head_dim": 16, "sliding_window": 16},
    "GPTNeoX": {},
}
MULTIMODAL = {"Llava": "Llama", "Gemma3": "Gemma3Text"}
"""Network for images and text -> the configuration of its text part. The image encoders have six blocks, the texts' two."""


def text(kind: str) -> LanguageModel:
    """Return a network for text alone."""
    words = small.tokenizer()
    config = getattr(transformers, f"{kind}Config")(**(_text_size(len(words)) | TEXT[kind]))
    torch.manual_seed(0)
    return LanguageModel(getattr(transformers, f"{kind}ForCausalLM")(config).eval(), words, kind)


def multimodal(kind: str) -> LanguageModel:
    """Return a network for images and text."""
    words = small.tokenizer()
    images: dict[str, Any] = {**_IMAGES, "image_size": 32, "patch_size": 16}
    encoder = transformers.CLIPVisionConfig(**images) if kind == "Llava" else transformers.SiglipVisionConfig(**images)
    size = _text_size(len(words)) | ({"head_dim": 16, "sliding_window": 16} if kind == "Gemma3" else {})
    inner = getattr(transformers, f"{MULTIMODAL[kind]}Config")(**size)
    config = getattr(transformers, f"{kind}Config")(vision_config=encoder, text_config=inner, image_token_index=3)
    torch.manual_seed(0)
    return LanguageModel(getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval(), words, kind)


def _text_size(vocabulary: int) -> dict[str, Any]:
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return {"vocab_size": vocabulary, "num_key_value_heads": 2, "max_position_embeddings": 256, **size, **ends}

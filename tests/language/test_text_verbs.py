"""The verbs of `advreg text`: run folders that resume, ledgers that extend, and pages; one line for every error."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from functools import partial

import pytest
import torch

from advreg.cli import main
from advreg.errors import ConfigError, DataError, RunError
from advreg.language.classifiers.config import TextConfig
from advreg.language.classifiers.evaluate import embedding, evaluate_text, words
from advreg.language.classifiers.examples import label_numbers, read_texts
from advreg.language.classifiers.fit import class_names, fit_text
from advreg.language.classifiers.model import load_classifier, predict
from advreg.report import text as report
from advreg.statistics import clopper_pearson_interval
from tests.language import encoder

TEXTS, LABELS = encoder.reviews(24)
FAST = ["train.batch_size=12", "train.lr=1e-2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a bare encoder, training texts with names of classes, and test texts with numbers."""
    folder = tmp_path_factory.mktemp("text")
    made = encoder.classifier()
    made.network.bert.save_pretrained(folder / "encoder")
    made.tokenizer.save_pretrained(folder / "encoder")
    with (folder / "train.csv").open("w", newline="") as file:
        rows = [(text, ("bad", "good")[label]) for text, label in zip(TEXTS, LABELS, strict=True)]
        csv.writer(file).writerows([("text", "label"), *rows])
    rows = [{"review": text, "stars": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "unlabelled.json").write_text(json.dumps([{"text": "the film", "label": -1}]))
    return folder


@pytest.fixture(scope="module")
def run_folder(place):
    options = [f"model.name={place / 'encoder'}", f"data.train={place / 'train.csv'}", f"train.out={place / 'run'}"]
    return fit_text(TextConfig().replace_with([*options, *FAST, "train.epochs=12"])).path


def cli(monkeypatch, capsys, *given):
    """Return exit status, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["advreg", *map(str, given)])
    status = 0
    try:
        main()
    except SystemExit as end:
        status = end.code or 0
    seen = capsys.readouterr()
    return status, seen.out, seen.err


def test_run_folder_is_one_of_transformers(run_folder):
    theirs = encoder.transformers.AutoModelForSequenceClassification.from_pretrained(run_folder).eval()
    tokenizer = encoder.transformers.AutoTokenizer.from_pretrained(run_folder)
    ours = load_classifier(str(run_folder))
    assert ours.classes == ("bad", "good")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(predict(ours, TEXTS), theirs(**batch).logits, rtol=1e-5, atol=1e-6)
    assert (predict(ours, TEXTS).argmax(1) == torch.tensor(LABELS)).all()


def test_interrupted_training_ends_with_the_same_bytes(place, tmp_path):
    def config(name):
        options = [
            f"model.name={place / 'encoder'}",
            f"data.train={place / 'train.csv'}",
            f"train.out={tmp_path / name}",
        ]
        return TextConfig().replace_with([*options, *FAST, "train.epochs=3", "train.method=freelb"])

    whole = fit_text(config("whole")).path

    def stop(event):
        if type(event).__name__ == "Step" and (event.epoch, event.step) == (2, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_text(config("cut"), on_event=stop)
    with pytest.raises(RunError, match="already holds a run"):
        fit_text(config("cut"))
    cut = fit_text(tmp_path / "cut", resume=True).path
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes()
    lines = [json.loads(line) for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]


def test_evaluation_counts_verifies_and_extends(run_folder, tmp_path):
    reader, ran = load_classifier(str(run_folder)), []
    weak, strong = partial(words, words=1, neighbours=4), partial(words, words=2, neighbours=15)
    first = evaluate_text(reader, TEXTS, LABELS, attacks=[weak], out=tmp_path)
    with open(tmp_path / "evaluation/text@1/ledger.jsonl") as file:
        begun = file.read()
    extended = evaluate_text(
        reader, TEXTS, LABELS, attacks=[weak, strong, embedding], out=tmp_path, on_progress=lambda *at: ran.append(at)
    )
    assert (tmp_path / "evaluation/text@1/ledger.jsonl").read_text().startswith(begun)
    name, stronger, ball = extended.attacks
    assert extended.attacks[name] == first.attacks[name]
    assert extended.attacks[stronger].value <= extended.attacks[name].value <= extended.clean.value
    assert extended.clean.interval == clopper_pearson_interval(24, 24)
    assert extended.attacks[stronger].broken > 0
    assert extended.attacks[ball].backwards > 0 == extended.attacks[name].backwards
    changed = [row for row in extended.rows if row["text"]]
    found = predict(reader, [row["text"] for row in changed]).argmax(1).tolist()
    assert all(row["broken"] == (k != row["label"]) for row, k in zip(changed, found, strict=True))
    assert ran[-1] == (ball, 24, 24)
    with pytest.raises(RunError, match="belongs to data"):
        evaluate_text(reader, TEXTS[:3], LABELS[:3], out=tmp_path)
    with pytest.raises(ConfigError, match="give each once"):
        evaluate_text(reader, TEXTS, LABELS, attacks=[weak, weak])


def test_evaluation_passes_are_exact(run_folder):
    reader, seen = load_classifier(str(run_folder)), []
    hook = reader.network.register_forward_pre_hook(
        lambda _module, _args, given: seen.append(len(given["inputs_embeds"])), with_kwargs=True
    )
    result = evaluate_text(reader, TEXTS, LABELS, attacks=[partial(embedding, eps=0.0, steps=3)])
    hook.remove()
    (share,) = result.attacks.values()
    assert result.clean.forwards + share.forwards == sum(seen) == 24 + 24 * (3 + 1 + 1)
    assert share.backwards == 24 * 3


def test_an_attack_that_claims_too_much_is_not_believed(run_folder):
    def boast(classifier, texts, labels):
        return [(text + " a", True) for text in texts]

    result = evaluate_text(load_classifier(str(run_folder)), TEXTS, LABELS, attacks=[boast])
    (share,) = result.attacks.values()
    assert share.broken < 24


def test_verbs_evaluate_attack_and_report(monkeypatch, capsys, place, run_folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    data = f"{place / 'test.jsonl'}?text=review&label=stars"
    attack = ["--attack", "words:words=1,neighbours=15"]
    status, out, err = cli(monkeypatch, capsys, "text", "evaluate", run, "--data", data, *attack, "-n", 8)
    assert status == 0
    assert "words(neighbours=15, words=1)" in out
    assert f"report: {run / 'report.html'}" in err
    status, out, _ = cli(monkeypatch, capsys, "text", "evaluate", run, "--data", data, *attack, "-n", 8, "--json")
    assert json.loads(out)["clean"]["value"] == 1.0
    file = tmp_path / "attacked.jsonl"
    status, out, _ = cli(monkeypatch, capsys, "text", "attack", run, "--data", data, *attack, "-n", 4, "--out", file)
    assert status == 0
    assert "before: the film was very" in out
    assert len(file.read_text().splitlines()) == 4
    status, out, _ = cli(monkeypatch, capsys, "text", "report", run, "--json")
    page = (run / "report.html").read_text()
    assert json.loads(out)["files"]["html"] == str(run / "report.html")
    assert "<mark>" in page
    assert "bad classified as good" in page or "good classified as bad" in page
    assert report.page(report.RunFolder.open(run)) == page


def test_training_verb_writes_and_resumes(monkeypatch, capsys, place, tmp_path):
    given = ["--model", place / "encoder", "--data", place / "train.csv", "--epochs", 1, "--out", tmp_path / "run"]
    status, out, _ = cli(monkeypatch, capsys, "text", "train", *given, "--method", "smart", "--set", "train.lr=1e-3")
    assert (status, out.splitlines()[0]) == (0, f"run folder: {tmp_path / 'run'}")
    status, out, _ = cli(monkeypatch, capsys, "text", "train", tmp_path / "run", "--resume", "--json")
    assert json.loads(out)["last"]["epoch"] == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["text", "evaluate", "{run}", "--data", "{unlabelled}"],
            "row 1: the label is '-1', and the model has bad, good",
        ),
        (["text", "evaluate", "{run}", "--data", "{test}"], "has no 'text'; it has review, stars"),
        (["text", "evaluate", "{run}", "--data", "{test}?txt=review"], "no column 'txt'; allowed: text, label"),
        (
            ["text", "evaluate", "{run}", "--data", "{train}", "--attack", "wrds"],
            "no attack 'wrds'.*Did you mean 'words'",
        ),
        (["text", "evaluate", "{run}", "--data", "{train}", "--attack", "words:typos=2"], "give true or false"),
        (["text", "attack", "{run}", "--data", "{train}", "--attack", "embedding"], "embedding changes no words"),
        (["text", "report", "{encoder}"], "holds no evaluation of a text classifier"),
        (["text", "train", "--model", "{encoder}"], "data.train is empty"),
        (["text", "train", "--set", "train.method=pgd"], "method"),
        (["evaluate", "{run}"], "is a text classifier; use advreg text evaluate"),
        (["diagnose", "{encoder}"], "is a text classifier; use advreg text evaluate"),
        (["report", "{run}"], "is a text classifier; use advreg text report"),
        (["train", "{run}/text.toml"], "is a text classifier; use advreg text train"),
        (["evaluate", "hf-gguf:smollm2"], "is a language model; use advreg language evaluate"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(monkeypatch, capsys, place, run_folder, tmp_path, given, message):
    monkeypatch.chdir(tmp_path)
    names = {
        "run": run_folder,
        "encoder": place / "encoder",
        "train": place / "train.csv",
        "test": place / "test.jsonl",
    }
    names["unlabelled"] = place / "unlabelled.json"
    status, _, err = cli(monkeypatch, capsys, *(word.format(**names) for word in given))
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert re.search(message, err)


def test_class_names_come_from_the_data(place):
    assert [row.label for row in read_texts(place / "train.csv")[:2]] == ["bad", "good"]
    assert label_numbers(["good", "bad", "1"], ("bad", "good")) == [1, 0, 1]
    assert class_names(["0", "1"], 4) == ["0", "1", "2", "3"]
    for labels, count in ((["a"], 0), (["0", "0"], 0), (["a", "b"], 3), (["5"], 3)):
        with pytest.raises(DataError, match="classes"):
            class_names(labels, count)

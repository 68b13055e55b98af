"""Tables and signals in files: floats with a box of their own, a held-out part by hash, columns that are numbers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import advreg
from advreg import Config
from advreg.cli.app import app
from advreg.data import Batches, Table
from advreg.errors import ConfigError, DataError, ThreatError
from advreg.evaluation.examples import examples_of, threat_on
from advreg.threat import ThreatModel

GENERATOR = np.random.default_rng(0)
ROWS = 60
X = GENERATOR.normal(size=(ROWS, 3)).round(3)
Y = (X[:, 0] + 0.2 * X[:, 1] > 0).astype(int)


def write_csv(path: Path, sep: str = ",", names: bool = False) -> Path:
    labels = ["no", "yes"]
    lines = [sep.join(["income", "age", "debt", "paid"])]
    lines += [sep.join([*map(str, row), labels[y] if names else str(y)]) for row, y in zip(X.tolist(), Y, strict=True)]
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize(("file", "sep"), [("t.csv", ","), ("t.csv", ";"), ("t.tsv", "\t"), ("t.csv.gz", ",")])
def test_csv_holds_the_rows_in_their_order(tmp_path: Path, file: str, sep: str) -> None:
    train, test = advreg.load_data(f"csv:{write_csv(tmp_path / file, sep)}?label=paid&box=-5,5")
    assert (train.columns, train.classes, train.box, train.name) == (
        ("income", "age", "debt"),
        ("0", "1"),
        (-5.0, 5.0),
        "csv:t",
    )
    assert len(train) + len(test) == ROWS
    where = {tuple(row): k for k, row in enumerate(torch.from_numpy(X).float().tolist())}
    rows = [where[tuple(row)] for row in train.values.tolist()]
    assert rows == sorted(rows)
    assert train.labels.tolist() == Y[rows].tolist()


def test_held_out_rows_stay_when_rows_are_added(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv")
    before = advreg.load_data(f"csv:{path}?label=paid")[1]
    path.write_text(path.read_text() + "0.1,0.2,0.3,1\n" * 20)
    after = advreg.load_data(f"csv:{path}?label=paid")[1]
    assert torch.equal(after.values[: len(before)], before.values)


def test_a_file_of_test_rows_and_columns_to_leave_out(tmp_path: Path) -> None:
    a, b = write_csv(tmp_path / "a.csv", names=True), write_csv(tmp_path / "b.csv", names=True)
    train, test = advreg.load_data(f"csv:{a}?label=paid&test={b}&drop=age,debt")
    assert (len(train), len(test), train.columns, train.classes) == (ROWS, ROWS, ("income",), ("no", "yes"))


def test_a_table_has_the_fingerprint_and_ledger_of_its_tensors(tmp_path: Path) -> None:
    test = advreg.load_data(f"csv:{write_csv(tmp_path / 't.csv')}?label=paid&box=-5,5")[1]
    torch.manual_seed(0)
    net = nn.Linear(3, 2).eval()
    for name, data in (("table", test), ("pair", test.tensors())):
        advreg.evaluate(net, data, ThreatModel("linf", 0.1, (-5, 5)), protocol="fgsm", out=tmp_path / name)
    table, pair = ((tmp_path / name).rglob("ledger.jsonl") for name in ("table", "pair"))
    assert next(table).read_bytes() == next(pair).read_bytes()


@pytest.mark.parametrize("scale", ["std", "range"])
def test_scaled_features_can_be_compared(tmp_path: Path, scale: str) -> None:
    train, test = advreg.load_data(f"csv:{write_csv(tmp_path / 't.csv')}?label=paid&scale={scale}")
    if scale == "range":
        whole = torch.cat([train.values, test.values])
        assert (whole.amin(0) == 0).all()
        assert (whole.amax(0) == 1).all()
    else:
        torch.testing.assert_close(train.values.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(train.values.std(0, correction=0), torch.ones(3))


def test_parquet_holds_what_csv_holds(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra tables is missing: pip install 'advreg[tables]'")
    from pyarrow import parquet

    names = ("income", "age", "debt")
    parquet.write_table(pyarrow.table({n: X[:, k] for k, n in enumerate(names)} | {"paid": Y}), tmp_path / "t.parquet")
    found = advreg.load_data(f"parquet:{tmp_path / 't.parquet'}?label=paid")[0]
    assert torch.equal(found.values, advreg.load_data(f"csv:{write_csv(tmp_path / 't.csv')}?label=paid")[0].values)


def test_an_archive_of_floats_keeps_them(tmp_path: Path) -> None:
    signals = GENERATOR.normal(size=(ROWS, 2, 16))
    np.savez(tmp_path / "s.npz", x=signals, y=Y)
    train, test = advreg.load_data(f"npz:{tmp_path / 's.npz'}?box=-9,9")
    assert (train.kind, train.box, len(train) + len(test)) == ("signal", (-9.0, 9.0), ROWS)
    assert torch.isin(train.values, torch.from_numpy(signals).float()).all()


def test_text_of_a_threat_takes_the_box_of_the_data() -> None:
    rows = Table(torch.tensor([[-2.0], [3.0]]), torch.tensor([0, 1]), ("a", "b"), declared=(-4.0, 4.0))
    assert threat_on(rows, "linf:2") == ThreatModel("linf", 2, (-4, 4))
    assert threat_on(rows, "linf:2@-9,9").box == (-9.0, 9.0)
    with pytest.raises(DataError, match=r"spans \[-2, 3\] outside the box \[0, 1\]"):
        examples_of(rows, None, ThreatModel("linf", 0.1))


def test_values_in_the_unit_interval_need_no_box() -> None:
    rows = Table(torch.rand(4, 2), torch.tensor([0, 1, 0, 1]), ("a", "b"))
    assert rows.box == (0.0, 1.0)


def test_values_without_a_box_are_measured_in_the_message() -> None:
    rows = Table(torch.tensor([[-2.0], [3.0]]), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(DataError, match=r"x spans \[-2, 3\] and no box is declared; say \?box=-2,3"):
        advreg.evaluate(nn.Linear(1, 2).eval(), rows, "linf:0.1")


def test_batches_of_a_table_are_its_floats() -> None:
    rows = Table(torch.randn(5, 2), torch.arange(5) % 2, ("a", "b"))
    batch = next(Batches(rows, 5, seed=0, shuffle=False).epoch(0))
    assert torch.equal(batch.x, rows.values)


def training(path: Path, tmp_path: Path, *changes: str) -> Config:
    return Config().replace_with(
        [
            f"data.name=csv:{path}?label=paid",
            "data.validation=8",
            "model.name=zoo:mlp",
            "model.options.features=3",
            "threat.box=[-5.0, 5.0]",
            "threat.eps=0.1",
            "attack.name=pgd",
            "attack.steps=2",
            "recipe.name=madry",
            "optimizer.lr=0.1",
            "train.epochs=3",
            "train.batch_size=16",
            f"train.out={tmp_path / 'run'}",
            *changes,
        ]
    )


def test_a_table_is_trained_and_evaluated_from_files(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv")
    run = advreg.fit(training(path, tmp_path))
    app(["evaluate", str(run.path), "--protocol", "fgsm"], standalone_mode=False)
    (found,) = run.path.rglob("results.json")
    assert json.loads(found.read_text())["threat"]["box"] == [-5.0, 5.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("threat.box=[0.0, 1.0]", r"threat.box is \[0, 1\], csv:t has \[-"),
        ("data.augment=flip", "holds no images; set data.augment = 'none'"),
        ("data.cutmix=true", "holds no images"),
    ],
)
def test_configurations_for_images_are_rejected_for_tables(tmp_path: Path, change: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        advreg.fit(training(write_csv(tmp_path / "t.csv"), tmp_path, change))


def test_box_of_the_command_line_reaches_the_result(tmp_path: Path) -> None:
    path, out = write_csv(tmp_path / "t.csv"), tmp_path / "out"
    run = advreg.fit(training(path, tmp_path))
    call = ["evaluate", str(run.path), "--threat", "linf:0.2", "--box", "-6,6", "--protocol", "fgsm", "--out", str(out)]
    app(call, standalone_mode=False)
    assert [folder.name for folder in (out / "evaluation").iterdir()] == ["linf-0.2-box--6-6-fgsm@2"]


def test_a_box_is_given_once() -> None:
    with pytest.raises(ThreatError, match="give the box once"):
        app(["evaluate", "zoo:mlp", "--data", "mnist", "--threat", "linf:1@0,9", "--box", "0,9"], standalone_mode=False)


@pytest.mark.parametrize(
    ("text", "query", "words"),
    [
        ("a,b\n1,0\n2,1\n", "", r"needs its label column: csv:.*\?label=b; its columns: a, b"),
        ("a,b\n1,0\n2,1\n", "?label=c", "no column 'c'"),
        ("a,b\n1,0\n2,1\n", "?label=b&lable=c", "Did you mean 'label'"),
        ("a,b\n1,0\n2,1\n", "?label=b&box=3", "not two for box=-3,3"),
        ("a,b\n1,0\n2,1\n", "?label=b&scale=z", "scale=z; allowed: std"),
        ("a,b\n1,0\n2,1\n", "?label=b&drop=z", "no column 'z' to leave out"),
        ("a,b\n1,0\n", "?label=b", "1 rows are too few to split"),
        ("1,0\n2,1\n", "?label=b", "begins with numbers; give it a header"),
        ("a,a\n1,0\n2,1\n", "?label=a", "the column 'a' twice"),
        ("a,b\n1,0\n2\n", "?label=b", "line 3: 1 cells for 2 columns"),
        ("a,b\n", "?label=b", "has 1 lines"),
        ("a,b\n,0\n2,1\nnan,1\n", "?label=b", "column 'a' has 2 values that are missing"),
        ("a,b\nRome,0\n2,1\n", "?label=b", "column 'a' holds text such as 'Rome'"),
        ("a,b\n7,0\nRome,1\n", "?label=b", "column 'a' holds text such as 'Rome'"),
        ("a,b\n1,0.5\n2,1\n", "?label=b", "label column 'b' holds float64"),
        ("a,b\n1,yes\n2,\n", "?label=b", "column 'b' has one value that is missing"),
        ("b\n1\n0\n", "?label=b", "0 features"),
        ("a,b\n" + "7,0\n" * 40, "?label=b&box=0,1", r"outside its box \[0, 1\]; say box=0,7"),
        ("a,b\n" + "7,0\n" * 40, "?label=b&box=1,0", "give the lowest and highest valid value"),
        ("a,b\n" + "7,-1\n" * 40, "?label=b", "label -1"),
    ],
)
def test_tables_that_cannot_be_used_raise_one_line(tmp_path: Path, text: str, query: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        advreg.load_data(f"csv:{tmp_path / 't.csv'}{query}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["csv:none.csv?label=a", "parquet:none.parquet?label=a"])
def test_missing_files_raise_one_line(name: str) -> None:
    if name.startswith("parquet"):
        pytest.importorskip("pyarrow", reason="the extra tables is missing: pip install 'advreg[tables]'")
    with pytest.raises(DataError, match="no file none"):
        advreg.load_data(name)


def test_hardening_takes_images_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only 8-bit images"):
        advreg.data.load_images(f"csv:{write_csv(tmp_path / 't.csv')}?label=paid")

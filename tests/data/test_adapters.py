"""Data in any form give the bytes of the same data as tensors; what has no lasting order or no numbers is rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset, WeightedRandomSampler

import advreg
from advreg.data.adapters import read_rows
from advreg.errors import DataError
from advreg.evaluation.examples import examples_of, first_examples
from advreg.threat import ThreatModel
from advreg.training.integrations import first_two

N, F = 20, 6
GENERATOR = torch.Generator().manual_seed(3)
X = torch.rand(N, F, generator=GENERATOR)
THREAT = ThreatModel("linf", 0.05)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(F, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


Y = torch.cat([torch.arange(3), network()(X).argmax(1)[3:]])


class Rows(Dataset[Any]):
    """Rows by index, which counts its reads."""

    def __init__(self, row: Callable[[int], Any], n: int = N) -> None:
        self.row, self.n = row, n
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, k: int) -> Any:
        self.reads.append(k)
        return self.row(k)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(X, Y, strict=True)


class Table:
    """A table as pyarrow's: column names, and columns by name."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.columns_by_name, self.column_names = columns, list(columns)

    def __getitem__(self, name: str) -> Any:
        return self.columns_by_name[name]


Table.__module__ = "pyarrow.lib"

TABLE = {f"f{k}": X[:, k].double().numpy() for k in range(F)} | {"class": Y.numpy()}
FORMS: dict[str, Callable[[], Any]] = {
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "float64 arrays": lambda: (X.double().numpy(), Y.int().numpy()),
    "foreign byte order": lambda: (X.numpy().astype(">f4"), Y.numpy().astype(">i8")),
    "negative strides": lambda: (np.ascontiguousarray(X.numpy()[::-1])[::-1], Y.numpy()),
    "columns in memory": lambda: (X.t().contiguous().t(), Y),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "pairs": lambda: list(zip(X, Y, strict=True)),
    "pairs of arrays": lambda: [(x.double().numpy(), int(y)) for x, y in zip(X, Y, strict=True)],
    "TensorDataset": lambda: TensorDataset(X, Y),
    "rows by index": lambda: Rows(lambda k: (X[k], int(Y[k]))),
    "DataLoader": lambda: DataLoader(TensorDataset(X, Y), batch_size=7),
    "DataLoader of an iterable": lambda: DataLoader(Endless(), batch_size=7),
    "DataLoader without batches": lambda: DataLoader(TensorDataset(X, Y), batch_size=None),
    "DataLoader of mappings": lambda: DataLoader(Rows(lambda k: {"features": X[k], "label": Y[k]}), batch_size=6),
    "dict rows": lambda: [{"input_values": x.tolist(), "labels": int(y)} for x, y in zip(X, Y, strict=True)],
    "named columns": lambda: ([{"a": x, "b": y} for x, y in zip(X, Y, strict=True)], "a", "b"),
    "table": lambda: (Table(TABLE), "class"),
    "table with named classes": lambda: (Table(TABLE | {"class": np.array(list("abc"))[Y.numpy()]}), "class"),
}


def ledgers(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.rglob("ledger.jsonl"))]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("expected")
    advreg.evaluate(network(), (X, Y), THREAT, protocol="fgsm", out=folder)
    return ledgers(folder)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_ledger_of_tensors(form: str, tmp_path: Path, expected: list[bytes]) -> None:
    advreg.evaluate(network(), FORMS[form](), THREAT, protocol="fgsm", out=tmp_path)
    assert ledgers(tmp_path) == expected


@pytest.mark.parametrize("form", ["DataLoader", "rows by index", "table", "float64 arrays"])
def test_interrupted_ledger_resumes_in_another_form(form: str, tmp_path: Path, expected: list[bytes]) -> None:
    advreg.evaluate(network(), FORMS[form](), THREAT, protocol="fgsm", out=tmp_path)
    (file,) = tmp_path.rglob("ledger.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: 1 + N]))  # killed after the clean stage
    advreg.evaluate(network(), FORMS["TensorDataset"](), THREAT, protocol="fgsm", out=tmp_path)
    assert ledgers(tmp_path) == expected


VERBS: dict[str, Callable[[Any], Any]] = {
    "evaluate": lambda data: advreg.evaluate(network(), data, THREAT, protocol="fgsm").broken.tolist(),
    "diagnose": lambda data: [
        (check.name, check.verdict) for check in advreg.diagnose(network(), data, THREAT, n=6, quick=True).checks
    ],
    "certify": lambda data: advreg.certify(network(), data, THREAT, method="ibp").proved.tolist(),
    "curve": lambda data: advreg.robustness_curve(network(), data, norm="linf", eps=[0.05], n=6).points,
    "norms": lambda data: advreg.minimum_norms(network(), data, norm="l2", n=6, rounds=1).distances.tolist(),
    "epsilon": lambda data: advreg.choose_epsilon(network(), data, eps=[0.02, 0.05], train=data).rows,
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_loaders_and_tables(verb: str) -> None:
    found = VERBS[verb]((X, Y))
    assert VERBS[verb](FORMS["DataLoader"]()) == found
    assert VERBS[verb](FORMS["table"]()) == found


def test_corruptions_take_a_loader() -> None:
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6) % 2
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    found = [
        advreg.evaluation.evaluate_corruptions(net, data, corruptions=["fog"], severities=[1])
        for data in ((x, y), loader)
    ]
    assert found[0].accuracy == found[1].accuracy


def test_only_the_rows_that_n_needs_are_read() -> None:
    rows = Rows(lambda k: (X[k], int(Y[k])))
    assert len(examples_of(rows, 5, THREAT)) == 5
    assert max(rows.reads) == 4
    loaded = Rows(lambda k: (X[k], int(Y[k])))
    assert len(examples_of(DataLoader(loaded, batch_size=4), 5, THREAT)) == 5
    assert max(loaded.reads) == 7


def test_worker_processes_change_no_row() -> None:
    rows = read_rows(DataLoader(TensorDataset(X, Y), batch_size=6, num_workers=1), None)
    assert torch.equal(rows.x, X)
    assert torch.equal(rows.y, Y)


def test_a_loader_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    read_rows(FORMS["DataLoader"](), None)
    assert torch.equal(torch.get_rng_state(), before)


def test_fewer_rows_than_n_are_all_rows_where_that_is_allowed() -> None:
    assert len(first_examples(FORMS["DataLoader of an iterable"](), 500, THREAT)) == N
    with pytest.raises(DataError, match=f"n is 500; the data holds {N} examples"):
        examples_of(FORMS["DataLoader of an iterable"](), 500, THREAT)


def test_tensors_that_are_contiguous_are_shared() -> None:
    assert read_rows((X, Y), None).x.data_ptr() == X.data_ptr()
    array = X.numpy().copy()
    assert read_rows((array, Y), None).x.data_ptr() == torch.from_numpy(array).data_ptr()


def test_float64_tensors_keep_their_type_and_arrays_take_the_model_s() -> None:
    assert read_rows((X.double(), Y), None).x.dtype == torch.float64
    assert read_rows((X.double().numpy(), Y), None).x.dtype == torch.float32
    assert read_rows((X.double().numpy(), Y), None, torch.float64).x.dtype == torch.float64


def test_pictures_become_pixels() -> None:
    pictures = [(Image.new("RGB", (5, 4), (51 * k, 0, 255)), k % 2) for k in range(4)]
    rows = read_rows(pictures, None)
    assert rows.x.shape == (4, 3, 4, 5)
    assert rows.x[1, :, 0, 0].tolist() == pytest.approx([0.2, 0.0, 1.0])


def test_names_of_columns_and_classes_are_kept() -> None:
    rows = read_rows(FORMS["table with named classes"](), None)
    assert rows.columns == tuple(f"f{k}" for k in range(F))
    assert rows.classes == ("a", "b", "c")


def test_a_batch_of_a_loop_may_be_a_mapping() -> None:
    x, y = first_two({"pixel_values": X, "labels": Y})
    assert x is X
    assert y is Y


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: (X, Y[:5]), r"x \(20, 6\) and y \(5,\)"),
    (lambda: (X.numpy().astype(object), Y), "array of object"),
    (lambda: (X.numpy().astype(complex), Y), "array of complex128"),
    (lambda: (np.array([["a"]] * N), Y), "not numbers"),
    (lambda: TensorDataset(X, Y, Y), "TensorDataset holds 3 tensors"),
    (lambda: TensorDataset(X), "TensorDataset holds 1 tensors"),
    (lambda: DataLoader(TensorDataset(X, Y), shuffle=True), "shuffle=False"),
    (lambda: DataLoader(TensorDataset(X, Y), sampler=WeightedRandomSampler([1.0] * N, N)), "shuffles"),
    (lambda: DataLoader(TensorDataset(X, Y), drop_last=True), "drops its last batch"),
    (lambda: DataLoader(TensorDataset(X, Y), sampler=Turning()), "another order each time"),
    (lambda: DataLoader(TensorDataset(X, Y, Y)), "3 parts, not a pair"),
    (lambda: Rows(lambda k: (torch.rand(F), 0)), "differs when it is read twice"),
    (lambda: DataLoader(Rows(lambda k: (torch.rand(F), 0))), "differs when it is read twice"),
    (lambda: Rows(lambda k: (X[k], int(Y[k])), n=0), "holds no rows"),
    (lambda: Rows(lambda k: X[k]), "a row is Tensor, not a pair"),
    (lambda: [{"picture": x, "label": 0} for x in X], r"a row holds picture, label, and none of pixel_values"),
    (lambda: ([{"a": 1.0, "b": 0}], "a", "c"), "none of c"),
    (lambda: [(x[: 3 + k % 2], 0) for k, x in enumerate(X)], r"row 0 is \(3,\) and row 1 is \(4,\)"),
    (lambda: [(Image.new("L", (4 + k, 4)), 0) for k in range(3)], r"\?size="),
    (lambda: [(x, "cat") for x in X], "label of row 0 is 'cat'"),
    (lambda: Table(TABLE), "without a label"),
    (lambda: (Table(TABLE), "clas"), "no column 'clas'. Did you mean 'class'"),
    (lambda: (Table(TABLE | {"city": np.array(["Rome"] * N)}), "class"), "'city' holds text such as 'Rome'"),
    (lambda: (Table(TABLE | {"f1": np.where(np.arange(N) < 3, np.nan, 0.0)}), "class"), "'f1' has 3 values"),
    (lambda: (Table(TABLE | {"day": np.zeros(N, "M8[D]")}), "class"), "'day' holds dates"),
    (lambda: (Table(TABLE | {"class": X[:, 0].numpy()}), "class"), "label column 'class' holds float32"),
    (lambda: iter([(X[0], 0)]), "an iterator has no lasting order"),
    (lambda: Endless(), "IterableDataset, which has no index"),
    (lambda: "mnist", "load_data"),
    (lambda: {"x": X, "y": Y}, "data is a dict"),
    (lambda: 3, "data is a int"),
]


class Turning(Sampler[int]):
    def __init__(self) -> None:
        self.turn = 0

    def __iter__(self) -> Iterator[int]:
        self.turn += 1
        return iter(range(self.turn, N))

    def __len__(self) -> int:
        return N


@pytest.mark.parametrize(("make", "words"), BAD, ids=[words for _, words in BAD])
def test_data_without_order_numbers_or_labels_raise_one_line(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        advreg.evaluate(network(), make(), THREAT)
    assert "\n" not in str(caught.value)

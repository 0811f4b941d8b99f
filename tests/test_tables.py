"""Tables compared by columns: types, rows, NaN, order, tolerance, a budget, and files that are no tables."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from agilab.differences import EXACT, Tolerance
from agilab.errors import EvidenceError
from agilab.tables import Budget, ColumnChange, TableChange, table_changes

NAN = float("nan")
FLOATS = st.lists(st.none() | st.floats(), max_size=20)


def stored(table: Any, **how: Any) -> io.BytesIO:
    """Return a parquet file, open for reading."""
    file = io.BytesIO()
    parquet.write_table(table, file, **how)
    file.seek(0)
    return file


def compared(old: Any, new: Any, tolerance: Tolerance = EXACT, budget: Budget | None = None) -> TableChange:
    """Compare two tables, or dicts of columns."""
    files = [stored(table if isinstance(table, pa.Table) else pa.table(table)) for table in (old, new)]
    return table_changes(*files, tolerance=tolerance, budget=budget)


def column(found: TableChange, name: str) -> ColumnChange:
    """Return what differs in one column."""
    return next(item for item in found.columns if item.name == name)


TABLE = {
    "number": [1.0, NAN, 3.0, None],
    "whole": [1, 2, 3, 4],
    "text": ["a", "b", None, "d"],
    "list": [[1], [2, 3], [], None],
    "day": pa.array([0, 1, 2, None], pa.date32()),
    "code": pa.array(["x", "y", "x", None]).dictionary_encode(),
    "exact": [Decimal("1.10"), None, Decimal("2.20"), Decimal("3.30")],
    "half": pa.array([1.0, 2.0, None, NAN], pa.float16()),
}


def test_a_table_does_not_differ_from_itself_however_it_is_stored() -> None:
    plain = stored(pa.table(TABLE))
    other = stored(pa.table(TABLE), row_group_size=1, compression="zstd", use_dictionary=False)
    assert plain.getvalue() != other.getvalue()
    found = table_changes(plain, other)
    assert found == TableChange((4, 4), 4)
    assert found.same
    assert found.complete


def test_a_changed_number_is_measured_and_placed() -> None:
    found = compared(TABLE, {**TABLE, "number": [1.0, NAN, 2.0, None]})
    assert found.columns == (ColumnChange("number", "double", "double", 1, 1, 1.0, 1 / 3, 2, ("3.0", "2.0")),)
    assert not found.same


@pytest.mark.parametrize(
    ("name", "values", "differing"),
    [
        ("number", [1.0, 2.0, 3.0, None], 1),
        ("number", [None, NAN, 3.0, 0.0], 2),
        ("whole", [1, 2, 3, 5], 1),
        ("text", ["a", None, "b", "d"], 2),
        ("day", pa.array([0, 1, 3, None], pa.date32()), 1),
        ("code", pa.array(["x", "y", "z", None]), 1),
        ("exact", [Decimal("1.10"), None, Decimal("2.21"), Decimal("3.30")], 1),
        ("half", pa.array([1.0, 2.5, None, NAN], pa.float16()), 1),
    ],
)
def test_every_kind_of_column_is_compared(name: str, values: Any, differing: int) -> None:
    found = compared(TABLE, {**TABLE, name: values})
    assert [item.name for item in found.columns] == [name]
    assert (found.columns[0].differing, found.columns[0].beyond) == (differing, differing)
    assert compared(TABLE, TABLE).columns == ()


def test_a_column_of_lists_is_the_same_or_not() -> None:
    found = compared(TABLE, {**TABLE, "list": [[1], [2, 4], [], None]})
    assert column(found, "list").differing is None
    assert not found.same


def test_numbers_within_the_tolerance_are_counted_and_the_same() -> None:
    old, new = {"x": [100.0, 200.0, 0.0]}, {"x": [100.5, 200.0, 0.0]}
    found = compared(old, new, Tolerance(rtol=0.01))
    assert found.same
    assert found.columns == (ColumnChange("x", "double", "double", 1, 0, 0.5, 0.005),)
    assert not compared(old, new, Tolerance(atol=0.4)).same
    assert not compared(old, {"x": [100.5, 200.0, NAN]}, Tolerance(rtol=1, atol=1e9)).same
    assert not compared({"x": [float("inf")]}, {"x": [1.0]}, Tolerance(rtol=0.5)).same


def test_whole_numbers_beyond_the_precision_of_floats_are_compared_exactly() -> None:
    old, new = {"x": [2**53, 1]}, {"x": [2**53 + 1, 1]}
    assert column(compared(old, new), "x").beyond == 1
    assert compared(old, new, Tolerance(rtol=1e-9)).same


def test_a_changed_type_is_named_and_its_numbers_are_still_compared() -> None:
    found = compared({"x": [1, 2]}, {"x": [1.0, 2.5]})
    assert column(found, "x") == ColumnChange("x", "int64", "double", 1, 1, 0.5, 0.25, 1, ("2", "2.5"))
    same = compared({"x": [1, 2]}, {"x": [1.0, 2.0]})
    assert column(same, "x").differing == 0
    assert not same.same
    text = compared({"x": [1, 2]}, {"x": ["1", "2"]})
    assert (column(text, "x").old, column(text, "x").new) == ("int64", "string")
    big = compared({"x": [2**60 + 1]}, {"x": [1.0]})
    assert column(big, "x").beyond == 1


def test_added_and_removed_columns_are_named() -> None:
    found = compared({"x": [1], "old": [1]}, {"new": ["a"], "x": [1]})
    assert found.columns == (ColumnChange("old", "int64", ""), ColumnChange("new", "", "string"))
    assert not found.same
    nothing = compared({"old": [1, 2]}, {"new": [1, 2]})
    assert [item.name for item in nothing.columns] == ["old", "new"]
    assert nothing.complete


def test_columns_in_another_order_are_compared_by_name() -> None:
    turned = dict(reversed(TABLE.items()))
    found = compared(TABLE, turned)
    assert found == TableChange((4, 4), 4, columns_reordered=True)
    assert not found.same


def test_rows_in_another_order_are_recognised() -> None:
    table = pa.table({name: values for name, values in TABLE.items() if name not in ("list", "half")})
    found = compared(table, table.take([2, 0, 3, 1]))
    assert found == TableChange((4, 4), 4, rows_reordered=True)
    assert not found.same
    other = table.take([2, 0, 3, 1]).set_column(1, "whole", pa.array([3, 1, 4, 9]))
    assert not compared(table, other).rows_reordered


def test_each_column_reordered_alone_is_not_another_order_of_rows() -> None:
    found = compared({"x": [1, 2], "y": [1, 2]}, {"x": [1, 2], "y": [2, 1]})
    assert not found.rows_reordered
    assert column(found, "y").beyond == 2


def test_tables_of_different_length_are_compared_until_they_differ() -> None:
    found = compared({"x": [1, 2, 3]}, {"x": [1, 2, 3, 4]})
    assert found == TableChange((3, 4), 3, same_rows=3)
    assert found.complete
    assert not found.same
    assert compared({"x": [1, 2, 3]}, {"x": [1, 9]}).same_rows == 1
    assert compared({"x": [1, 2, 3]}, {"x": pa.array([], pa.int64())}).same_rows == 0


def test_a_budget_may_end_before_tables_of_different_length_differ() -> None:
    tables = [{"x": list(range(count))} for count in (300_000, 300_001)]
    found = compared(*tables, budget=Budget(1 << 20))
    assert found.same_rows == found.compared_rows < 300_000
    assert not found.complete
    assert compared(*tables).complete


@pytest.mark.parametrize("names", [("a", "a.b"), ("a.b.c", "list"), ("ä b", "x/y")])
def test_columns_may_have_any_name(names: tuple[str, str]) -> None:
    table = {names[0]: [1, 2], names[1]: [3, 4]}
    assert compared(table, table).same
    assert [item.name for item in compared(table, {**table, names[1]: [3, 5]}).columns] == [names[1]]
    assert compared(table, {name: values[::-1] for name, values in table.items()}).rows_reordered


def test_empty_tables_are_the_same() -> None:
    assert compared({"x": pa.array([], pa.int64())}, {"x": pa.array([], pa.int64())}).same
    assert compared({}, {}).same


def test_a_large_table_is_compared_up_to_the_budget() -> None:
    numbers = pa.array(range(300_000))
    old = stored(pa.table({"x": numbers}), row_group_size=50_000)
    new = stored(pa.table({"x": pa.compute.add(numbers, 1)}), row_group_size=70_000)
    budget = Budget(1 << 20)
    found = table_changes(old, new, budget=budget)
    assert 0 < found.compared_rows < 300_000
    assert not found.complete
    assert column(found, "x").beyond == found.compared_rows
    assert budget.left <= 0
    whole = table_changes(old, new)
    assert whole.complete
    assert column(whole, "x").beyond == 300_000


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", b"no table at all\n" * 10])
def test_what_is_no_table_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(EvidenceError, match="not a table that can be read") as caught:
        table_changes(io.BytesIO(data), stored(pa.table(TABLE)))
    assert "\n" not in str(caught.value)


def test_a_table_that_ends_in_the_middle_is_refused() -> None:
    whole = stored(pa.table({"x": list(range(10_000))})).getvalue()
    for damaged in (whole[:4000] + b"\xff" * 4000 + whole[8000:], whole[: len(whole) // 2]):
        with pytest.raises(EvidenceError, match="not a table"):
            table_changes(io.BytesIO(damaged), io.BytesIO(whole))


def test_two_columns_of_one_name_are_refused() -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["x", "x"])
    with pytest.raises(EvidenceError, match="one name"):
        compared(table, table)


@given(FLOATS)
def test_no_column_of_numbers_differs_from_itself(values: list[float | None]) -> None:
    table = pa.table({"x": pa.array(values, pa.float64())})
    assert compared(table, table) == TableChange((len(values), len(values)), len(values))


@given(st.lists(st.tuples(st.none() | st.floats(), st.none() | st.floats()), max_size=20), st.floats(0, 1))
def test_a_table_is_compared_as_value_by_value(pairs: list[tuple[float | None, float | None]], rtol: float) -> None:
    tolerance = Tolerance(rtol=rtol)
    found = compared(
        {"x": pa.array([old for old, _ in pairs], pa.float64())},
        {"x": pa.array([new for _, new in pairs], pa.float64())},
        tolerance,
    )
    expected = sum(not tolerance.same(old, new) for old, new in pairs)
    assert sum(item.beyond for item in found.columns) == expected or found.rows_reordered

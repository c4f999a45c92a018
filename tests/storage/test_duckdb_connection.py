"""Values written into SQL come back as they were."""

import struct
from typing import Any

import duckdb
import numpy as np
import pytest

from cro_core.storage.duckdb_connection import literal, with_values


@pytest.fixture(scope="module")
def session() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


def test_every_number_comes_back_to_the_last_bit(session: duckdb.DuckDBPyConnection) -> None:
    patterns = np.random.default_rng(1).integers(0, 2**63, 2000).tolist()
    numbers = [struct.unpack("d", struct.pack("Q", bits))[0] for bits in patterns]
    numbers = [n for n in numbers if not np.isnan(n)] + [
        -0.0,
        float("inf"),
        1e308,
        5e-324,
        *np.linspace(0, 1, 500),
    ]
    texts = ", ".join(map(literal, numbers))
    read = session.execute(f"SELECT unnest([{texts}])").fetchall()
    assert [struct.pack("d", value) for (value,) in read] == [struct.pack("d", n) for n in numbers]


@pytest.mark.parametrize(
    "value",
    ["it's", "a''b", "$b", "--", "a -- b\n'", "\\", "", "ß 漢 🎈", 0, -1, 2**62, True, ["a", "it's $a"]],
    ids=repr,
)
def test_a_value_is_what_an_argument_would_be(session: duckdb.DuckDBPyConnection, value: Any) -> None:
    text = "SELECT $a, '$a', typeof($a) -- $a\n"
    given = session.execute("SELECT $a, '$a', typeof($a)", {"a": value}).fetchone()
    written = session.execute(with_values(text, {"a": value, "b": 1})).fetchone()
    assert written is not None
    assert given is not None
    assert written[:2] == given[:2]
    assert isinstance(value, int) or written[2] == given[2]


def test_a_missing_argument_is_an_error() -> None:
    with pytest.raises(KeyError, match="as_of"):
        with_values("SELECT $as_of", {"other": 1})

"""Where the published data are, which are not part of this repository, for the tests that read them."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("CRO_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")

REAL = pytest.mark.skipif(
    not (DATA / "EXPECTED.md").is_file(),
    reason=f"NOT TESTED against real data: {DATA} is absent; set CRO_TEST_DATA to the folder that holds it",
)

ADSMART = """
experiment = { id = "adsmart" }
table = { layout = "visitors" }
columns = { unit = "auction_id", variant = "experiment", time = ["date", "hour"], device = "device_make" }
time = { format = "%Y-%m-%d %H", zone = "UTC" }
variants = [{ key = "control", control = true }, { key = "exposed" }]
goals = [{ name = "yes", when = { yes = 1 }, primary = true }]
plan = { shares = "equal" }
"""

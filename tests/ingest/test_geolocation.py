"""City and country of an address, from a real file of the format that MaxMind publishes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.mmdb import place, write_mmdb
from helpers.store_samples import START, rows, running, stored

from cro_core.errors import ConfigError
from cro_core.home import Home
from cro_core.ingest import geolocation
from cro_core.ingest.cleaning import Place, Sender
from cro_core.storage import schema
from cro_core.workflows import geolocate
from cro_core.workflows.ingest import ingest

PLACES = {
    "192.0.2.0/24": place("Århus", "DK"),
    "198.51.100.0/25": place(None, "CH"),
    "203.0.113.7/32": {"city": "Bern", "country": ["CH"]},  # another layout than MaxMind's
    "2001:db8::/32": place("Lyon", "FR"),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mmdb(tmp_path_factory.mktemp("geo") / "places.mmdb", PLACES)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("192.0.2.1", Place("Århus", "DK")),
        ("192.0.2.255", Place("Århus", "DK")),
        ("192.0.3.1", Place()),
        ("198.51.100.127", Place(None, "CH")),
        ("198.51.100.128", Place()),
        ("203.0.113.7", Place()),
        ("2001:db8::7", Place("Lyon", "FR")),
        ("2001:db9::7", Place()),
        ("127.0.0.1", Place()),
        ("no address", Place()),
    ],
)
def test_an_address_has_the_place_of_its_network(file: Path, address: str, found: Place) -> None:
    assert geolocation.open_locator(str(file))(address) == found


def test_ipv6_in_a_file_of_ipv4_is_unknown(tmp_path: Path) -> None:
    small = write_mmdb(tmp_path / "v4.mmdb", {"192.0.2.0/24": place("Århus", "DK")}, ip_version=4)
    locate = geolocation.open_locator(str(small))
    assert (locate("192.0.2.1"), locate("2001:db8::7")) == (Place("Århus", "DK"), Place())


def test_a_damaged_record_is_an_unknown_place(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    damaged = tmp_path / "damaged.mmdb"
    start = content.index(b"\0" * 16) + 16
    damaged.write_bytes(content[:start] + b"\xff" * 40 + content[start + 40 :])
    assert geolocation.open_locator(str(damaged))("192.0.2.1") == Place()


def test_what_cannot_be_read_is_refused_by_the_name_of_the_setting(tmp_path: Path) -> None:
    (tmp_path / "text.mmdb").write_text("no database")
    (tmp_path / "empty.mmdb").write_bytes(b"")
    for name, said in (
        ("missing.mmdb", "cannot be opened (No such file or directory): name a .mmdb file or null"),
        ("text.mmdb", "which is no MaxMind file"),
        ("empty.mmdb", "which is no MaxMind file"),
        ("", ""),
    ):
        with pytest.raises(ConfigError) as refused:
            geolocation.open_locator(str(tmp_path / name))
        assert refused.value.field == "service.geo_database"
        assert str(refused.value).startswith("service.geo_database ")
        assert said in str(refused.value)


def test_without_the_package_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "maxminddb", None)
    with pytest.raises(ConfigError, match=r"install the extra: pip install 'cro-intelligence\[geo\]'"):
        geolocation.open_locator(str(file))


def test_a_home_without_a_file_looks_nowhere(site: Home) -> None:
    assert geolocate.locator(site) is None


def test_a_process_opens_the_file_once_and_relative_to_the_home(make_site: Callable[..., Home]) -> None:
    home = make_site({"service": {"geo_database": "data/places.mmdb"}})
    write_mmdb(home.data / "places.mmdb", PLACES)
    first = geolocate.locator(home)
    assert first is not None
    assert geolocate.locator(home) is first
    assert first("192.0.2.1").city == "Århus"


GOAL: dict[str, Any] = {"event_type": "lead", "user_id": "v1"}


@pytest.mark.parametrize(
    ("said", "told", "address", "kept"),
    [
        ({"city": "Paris", "country": "FR"}, Place("Bern", "CH"), "192.0.2.1", ("Paris", "FR")),
        ({"city": "Paris"}, Place("Bern", "CH"), "192.0.2.1", ("Paris", "CH")),
        ({}, Place("Bern", "CH"), "192.0.2.1", ("Bern", "CH")),
        ({}, Place(None, "CH"), "192.0.2.1", ("Århus", "CH")),
        ({"city": ""}, Place(), "192.0.2.1", ("Århus", "DK")),
        ({}, Place(), "192.0.3.1", (None, None)),
        ({}, Place(), None, (None, None)),
    ],
)
def test_the_payload_wins_then_the_proxy_then_the_file(
    make_site: Callable[..., Home],
    file: Path,
    said: dict[str, Any],
    told: Place,
    address: str | None,
    kept: Any,
) -> None:
    home = make_site({"service": {"geo_database": str(file)}})
    stored(home.db, running())
    assert ingest(home, [GOAL | said], now=START, sender=Sender(None, address, told)).accepted == 1
    (row,) = rows(home.db, schema.events)
    assert (row["city"], row["country"]) == kept

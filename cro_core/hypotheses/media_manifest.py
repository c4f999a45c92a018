"""The site's pictures and clips: ``media-manifest.json`` beside its files, read strictly.

    {"hero": [item, ...], "videos": {"hero": item}, "gallery": {"weddings": [item, ...], "parties": [...]}}

Where a list of items is expected, a single item may stand. An item has an ``id``, a ``path`` (or ``paths``, a
list or an object of them) inside the media folder, and where known ``alt``, ``dimensions`` (``width`` and
``height`` in pixels), ``duration`` (seconds), ``category``, ``subcategory`` and ``cost_per_exposure`` (what it costs
to show it to one visitor). Further keys of an item are the website's own business and left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cro_core.errors import Fault, InvalidInput, faults
from cro_core.hypotheses.backlog import HERO, IMAGE, VIDEO, MediaAsset

MANIFEST = "media-manifest.json"
GALLERY = "gallery"
SECTIONS = (HERO, "videos", GALLERY)

NO_OCCASION = {HERO, GALLERY, "image", "images", "photo", "photos", "video", "videos"}
"""Categories that say where or what an asset is, not which occasion it shows."""


class Dimensions(BaseModel):
    """Width and height of a picture or clip in pixels."""

    width: int = Field(ge=1, le=100_000)
    height: int = Field(ge=1, le=100_000)


class Item(BaseModel):
    """An asset as the manifest describes it."""

    model_config = ConfigDict(allow_inf_nan=False)

    # Leaves room for the slot in front of it, for an experiment's id is a key too.
    id: str = Field(pattern=r"^[A-Za-z0-9._:-]{1,80}$")
    path: str | None = Field(default=None, min_length=1)
    paths: list[str] | dict[str, str] | None = Field(default=None, min_length=1)
    alt: str = Field(default="", max_length=200)
    dimensions: Dimensions | None = None
    duration: float | None = Field(default=None, gt=0, le=24 * 3600)
    cost_per_exposure: float | None = Field(default=None, ge=0, le=1e9)
    category: str | None = Field(default=None, max_length=60)
    subcategory: str | None = Field(default=None, max_length=60)

    @model_validator(mode="after")
    def _one_way_to_its_files(self) -> Item:
        if (self.path is None) == (self.paths is None):
            raise ValueError("give either path or paths")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the item's files, the preferred one first."""
        if self.paths is None:
            return (self.path or "",)
        return tuple(self.paths.values() if isinstance(self.paths, dict) else self.paths)


@dataclass(frozen=True, slots=True)
class _Entry:
    """An item of the manifest and where it stands."""

    where: str
    """Place of the entry as people would point at it, e.g. ``gallery.weddings[2]``."""
    kind: str
    place: str
    group: str
    data: Any


def read_manifest(folder: Path) -> tuple[MediaAsset, ...]:
    """The assets of a media folder, in the manifest's order; none where there is no manifest.

    Raises:
        InvalidInput: the manifest is not JSON, has a section or shape that is not known, or names an item that
            is incomplete, doubled, without its file, or outside the folder. The message names the item.
    """
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (UnicodeDecodeError, OSError) as error:
        raise InvalidInput(f"{MANIFEST} cannot be read ({error}): write it as UTF-8 text") from None
    assets: dict[str, MediaAsset] = {}
    for entry in _entries(_parse(text)):
        asset = _asset(entry, folder)
        if asset.id in assets:
            raise _refused(entry.where, f"id {asset.id!r} is used twice: make ids distinct")
        assets[asset.id] = asset
    return tuple(assets.values())


def _parse(text: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{MANIFEST} is not JSON (line {error.lineno}): {error.msg}") from None
    if not isinstance(data, dict):
        raise InvalidInput(
            f"{MANIFEST} holds {_shape(data)}: it must be an object with {', '.join(SECTIONS)}"
        )
    unknown = [key for key in data if key not in SECTIONS]
    if unknown:
        raise InvalidInput(
            f"{MANIFEST} has a section {unknown[0]!r}: those that are known are {', '.join(SECTIONS)}"
        )
    return data


def _entries(data: Mapping[str, Any]) -> Iterator[_Entry]:
    yield from _items(data.get(HERO), HERO, IMAGE, HERO, "")
    for place, items in _groups(data, "videos"):
        yield from _items(items, f"videos.{place}", VIDEO, place, "")
    for group, items in _groups(data, GALLERY):
        yield from _items(items, f"{GALLERY}.{group}", IMAGE, GALLERY, group)


def _groups(data: Mapping[str, Any], section: str) -> Iterator[tuple[str, Any]]:
    groups = data.get(section, {})
    if not isinstance(groups, dict) or "id" in groups:
        raise _refused(section, f"is {_shape(groups)}: it must be an object of named groups of items")
    yield from groups.items()


def _items(items: Any, where: str, kind: str, place: str, group: str) -> Iterator[_Entry]:
    if items is None:
        return
    if isinstance(items, dict):
        yield _Entry(where, kind, place, group, items)
    elif isinstance(items, list):
        yield from (_Entry(f"{where}[{i}]", kind, place, group, item) for i, item in enumerate(items))
    else:
        raise _refused(where, f"is {_shape(items)}: it must be an item or a list of items")


def _asset(entry: _Entry, folder: Path) -> MediaAsset:
    item = _item(entry)
    where = f"{entry.where} ({item.id})"
    for path in item.files:
        _check_file(path, folder, where)
    size = item.dimensions
    return MediaAsset(
        id=item.id,
        kind=entry.kind,
        place=entry.place,
        paths=item.files,
        alt=item.alt,
        width=size.width if size else None,
        height=size.height if size else None,
        duration_s=item.duration,
        category=item.category,
        subcategory=item.subcategory,
        occasion=_occasion(entry.group, item.category, item.subcategory),
        cost_per_exposure=item.cost_per_exposure,
    )


def _item(entry: _Entry) -> Item:
    if not isinstance(entry.data, dict):
        raise _refused(entry.where, f"is {_shape(entry.data)}: it must be an object with id and path")
    try:
        return Item.model_validate(entry.data)
    except ValidationError as error:
        name = entry.data.get("id")
        where = f"{entry.where} ({name})" if isinstance(name, str) and name else entry.where
        raise _refused(where, "; ".join(map(_complaint, faults(error, "")))) from None


def _complaint(fault: Fault) -> str:
    return fault.said if fault.kind == "value_error" else f"{fault.name}: got {fault.got!r}, {fault.clause}"


def _check_file(path: str, folder: Path, where: str) -> None:
    if "://" in path:
        raise _refused(where, f"{path} is an address: give the path of a file inside the media folder")
    try:
        file = (folder / path).resolve()
        inside, there = file.is_relative_to(folder.resolve()), file.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, a ring of links
        raise _refused(
            where, f"{path!r:.120} is no path: give that of a file inside the media folder"
        ) from None
    if not inside:
        raise _refused(where, f"{path} leads out of the media folder: move the file into it")
    if not there:
        raise _refused(where, f"its file {path} is missing from the media folder: add it, or drop the item")


def _occasion(*categories: str | None) -> str | None:
    """The first category that names an occasion, in the singular."""
    for category in categories:
        if category and category.casefold() not in NO_OCCASION:
            return _singular(category.casefold())
    return None


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _shape(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _refused(where: str, why: str) -> InvalidInput:
    return InvalidInput(f"{MANIFEST}: {where}: {why}", field=where)

"""The media manifest, read strictly; and the drawn samples."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cro_core.errors import InvalidInput
from cro_core.hypotheses.backlog import MediaAsset
from cro_core.hypotheses.media_manifest import MANIFEST, read_manifest
from cro_core.samples.sample_media import draw_sample_media

HALL = {
    "id": "hall",
    "path": "img/hall.jpg",
    "alt": "Empty hall",
    "dimensions": {"width": 1600, "height": 900},
    "category": "hero",
    "subcategory": "Weddings",
    "photographer": "somebody",
}
CLIP = {"id": "dance", "paths": {"webm": "dance.webm", "mp4": "dance.mp4"}, "duration": 12.5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "media"
    (made / "img").mkdir(parents=True)
    for name in ("img/hall.jpg", "dance.webm", "dance.mp4", "a.jpg", "b.jpg"):
        (made / name).touch()
    return made


def write(folder: Path, data: Any) -> Path:
    (folder / MANIFEST).write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return folder


def test_a_manifest_becomes_assets_in_its_order(folder: Path) -> None:
    manifest = {
        "hero": HALL,
        "videos": {"hero": [CLIP]},
        "gallery": {"parties": [{"id": "a", "path": "a.jpg"}], "corporate": {"id": "b", "paths": ["b.jpg"]}},
    }
    hall, clip, party, corporate = read_manifest(write(folder, manifest))
    assert hall == MediaAsset(
        "hall", "image", "hero", ("img/hall.jpg",), "Empty hall", 1600, 900,
        category="hero", subcategory="Weddings", occasion="wedding",
    )  # fmt: skip
    assert hall.aspect_ratio == 1.7778
    assert (clip.kind, clip.place, clip.paths) == ("video", "hero", ("dance.webm", "dance.mp4"))
    assert (clip.duration_s, clip.occasion, clip.aspect_ratio) == (12.5, None, None)
    assert [(a.place, a.occasion) for a in (party, corporate)] == [
        ("gallery", "party"),
        ("gallery", "corporate"),
    ]


def test_an_item_may_say_what_it_costs_to_show(folder: Path) -> None:
    (dear,) = read_manifest(write(folder, {"hero": {**HALL, "cost_per_exposure": 0.02}}))
    (free,) = read_manifest(write(folder, {"hero": HALL}))
    assert (dear.cost_per_exposure, free.cost_per_exposure) == (0.02, None)


def test_without_a_manifest_there_are_no_assets(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == ()
    assert read_manifest(write(tmp_path, {"hero": []})) == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "not JSON .line 1."),
        ("[]", "holds a list: it must be an object with hero, videos, gallery"),
        ({"heroes": []}, "section 'heroes': those that are known are hero, videos, gallery"),
        ({"hero": "hall.jpg"}, "hero: is text: it must be an item or a list"),
        ({"hero": ["hall.jpg"]}, r"hero\[0\]: is text: it must be an object with id and path"),
        ({"videos": [CLIP]}, "videos: is a list: it must be an object of named groups"),
        ({"videos": CLIP}, "videos: is an object: it must be an object of named groups"),
        ({"gallery": {"weddings": 3}}, "gallery.weddings: is a number"),
        ({"hero": {"path": "a.jpg"}}, "hero: id: got .* field required"),
        ({"hero": {"id": "a b", "path": "a.jpg"}}, r"hero \(a b\): id: got 'a b'"),
        ({"hero": {"id": "a"}}, r"hero \(a\): give either path or paths"),
        ({"hero": {"id": "a", "path": "a.jpg", "paths": ["b.jpg"]}}, "give either path or paths"),
        ({"hero": {"id": "a", "paths": []}}, r"hero \(a\): paths"),
        ({"hero": {"id": "a", "path": "a.jpg", "duration": -1}}, r"hero \(a\): duration: got -1"),
        ({"hero": {"id": "a", "path": "a.jpg", "cost_per_exposure": -1}}, "cost_per_exposure: got -1"),
        ({"hero": {"id": "a", "path": "a.jpg", "dimensions": {"width": 0, "height": 1}}}, "width: got 0"),
        ({"hero": [HALL, {**HALL, "path": "a.jpg"}]}, r"hero\[1\]: id 'hall' is used twice"),
        ({"hero": {"id": "a", "path": "c.jpg"}}, r"hero \(a\): its file c.jpg is missing"),
        ({"hero": {"id": "a", "path": "img"}}, r"hero \(a\): its file img is missing"),
        ({"hero": {"id": "a", "path": "../secret"}}, r"hero \(a\): ../secret leads out of the media folder"),
        ({"hero": {"id": "a", "path": "/etc/passwd"}}, "/etc/passwd leads out of the media folder"),
        ({"hero": {"id": "a", "path": "https://x.test/a.jpg"}}, "is an address"),
        ({"hero": {"id": "a", "path": "a\x00.jpg"}}, "is no path"),
        ({"gallery": {"weddings": [HALL, {"id": "z", "path": "z" * 5000}]}}, r"gallery.weddings\[1\] \(z\)"),
    ],
)
def test_what_is_wrong_is_refused_by_name(folder: Path, data: Any, message: str) -> None:
    (folder.parent / "secret").touch()
    with pytest.raises(InvalidInput, match=message):
        read_manifest(write(folder, data))


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder.parent / "secret").touch()
    (folder / "link.jpg").symlink_to(folder.parent / "secret")
    with pytest.raises(InvalidInput, match="leads out"):
        read_manifest(write(folder, {"hero": {"id": "a", "path": "link.jpg"}}))


def test_a_manifest_that_is_not_text_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\xff\xfe{}")
    with pytest.raises(InvalidInput, match="UTF-8"):
        read_manifest(folder)


def test_the_samples_are_what_their_manifest_says(tmp_path: Path) -> None:
    began = time.process_time()
    assets = draw_sample_media(tmp_path / "media", np.random.default_rng(1))
    assert time.process_time() - began < 8
    assert {a.occasion for a in assets} == {"wedding", "party", "corporate"}
    assert {(a.kind, a.place) for a in assets} == {("image", "hero"), ("video", "hero"), ("image", "gallery")}
    for asset in assets:
        file = tmp_path / "media" / asset.paths[0]
        assert 10_000 < file.stat().st_size < 400_000
        with Image.open(file) as image:
            assert image.size == (asset.width, asset.height)
            assert np.asarray(image.convert("L")).std() > 15  # something is to be seen
            frames = getattr(image, "n_frames", 1)
            first = np.asarray(image.convert("L"), dtype=float)
            assert (frames > 1) == (asset.kind == "video")
            if asset.kind == "video":
                seconds = 0.0
                for frame in range(frames):
                    image.seek(frame)
                    image.load()
                    seconds += image.info["duration"] / 1000
                assert seconds == asset.duration_s
                image.seek(frames // 2)
                moved = np.abs(np.asarray(image.convert("L"), dtype=float) - first)
                assert moved.mean() > 2

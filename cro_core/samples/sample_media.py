"""Sample media: pictures and a clip of celebrations, drawn into a folder with the manifest of a made-up site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cro_core.hypotheses.backlog import HERO, MediaAsset
from cro_core.hypotheses.media_manifest import GALLERY, MANIFEST, read_manifest

if TYPE_CHECKING:
    import numpy as np


PICTURE_SIZE = (1280, 720)
CLIP_SIZE = (480, 270)
CLIP_FRAMES, CLIP_FRAME_MS = 24, 125


def draw_sample_media(folder: Path, rng: np.random.Generator) -> tuple[MediaAsset, ...]:
    """Draws sample pictures and a clip of celebrations into ``folder``, with their manifest; returns the assets.

    The pictures are JPEG files, the clip is an animated WebP that runs in a loop.
    """
    from cro_core.samples import scenes

    folder.mkdir(parents=True, exist_ok=True)
    drawn = {
        "garden-dinner": scenes.wedding(*PICTURE_SIZE, rng),
        "roof-terrace": scenes.corporate(*PICTURE_SIZE, rng),
        "blossom-table": scenes.wedding(*PICTURE_SIZE, rng, scenes.BLOSSOM),
        "neon-floor": scenes.party(*PICTURE_SIZE, rng),
        "ember-floor": scenes.party(*PICTURE_SIZE, rng, scenes.EMBER),
    }
    for name, pixels in drawn.items():
        scenes.as_image(pixels).save(folder / f"{name}.jpg", quality=85)
    frames = [scenes.as_image(pixels) for pixels in scenes.film(*CLIP_SIZE, CLIP_FRAMES, rng)]
    frames[0].save(
        folder / "dance-floor.webp",
        save_all=True,
        append_images=frames[1:],
        duration=CLIP_FRAME_MS,
        loop=0,
        quality=60,
        method=0,
    )
    (folder / MANIFEST).write_text(json.dumps(_sample_manifest(), indent=2) + "\n", encoding="utf-8")
    return read_manifest(folder)


def _sample_manifest() -> dict[str, Any]:
    clip = {
        "id": "dance-floor",
        "path": "dance-floor.webp",
        "alt": "Clip of a dance floor",
        "dimensions": _dimensions(CLIP_SIZE),
        "duration": CLIP_FRAMES * CLIP_FRAME_MS / 1000,
        "category": "parties",
    }
    return {
        HERO: [
            _picture("garden-dinner", "Garden dinner", "weddings"),
            _picture("roof-terrace", "Reception on a roof terrace", "corporate"),
        ],
        "videos": {HERO: [clip]},
        GALLERY: {
            "weddings": [_picture("blossom-table", "Laid table under blossom", "weddings")],
            "parties": [
                _picture("neon-floor", "Dance floor in neon light", "parties"),
                _picture("ember-floor", "Dance floor in warm light", "parties"),
            ],
        },
    }


def _picture(name: str, alt: str, category: str) -> dict[str, Any]:
    return {
        "id": name,
        "path": f"{name}.jpg",
        "alt": alt,
        "dimensions": _dimensions(PICTURE_SIZE),
        "category": category,
    }


def _dimensions(size: tuple[int, int]) -> dict[str, int]:
    return {"width": size[0], "height": size[1]}

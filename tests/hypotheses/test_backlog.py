"""From media and winners to the next experiments; and the backlog of a real home."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cro_core.config import Config, validate
from cro_core.domain import Reason, Status, Variant, Verdict
from cro_core.errors import InvalidInput, NotFound
from cro_core.evidence import Decision
from cro_core.home import Home, create_home
from cro_core.hypotheses.backlog import WORDINGS, Incumbent, MediaAsset, Priority, generate
from cro_core.hypotheses.media_manifest import MANIFEST
from cro_core.storage import decisions, experiments
from cro_core.workflows import approval, lifecycle
from cro_core.workflows.open_backlog import find, open_backlog
from cro_core.workflows.orchestrate import orchestrate
from cro_core.workflows.transaction import begin

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
HALL = MediaAsset("hall", "image", "hero", ("hall.jpg",), "Hall", 1600, 900, occasion="wedding")
DANCE = MediaAsset(
    "dance", "video", "hero", ("dance.webm", "dance.mp4"), "Dance", 1280, 720, 12.0, occasion="party"
)
TOAST = MediaAsset("toast", "image", "hero", ("toast.jpg",), "Toast", occasion="wedding")
ALBUM = MediaAsset("album", "image", "gallery", ("album.jpg",))
LIBRARY = (HALL, DANCE, TOAST, ALBUM)


def test_a_picture_is_challenged_by_a_clip() -> None:
    first = generate(LIBRARY)[0]
    assert (first.id, first.kind, first.slot) == ("hero.dance", "hero_media", "hero")
    control, challenger = first.variants
    assert (control.asset_id, control.config["kind"], control.is_control) == ("hall", "image", True)
    assert (challenger.asset_id, challenger.config["kind"]) == ("dance", "video")
    assert challenger.config["sources"] == ["dance.webm", "dance.mp4"]
    assert challenger.features == {
        "kind": "video",
        "aspect_ratio": 1.7778,
        "duration_s": 12.0,
        "occasion": "party",
    }
    assert "clip of a party" in first.statement


def test_the_order_is_the_arithmetic() -> None:
    backlog = generate(LIBRARY)
    assert [h.id for h in backlog] == [
        "hero.dance",
        "cta.check-your-date",
        "cta.ask-for-a-price",
        "cta.tell-us-about-your-event",
        "hero.toast",
    ]
    values = [h.priority.value for h in backlog]
    assert values == sorted(values, reverse=True)
    assert Priority(0.9, 0.7, 1.0).value == 63.0
    assert Priority(0.9, 0.7, 1.0).text == "100 x reach 0.9 x contrast 0.7 x ease 1 = 63"
    assert generate(LIBRARY) == backlog


def test_texts_challenge_the_sites_own_words() -> None:
    texts = [h for h in generate(LIBRARY) if h.slot == "cta"]
    assert [h.variants[1].config for h in texts] == [{"text": w.text} for w in WORDINGS]
    assert all(h.variants[0].config == {} and h.variants[0].is_control for h in texts)
    assert texts[0].variants[1].features == {"kind": "text", "words": 6.0}


def test_without_media_nothing_is_proposed_and_a_gallery_is_no_hero() -> None:
    assert generate(()) == ()
    assert {h.slot for h in generate((ALBUM,))} == {"cta"}
    assert [h.id for h in generate((DANCE, ALBUM)) if h.slot == "hero"] == []


def test_a_winner_is_challenged_by_what_was_not_tried() -> None:
    won = Variant("dance", "Dance", {"kind": "video"}, "dance", features={"kind": "video"})
    incumbents = {"hero": Incumbent("hero.dance", won)}
    heroes = [h for h in generate(LIBRARY, incumbents, {"hero": {"hall", "dance"}}) if h.slot == "hero"]
    assert [h.id for h in heroes] == ["hero.toast"]
    assert heroes[0].variants[0] == replace(won, is_control=True)
    assert heroes[0].parent_id == "hero.dance"
    assert "than one with a clip" in heroes[0].statement
    shown = Variant("x", "x", {"text": WORDINGS[0].text.upper()})
    texts = [h.id for h in generate(LIBRARY, {"cta": Incumbent("e", shown)}) if h.slot == "cta"]
    assert texts == ["cta.ask-for-a-price", "cta.tell-us-about-your-event"]


def test_a_hypothesis_becomes_a_planned_draft() -> None:
    config = validate({"statistics": {"base_rate": 0.08, "minimum_detectable_uplift": 0.3}})
    hypothesis = generate(LIBRARY)[0]
    draft = hypothesis.to_experiment(config, now=NOW)
    assert (draft.id, draft.status, draft.source, draft.slot) == (
        "hero.dance",
        Status.DRAFT,
        "autopilot",
        "hero",
    )
    assert (draft.plan.base_rate, draft.plan.mde, draft.created_at) == (0.08, 0.3, NOW)
    assert (draft.priority, draft.occasion, draft.kind) == (80.0, "party", "hero_media")
    assert draft.hypothesis == hypothesis.statement
    assert hypothesis.priority.text in draft.reasoning
    default = hypothesis.to_experiment(Config(), now=NOW).plan.units
    assert default is not None
    assert draft.plan.units is not None
    assert default > draft.plan.units


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = create_home(tmp_path / "home", {"automation": {"max_concurrent_tests": 2}}, environ={})
    add_media(made)
    yield made
    made.db.close()


def add_media(home: Home) -> None:
    for name in ("hall.jpg", "dance.webp", "toast.jpg"):
        (home.media / name).touch()
    manifest = {
        "hero": [{"id": "hall", "path": "hall.jpg"}, {"id": "toast", "path": "toast.jpg"}],
        "videos": {"hero": {"id": "dance", "path": "dance.webp", "duration": 12}},
    }
    (home.media / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def backlog(home: Home) -> list[str]:
    with home.db.read() as connection:
        return [h.id for h in open_backlog(connection, home)]


def conclude(home: Home, experiment_id: str, verdict: Verdict, winner: str) -> None:
    at = NOW + timedelta(days=14)
    reasons = (Reason("test", "as the test wants it"),)
    decision = Decision(experiment_id, at, verdict, reasons, (), winner=winner, id=f"d:{experiment_id}")
    with begin(home, now=at, actor="autopilot") as transaction:
        experiment = experiments.get(transaction.connection, experiment_id)
        lifecycle.conclude(transaction, experiment, decision)


def test_a_cycle_starts_the_best_of_each_slot(home: Home) -> None:
    report = orchestrate(home, now=NOW)
    assert report.failures == ()
    with home.db.read() as connection:
        running = experiments.with_status(connection, Status.RUNNING)
    assert {(e.slot, e.id) for e in running} == {("hero", "hero.dance"), ("cta", "cta.check-your-date")}
    assert [v.config.get("kind") for v in next(e for e in running if e.slot == "hero").variants] == [
        "image",
        "video",
    ]
    assert "hero.dance" not in backlog(home)
    assert orchestrate(home, now=NOW + timedelta(hours=1)).changes == ()


def test_the_winner_is_challenged_next(home: Home) -> None:
    orchestrate(home, now=NOW)
    conclude(home, "hero.dance", Verdict.SHIP, "dance")
    conclude(home, "cta.check-your-date", Verdict.KEEP_CONTROL, "site-words")
    report = orchestrate(home, now=NOW + timedelta(days=15))
    assert report.failures == ()
    with home.db.read() as connection:
        hero = experiments.get(connection, "hero.toast")
        cta = experiments.get(connection, "cta.ask-for-a-price")
    assert (hero.status, hero.parent_id, hero.control.key) == (Status.RUNNING, "hero.dance", "dance")
    assert (hero.control.asset_id, hero.control.config["kind"]) == ("dance", "video")
    assert (cta.status, cta.parent_id, cta.control.key) == (Status.RUNNING, None, "site-words")
    assert backlog(home) == ["cta.tell-us-about-your-event"]


def test_what_a_person_declined_is_not_proposed_again(tmp_path: Path) -> None:
    home = create_home(tmp_path / "home", {"automation": {"auto_start_new_tests": False}}, environ={})
    add_media(home)
    orchestrate(home, now=NOW)
    with home.db.read() as connection:
        pending = {p["subject"]: p["id"] for p in decisions.recommendations(connection)}
    assert set(pending) == {"hero.dance", "cta.check-your-date"}
    approval.reject(home, pending["hero.dance"], now=NOW, actor="admin")
    assert "hero.dance" not in backlog(home)
    assert "cta.check-your-date" in backlog(home)
    said = approval.approve(home, pending["cta.check-your-date"], now=NOW, actor="admin")
    assert said.startswith("cta.check-your-date: started. New visitors count for 2 weeks")
    assert "cta.check-your-date" not in backlog(home)
    home.db.close()


def test_an_unknown_hypothesis_is_named_with_those_there_are(home: Home) -> None:
    with home.db.read() as connection:
        assert find(connection, home, "hero.toast").slot == "hero"
        with pytest.raises(NotFound, match=r"'nothing' .* choose from hero\.dance, cta\.check-your-date"):
            find(connection, home, "nothing")


def test_a_broken_manifest_fails_by_name(home: Home) -> None:
    (home.media / "dance.webp").unlink()
    with home.db.read() as connection, pytest.raises(InvalidInput, match=r"videos\.hero \(dance\)"):
        open_backlog(connection, home)
    report = orchestrate(home, now=NOW)
    assert [f["experiment"] for f in report.failures] == ["(backlog)"]

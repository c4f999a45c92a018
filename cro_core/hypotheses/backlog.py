"""What is worth testing next: from the site's media and its present winners to experiments, in order.

The factors of a priority are judgements, written down here so that anyone can argue with them. They order the
backlog; no decision rests on them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cro_core.config import Config
from cro_core.domain import Experiment, Variant, check_experiment
from cro_core.planning.plans import new_plan

HERO, CTA = "hero", "cta"
"""The page regions that hypotheses are made for."""

IMAGE, VIDEO, TEXT = "image", "video", "text"
"""What a variant shows: the ``kind`` of its features, and of its configuration in the hero."""


@dataclass(frozen=True, slots=True)
class MediaAsset:
    """A picture or clip of the site."""

    id: str
    kind: str
    """What the asset is: ``image`` or ``video``."""
    place: str
    """Where the site uses it: ``hero`` or ``gallery``."""
    paths: tuple[str, ...]
    """The asset's files inside the media folder, the preferred one first."""
    alt: str = ""
    width: int | None = None
    """Pixels; ``None`` where the manifest does not say."""
    height: int | None = None
    duration_s: float | None = None
    """Seconds; ``None`` for pictures and where the manifest does not say."""
    category: str | None = None
    subcategory: str | None = None
    occasion: str | None = None
    """Wedding, party, corporate ...; ``None`` where it shows none in particular."""
    cost_per_exposure: float | None = None
    """What it costs to show it to one visitor; ``None`` where the manifest does not say."""

    @property
    def aspect_ratio(self) -> float | None:
        """Width over height; ``None`` where the dimensions are not known."""
        return round(self.width / self.height, 4) if self.width and self.height else None

    @property
    def features(self) -> dict[str, float | str | None]:
        """What the prediction model gets to know of it."""
        return {
            "kind": self.kind,
            "aspect_ratio": self.aspect_ratio,
            "duration_s": self.duration_s,
            "occasion": self.occasion,
        }


@dataclass(frozen=True, slots=True)
class Incumbent:
    """What a slot shows now, and the experiment that put it there."""

    experiment_id: str
    variant: Variant


@dataclass(frozen=True, slots=True)
class Priority:
    """How early a hypothesis is tested: the product of three fractions, times 100."""

    reach: float
    """Share of the visitors who meet the slot."""
    contrast: float
    """How different the challenger is: what hardly differs can hardly win."""
    ease: float
    """1 where the challenger costs nothing; less where it makes the page heavier."""

    @property
    def value(self) -> float:
        """The priority, from 0 to 100."""
        return round(100 * self.reach * self.contrast * self.ease, 1)

    @property
    def text(self) -> str:
        """The arithmetic, for people."""
        factors = f"reach {self.reach:g} x contrast {self.contrast:g} x ease {self.ease:g}"
        return f"100 x {factors} = {self.value:g}"


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """An experiment that could be run, with the reason to run it."""

    id: str
    """Id of the experiment it becomes; tells slot and challenger, so that nothing is tried twice."""
    kind: str
    """What the hypothesis is about: ``hero_media`` or ``cta_text``."""
    slot: str
    name: str
    statement: str
    reasoning: str
    priority: Priority
    variants: tuple[Variant, ...]
    """The control first."""
    occasion: str | None = None
    parent_id: str | None = None
    """The experiment whose winner is challenged; ``None`` where the site's own default is."""

    def to_experiment(self, config: Config, *, now: datetime) -> Experiment:
        """The draft of the experiment, planned by these settings."""
        return check_experiment(
            Experiment(
                self.id,
                self.name,
                self.variants,
                new_plan(config, variants=len(self.variants)),
                slot=self.slot,
                kind=self.kind,
                hypothesis=self.statement,
                reasoning=f"{self.reasoning} Priority: {self.priority.text}.",
                priority=self.priority.value,
                occasion=self.occasion,
                source="autopilot",
                parent_id=self.parent_id,
                created_at=now,
            )
        )


@dataclass(frozen=True, slots=True)
class Wording:
    """A text for the call to action, with the thought behind it."""

    key: str
    text: str
    statement: str
    reasoning: str
    contrast: float


# None of these promises anything that the site's owner would have to keep.
WORDINGS: tuple[Wording, ...] = (
    Wording(
        "check-your-date",
        "Check if your date is free",
        "A question about the visitor's own date brings more requests than a general call.",
        "Everyone who plans a celebration has a date, and asking whether it is free is a smaller step than booking.",
        0.7,
    ),
    Wording(
        "ask-for-a-price",
        "Ask for a price",
        "Naming the price brings more requests than a general call.",
        "The price is what visitors need to know next, and the words say what they get for the click.",
        0.6,
    ),
    Wording(
        "tell-us-about-your-event",
        "Tell us about your event",
        "An invitation to talk about the event brings more requests than a general call.",
        "It puts the visitor's plans first, and a conversation commits to nothing.",
        0.5,
    ),
)

SITE_WORDS = Variant("site-words", "The site's own words", is_control=True, features={"kind": TEXT})
"""The control while no wording has won: it changes nothing on the page."""


def generate(
    assets: Sequence[MediaAsset],
    incumbents: Mapping[str, Incumbent] | None = None,
    tried: Mapping[str, Collection[str]] | None = None,
) -> tuple[Hypothesis, ...]:
    """What could be tested, the most promising first. Without any media there is nothing to propose.

    Args:
        assets: the site's media.
        incumbents: slot -> what it shows now, where an experiment put it there; it becomes the control.
        tried: slot -> asset ids and texts that experiments have shown there; they are not proposed again.
    """
    if not assets:
        return ()
    shown, known = incumbents or {}, tried or {}
    proposals = [
        *_hero(assets, shown.get(HERO), set(known.get(HERO, ()))),
        *_cta(shown.get(CTA), {text.casefold() for text in known.get(CTA, ())}),
    ]
    return tuple(sorted(proposals, key=lambda h: (-h.priority.value, h.id)))


def asset_variant(asset: MediaAsset, *, is_control: bool = False) -> Variant:
    """The asset as a variant of the hero."""
    config: dict[str, object] = {
        "kind": asset.kind,
        "asset": asset.id,
        "src": asset.paths[0],
        "alt": asset.alt,
    }
    if len(asset.paths) > 1:
        config["sources"] = list(asset.paths)
    variant = Variant(asset.id, _title(asset), config, asset.id, is_control, asset.features)
    return variant.costing(asset.cost_per_exposure)


def text_features(text: str) -> dict[str, float | str | None]:
    """What the prediction model gets to know of a wording."""
    return {"kind": TEXT, "words": float(len(text.split()))}


def _hero(assets: Sequence[MediaAsset], incumbent: Incumbent | None, tried: set[str]) -> Iterator[Hypothesis]:
    candidates = [a for a in assets if a.place == HERO]
    control = _control(incumbent) if incumbent else _default_hero(candidates)
    if control is None:
        return
    for asset in candidates:
        if asset.id not in tried | {control.asset_id, control.key}:
            yield _hero_hypothesis(control, asset, incumbent)


def _default_hero(candidates: Sequence[MediaAsset]) -> Variant | None:
    """What the site shows before any test: its first hero picture, or clip where there are only clips."""
    ordered = sorted(candidates, key=lambda a: a.kind != IMAGE)
    return asset_variant(ordered[0], is_control=True) if ordered else None


def _hero_hypothesis(control: Variant, asset: MediaAsset, incumbent: Incumbent | None) -> Hypothesis:
    before = str(_feature(control, "kind") or IMAGE)
    statement, reasoning, contrast = _hero_case(before, asset, _feature(control, "occasion"))
    return Hypothesis(
        id=f"{HERO}.{asset.id}",
        kind="hero_media",
        slot=HERO,
        name=f"Hero: {control.name} or {_title(asset)}",
        statement=statement,
        reasoning=reasoning,
        priority=Priority(reach=1.0, contrast=contrast, ease=0.8 if asset.kind == VIDEO else 1.0),
        variants=(control, asset_variant(asset)),
        occasion=asset.occasion,
        parent_id=incumbent.experiment_id if incumbent else None,
    )


def _hero_case(before: str, asset: MediaAsset, occasion: object) -> tuple[str, str, float]:
    """Statement, reasoning and contrast of putting the asset where something of kind ``before`` is."""
    if before == IMAGE and asset.kind == VIDEO:
        return (
            f"A hero with a clip{_of(asset)} brings more requests than one with a picture.",
            "Movement shows the mood of an event, which a picture can only hint at; its price is a heavier page.",
            1.0,
        )
    if before == VIDEO and asset.kind == IMAGE:
        return (
            f"A hero with a picture{_of(asset)} brings more requests than one with a clip.",
            "A picture is there at once and leaves the call to action without a rival for attention.",
            0.7,
        )
    noun = "clip" if asset.kind == VIDEO else "picture"
    if asset.occasion and asset.occasion != occasion:
        return (
            f"A hero with a {noun}{_of(asset)} brings more requests than the present {noun}.",
            "Visitors look for their own kind of event; another occasion speaks to other visitors.",
            0.6,
        )
    return (
        f"A hero with another {noun}{_of(asset)} brings more requests than the present one.",
        "The same kind of medium and occasion, so only a better shot can make the difference.",
        0.3,
    )


def _cta(incumbent: Incumbent | None, tried: set[str]) -> Iterator[Hypothesis]:
    control = _control(incumbent) if incumbent else SITE_WORDS
    shown = str(control.config.get("text", "")).casefold()
    for wording in WORDINGS:
        if wording.text.casefold() not in tried | {shown} and wording.key != control.key:
            yield Hypothesis(
                id=f"{CTA}.{wording.key}",
                kind="cta_text",
                slot=CTA,
                name=f"Call to action: {control.name} or {wording.text}",
                statement=wording.statement,
                reasoning=wording.reasoning,
                priority=Priority(reach=0.9, contrast=wording.contrast, ease=1.0),
                variants=(control, _wording_variant(wording)),
                parent_id=incumbent.experiment_id if incumbent else None,
            )


def _wording_variant(wording: Wording) -> Variant:
    return Variant(wording.key, wording.text, {"text": wording.text}, features=text_features(wording.text))


def _control(incumbent: Incumbent) -> Variant:
    return replace(incumbent.variant, is_control=True)


def _feature(variant: Variant, name: str) -> object:
    return variant.features.get(name, variant.config.get(name))


def _title(asset: MediaAsset) -> str:
    return asset.alt or asset.id


def _of(asset: MediaAsset) -> str:
    return {None: "", "wedding": " of a wedding", "party": " of a party"}.get(
        asset.occasion, f" of a {asset.occasion} event"
    )

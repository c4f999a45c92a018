"""The blocks of the training notebook: what a training of the prediction model came to.

Each takes the result as ``TrainingResult.as_dict`` gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cro_core.rendering import plots
from cro_core.rendering.html import Block, badge, bullets, card, grid, join, paragraph, table, tag
from cro_core.reporting import words

STATUS = {
    "not_enough_history": ("Not enough history", "calm"),
    "no_better": ("No better than guessing: advice withheld", "warn"),
    "trained": ("Better than guessing", "good"),
}

LEFT_OUT = {
    "invalid": "could not be measured",
    "without_verdict": "ended by hand, before a verdict",
    "uninformative": "too small, stopped before anything was proven, or with versions that differ in nothing the "
    "model knows",
}

FEATURES = {
    "kind": "Kind: picture, clip or text",
    "aspect_ratio": "Aspect ratio",
    "duration_s": "Duration of a clip",
    "occasion": "Occasion",
    "words": "Length of the text",
}


def summary(result: Mapping[str, Any]) -> Block:
    """Says whether the model may be believed, and what it rests on."""
    label, tone = STATUS[result["status"]]
    left_out = [
        f"{words.some(number, 'finished test')} {LEFT_OUT[reason]}"
        for reason, number in result["left_out"].items()
        if number
    ]
    learned = f"Learned from {words.some(result['examples'], 'version')} of {words.some(result['experiments'], 'test')}."
    skipped = join([paragraph("Not learned from:"), bullets(left_out)]) if left_out else ""
    body = card(
        paragraph(badge(label, tone)), paragraph(result["text"]), paragraph(learned), skipped, tone=tone
    )
    return Block(body, "\n".join([f"{label}. {result['text']}", learned, *left_out]))


def score(result: Mapping[str, Any]) -> Block:
    """Shows accuracy beside the baseline, as two bars."""
    accuracy, baseline = result["accuracy"], result["baseline"]
    if accuracy is None or baseline is None:
        return _nothing("Nothing was scored: there is too little history.")
    bars = [_bar("The model", accuracy), _bar("Always the commoner answer", baseline)]
    luck = f"By luck alone a model would be so far ahead in about {words.share(result['p_value'])} of trials."
    text = f"model {words.percent(accuracy)}, baseline {words.percent(baseline)}. {luck}"
    return Block(join([grid(bars), paragraph(luck)]), text)


def rules(result: Mapping[str, Any]) -> Block:
    """Lists the rules with their support, and what mattered most."""
    if not result["rules"]:
        return _nothing("No rules: a model that is no better than guessing has none to give.")
    rows = [
        (
            rule["text"],
            words.share(rule["better"] / rule["examples"]),
            words.count(rule["examples"]),
            words.count(rule["experiments"]),
        )
        for rule in result["rules"]
    ]
    learned = table(
        "What did better, the best supported first", ("Rule", "Did better", "Versions", "Tests"), rows
    )
    weights = [(FEATURES[name], words.share(share)) for name, share in result["importance"].items()]
    mattered = table("What the answers hang on", ("Feature", "Share"), weights)
    return Block(join([learned, mattered]), "\n".join(rule["text"] for rule in result["rules"]))


def _bar(label: str, share: float) -> str:
    text = f"{label}: right in {words.percent(share)}"
    return card(paragraph(tag("strong", text)), plots.progress(share, text))


def _nothing(text: str) -> Block:
    return Block(paragraph(text, cls="cro-quiet"), text)

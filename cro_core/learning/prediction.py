"""Learning from finished experiments which variants do better, and saying so only where it beats guessing.

One example is one variant of one experiment; the answer to learn is whether it converted better than the rest
of its experiment. An experiment is never on both sides of a split into training and trial, for its variants
answer each other. A model is plain JSON: predicting needs no scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cro_core.domain import Cell, Experiment, Json
from cro_core.hypotheses.backlog import MediaAsset, text_features
from cro_core.statistics.arrays import Bools, Floats

NUMBERS: Mapping[str, tuple[str, str]] = {
    "aspect_ratio": ("the aspect ratio", ""),
    "duration_s": ("the duration", " s"),
    "words": ("the text", " words long"),
}
"""Names of numeric features, with the words for each and for its unit."""

CATEGORIES: Mapping[str, str] = {"kind": "it", "occasion": "the occasion"}
"""Names of features that hold a group's name, with the words for each."""

KINDS: Mapping[str, str] = {"image": "a picture", "video": "a clip", "text": "a text"}
"""Words for the kinds of media that hypotheses in the backlog are about."""

MIN_EXPERIMENTS, MIN_EXAMPLES = 10, 20
"""Fewest finished experiments and examples that a model is trained on: below either nothing is, for ten tests are the
fewest in which a clear pattern can be told from luck."""

MIN_UNITS = 100
"""Fewest counted visitors of each variant from which an experiment teaches anything."""

FOLDS = 5
PERMUTATIONS = 99
MAX_DEPTH = 3
MIN_LEAF, LEAF_SHARE = 5, 0.1
"""Fewest examples behind a rule, as a number and as a fraction of all: both must be met."""

ALPHA = 0.05
"""The model gives advice only where luck alone would beat the baseline so clearly in less than this share of trials."""

LEVEL = 0.95
"""Confidence of the interval beside a prediction."""

UNTRAINED, NOT_ENOUGH, NO_BETTER, TRAINED = "untrained", "not_enough_history", "no_better", "trained"

Features = Mapping[str, float | str | None]
"""Features of a variant by name, those of ``NUMBERS`` and ``CATEGORIES``; absent and ``None`` are "not known"."""

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Example:
    """One variant of a finished experiment, from which a model learns."""

    experiment_id: str
    variant: str
    features: Features
    units: int
    """Counted visitors of the variant."""
    better: bool
    """Whether the variant converted better than the rest of its experiment."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that the model learnt: what holds for the variants in one leaf of its tree."""

    text: str
    examples: int
    better: int
    """How many of the examples converted better than the rest of their experiment."""
    experiments: int
    units: int


@dataclass(frozen=True, slots=True)
class Score:
    """How well a model answers for experiments that it has not seen."""

    accuracy: float
    """Share of the model's answers that are right."""
    baseline: float
    """Share of right answers from always giving the commoner answer of the training part."""
    p_value: float
    """Share of shuffled archives from which a model learns as much over the baseline by luck."""

    @property
    def convincing(self) -> bool:
        """Whether the model is clearly better than guessing, so that it may give advice."""
        return self.accuracy > self.baseline and self.p_value <= ALPHA


@dataclass(frozen=True, slots=True)
class Training:
    """The outcome of a training: a model, or why there is none."""

    status: str
    """Outcome of the training: ``not_enough_history``, ``no_better`` or ``trained``."""
    experiments: int
    examples: int
    text: str
    """The outcome in words."""
    accuracy: float | None = None
    """Cross-validated share of right answers; ``None`` without enough history."""
    baseline: float | None = None
    """Share of right answers from always giving the commoner one; ``None`` without enough history."""
    p_value: float | None = None
    """Chance of learning as much over the baseline by luck; ``None`` without enough history."""
    rules: tuple[Rule, ...] = ()
    """Rules of the model, the best supported first; empty unless trained."""
    importance: Mapping[str, float] = field(default_factory=dict)
    """Feature -> share of the tree's explanation, the largest first; sums to 1. Empty unless trained."""
    model: Json | None = None
    """What :func:`predict` takes; ``None`` unless trained."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model expects of a variant, with the rule behind it."""

    probability: float
    """Share of the finished variants like this one that did better than the rest of their experiment."""
    low: float
    """Lower end of the probability's interval."""
    high: float
    """Upper end of the probability's interval."""
    rule: Rule

    @property
    def better(self) -> bool:
        """Whether the variant is expected to do better than what it is tested against."""
        return self.probability > 0.5


def variant_features(
    config: Json, stated: Json, asset: MediaAsset | None = None
) -> dict[str, float | str | None]:
    """Collects the features of a variant; what it states of itself outdoes what its parts tell.

    Args:
        config: what the website applies; ``kind`` and ``text`` are looked at.
        stated: the variant's own features.
        asset: the picture or clip it shows, where it is known.
    """
    text = config.get("text")
    features: dict[str, Any] = dict(asset.features) if asset else {}
    features |= text_features(text) if isinstance(text, str) and text.strip() and not asset else {}
    for source in (config, stated):
        features |= {name: source[name] for name in (*NUMBERS, *CATEGORIES) if source.get(name) is not None}
    usable = {name: _value(name, value) for name, value in features.items()}
    return {name: value for name, value in usable.items() if value is not None}


def examples_of(
    experiment: Experiment, cells: Sequence[Cell], assets: Mapping[str, MediaAsset]
) -> tuple[Example, ...]:
    """Makes examples of one finished experiment; none where it is too small or its variants look the same.

    A variant did better where it has more conversions than the whole experiment's rate of the same days would
    have given it, so that shares that moved from day to day make no difference. Exact ties teach nothing.

    Args:
        experiment: with its variants.
        cells: its counted units per epoch and variant.
        assets: the site's media by id.
    """
    units = {v.key: sum(cell.units for cell in cells if cell.variant == v.key) for v in experiment.variants}
    features = {
        variant.key: variant_features(variant.config, variant.features, assets.get(variant.asset_id or ""))
        for variant in experiment.variants
    }
    alike = len({tuple(sorted(values.items())) for values in features.values()}) < 2
    if alike or min(units.values()) < MIN_UNITS:
        return ()
    excess = _excess(cells)
    return tuple(
        Example(
            experiment.id, variant.key, features[variant.key], units[variant.key], excess[variant.key] > 0
        )
        for variant in experiment.variants
        if abs(excess[variant.key]) > 1e-9
    )


def fit(examples: Sequence[Example], rng: np.random.Generator) -> Training:
    """Trains and grades a model; keeps it only where it is clearly better than guessing.

    Args:
        examples: of all finished experiments; see :func:`examples_of`.
        rng: draws which experiments are tried together, and settles ties between equally good splits.
    """
    groups = sorted({example.experiment_id for example in examples})
    if len(groups) < MIN_EXPERIMENTS or len(examples) < MIN_EXAMPLES:
        text = (
            f"There is too little history to learn from: {len(groups)} finished tests with {len(examples)} usable "
            f"variants, where {MIN_EXPERIMENTS} tests and {MIN_EXAMPLES} variants are needed. No advice is given yet."
        )
        return Training(NOT_ENOUGH, len(groups), len(examples), text)
    score = cross_validate(examples, rng)
    graded = {
        "experiments": len(groups),
        "examples": len(examples),
        "accuracy": score.accuracy,
        "baseline": score.baseline,
        "p_value": score.p_value,
    }
    if not score.convincing:
        return Training(status=NO_BETTER, text=_score_text(score), **graded)  # type: ignore[arg-type]
    model, importance = grow(examples, int(rng.integers(2**31)))
    rules = tuple(sorted(rules_of(model), key=lambda rule: (-_margin(rule), rule.text)))
    return Training(
        status=TRAINED,
        text=f"{_score_text(score)} Best supported: {rules[0].text}",
        rules=rules,
        importance=importance,
        model=model,
        **graded,  # type: ignore[arg-type]
    )


def cross_validate(examples: Sequence[Example], rng: np.random.Generator) -> Score:
    """Measures how well a tree does on experiments that it has not seen, beside always giving the commoner answer.

    The p-value is that of a permutation test: the answers are shuffled inside each experiment and everything is
    done again. It ends early where it is clear that luck does as well.

    Source: Ojala and Garriga (2010), "Permutation tests for studying classifier performance", JMLR 11, 1833-1863;
    Besag and Clifford (1991), "Sequential Monte Carlo p-values", Biometrika 78, 301-304.
    """
    from sklearn import config_context

    groups = [example.experiment_id for example in examples]
    columns = columns_of(examples)
    matrix = np.array([encode(columns, example.features) for example in examples], dtype=np.float32)
    answers = np.array([example.better for example in examples])
    parts = [np.array(part) for part in folds(groups, FOLDS, rng)]
    seed = int(rng.integers(2**31))
    experiments = [np.flatnonzero(np.array(groups) == group) for group in sorted(set(groups))]
    luckier = shuffles = 0
    with config_context(skip_parameter_validation=True):
        accuracy, baseline = _try(matrix, answers, parts, seed)
        while shuffles < PERMUTATIONS and luckier < ALPHA * (PERMUTATIONS + 1):
            shuffled = answers.copy()
            for rows in experiments:
                shuffled[rows] = rng.permutation(answers[rows])
            accuracy_by_luck, baseline_by_luck = _try(matrix, shuffled, parts, seed)
            luckier += accuracy_by_luck - baseline_by_luck >= accuracy - baseline - 1e-12
            shuffles += 1
    return Score(accuracy, baseline, (1 + luckier) / (1 + shuffles))


def folds(groups: Sequence[str], count: int, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """Splits examples into ``count`` parts (fewer where there are fewer groups), each group whole in one of them.

    Args:
        groups: the group of each example.
        count: how many parts.
        rng: draws which groups go together.

    Yields:
        Indices of the examples of one part.
    """
    names = np.array(sorted(set(groups)))
    for part in np.array_split(rng.permutation(names), min(count, len(names))):
        members = set(part.tolist())
        yield tuple(index for index, group in enumerate(groups) if group in members)


def grow(examples: Sequence[Example], seed: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Grows a decision tree over all the examples; returns it as JSON, and the importance of each feature in it."""
    columns = columns_of(examples)
    matrix = np.array([encode(columns, example.features) for example in examples], dtype=np.float32)
    classifier = _classifier(matrix, np.array([example.better for example in examples]), seed)
    if classifier is None:
        return {"columns": columns, "tree": _counts(examples)}, {}
    model = {"columns": columns, "tree": _node(classifier.tree_, 0, examples, matrix)}
    return model, _importance(columns, classifier.feature_importances_)


def columns_of(examples: Sequence[Example]) -> list[dict[str, str]]:
    """The columns that tell examples apart: one for each numeric feature and for each group of the others."""
    values = {
        name: {example.features.get(name) for example in examples if example.features.get(name) is not None}
        for name in (*NUMBERS, *CATEGORIES)
    }
    numbers = [{"feature": name} for name in NUMBERS if len(values[name]) > 1]
    groups = [
        {"feature": name, "equals": str(value)}
        for name in CATEGORIES
        for value in sorted(map(str, values[name]))
    ]
    return numbers + groups


def encode(columns: Sequence[Mapping[str, str]], features: Features) -> list[float]:
    """Turns features into numbers, one for each column; NaN where a feature is not known."""
    return [_encoded(column, features.get(column["feature"])) for column in columns]


def rules_of(model: Json) -> list[Rule]:
    """Lists the rules of a model, one for each leaf of its tree."""
    return [_rule(node, path, model["columns"]) for node, path in _leaves(model["tree"], ())]


def predict(model: Json, features: Features) -> Prediction:
    """Predicts whether a variant with these features does better than the rest of its experiment.

    The interval is Wilson's for the share in the leaf. The leaf was chosen because its variants were alike in
    their outcome, so the truth is on average less clear-cut than the share.
    """
    from cro_core.statistics.proportions import wilson

    node, path = _leaf(model["tree"], encode(model["columns"], features))
    share = wilson(node["examples"], node["better"], LEVEL)
    rule = _rule(node, path, model["columns"])
    return Prediction(node["better"] / node["examples"], share.low or 0.0, share.high or 1.0, rule)


_NAMES = {**{name: words for name, (words, _) in NUMBERS.items()}, **CATEGORIES}

# A step of a path: the node it leaves, and whether it goes left ("at most" or "is not").
Step = tuple[Mapping[str, Any], bool]


def _value(name: str, value: Any) -> float | str | None:
    """The value as the model takes it; ``None`` for what is no such feature, for anybody may write a configuration."""
    if name in CATEGORIES:
        return value.strip().casefold()[:60] or None if isinstance(value, str) else None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and abs(value) <= 1e9 else None


def _excess(cells: Sequence[Cell]) -> dict[str, float]:
    """Variant -> conversions beyond what the common rate of each epoch would have given it."""
    excess: dict[str, float] = {cell.variant: 0.0 for cell in cells}
    for epoch in {cell.epoch for cell in cells}:
        day = [cell for cell in cells if cell.epoch == epoch]
        units = sum(cell.units for cell in day)
        rate = sum(cell.conversions for cell in day) / units if units else 0.0
        for cell in day:
            excess[cell.variant] += cell.conversions - cell.units * rate
    return excess


def _encoded(column: Mapping[str, str], value: float | str | None) -> float:
    if value is None:
        return math.nan
    return float(value == column["equals"]) if "equals" in column else float(value)


def _node(tree: Any, number: int, examples: Sequence[Example], matrix: Matrix) -> dict[str, Any]:
    """The JSON of a node and all below it, from the examples that reach it."""
    node = _counts(examples)
    if tree.children_left[number] < 0:
        return node
    column = int(tree.feature[number])
    missing = np.isnan(matrix[:, column])
    threshold = float(tree.threshold[number])  # infinite where known is set apart from not known
    split: dict[str, Any] = {
        "column": column,
        "threshold": threshold if math.isfinite(threshold) else None,
        "missing_left": bool(tree.missing_go_to_left[number]),
        "missing": int(missing.sum()),
    }
    left = np.where(missing, split["missing_left"], matrix[:, column] <= threshold)
    for name, child, mask in (
        ("left", tree.children_left[number], left),
        ("right", tree.children_right[number], ~left),
    ):
        reaching = [example for example, inside in zip(examples, mask, strict=True) if inside]
        split[name] = _node(tree, child, reaching, matrix[mask])
    return node | split


def _counts(examples: Sequence[Example]) -> dict[str, Any]:
    return {
        "examples": len(examples),
        "better": sum(example.better for example in examples),
        "experiments": len({example.experiment_id for example in examples}),
        "units": sum(example.units for example in examples),
    }


def _leaf(tree: Mapping[str, Any], row: Sequence[float]) -> tuple[Mapping[str, Any], tuple[Step, ...]]:
    """The leaf that a row ends in, and the way there."""
    node, path = tree, []
    while "column" in node:
        left = _goes_left(node, row[node["column"]])
        path.append((node, left))
        node = node["left" if left else "right"]
    return node, tuple(path)


def _goes_left(node: Mapping[str, Any], value: float) -> bool:
    if math.isnan(value):
        return bool(node["missing_left"])
    # scikit-learn compares a value in single precision with a threshold in double precision
    return node["threshold"] is None or float(np.float32(value)) <= node["threshold"]


def _leaves(
    node: Mapping[str, Any], path: tuple[Step, ...]
) -> Iterator[tuple[Mapping[str, Any], tuple[Step, ...]]]:
    if "column" not in node:
        yield node, path
        return
    for left in (True, False):
        yield from _leaves(node["left" if left else "right"], (*path, (node, left)))


def _rule(node: Mapping[str, Any], path: Sequence[Step], columns: Sequence[Mapping[str, str]]) -> Rule:
    conditions = " and ".join(_conditions(path, columns)) or "nothing else is known"
    text = (
        f"Where {conditions}, {node['better']} of {node['examples']} variants did better than the rest of their "
        f"test ({_some(node['experiments'], 'test')}, {node['units']:,} visitors)."
    )
    return Rule(text, node["examples"], node["better"], node["experiments"], node["units"])


def _conditions(path: Sequence[Step], columns: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """The path in words: one condition for each column, where the later steps narrow the earlier ones."""
    for number, column in enumerate(columns):
        steps = [(node, left) for node, left in path if node["column"] == number]
        if not steps:
            continue
        unknown = all(node["missing"] and node["missing_left"] == left for node, left in steps)
        bounded = [(node, left) for node, left in steps if node["threshold"] is not None]
        if not bounded:
            yield f"{_NAMES[column['feature']]} is {'not ' if unknown else ''}known"
            continue
        condition = (
            _group(column, bounded[-1][1]) if "equals" in column else _bounds(column["feature"], bounded)
        )
        absent = "none" if column["feature"] in ("duration_s", "words") else "not known"
        yield condition + (f" (or {absent})" if unknown else "")


def _group(column: Mapping[str, str], left: bool) -> str:
    name, value = CATEGORIES[column["feature"]], column["equals"]
    return f"{name} is {'not ' if left else ''}{KINDS.get(value, value) if column['feature'] == 'kind' else value}"


def _bounds(feature: str, steps: Sequence[Step]) -> str:
    name, unit = NUMBERS[feature]
    most = min((node["threshold"] for node, left in steps if left), default=None)
    least = max((node["threshold"] for node, left in steps if not left), default=None)
    bounds = [f"over {least:.3g}"] if least is not None else []
    bounds += [f"at most {most:.3g}"] if most is not None else []
    return f"{name} is {' and '.join(bounds)}{unit}"


def _importance(columns: Sequence[Mapping[str, str]], shares: Floats) -> dict[str, float]:
    importance: dict[str, float] = {}
    for column, share in zip(columns, shares, strict=True):
        importance[column["feature"]] = importance.get(column["feature"], 0.0) + float(share)
    return dict(
        sorted(((name, share) for name, share in importance.items() if share > 0), key=lambda pair: -pair[1])
    )


def _margin(rule: Rule) -> float:
    """How far a rule is from a coin, in standard errors of a coin."""
    return abs(2 * rule.better - rule.examples) / math.sqrt(rule.examples)


def _try(matrix: Matrix, answers: Bools, parts: Sequence[NDArray[np.intp]], seed: int) -> tuple[float, float]:
    """Accuracy of trees and of the commoner answer, each part tried with what the other parts teach."""
    right, naive = np.zeros(len(answers), dtype=bool), np.zeros(len(answers), dtype=bool)
    for part in parts:
        training = np.ones(len(answers), dtype=bool)
        training[part] = False
        commoner = bool(answers[training].mean() > 0.5)
        tree = _classifier(matrix[training], answers[training], seed)
        says = tree.predict(matrix[part], check_input=False) if tree else commoner
        right[part] = says == answers[part]
        naive[part] = commoner == answers[part]
    return float(right.mean()), float(naive.mean())


def _classifier(matrix: Matrix, answers: Bools, seed: int) -> Any:
    """A small tree, or ``None`` where there is nothing to tell apart."""
    from sklearn.tree import DecisionTreeClassifier

    if not matrix.shape[1] or answers.all() or not answers.any():
        return None
    leaf = max(MIN_LEAF, math.ceil(LEAF_SHARE * len(answers)))
    tree = DecisionTreeClassifier(max_depth=MAX_DEPTH, min_samples_leaf=leaf, random_state=seed)
    return tree.fit(matrix, answers)


def _score_text(score: Score) -> str:
    result = (
        f"Right in {score.accuracy:.0%} of the variants of tests it had not seen; always giving the commoner answer "
        f"is right in {score.baseline:.0%}"
    )
    if score.convincing:
        return f"{result}."
    return f"{result}. That is no clear difference, so its advice is withheld."


def _some(number: int, one: str) -> str:
    return f"{number} {one}{'' if number == 1 else 's'}"

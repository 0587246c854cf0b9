"""Precision, recall and F1 of whole entities, and the figure of single tokens beside it.

An entity is right where its first word, its last and its type are. As in CoNLL's own script, an
I- that continues nothing of its type begins an entity.

Token F1 with O counted is what "F1 .97" often means. Every token has one tag and gets one, so it is
the share of right tags, O among them: most tokens are O, and a tagger that finds no entity at all
has much of it.
"""

from collections.abc import Iterable, Sequence
from typing import Final

Entity = tuple[int, int, str]  # first word, last word, type
Scores = dict[str, float]

OUTSIDE: Final = "O"


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities of one sentence."""
    found, first, kind = set(), 0, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        begins, _, new = tag.partition("-")
        if kind and (begins != "I" or new != kind):
            found.add((first, place - 1, kind))
            kind = ""
        if new and not kind:
            first, kind = place, new
    return found


def scores(
    wanted: Iterable[Sequence[str]], found: Iterable[Sequence[str]], types: Sequence[str]
) -> dict[str, Scores]:
    """By type, over all entities as ``micro``, the mean of the types as ``macro``, and ``token``.

    ``wanted`` and ``found`` are the tags of the same words. Where nothing was there or found, a
    figure is 0.
    """
    right, there, named = (dict.fromkeys(types, 0) for _ in range(3))
    tags = same = 0
    for truth, guess in zip(wanted, found, strict=True):
        is_there, is_named = entities(truth), entities(guess)
        for counts, kept in ((there, is_there), (named, is_named), (right, is_there & is_named)):
            for _, _, kind in kept:
                counts[kind] += 1
        tags += len(truth)
        same += sum(a == b for a, b in zip(truth, guess, strict=True))
    told = {kind: _scores(right[kind], there[kind], named[kind]) for kind in types}
    told["micro"] = _scores(*(sum(counts.values()) for counts in (right, there, named)))
    told["macro"] = {
        name: sum(told[kind][name] for kind in types) / len(types)
        for name in ("precision", "recall", "f1")
    }
    told["token"] = {"f1": same / max(tags, 1)}
    return told


def _scores(right: int, there: int, named: int) -> Scores:
    return {
        "precision": right / max(named, 1),
        "recall": right / max(there, 1),
        "f1": 2 * right / max(there + named, 1),
        "entities": there,
    }

"""The page of ``secagg bench attack``: one HTML file without script that requests nothing.

It says what ``secagg.attacks.suite.Found`` holds and computes no number of its own. Bounds are
rounded down, and called bounds; estimates are called estimates.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from dp.empirical import Estimate
from secagg.attacks.canaries import EmpiricalAudit
from secagg.attacks.charts import Drawing, against, called, curves, pictures
from secagg.attacks.inversion import FOUND, Inversion
from secagg.attacks.membership import Membership
from secagg.attacks.suite import AttackSuite, Found
from secagg.pages import parts
from secagg.pages.markup import Markup, join, tag
from secagg.pages.numbers import at_least, bound, duration, percent, short
from secagg.pages.numbers import delta as as_delta

NOT_PRIVACY: Final = "Secure aggregation alone is not privacy"
_AUDITED: Final = {
    "audit": (
        "What is proved of epsilon",
        "Canaries are planted by fair coins into one private training, and the coins are "
        "guessed from the model. So many right guesses prove that epsilon is at least so much. "
        "Where all but a thousandth of the noise is left out on purpose, the books say the "
        "same, and the bound must pass that.",
    ),
    "canaries": (
        "What canary clients suggest",
        "Clients whose update is a random direction take part in a training under client, and "
        "the attacker looks for their direction in what the model moved. This is an estimate.",
    ),
}
LIMITS: Final = {
    "membership": (
        "A rate near chance is of these attacks on this model and these data. A stronger attack, "
        "or a model with more parameters, may do better; no curve proves an epsilon.",
        "A model that learned little gives little away: read each rate beside the accuracy.",
        "Intervals take pairs of a model and a unit as independent. Those of one model share its "
        "noise, so the truth is a little wider.",
        "Under client a unit is a client, and there are few of them a model. No false positive "
        "rate below one over the pairs can be told.",
    ),
    "audit": (
        "A bound below the stated epsilon does not prove that epsilon: so many guesses, all right, "
        "could not show more than is shown where the noise is missing.",
        "The audit covers clipping, noise and accounting of one composition of steps, in this "
        "process. "
        "Not the network, not the sampling of batches, not a ledger's own training.",
        "Noise of half the size is missed more often than it is found, but by the bound that holds "
        "local to Gaussian noise, which found it in 16 of 20 runs.",
        "That bound refutes whoever claims Gaussian noise. Of a mechanism that keeps its epsilon "
        "with other noise it says nothing.",
    ),
    "canaries": (
        "An estimate is no bound in either direction and refutes nothing: it extrapolates two "
        "Gaussians to tails that nobody saw. Above or below what is stated, it proves nothing.",
        "A random direction is not the worst client there is. The estimates differ between runs; "
        "how far, the runs beside each other show.",
    ),
    "inversion": (
        "A picture that stayed hidden in a sum is not safe in it. A longer search, a wider model "
        "or a prior over pictures gets more; the attacker here was told the labels.",
        "Each client has one example and sends one gradient. Larger batches are harder to invert, "
        "and are no guarantee either.",
    ),
}


def page(found: Found) -> str:
    """The whole file."""
    return parts.page(
        "secagg bench attack",
        _header(found),
        _membership(found.membership),
        _audited("audit", _bounds(found.audits), found.audits),
        _audited("canaries", _estimates(found.canaries), found.canaries),
        _inversions(found.inversions),
        _footer(found),
    )


def drawings(found: Found) -> dict[str, tuple[Drawing, ...]]:
    """All charts, by the name of the file that they are for."""
    named = {
        "membership": tuple(map(curves, found.membership)),
        "audit": tuple(_bounds(found.audits) + _estimates(found.canaries)),
        "pictures": tuple(map(pictures, found.inversions)),
    }
    return {name: charts for name, charts in named.items() if charts}


def sums_sentence(group: Sequence[Inversion]) -> str:
    """What a sum without noise gave away, beside what single updates and noise did."""
    alone, summed, noised = group
    model = "softmax regression" if alone.model == "softmax" else "a small network"
    return (
        f"Of {model}, {alone.recovered} of {alone.clients} pictures came out of single updates, "
        f"{summed.recovered} of {summed.clients} of their sum, {noised.recovered} of "
        f"{noised.clients} of the sum with noise at epsilon {bound(noised.epsilon)}"
    )


def audit_sentence(one: EmpiricalAudit) -> str:
    """A bound or an estimate, labelled, beside what is stated."""
    against = f"stated {bound(one.stated)}, at delta {as_delta(one.found.delta)}"
    if isinstance(one.found, Estimate):
        return f"{called(one)}: estimate, no bound: about {short(one.found.epsilon)}; {against}"
    counts = one.found.counts
    says = "refuted" if one.refuted else "not refuted"
    return (
        f"{called(one)}: lower bound {at_least(one.found.epsilon)} ({counts['correct']} of "
        f"{counts['guesses']} guesses right, wrong with probability "
        f"{short(one.found.significance)}); {against}: {says}"
    )


def _header(found: Found) -> Markup:
    plan = found.plan
    if found.refuted:
        title = f"A stated epsilon was refuted: {', '.join(found.refuted)}."
    elif found.audits:
        broken = any(one.noise_share < 1 and one.refuted for one in found.audits)
        but = " but those whose noise was left out on purpose" if broken else ""
        title = f"No stated epsilon was refuted{but}."
    else:
        title = "What the attacks found."
    about = (
        f"Attacks on {attacked(plan)}, carried out on this library. What is private was "
        f"calibrated to epsilon {bound(plan.epsilon)} at delta {as_delta(plan.delta)}. A weak "
        "attack proves nothing good of a defence: what is not shown stands under each part."
    )
    return join(
        parts.header("secagg bench attack", title, about, warnings=_warnings(found)),
        parts.cards(_cards(found)),
    )


def attacked(plan: AttackSuite) -> str:
    """What a plan attacks, in words."""
    if (own := plan.own) is None:
        return "models and gradients of digits"
    return (
        f"trainings of {own.model} on {own.data}: {own.clients} clients, {own.rounds} rounds at "
        f"learning rate {own.learning_rate:g} and clip {own.clip:g}. The audit plants examples of "
        "its own, whatever the data are"
    )


def _warnings(found: Found) -> Iterator[str]:
    if found.refuted:
        yield (
            "A lower bound passes what is stated. But for the chance of error that it names, "
            "noise, clipping or accounting is not what it is said to be."
        )
    if missed := _missed(found):
        yield (
            f"All but a thousandth of the noise was left out of {' and '.join(missed)} on purpose, "
            "and this audit did not find it: at this epsilon it has no power, and its other bounds "
            "say little."
        )
    if found.inversions:
        worst = max(found.inversions, key=lambda group: group[1].recovered)
        without = f" {sums_sentence(worst)}."
        if not worst[1].recovered:
            without += " That none came out of a sum this time is no guarantee."
        yield f"{NOT_PRIVACY}.{without}"
    if found.plan.quick:
        yield "Made with --quick: curves are coarse and intervals wide."


def _cards(found: Found) -> Iterator[tuple[str, str]]:
    for group in found.membership:
        best = max(group, key=lambda one: one.auc)
        if (best.mode, group) in (("none", found.membership[0]), ("distributed", group)):
            fitted = "" if found.plan.own else ", overfitted"
            mode = f"no privacy{fitted}" if best.mode == "none" else best.mode
            yield short(round(best.auc, 3)), f"area under the curve, {mode}; 0.5 is guessing"
    for one in found.audits:
        if one.noise_share == 1:
            yield (
                f"≥ {at_least(one.found.epsilon)}",
                f"epsilon of {one.audited}, lower bound; stated {bound(one.stated)}",
            )
    for views in found.inversions:
        if views[0].model == "mlp":
            for view in views[1:]:
                yield f"{view.recovered} / {view.clients}", f"pictures out of the {view.seen}"


def _membership(groups: Sequence[Sequence[Membership]]) -> Markup:
    if not groups:
        return Markup()
    names = ("Mode", "Pool", "Attack", "AUC", "True at 1 %", "95 %", "True at 0.1 %", "95 %")
    rows = [
        parts.row(
            f"{one.pool:,}",
            one.attack,
            f"{one.auc:.3f}",
            *(
                cell
                for rate in one.rates
                for cell in (
                    percent(rate.true_positive_rate),
                    f"{percent(rate.low)} to {percent(rate.high)}",
                )
            ),
            percent(one.accuracy),
            head="no privacy" if one.mode == "none" else one.mode,
        )
        for group in groups
        for one in group
    ]
    return join(
        tag("h2", "Was this example in the training?"),
        tag(
            "p",
            "Each unit of a pool is in a model's training by a fair coin, and the attacker, who "
            "has the final model, guesses the coin: by the loss alone, or against shadow models of "
            "its own (LiRA). Curves above the dashed line are better than guessing.",
        ),
        _figures(map(curves, groups)),
        parts.folded("Show all rates", parts.table((*names, "Accuracy"), rows, "rounds people")),
        _limits("membership"),
    )


def _missed(found: Found) -> list[str]:
    """Mechanisms that were broken on purpose, and that no bound refuted."""
    broken = [one for one in found.audits if one.noise_share < 1]
    seen = {one.audited for one in broken if one.refuted}
    return list(dict.fromkeys(one.audited for one in broken if one.audited not in seen))


def _audited(part: str, charts: Sequence[Drawing], audits: Sequence[EmpiricalAudit]) -> Markup:
    if not audits:
        return Markup()
    title, about = _AUDITED[part]
    return join(
        tag("h2", title),
        tag("p", about),
        _figures(charts),
        parts.items(map(audit_sentence, audits)),
        _limits(part),
    )


def _inversions(groups: Sequence[Sequence[Inversion]]) -> Markup:
    if not groups:
        return Markup()
    return join(
        tag("h2", "The picture behind a gradient"),
        tag(
            "p",
            "Twenty clients with one digit each send one gradient. The attacker sees it alone, or "
            "the sum of all as a secure sum gives it, or that sum with noise. A picture came out "
            "if it is the nearest of all digits and its mean squared error is at most "
            f"{FOUND:g} a pixel.",
        ),
        tag("p", f"{NOT_PRIVACY}: without noise, a sum may give its parts away.", class_="loud"),
        _figures(map(pictures, groups)),
        parts.items(f"{sums_sentence(group)}." for group in groups),
        _limits("inversion"),
    )


def _bounds(audits: Sequence[EmpiricalAudit]) -> list[Drawing]:
    detail = "lower bounds, one run each, wrong with the probability below; dashed: stated"
    return [against("Epsilon is at least", detail, audits)] if audits else []


def _estimates(audits: Sequence[EmpiricalAudit]) -> list[Drawing]:
    detail = "estimates, no bounds, one run each; dashed: stated"
    return [against("Epsilon may be about", detail, audits)] if audits else []


def _figures(charts: Iterable[Drawing]) -> Markup:
    return parts.figures(*(parts.figure(one.title, one.detail, one.svg()) for one in charts))


def _limits(part: str) -> Markup:
    return join(
        tag("h3", "What this does not show"),
        parts.items(LIMITS[part]),
    )


def _footer(found: Found) -> Markup:
    plan = found.plan
    only = "" if len(found.seconds) == 4 else "".join(f" --only {part}" for part in plan.parts)
    command = (
        f"secagg bench attack --epsilon {plan.epsilon:g} --delta {plan.delta:g} --seed {plan.seed}"
        f"{' --quick' if plan.quick else ''}{only}{_options(plan)}"
    )
    spent = ", ".join(f"{part} {duration(1000 * each)}" for part, each in found.seconds.items())
    return parts.footer(
        f"Made by: {command}",
        "The seed is of data and models; keys, noise and coins are the system's, so numbers of "
        "another run differ.",
        f"It took: {spent}.",
        "This page loads nothing and runs no script.",
    )


def _options(plan: AttackSuite) -> str:
    if (own := plan.own) is None:
        return ""
    return (
        f" --data {own.data} --model {own.model} --mode {','.join(own.modes)} --clients "
        f"{own.clients} --rounds {own.rounds} --learning-rate {own.learning_rate:g} --clip "
        f"{own.clip:g}"
    )

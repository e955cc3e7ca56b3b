"""Results -> plain words: use N_cf, keep N_pre, or not enough evidence, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cfvid.report.comparison import PROTOCOL_NAMES, group_cautions, primary, taught_answers
from cfvid.report.text import signed


def verdicts(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each contender: `answer` (use, rival, keep, depends or open), `words`, and `reasons`, one sentence each."""
    return [_verdict(results, arm) for arm in results["contenders"] if arm in results["arms"]]


def _verdict(results: Mapping[str, Any], arm: str) -> dict[str, Any]:
    baseline = results["baseline"]
    judged = primary(results["gains"], folds=results["folds"])
    compared = [gain for gain in judged if (gain["arm"], gain["against"]) == (arm, baseline)]
    better = [gain for gain in compared if gain["is_clear"] and gain["mean"] > 0]
    worse = [gain for gain in compared if gain["is_clear"] and gain["mean"] < 0]
    answer = _answer(len(compared), len(better), len(worse))
    rivals = _rivals_ahead(results, arm)
    if answer == "use" and rivals:
        answer = "rival"
    words = {
        "rival": f"{_name(arm)} beats {_name(baseline)}, but of equal compute {', '.join(rivals)} is ahead of it.",
        "use": f"Use {_name(arm)}.",
        "keep": f"Keep {_name(baseline)}.",
        "depends": f"It depends: {_name(arm)} is clearly better in some places and clearly worse in others.",
        "open": f"Not enough evidence between {_name(arm)} and {_name(baseline)}.",
    }[answer]
    reasons = [_count(_name(arm), _name(baseline), compared, better, worse)]
    reasons += [_places(results, better, "better"), _places(results, worse, "worse")]
    trends = [trend for trend in primary(results["trends"], folds=results["folds"]) if trend["arm"] == arm]
    reasons += [_trend(results, trend) for trend in trends]
    reasons += _others(results, arm)
    return {"contender": arm, "answer": answer, "words": words, "reasons": [reason for reason in reasons if reason]}


def _rivals_ahead(results: Mapping[str, Any], contender: str) -> list[str]:
    """Arms of the contender's compute that are clearly ahead of it in more places than clearly behind."""
    rivals = dict.fromkeys(arm for group in results["equal_compute"] if contender in group for arm in group)
    leads = {
        arm: sum(
            int(np.sign(-gain["mean"]))
            for gain in primary(results["gains"], folds=results["folds"])
            if (gain["arm"], gain["against"]) == (contender, arm) and gain["is_clear"]
        )
        for arm in rivals
    }
    return [arm for arm, lead in leads.items() if lead > 0]


def _name(arm: str) -> str:
    return {"clusterfit": "N_cf", "n_pre": "N_pre"}.get(arm, arm)


def _answer(num: int, better: int, worse: int) -> str:
    if better and worse:
        return "depends"
    if num and 2 * better >= num:
        return "use"
    if num and 2 * worse >= num:
        return "keep"
    return "open"


def _count(
    arm: str, baseline: str, compared: Sequence[Mapping[str, Any]], better: Sequence[Any], worse: Sequence[Any]
) -> str:
    if not compared:
        return "Nothing has been compared yet."
    return (
        f"Of {len(compared)} comparisons with {baseline}, {arm} is clearly better in {len(better)} and clearly worse "
        f"in {len(worse)} (the 95% interval of the difference leaves zero out); in "
        f"{len(compared) - len(better) - len(worse)} nothing can be told."
    )


def _places(results: Mapping[str, Any], gains: Sequence[Mapping[str, Any]], word: str) -> str:
    if not gains:
        return ""
    parts = [
        f"{place_name(results, gain)} {signed(gain['mean'])} ({signed(gain['low'])} to {signed(gain['high'])})"
        for gain in gains
    ]
    return f"Clearly {word}: {'; '.join(parts)}."


def place_name(results: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """Target, protocol and point of an entry, for people."""
    point = f", {results['axis']} = {entry['point']}" if entry.get("point") else ""
    return f"{entry['target']}, {PROTOCOL_NAMES[entry['protocol']]}{point}"


def _trend(results: Mapping[str, Any], trend: Mapping[str, Any]) -> str:
    said = "clearly" if trend["is_clear"] else "not clearly"
    verb = "larger" if trend["mean"] > 0 else "smaller"
    return (
        f"{place_name(results, trend)}: from {results['axis']} = {trend['first']} to {trend['last']} the gain goes "
        f"from {signed(trend['gain_first'])} to {signed(trend['gain_last'])}, {said} {verb} "
        f"(change {signed(trend['low'])} to {signed(trend['high'])})."
    )


def _others(results: Mapping[str, Any], contender: str) -> list[str]:
    """The contender against the arms that are neither the baseline, nor random, nor contenders themselves."""
    sentences = []
    for arm in results["arms"]:
        pairs = [
            gain
            for gain in primary(results["gains"], folds=results["folds"])
            if (gain["arm"], gain["against"]) == (contender, arm)
        ]
        if pairs and arm not in (results["baseline"], "random", *results["contenders"]):
            ahead = sum(gain["is_clear"] and gain["mean"] > 0 for gain in pairs)
            behind = sum(gain["is_clear"] and gain["mean"] < 0 for gain in pairs)
            mean = signed(float(np.mean([gain["mean"] for gain in pairs])))
            sentences.append(
                f"Against {arm}: clearly ahead in {ahead} and clearly behind in {behind} of {len(pairs)}, "
                f"{mean} points on average."
            )
    return sentences


def cautions(results: Mapping[str, Any], *, classes: Mapping[str, Sequence[str]]) -> list[str]:
    """What to be careful about.

    Args:
        results: of `cfvid.experiments.results.collect`.
        classes: of `pretrain` and of each target.
    """
    found = []
    seeds = {entry["num_seeds"] for entry in results["table"]}
    if seeds and min(seeds) == 1:
        found.append("One seed: intervals speak of the validation samples alone, not of another training.")
    if seeds and min(seeds) < len(results["seeds"]):
        found.append(f"Some scores are of {min(seeds)} of the {len(results['seeds'])} seeds only.")
    if results["left_out"]:
        found.append(f"This size leaves out the arms {', '.join(results['left_out'])}.")
    targets = {name: names for name, names in classes.items() if name != "pretrain"}
    found += taught_answers(targets, classes.get("pretrain", ()))
    found += [
        f"The compute of {' and '.join(item['arms'])} differs by a factor of {item['ratio']:.2f}"
        + (f" at {results['axis']} = {item['point']}." if item["point"] else ".")
        for item in results["compute"]["unequal"]
    ]
    shown = {(e["target"], e["protocol"]) for e in results["table"]}
    found += [
        f"{target}: mean average precision is no mean over samples; its values are in results.json, without intervals."
        for target, protocol in dict.fromkeys((s["target"], s["protocol"]) for s in results["scores"])
        if (target, protocol) not in shown
    ]
    found += group_cautions(results["table"])
    if results["missing"]:
        found.append(f"{len(results['missing'])} evaluations are missing, first: {results['missing'][0]}.")
    return found

"""The answer in words: ten lines that fit a chat message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from simlib.core.config import SimConfig
from simlib.study.decide.fewest import at_least

_SIDES = {"mono": "monolithic", "disagg": "disaggregated"}
_PARTS = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}
_ENDS = {
    "first_decode_step": "the first decode step has ended",
    "prefill_end": "the prefill has ended",
    "transfer_end": "the KV cache has been transferred",
}
_MOST_OTHERS = 8
"""The line of the other deployments names so many."""


def ten_lines(answer: Mapping[str, Any], config: SimConfig) -> list[str]:
    """Return the answer, a line each: what was asked, verdict, both sides, others, cost, doubts.

    Parameters
    ----------
    answer
        As `simlib.study.decide.answer.answer` returns it.
    config
        The workload, and what is served.
    """
    lines = [_asked(answer, config), _verdict(answer)]
    for architecture, best in answer["best"].items():
        said = _none(answer, architecture) if best is None else _best(best)
        lines.append(f"Best {_SIDES[architecture]}: {said}")
    lines += [
        line for line in (_others(answer), _fewest(answer), _cost(answer), _longer(answer)) if line
    ]
    lines += _doubts(answer, config)
    return lines


def page(title: str, answers: Sequence[Mapping[str, Any]]) -> str:
    """Return the answers as a page of HTML: all lines of one, the verdicts of many.

    Parameters
    ----------
    answers
        Each with its ``lines`` and the ``coordinates`` of its case.
    """
    parts = [f"<h1>{escape(title)}</h1>"]
    for answer in answers:
        where = ", ".join(f"{key} {level}" for key, level in answer["coordinates"].items())
        lines: Sequence[str] = answer["lines"]
        if where:
            parts.append(f"<h2>{escape(where)}</h2>")
            lines = [one for one in lines if one.startswith(("Verdict", "Best"))]
        verdict = [one for one in lines if one.startswith("Verdict")]
        others = [one for one in lines if one not in verdict]
        parts += [f"<p><strong>{escape(one)}</strong></p>" for one in verdict]
        parts += [f"<p>{escape(one)}</p>" for one in others]
    style = "body{font:15px/1.5 sans-serif;max-width:48em;margin:2em auto;padding:0 1em}"
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{style}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _asked(answer: Mapping[str, Any], config: SimConfig) -> str:
    hardware = answer["deployments"][0]["hardware"]
    gpus = ", ".join(
        f"{n} {name}" if name != "gpu" else f"{n} GPUs" for name, n in hardware.items()
    )
    what = "a token-rate model"
    if config.serving == "batching":
        what = f"{config.latency.model} ({config.latency.precision})"
    return f"{what} on {gpus}; {workload(config)}; SLO: {objective(answer['slo'])}"


def workload(config: SimConfig) -> str:
    """Return what is asked of the system: a trace, or prompts and outputs."""
    if config.arrival.process.replayed:
        return f"trace {config.arrival.path}"
    prompts, outputs = (
        one.kind.phrase(one) for one in (config.prompt_tokens, config.output_tokens)
    )
    return f"prompts {prompts}, outputs {outputs} tokens, {config.arrival.process.phrase}"


def objective(slo: Mapping[str, Any]) -> str:
    """Return the SLO in words: ``TTFT <= 1 s and TPOT <= 0.05 s for 95% of the requests``."""

    def limits(one: Mapping[str, Any]) -> str:
        set_ = [f"{label} <= {one[part]:g} s" for part, label in _PARTS.items() if one.get(part)]
        return " and ".join(set_) or "no limit"

    classes = [f"{name}: {limits(one)}" for name, one in (slo.get("classes") or {}).items()]
    return f"{'; '.join([limits(slo), *classes])} for {slo['attainment'] * 100:g}% of the requests"


def _verdict(answer: Mapping[str, Any]) -> str:
    verdict = answer["verdict"]
    claim, margin = verdict["claim"], verdict["margin"]
    reason = f" ({verdict['reason']})" if verdict["reason"] else ""
    if margin is None:
        return f"Verdict: {claim}{reason}."
    more = "more" if margin["estimate"] >= 0 else "less"
    return (
        f"Verdict: {claim}{reason}. The best disaggregated deployment carries "
        f"{abs(margin['estimate']):.1%} {more} than the best monolithic one "
        f"(95% interval: {_signed(margin['low'])} to {_signed(margin['high'])})."
    )


def _signed(value: float | None) -> str:
    return "open" if value is None else f"{value:+.1%}"


def _none(answer: Mapping[str, Any], architecture: str) -> str:
    """Say how near the nearest deployment comes without load."""
    all_ = [line for line in answer["deployments"] if line["architecture"] == architecture]
    nearest = max(all_, key=lambda line: float(line["unloaded"]["attainment"]))
    return (
        f"none meets the SLO at any load; {nearest['deployment']} comes nearest, "
        f"with {nearest['unloaded']['attainment']:.1%} of the requests within it without load."
    )


def _best(line: Mapping[str, Any]) -> str:
    capacity = (
        f"{line['capacity_per_s']:.3g} requests/s "
        f"({line['capacity_per_s_low']:.3g} to {line['capacity_per_s_high']:.3g}), "
        f"{line['capacity_per_s_per_gpu']:.3g} per GPU"
    )
    limit = f"{_PARTS[line['binding']]} limits it" if line["binding"] else "nothing limits it"
    if line["outcome"] == "stability":
        limit = "beyond it queues grow without end"
    places = {"prefill": ", in the prefill pool", "decode": ", in the decode pool",
              "link": ", on the KV link"}  # fmt: skip
    return (
        f"{line['deployment']}{_in_words(line['pools'])}: {capacity}; "
        f"{limit}{places.get(line['bottleneck'], '')}."
    )


def _in_words(pools: Mapping[str, Mapping[str, Any]]) -> str:
    """Say what a name such as ``2P TP2 + 1D TP4`` means; nothing of pools that serve by the GPU."""
    said = []
    for name, pool in pools.items():
        if "gpu" not in pool:
            return ""
        replicas, gpus = pool["replicas"], pool["gpus_per_replica"]
        kind = "" if name == "gpu" else f"{name} "
        each = "1 GPU" if gpus == 1 else f"{gpus} GPUs"
        said.append(f"{replicas} {kind}{'replica' if replicas == 1 else 'replicas'} of {each}")
    return f" ({', '.join(said)})"


def _others(answer: Mapping[str, Any]) -> str:
    """Give the capacities of the rest of the field, with those that may be as good as the best."""
    named = {line["deployment"] for line in answer["best"].values() if line is not None}
    rest = [line for line in answer["deployments"] if line["deployment"] not in named]
    able = [line for line in rest if line["capacity_per_s"] is not None]
    said = [
        f"{line['deployment']} {line['capacity_per_s']:.3g}"
        + (" (may be as good as the best)" if line["tied"] else "")
        for line in able[:_MOST_OTHERS]
    ]
    for count, what in (
        (len(able) - _MOST_OTHERS, "with less"),
        (sum(line["outcome"] == "far behind" for line in rest), "far behind"),
        (sum(line["outcome"] == "never" for line in rest), "that cannot meet the SLO"),
    ):
        if count > 0:
            said.append(f"{count} {'more ' if what == 'with less' else ''}{what}")
    return f"Others, requests/s: {', '.join(said)}." if said else ""


def _fewest(answer: Mapping[str, Any]) -> str:
    fewest = answer["fewest_gpus"]
    if fewest is None:
        return ""
    rate = fewest["rate_per_s"]
    if fewest["gpus"] is not None:
        maybe = " and ".join(f"{m['gpus']} ({m['deployment']})" for m in fewest["maybe"])
        also = f"; too close to call for {maybe}" if maybe else ""
        return (
            f"Fewest GPUs for {rate:g} requests/s: {fewest['gpus']}, with which "
            f"{fewest['deployment']} carries it{also}."
        )
    able = [line for line in answer["best"].values() if line is not None]
    most = f"no deployment of up to {fewest['looked_up_to']} GPUs carries {rate:g} requests/s"
    if not able:
        return f"Fewest GPUs: {most}."
    per_gpu = max(float(line["capacity_per_s_per_gpu"]) for line in able)
    return f"Fewest GPUs: {most}; in proportion it takes about {at_least(rate, per_gpu)}."


def _cost(answer: Mapping[str, Any]) -> str:
    able = [line for line in answer["best"].values() if line is not None]
    if not able:
        return ""
    best = max(able, key=lambda line: float(line["capacity_per_s_per_gpu"]))
    said = []
    if best["cost"]:
        price = _dollars(best["cost"], "usd_per_gpu_hour")
        tokens = _dollars(best["cost"], "usd_per_million_output_tokens")
        said.append(
            f"at {price} per GPU and hour it takes {tokens} per million output tokens at capacity"
        )
    if best["energy"]:
        joules = best["energy"]["joules_per_output_token_at_most"]
        said.append(f"at most {joules:.2g} J per output token, at the GPUs' power limit")
    return f"Cost of {best['deployment']}: {'; '.join(said)}." if said else ""


def _dollars(cost: Mapping[str, Any], what: str) -> str:
    low, high = cost[f"{what}_low"], cost[f"{what}_high"]
    return f"${low:.3g}" if low == high else f"${low:.3g} to ${high:.3g}"


def _longer(answer: Mapping[str, Any]) -> str:
    """Say what error of the step latencies the verdict stands."""
    asked = answer["longer_steps"]
    if asked is None:
        return ""
    said = ""
    for one in asked["verdicts"]:
        if one["claim"] != answer["verdict"]["claim"]:
            said += f"{'; ' if said else ''}{one['error']:.0%} longer: {one['claim']}"
            break
        said = f"{one['error']:.0%} longer: the same verdict"
    side = _SIDES[asked["architecture"]]
    (other,) = (words for words in _SIDES.values() if words != side)
    return (
        f"If {side} steps took longer than simulated and {other} ones did not, "
        f"by {asked['deployment']}: {said}."
    )


def _doubts(answer: Mapping[str, Any], config: SimConfig) -> list[str]:
    doubts = [
        f"{line['deployment']}: {line['reason']}"
        for line in answer["best"].values()
        if line is not None and line["reason"]
    ]
    hardware = "hardware equal" if answer["equal_hardware"] else "hardware UNEQUAL, so per GPU"
    sure = (
        f"How sure: {answer['simulations']} simulations of {len(answer['deployments'])} "
        f"deployments, {hardware}, the same requests for all. {_definitions(answer, config)}"
        f"{_stopped(answer)}"
    )
    return [sure, *([f"Doubtful: {'; '.join(doubts)}."] if doubts else [])]


def _stopped(answer: Mapping[str, Any]) -> str:
    """Name the best deployments whose search ended before it was as exact as asked for."""
    said = [
        f"{line['deployment']} ({line['replicates']})"
        for line in answer["best"].values()
        if line is not None and line["stopped_by"] == "max_replicates"
    ]
    return f" Less exact than asked for, by max_replicates: {', '.join(said)}." if said else ""


def _definitions(answer: Mapping[str, Any], config: SimConfig) -> str:
    """Say where TTFT ends, and what the verdict is where other systems end it."""
    here = f"TTFT counts until {_ENDS[config.ttft_definition]}"
    others, claim = answer["other_definitions"], answer["verdict"]["claim"]
    turned = turns(answer)
    if turned:
        there = "; ".join(
            f"until {_ENDS[name]} it would be: {said}" for name, said in turned.items()
        )
        return f"{here}; the verdict depends on that: {there}."
    if others and all(one["claim"] == claim for one in others.values()):
        there = " or ".join(_ENDS[name] for name in others)
        return f"{here}; counted until {there}, the verdict is the same."
    return f"{here}."


def turns(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return the verdicts at other definitions of TTFT that differ, with their margin."""
    return {
        definition: f"{one['claim']} ({_signed(one['margin']['estimate'])})"
        for definition, one in answer["other_definitions"].items()
        if one["claim"] != answer["verdict"]["claim"]
    }

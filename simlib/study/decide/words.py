"""The answer in words: ten lines that fit a chat message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from simlib.core.config import SimConfig
from simlib.study.decide.fewest import at_least

_SIDES = {"mono": "monolithic", "disagg": "disaggregated"}
_PARTS = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}
_MOST_TIES = 4


def ten_lines(answer: Mapping[str, Any], config: SimConfig) -> list[str]:
    """Return the answer, a line each: what was asked, verdict, both sides, ties, cost, doubts.

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
    lines += [line for line in (_ties(answer), _fewest(answer), _cost(answer)) if line]
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
    what = config.latency.model if config.serving == "batching" else "a token-rate model"
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
        f"(95%: {_signed(margin['low'])} to {_signed(margin['high'])})."
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
    limit = f"{_PARTS[line['binding']]} binds" if line["binding"] else "nothing binds"
    if line["outcome"] == "stability":
        limit = "beyond it queues grow without end"
    pools = {"prefill": ", prefill pool", "decode": ", decode pool", "link": ", KV link"}
    pool = pools.get(line["bottleneck"], "")
    return f"{line['deployment']}: {capacity}; {limit}{pool}."


def _ties(answer: Mapping[str, Any]) -> str:
    tied: Sequence[str] = answer["tied_with_best"]
    if len(tied) < 2:
        return ""
    shown = ", ".join(tied[:_MOST_TIES])
    more = f" and {len(tied) - _MOST_TIES} more" if len(tied) > _MOST_TIES else ""
    return f"As good as the best, as far as can be told: {shown}{more}."


def _fewest(answer: Mapping[str, Any]) -> str:
    fewest = answer["fewest_gpus"]
    if fewest is None:
        return ""
    rate = fewest["rate_per_s"]
    if fewest["gpus"] is not None:
        maybe = "; ".join(f"{m['gpus']} ({m['deployment']})" for m in fewest["maybe"])
        also = f"; too close to call with {maybe}" if maybe else ""
        return (
            f"Fewest GPUs for {rate:g} requests/s: {fewest['gpus']} ({fewest['deployment']}){also}."
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
        low = best["cost"]["usd_per_million_output_tokens_low"]
        high = best["cost"]["usd_per_million_output_tokens_high"]
        price = f"${low:.3g}" if low == high else f"${low:.3g} to ${high:.3g}"
        said.append(f"{price} per million output tokens at capacity")
    if best["energy"]:
        joules = best["energy"]["joules_per_output_token_at_most"]
        said.append(f"at most {joules:.2g} J of GPU energy per output token")
    return f"{best['deployment']}: {'; '.join(said)}." if said else ""


def _doubts(answer: Mapping[str, Any], config: SimConfig) -> list[str]:
    doubts = [
        f"{line['deployment']}: {line['reason']}"
        for line in answer["best"].values()
        if line is not None and line["reason"]
    ]
    hardware = "equal hardware" if answer["equal_hardware"] else "UNEQUAL hardware, so per GPU"
    sure = (
        f"How sure: {len(answer['deployments'])} deployments, {answer['simulations']} simulations, "
        f"{hardware}, 95% intervals over common random numbers. {_definitions(answer, config)}"
    )
    return [sure, *([f"Doubtful: {'; '.join(doubts)}."] if doubts else [])]


def _definitions(answer: Mapping[str, Any], config: SimConfig) -> str:
    """Say where TTFT ends, and what the verdict is where other systems end it."""
    here = f"TTFT ends at {config.ttft_definition}"
    others, claim = answer["other_definitions"], answer["verdict"]["claim"]
    turned = turns(answer)
    if turned:
        return f"{here}; the verdict depends on that: {turned}."
    if others and all(one["claim"] == claim for one in others.values()):
        return f"{here}; at {' and '.join(others)} the verdict is the same."
    return f"{here}."


def turns(answer: Mapping[str, Any]) -> str:
    """Return the verdicts at other definitions of TTFT that differ; empty if none does."""
    return ", ".join(
        f"{definition}: {one['claim']} ({_signed(one['margin']['estimate'])})"
        for definition, one in answer["other_definitions"].items()
        if one["claim"] != answer["verdict"]["claim"]
    )

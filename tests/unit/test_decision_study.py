"""A study that asks for a decision: its keys, its jobs, its tables and figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from simlib.core.slo import Slo
from simlib.errors import InvalidParameterError
from simlib.study.decide.job import run_job
from simlib.study.figures.decision import DecisionData, _last_seen, _smooth, decision_figures
from simlib.study.jobs.workflow import Plan
from simlib.study.plan.decision import Accuracy, Decision, DeploymentSpace
from simlib.study.plan.grid import resolve
from simlib.study.plan.searches import job_paths
from simlib.study.tables.write import write_tables

STUDY = {
    "slo": {"ttft_s": 1.0},
    "deployments": {"gpus": 2},
    "accuracy": {"relative": 0.2, "max_replicates": 10},
}
FILE = {"defaults": {"sim_seconds": 200.0, "warmup_seconds": 40.0}, "studies": {"which": STUDY}}


def plan(results, **changes):
    study = {**STUDY, **changes}
    return Plan.of({**FILE, "studies": {"which": study}}, str(results), ".")


def made(results, **changes):
    """Run a study's jobs as the workflow does; return the folder of its tables."""
    planned = plan(results, **changes)
    planned.write()
    for job in planned.studies["which"].jobs():
        run_job(*job_paths(results, job)[:1], results, job_paths(results, job)[1])
    tables = results / "studies" / "which" / "tables"
    write_tables(results / "studies" / "which" / "study.json", results, tables)
    return tables


def test_the_tables_need_the_outcome_of_each_deployments_search(tmp_path):
    planned = plan(tmp_path)
    assert len(planned.results_of("which")) == 3  # of each architecture, and with longer steps
    assert len(plan(tmp_path, rate_per_s=1.0).results_of("which")) == 4
    both = plan(tmp_path, break_point={"slo.ttft_s": [0.5, 1.0]})
    assert len(both.results_of("which")) == 4
    assert len(set(planned.results_of("which")) & set(both.results_of("which"))) == 2  # shared


def test_a_decision_has_tables_and_figures(tmp_path):
    tables = made(tmp_path, rate_per_s=0.5)
    (line,) = pd.read_csv(tables / "summary.csv").to_dict("records")
    assert line["verdict"] in ("disaggregate", "do not disaggregate", "too close to call")
    assert line["margin_low"] <= line["margin"] <= line["margin_high"]
    capacity = pd.read_csv(tables / "capacity.csv")
    assert capacity["capacity_per_s"].is_monotonic_decreasing
    assert (capacity["capacity_per_s_low"] <= capacity["capacity_per_s"]).all()
    attained = pd.read_csv(tables / "attainment.csv")
    assert attained["attainment"].between(0, 1).all()
    said = json.loads((tables / "decision.json").read_text())
    assert said["cases"][0]["verdict"]["claim"] == line["verdict"]
    provenance = json.loads((tables / "provenance.json").read_text())
    assert len(provenance["searches"]) == 2
    names = [name for name, _ in decision_figures(tables)]
    assert names == ["capacity", "slo_attainment_vs_rate", "frontier"]


def test_a_break_point_has_a_line_and_a_panel_for_each_combination(tmp_path):
    tables = made(
        tmp_path, break_point={"slo.ttft_s": [1e-4, 1.0], "prompt_tokens.mean": [5.0, 6.0]}
    )
    summary = pd.read_csv(tables / "summary.csv")
    assert list(summary["slo.ttft_s"]) == [1e-4, 1e-4, 1.0, 1.0]
    assert (summary["verdict"] == "no deployment meets the SLO").tolist() == [
        True,
        True,
        False,
        False,
    ]
    ((name, figure),) = decision_figures(tables)
    assert name == "break_point"
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("SLO\nnot met") == 2
    assert DecisionData.read(tables).factors == ["slo.ttft_s", "prompt_tokens.mean"]


def test_a_break_point_along_one_key_names_the_side_that_never_meets_the_slo(tmp_path):
    # the transfer alone takes longer than TTFT may
    slow = {"cluster_disagg": {"kv_bytes_per_token": 1e6, "kv_bandwidth_bytes_per_s": 1e6}}
    keys = {"cluster_disagg.kv_bandwidth_bytes_per_s": [1e6, 1e12]}
    tables = made(tmp_path, overrides=slow, break_point=keys)
    ((_, figure),) = decision_figures(tables)
    ax = figure.axes[0]
    (text,) = [one for one in ax.texts if "meets" in one.get_text()]
    assert text.get_text() == "only mono. meets the SLO"
    box, frame = text.get_window_extent(), ax.get_window_extent()
    assert frame.x0 < box.x0 < box.x1 < frame.x1
    assert frame.y0 < box.y0 < box.y1 < frame.y1


def test_curves_show_the_rates_that_most_replicates_measured_as_far_as_they_are_seen():
    def row(rate, replicates, attainment):
        return {"rate_per_s": rate, "replicates": replicates, "attainment": attainment}

    rows = pd.DataFrame(
        [row(1.0, 3, 0.99), row(2.0, 3, 0.9), row(2.1, 12, 0.97), row(3.0, 40, 0.95),
         row(3.1, 18, 0.99), row(3.2, 40, 0.94), row(4.0, 3, 0.7), row(5.0, 3, 0.4)]
    )  # fmt: skip
    shown = _smooth(rows)
    assert list(shown["rate_per_s"]) == [1.0, 2.1, 3.0, 3.2, 4.0, 5.0]
    assert _last_seen(shown, 0.75) == 4.0
    assert _last_seen(shown, 0.3) == 5.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"deployments": None}, "deployments must be given"),
        ({"sweep": {"grid": {"mode": ["mono"]}}}, "sweep must be left out: it is of a sweep"),
        ({"precision": {}}, "precision must be left out"),
        ({"slo": {"ttft_s": 1.0, "attainment": 1.5}}, "slo.attainment must be > 0 and < 1"),
        ({"deployments": {"gpu": 2}}, r"deployments\.gpus must be given"),
        ({"deployments": {"gpus": 0}}, r"deployments\.gpus must be a whole number, >= 1"),
        ({"deployments": {"gpus": {"h100_sxm": 1.5}}}, r"deployments\.gpus\.h100_sxm must be a wh"),
        ({"deployments": {"gpus": {}}}, r"deployments\.gpus must be a number"),
        ({"break_point": {"a": [1], "b": [1], "c": [1]}}, "one or two keys"),
        ({"break_point": {"slo.ttft": [1.0]}}, "slo.ttft"),
        ({"prices": {"h100": 2.0}}, "prices must be for one of"),
        ({"slo": {"ttft_s": 1.0, "classes": {"chat": {}}}}, "one of the classes"),
        ({"deployments": {"gpus": 1}, "overrides": {"serving": "batching"}}, "at least one deploy"),
    ],
)
def test_bad_keys_are_named_with_the_study(changes, message, tmp_path):
    with pytest.raises(InvalidParameterError, match=message) as caught:
        plan(tmp_path, **changes)
    assert 'study "which"' in str(caught.value) or "studies.which" in str(caught.value)


def test_keys_of_a_decision_are_refused_in_a_sweep(tmp_path):
    sweep = {"sweep": {"grid": {"mode": ["mono", "disagg"]}}, "rate_per_s": 2.0}
    with pytest.raises(InvalidParameterError, match="it is of a decision"):
        Plan.of({"studies": {"which": sweep}}, str(tmp_path), ".")


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "decide.md").read_text(encoding="utf-8")


def test_the_study_that_the_page_shows_is_one():
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (study,) = resolve(yaml.safe_load(block))
    (case,) = study.cases
    assert len(case.deployments) == 9
    assert case.fewest is not None


def test_the_page_lists_every_key_of_a_decision_with_its_default():
    rows = re.findall(r"^\| (`[a-z0-9_.`, ]+`) \|.*\| ([^|]*) \|$", PAGE, re.MULTILINE)
    listed = {
        key: default for keys, default in rows for key in re.findall(r"`([a-z0-9_.]+)`", keys)
    }
    parts = {"slo": Slo, "deployments": DeploymentSpace, "accuracy": Accuracy}
    known = {f"{part}.{key}": f for part, m in parts.items() for key, f in m.model_fields.items()}
    known |= {k: f for k, f in Decision.model_fields.items() if k not in parts}
    assert listed.keys() == known.keys()
    for key, field in known.items():
        if isinstance(field.default, (int, float)):
            assert listed[key] == f"`{json.dumps(field.default)}`"


def test_the_page_names_every_column_that_tables_have(tmp_path):
    tables = made(tmp_path, rate_per_s=0.5)
    listed = set(re.findall(r"`([a-z0-9_.]+)`", PAGE))
    for name in ("summary", "capacity", "frontier", "attainment"):
        for column in pd.read_csv(tables / f"{name}.csv").columns:
            bare = re.sub(r"_(low|high)$", "", column)
            bare = re.sub(r"^(missed|utilization)_\w+$", r"\1", bare)
            assert bare in listed, f"{name}.csv: {column}"

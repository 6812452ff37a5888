"""``simlib decide``: options, progress, the answer in words and as JSON, one-line errors."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from simlib.cli.decide import _decision, _settings, main
from simlib.cli.run import cli
from simlib.study.plan.cases import cases_of
from simlib.study.plan.decision import Decision

SMALL = ["--gpus", "2", "--sim-seconds", "200", "--precision", "0.2", "--cores", "1"]


def run(*arguments):
    return CliRunner().invoke(cli, ["decide", *arguments])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return str(tmp_path_factory.mktemp("results"))


def test_the_answer_is_a_few_lines_and_progress_goes_to_stderr(results):
    done = run(*SMALL, "--ttft", "1", "--results", results)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert len(lines) <= 10
    assert "TTFT <= 1 s for 95% of the requests" in lines[0]
    assert lines[1].startswith("Verdict: ")
    assert "[5/5]" in done.stderr  # each architecture, both again, and with longer steps
    assert "requests/s" in done.stderr


def test_json_holds_all_and_a_second_run_simulates_nothing(results, monkeypatch):
    first = run(*SMALL, "--ttft", "1", "--results", results, "--json")
    said = json.loads(first.stdout)
    assert said["verdict"]["claim"] in said["lines"][1]
    assert {line["architecture"] for line in said["deployments"]} == {"mono", "disagg"}
    assert run(*SMALL, "--ttft", "1", "--results", results, "--json").stdout == first.stdout


def test_lengths_and_other_keys_are_set(results):
    done = run(
        *SMALL, "--e2e", "8", "--attainment", "0.9", "--results", results, "--json",
        "--prompt-p50", "200", "--prompt-p90", "500", "--output-p50", "100", "--output-p90", "300",
        "--set", "cluster_mono.prefill_tokens_per_s=4000",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert "prompts p50 200 p90 500, outputs p50 100 p90 300" in said["lines"][0]
    assert said["slo"]["e2e_s"] == 8.0
    assert said["slo"]["attainment"] == 0.9


def test_the_example_of_the_help_is_a_decision():
    (shown,) = re.findall(r"simlib decide (--model .*?)\n\n", run("--help").output, re.DOTALL)
    given = main.make_context("decide", shown.replace("\\\n", " ").split()).params
    decision = Decision.from_dict(_decision(given))
    assert (decision.slo.ttft_s, decision.slo.tpot_s) == (2.0, 0.05)
    (case,) = cases_of(_settings(given), decision)
    assert len(case.deployments) == 9
    assert case.settings["prompt_tokens"]["p50"] == 1500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "2"], "--ttft, --tpot or --e2e"),
        (["--gpus", "two", "--ttft", "1"], "NxGPU such as 8xh100_sxm"),
        (["--gpus", "0", "--ttft", "1"], "deployments.gpus must be a whole number, >= 1"),
        (
            ["--gpus", "2", "--ttft", "1", "--attainment", "1.5"],
            "slo.attainment must be > 0 and < 1",
        ),
        (["--gpus", "2", "--ttft", "1", "--prompt-p50", "100"], "--prompt-p90 must be given"),
        (
            ["--gpus", "8xh100", "--ttft", "1", "--model", "llama-3.1-70b"],
            "deployments.gpus must be of one of a100_sxm",
        ),
        (["--gpus", "8xh100_sxm", "--ttft", "1"], "deployments.gpus must be a number: token rates"),
        (["--gpus", "1xl4", "--ttft", "1", "--model", "llama-3.1-70b"], "at least one deployment"),
        (["--gpus", "8xh100_sxm", "--ttft", "1", "--model", "llama-9"], "llama-3.1-70b"),
        (["--gpus", "2", "--ttft", "1", "--price", "h100=2"], "prices must be for one of"),
        (["--gpus", "2", "--ttft", "1", "--price", "h100_sxm"], "KEY=VALUE"),
        (["--gpus", "2", "--ttft", "1", "--trace", "no_such_file.csv"], "no_such_file.csv"),
        (["--gpus", "2", "--ttft", "1", "--precision", "0"], "accuracy.relative must be > 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    done = run(*arguments, "--results", str(tmp_path / "results"))
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()

"""`snakemake scoreboard` simulates the measured rows that MEASURED names, and nothing else."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import REPO, STUDY, counted

pytestmark = pytest.mark.workflow

ROWS = (
    "backend,backend_version,model_path,system,precision,isl,osl,tp_size,silicon_ttft_ms,"
    "silicon_tpot_ms,concurrency\n"
    "vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,bf16,512,16,4,60.0,11.0,4\n"
    "vllm,0.12.0,nobody/knows,h100_sxm,bf16,512,16,4,60.0,11.0,4\n"
)


def test_the_target_makes_the_page_of_the_measured_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(ROWS, encoding="utf-8")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "snakemake", "-s", REPO / "Snakefile", "--cores", "1", "--nocolor",
         "scoreboard"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "MEASURED": "rows.csv", "PEER_EVERY": "1000"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert counted(ran.stdout + ran.stderr) == {"scoreboard": 1}
    folder = tmp_path / "results" / "scoreboard"
    with (folder / "rows.csv").open(newline="", encoding="utf-8") as text:
        lines = list(csv.DictReader(text))
    assert float(lines[0]["engine_ttft_s"]) > 0
    assert "latency.model must be one of" in lines[1]["engine_refused"]
    page = (folder / "scoreboard.md").read_text(encoding="utf-8")
    assert "development, monolithic, dense" in page

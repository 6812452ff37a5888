"""A study in a temporary folder, and the real snakemake to run it."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]

RESULTS = "results/points/*/r*.npz"
STUDY: dict[str, Any] = {
    "defaults": {"sim_seconds": 60, "warmup_seconds": 5},
    "replicates": 2,
    "studies": {
        "rates": {
            "sweep": {"grid": {"mode": ["mono", "disagg"], "arrival.rate_per_s": [1, 2]}},
            "compare": {"factor": "mode", "baseline": "mono"},
        }
    },
}


def counted(output: str) -> Counter[str]:
    """Return how many jobs of each rule a run says it ran."""
    lines = re.findall(r"^ran (.*?)(?:; failed: .*)?; [^;]*$", output, re.MULTILINE)
    ran: Counter[str] = Counter()
    for count, rule in re.findall(r"(\d+) (\w+)", lines[0] if lines else ""):
        ran[rule] += int(count)
    return ran


class Workspace:
    """A folder with a config.yaml."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = copy.deepcopy(STUDY)

    @property
    def study(self) -> dict[str, Any]:
        return self.config["studies"]["rates"]

    def write(self) -> None:
        text = yaml.safe_dump(self.config, sort_keys=False)
        (self.folder / "config.yaml").write_text(text, encoding="utf-8")

    def command(self, *arguments: str) -> list[str]:
        return [
            sys.executable, "-m", "snakemake", "--snakefile", str(REPO / "Snakefile"),
            "--cores", "2", "--nocolor", *arguments,
        ]  # fmt: skip

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self.write()
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, capture_output=True, text=True, check=False,
            env={**os.environ, "XDG_CACHE_HOME": str(self.folder / ".cache")},
        )  # fmt: skip

    def run(self, *arguments: str) -> Counter[str]:
        """Run the workflow; return how many jobs of each rule ran, `all` aside."""
        done = self.snakemake(*arguments)
        output = done.stdout + done.stderr
        assert done.returncode == 0, output[-4000:]
        return counted(output)

    def results(self) -> dict[str, bytes]:
        """Return the bytes of every table."""
        tables = (self.folder / "results/studies").glob("*/tables/*")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in sorted(tables)}

    def simulated(self) -> list[Path]:
        return sorted(self.folder.glob(RESULTS))

    def stamps(self) -> dict[Path, int]:
        """Return identities of the results: one that is made again has another."""
        return {path: path.stat().st_ino for path in self.simulated()}

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start the workflow in a process group of its own."""
        self.write()
        return subprocess.Popen(
            self.command(*arguments), cwd=self.folder, text=True, env=env,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def kill(self, process: subprocess.Popen[str], how: int) -> None:
        """Signal the workflow and wait for its end; one that hangs is ended as schedulers do it.

        Snakemake's handler of SIGTERM takes a lock that the code it interrupts may hold.
        """
        process.send_signal(how)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate(timeout=30)

    def wait_for(self, pattern: str, count: int) -> None:
        """Wait until so many files match."""
        deadline = time.monotonic() + 60
        while len(list(self.folder.glob(pattern))) < count:
            assert time.monotonic() < deadline, f"no {pattern}"
            time.sleep(0.02)

    def front(self, code: str) -> dict[str, str]:
        """Return an environment in which every Python runs `code` first."""
        folder = self.folder / "front"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
        return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A study that has run; for tests that only read it."""
    workspace = Workspace(tmp_path_factory.mktemp("finished"))
    workspace.run()
    return workspace

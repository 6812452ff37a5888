"""Compiled code: kept where it can be, made anew where not, and the same in plain Python."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest

from simlib.core import recursion

REPO = Path(__file__).resolve().parents[2]
KERNEL = """
import numpy as np
from simlib.compiling import entry_point

def double(values, out):
    for i in range(len(values)):
        out[i] = 2.0 * values[i]

out = np.zeros(3)
entry_point(double)(np.ones(3), out)
print(out.sum())
"""
ENGINE = """
import numpy as np
from simlib.latency.linear import LinearLatency
from simlib.serving.deployment import Pool, disaggregated
from simlib.core.batching import FrontEnd, LinkConfig
from simlib.serving.engine import simulate
from simlib.serving.timeline import Timeline
from simlib.workload.requests import Requests

rng = np.random.default_rng(3)
requests = Requests(
    np.cumsum(rng.exponential(0.3, 40)), rng.integers(1, 90, 40), rng.integers(1, 50, 40)
)
latency = LinearLatency(2**-6, 2**-12, context_s=2**-18, kv_bytes_per_token=1.0)
small = {"max_batch_size": 6, "max_batch_tokens": 32, "router": "power_of_two", "replicas": 2}
deployment = disaggregated(
    Pool.of(latency, 200, **small, discipline="sjf"),
    Pool.of(latency, 160, **small),
    LinkConfig(bandwidth_bytes_per_s=500.0, contention="fair", scope="shared"),
    FrontEnd(request_s=0.01, token_s=0.001, workers=2),
)
timeline = Timeline()
records = simulate(requests, deployment, timeline=timeline)
print(records.finish_s.tolist(), records.preemptions.tolist(), timeline.gaps().each()[1].tolist())
"""


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPO,
        env={**os.environ, "NUMBA_DISABLE_JIT": "0", **env},
    )


def test_code_is_compiled_once_and_says_so(tmp_path: Path) -> None:
    script = tmp_path / "kernel.py"
    script.write_text(KERNEL)
    code = f"import sys; sys.path.append({str(tmp_path)!r}); import kernel"
    first = run(code, NUMBA_CACHE_DIR=str(tmp_path / "kept"))
    again = run(code, NUMBA_CACHE_DIR=str(tmp_path / "kept"))
    assert first.stdout == again.stdout == "6.0\n"
    assert first.stderr.count("\n") == 1
    assert first.stderr.startswith("simlib: compiling")
    assert again.stderr == ""
    for file in (tmp_path / "kept").iterdir():  # damaged, as by a full disk
        file.write_bytes(file.read_bytes()[:20])
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path / "kept")).stdout == "6.0\n"


def test_of_processes_that_start_together_one_compiles_and_the_others_wait(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    code = f"import sys; sys.path.append({str(tmp_path)!r}); import kernel"
    env = {**os.environ, "NUMBA_DISABLE_JIT": "0", "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    together = [
        subprocess.Popen([sys.executable, "-c", code], stdout=PIPE, stderr=PIPE, text=True, env=env)
        for _ in range(3)
    ]
    said = [process.communicate() for process in together]
    assert [out for out, _ in said] == 3 * ["6.0\n"]
    assert sum(err.count("compiling, once") for _, err in said) == 1


def test_who_waits_says_so_and_takes_over_from_a_process_that_ended_without_a_result(
    tmp_path: Path,
) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    (tmp_path / "kept").mkdir()
    env = {**os.environ, "NUMBA_DISABLE_JIT": "0", "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    code = f"import sys; sys.path.append({str(tmp_path)!r}); import kernel"
    with (tmp_path / "kept" / "double.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = subprocess.Popen(
            [sys.executable, "-c", code], stdout=PIPE, stderr=PIPE, text=True, env=env
        )
        assert waiting.stderr is not None
        assert "another process is compiling" in waiting.stderr.readline()
    out, err = waiting.communicate()
    assert out == "6.0\n"
    assert err.startswith("simlib: compiling, once")


def test_neither_compiling_nor_loading_imports_scipy(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    code = f"import sys; sys.path.append({str(tmp_path)!r}); import kernel\n"
    code += "print([name for name in sys.modules if name.startswith('scipy.linalg')])\n"
    code += "import scipy.linalg.cython_blas"  # still can be
    for _ in range(2):
        done = run(code, NUMBA_CACHE_DIR=str(tmp_path / "kept"))
        assert done.stdout == "6.0\n[]\n"


def test_where_nothing_can_be_written_it_is_compiled_anew_and_said_once(tmp_path: Path) -> None:
    script = tmp_path / "kernel.py"
    script.write_text(KERNEL + "entry_point(double)(np.ones(2), out)\n")
    (tmp_path / "file").write_text("no folder can be here")
    code = f"import sys; sys.path.append({str(tmp_path)!r}); import kernel"
    done = run(code, NUMBA_CACHE_DIR=str(tmp_path / "file" / "kept"))
    assert done.stdout == "6.0\n"
    assert done.stderr.count("\n") == 1
    assert "no folder can be written" in done.stderr


def test_plain_python_gives_the_same_bits_as_compiled_code() -> None:
    plain = run(ENGINE, NUMBA_DISABLE_JIT="1")
    assert plain.stdout == run(ENGINE).stdout
    assert plain.stderr == ""
    assert plain.stdout.count("nan") == 0


@pytest.mark.parametrize("servers", [1, 2, 7])
def test_the_compiled_recursion_gives_the_same_bits(servers: int) -> None:
    """Half of the times are multiples of a half, so that servers become free together."""
    rng = np.random.default_rng(servers)
    for exact in (True, False):
        ready_s = np.cumsum(rng.integers(0, 4, 3_000) * 0.5)
        service_s = rng.integers(1, 9, 3_000) * 0.5
        if not exact:
            service_s = service_s * rng.random(3_000) + 1e-3
        compiled = recursion._compiled_fcfs(ready_s, service_s, servers)
        plain = (np.empty(3_000), np.empty(3_000, np.int32))
        order = np.arange(servers, dtype=np.int64)
        recursion._serve_all(ready_s, service_s, np.zeros(servers), order, *plain)
        by_heapq = recursion._plain_fcfs(ready_s, service_s, servers)
        for one, other in ((compiled, plain), (compiled, by_heapq)):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])

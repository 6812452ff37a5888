"""Results may only change together with MODEL_VERSION, or stored ones would pass for new ones."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from simlib.core.config import SimConfig
from simlib.core.model_version import MODEL_VERSION
from simlib.study.jobs.simulate import simulate

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SPEC = importlib.util.spec_from_file_location("golden_regenerate", GOLDEN / "regenerate.py")
regenerate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(regenerate)

HOW = (
    "if that is intended, raise MODEL_VERSION in simlib/core/model_version.py, run "
    "`python tests/golden/regenerate.py` and commit the new file"
)


def test_results_change_only_with_the_model_version():
    path = GOLDEN / f"model_v{MODEL_VERSION}.json"
    assert path.exists(), f"no digests of MODEL_VERSION {MODEL_VERSION}: {HOW}"
    known, found = json.loads(path.read_text(encoding="utf-8")), regenerate.digests()
    changed = sorted(
        name for name in known.keys() | found.keys() if known.get(name) != found.get(name)
    )
    assert not changed, f"results of MODEL_VERSION {MODEL_VERSION} changed in {changed}: {HOW}"


def test_a_dozen_configurations_are_watched_and_all_differ_save_by_engine():
    digests = regenerate.digests()
    assert len(digests) >= 12
    fast = [value for name, value in digests.items() if not name.startswith("simpy")]
    assert len(set(fast)) == len(fast)
    for name in digests:
        if name.startswith("simpy"):
            assert digests[name] == digests[name.removeprefix("simpy ")]


@pytest.mark.parametrize("name", ["mono", "disagg overloaded, cut"])
def test_the_digest_sees_a_nanosecond_and_not_less(name):
    records = simulate(SimConfig.from_dict(regenerate.BASE | regenerate.CONFIGS[name]))
    before = regenerate.digest(records)
    nanoseconds = np.rint(records.first_token_s * 1e9)
    records.first_token_s[:] = (nanoseconds + 0.2) * 1e-9
    assert regenerate.digest(records) == before
    records.first_token_s[0] += 1.1e-9
    assert regenerate.digest(records) != before


def test_regenerating_refuses_to_rewrite_a_version(tmp_path, monkeypatch, capsys):
    path = tmp_path / "model.json"
    monkeypatch.setattr(regenerate, "PATH", path)
    monkeypatch.setattr(regenerate, "digests", lambda: {"mono": "new"})
    path.write_text('{"mono": "old"}')
    with pytest.raises(SystemExit, match="raise MODEL_VERSION"):
        regenerate.main([])
    assert json.loads(path.read_text()) == {"mono": "old"}
    regenerate.main(["--force"])
    assert json.loads(path.read_text()) == {"mono": "new"}
    regenerate.main([])
    assert "up to date" in capsys.readouterr().out

"""The JSON Schema of config.yaml, for editors and other programs."""

from __future__ import annotations

from typing import Any

from simlib.core.config import REAL_SPACE, SimConfig
from simlib.study.plan.spec import StudyFile

_REAL_SPACE_KEYS = {
    "std": "``real_mean_std``: standard deviation in tokens.",
    "p50": "``p50_p90``: median in tokens.",
    "p90": "``p50_p90``: 90th percentile in tokens.",
}


def study_file_schema() -> dict[str, Any]:
    """Return the schema; what it cannot say (sums, files, levels) `resolve` checks."""
    schema = StudyFile.model_json_schema()
    simulation = SimConfig.model_json_schema()
    definitions = simulation.pop("$defs")
    for name in ("PromptConfig", "OutputConfig"):
        properties = definitions[name]["properties"]
        properties["mode"]["enum"] = [*properties["mode"]["enum"], *REAL_SPACE]
        for key, description in _REAL_SPACE_KEYS.items():
            properties[key] = {"type": "number", "description": description}
    schema["$defs"] |= {**definitions, "SimConfig": simulation}
    schema["properties"]["defaults"] = {
        "$ref": "#/$defs/SimConfig",
        "description": "Settings of one simulation that all studies start from.",
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

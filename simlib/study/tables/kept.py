"""What was measured of points and pairs, kept beside results: an edit measures what is new only.

A kept measurement is used only if all that it depends on is the same: the bytes of the results, the
configuration with its window and definition, the registry of metrics, and the code that measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simlib.core.config import SimConfig
from simlib.core.metrics import METRICS
from simlib.files import canonical_json
from simlib.study.measurement.classes import ClassMeasurement
from simlib.study.measurement.kept import KeptFile, code_that_measures, digest_of
from simlib.study.measurement.measure import PointMeasurement


@dataclass(frozen=True, slots=True)
class MeasuredPoint:
    """All that tables show of a point."""

    point: PointMeasurement
    classes: tuple[ClassMeasurement, ...]
    """Each request class, and all together; empty without classes."""


@dataclass(frozen=True, slots=True)
class Kept(KeptFile):
    """The place of a measurement of a point or a pair."""

    @classmethod
    def of(cls, config: SimConfig, results: Sequence[Path]) -> Kept:
        """Return the place beside the results of a point's replicates, in order."""
        settings = canonical_json({"config": config.to_dict(), "replicates": len(results)})
        name = f"measured-{digest_of(settings.encode())}.json"
        bytes_ = (digest_of(path.read_bytes()) for path in results)
        parts = [settings, _registry(), _code(), *bytes_]
        return cls(results[0].parent / name, digest_of("\n".join(parts).encode()))

    def compared_with(self, baseline: Kept, margin: float) -> Kept:
        """Return the place, beside a candidate's, of what it and its baseline measured together."""
        sides = canonical_json([str(baseline.path), str(self.path), margin])
        name = f"compared-{digest_of(sides.encode())}.json"
        key = "\n".join([baseline.key, self.key, str(margin), _code()])
        return Kept(self.path.parent / name, digest_of(key.encode()))


def _registry() -> str:
    return "\n".join(
        f"{metric.name} {metric.source} {metric.unit!r} {metric.since_arrival} "
        f"{metric.percentiles} {getattr(metric.values, '__qualname__', None)}"
        for metric in METRICS.values()
    )


def _code() -> str:
    here = Path(__file__)
    return code_that_measures(here, here.with_name("joints.py"))  # say what is kept

"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# no test judges wall time; CI draws the same examples every time
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

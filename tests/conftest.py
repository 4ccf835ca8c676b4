"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("open4m", deadline=None)  # on a busy machine a slow example is no failure
settings.load_profile("open4m")

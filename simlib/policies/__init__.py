"""Policies of serving: pure functions in dicts, read by the compiled engine and by its twin."""

"""The simulators: configuration, engines and per-request records."""

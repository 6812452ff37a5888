"""Latency models, seconds of an iteration from its batch; the catalog of GPUs and models."""

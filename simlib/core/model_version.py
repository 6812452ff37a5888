"""The version of what simulations compute."""

MODEL_VERSION = 1
"""Raise it whenever the same configuration gives other results: every stored point reruns."""

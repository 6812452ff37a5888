"""Simulation studies of LLM serving: monolithic against prefill/decode-disaggregated."""

__version__ = "0.1.0"

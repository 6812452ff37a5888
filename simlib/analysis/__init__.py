"""Sweeps and plots for interactive use."""

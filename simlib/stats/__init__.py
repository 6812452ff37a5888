"""Statistics of simulation output: intervals, warm-up, comparisons, queueing formulas."""

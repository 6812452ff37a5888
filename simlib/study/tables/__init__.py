"""From results to tables: summaries, comparisons, requests."""

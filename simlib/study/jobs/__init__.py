"""What a run's jobs do and keep: simulations, their results, batches, checks, locks, progress."""

"""Decide: the capacity of each deployment under an SLO, the best one, and by what margin."""

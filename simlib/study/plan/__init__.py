"""From config.yaml to points: what may stand in it, the grid, the identity of a simulation."""

"""Where requests come from: random streams, arrivals, lengths and traces."""

"""What the records of a point's replicates measure."""

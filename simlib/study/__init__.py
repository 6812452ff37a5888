"""Studies: from config.yaml to points, tables and figures."""

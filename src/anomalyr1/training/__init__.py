"""Making and tuning policies."""

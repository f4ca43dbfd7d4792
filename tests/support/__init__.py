"""What several tests use: drawn data, tiny models, recorded runs."""

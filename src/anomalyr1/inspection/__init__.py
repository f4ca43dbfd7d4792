"""Samples to inspections: verdicts, thresholds, masks."""

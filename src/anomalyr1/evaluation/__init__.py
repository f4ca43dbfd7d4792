"""Evaluation: scoreboards of MMAD, detection, localisation, and how sure the figures are; pure functions of samples and inspections."""

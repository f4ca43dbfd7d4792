"""Drawn parts: images of industrial parts, good and defective, with their ground truth."""

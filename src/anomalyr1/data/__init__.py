"""Where samples come from: drawn parts and their questions."""

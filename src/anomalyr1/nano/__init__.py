"""How the bundled policy is made, from drawn parts only."""

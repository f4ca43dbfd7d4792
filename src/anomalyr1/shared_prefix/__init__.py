"""A prompt read once: for answers (`decode`, `trees`) and for training (`score`, `groups`, `rollouts`)."""

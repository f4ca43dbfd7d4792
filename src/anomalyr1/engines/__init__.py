"""Engines turn prompts into completions: `local`, `vllm`, `endpoint`, `replay`; `parity` compares two."""

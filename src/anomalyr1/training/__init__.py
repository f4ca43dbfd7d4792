"""Tuning a policy: a recipe in, a run folder out; SFT, and GRPO on shared prefixes.

What is public stands in `__init__.pyi`; it is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

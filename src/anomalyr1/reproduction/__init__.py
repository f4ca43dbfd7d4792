"""The paper's experiment, does ROAM help, at a size that everyone can run: arms, runs, answers, and the page
that says what came out.

What is public stands in `__init__.pyi`; it is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

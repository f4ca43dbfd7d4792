"""Engines turn prompts into completions: `local`, `vllm`, `endpoint`, `replay`; `parity` compares two.

    engine = load_engine("local:nano")
    (completion,) = engine.complete([prompt], {path: open_image(path)})

What is public stands in `__init__.pyi`; it is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

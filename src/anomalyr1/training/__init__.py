"""Teaching policies from labelled parts, by SFT or by GRPO with ROAM: a recipe in, a run folder out.

    from anomalyr1.training import load_recipe, train
    train(load_recipe("nano-grpo"), Path("runs/mine"))

What is public stands in `__init__.pyi`; it is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

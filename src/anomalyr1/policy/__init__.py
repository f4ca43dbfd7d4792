"""The policy: the vision-language model that is run or trained.

    policy = load_policy("nano")

`load` finds and loads a model, `safety` refuses folders that could do harm, `chat` writes the chat format.

What is public stands in `__init__.pyi`; it is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

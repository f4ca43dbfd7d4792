"""How the bundled policy is made, from drawn parts only: `python -m anomalyr1.nano.make`.

What is public stands in `__init__.pyi`; it is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Drawn parts: images of industrial parts, good and defective, with their ground truth.

`drawn.draw.draw` makes a part, `drawn.reference` another good one of its design, `drawn.write` a data set.

What is public stands in `__init__.pyi`; it is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

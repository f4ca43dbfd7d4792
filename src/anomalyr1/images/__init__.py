"""The one door for images, and the way between original and model pixels.

    from anomalyr1.images import FAMILIES, open_image, resize
    picture, frame = resize(open_image("part.png").rgb, FAMILIES["qwen2_5_vl"])

What is public stands in `__init__.pyi`; it is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

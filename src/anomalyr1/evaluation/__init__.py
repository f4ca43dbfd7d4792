"""Figures of inspections beside what is true, how sure they are, and whether two runs differ; checks of data.

    from anomalyr1.evaluation import compare, evaluate
    evaluate("drawn:dev?n=64", "nano", out="eval1")
    evaluate("drawn:dev?n=64", "runs/mine/final", out="eval2")
    compare("eval1", "eval2").groups[0].paired.difference

What is public stands in `__init__.pyi`; it is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

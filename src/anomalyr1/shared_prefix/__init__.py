"""A prompt is read once, however many questions and completions follow it.

    system, knowledge, images       read once; its keys and values are kept
      +-- question 1
      |     +-- completion
      |     +-- completion          a token looks at what lies above it, never aside
      +-- question 2
            +-- completion

`layout` says how such rows lie and which token looks at which. For answers, `trees` finds what prompts share
and `decode` grows their completions. For training, `groups` finds which completions answer which prompt,
`score` gives their log-probabilities, and `rollouts` samples them.

What is public stands in `__init__.pyi`; it is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

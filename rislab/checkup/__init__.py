"""Watch any PyTorch training loop from outside, and say what is wrong with it.

This room stands alone: it imports torch and rislab.errors, and holds no word of radio or of the other rooms. What it
finds, and by which rule, stands in `findings.py` and `rules.py`; on them stand
recording → step_rules → observers → probes → output, in this order; the other modules are the ways in.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)

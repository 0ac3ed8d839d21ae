"""From a covariance or from snapshots to positions, and how good any position can be.

Spectra, sparse and likelihood estimators, model order, Cramér–Rao bounds, metrics, and the benchmark that compares
them; what was learned enters only as an object with `predict(batch)`.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)

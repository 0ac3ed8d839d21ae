"""Names of the estimators that `rislab localise` compares; "A + B" feeds the result of A into B.

What each step does stands in rislab.music.benchmark.
"""

ESTIMATOR_NAMES = (
    "truth + MUSIC",
    "sample + beam",
    "sample + MVDR",
    "sample + MUSIC",
    "sample + MUSIC + polish",
    "random + polish",
    "sparse",
    "sparse + polish",
    "sparse + quick Bayes",
    "sparse + Bayes",
)
DEFAULT_ESTIMATORS = ("truth + MUSIC", "sample + MUSIC", "sample + MUSIC + polish", "sparse + polish")
# To compare a learned covariance with, from the best covariance there is to polished random places.
BASELINES = (
    "truth + MUSIC",
    "sample + MUSIC + polish",
    "random + polish",
    "sparse",
    "sparse + polish",
    "sparse + Bayes",
)

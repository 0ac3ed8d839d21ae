"""Forms of a wave at the array: of exact path, of second order in it, and plane."""

WAVEFRONTS = ("spherical", "fresnel", "planar")

"""Parameters made up at random, for searches that submit their own jobs."""

from . import generate_random_parameters

__all__ = ["generate_random_parameters"]

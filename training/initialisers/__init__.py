"""Weights before the first step."""

from training.initialisers.catalogue import INITIALISERS, find_initialiser, initialise

__all__ = ["INITIALISERS", "find_initialiser", "initialise"]

"""Measurements: every claim is a paired ratio from one interleaved run. `make bench` runs them all."""

"""Grids of runs, compared: `python -m training study`."""

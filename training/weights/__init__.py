"""Weights that others published: from their files, under their names, into our networks."""

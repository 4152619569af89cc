"""Graphs that were not made here, brought into the form that every published graph has."""

"""Faults to survive, each against a real process over a socket; docs/faults.md lists them."""

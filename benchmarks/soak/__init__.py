"""A long run of everything at once: no request may be lost, and memory may not grow. `python -m benchmarks.soak`."""

"""What the layers did to sampled traffic, in a database: one row a minute of each model version and process.

It knows nothing of the web, and nobody waits for it: rows go through `writer`, in a thread of its own.
"""

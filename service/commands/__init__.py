"""What `python -m service <command>` does beside serving."""

"""`python -m service key`: make an API key."""

import argparse
import sys

from service.access.keys import new_key


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("name", help="of whoever will hold the key, for the log: letters, digits and _.@-")
    parser.add_argument("--rate", type=float, help="requests a second, if not as many as others")


def run(arguments: argparse.Namespace) -> None:
    """Print the line to keep on stdout, and the key itself, this once, on stderr; raises `ValueError`."""
    secret, key = new_key(arguments.name, arguments.rate)
    print(f"the key, which is not kept anywhere: {secret}", file=sys.stderr, flush=True)
    print(key.line())

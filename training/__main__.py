"""The command line: `python -m training COMMAND --help`."""

import os
import sys
from collections.abc import Callable

# Before PyTorch starts its thread pool: threads that spin at every barrier while another process has their core make
# training tens of times slower; threads that sleep cost nothing measurable when the machine is free.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tyro

from training.commands.activations import activations
from training.commands.adopt import adopt
from training.commands.data import data
from training.commands.networks import networks
from training.commands.publish import publish
from training.commands.refresh import refresh
from training.commands.train import train

COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "publish": publish,
    "import": adopt,
    "refresh": refresh,
    "data": data,
    "activations": activations,
    "networks": networks,
}


def main() -> None:
    """Run one command; a user's error is one line on standard error and exit code 2."""
    try:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m training", config=(tyro.conf.OmitArgPrefixes,))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: nothing finished is lost; `train` goes on with --resume", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

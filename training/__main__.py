"""The command line: `python -m training COMMAND --help`."""

import os
import sys
from collections.abc import Callable
from functools import partial

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
from training.commands.report import report_refused
from training.commands.retrain import retrain
from training.commands.study import study
from training.commands.train import train
from training.commands.watch import watch
from training.outcomes import MISTAKE, Failure, StoppedError, exit_code
from training.recipes.catalogue import recipe_of

COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "publish": publish,
    "import": adopt,
    "refresh": refresh,
    "retrain": retrain,
    "watch": watch,
    "data": data,
    "activations": activations,
    "networks": networks,
    "study": study,
}


def main() -> None:
    """Run one command; an error is one line on standard error and an exit code, see `training.outcomes`."""
    # Of several processes, which one speaks.
    who = f"process {os.environ['RANK']}: " if "RANK" in os.environ else ""
    try:
        commands = COMMANDS | _with_recipes(sys.argv[1:])
        tyro.extras.subcommand_cli_from_dict(commands, prog="python -m training", config=(tyro.conf.OmitArgPrefixes,))
    except StoppedError as stopped:
        print(f"{who}{stopped}", file=sys.stderr)
        sys.exit(exit_code(stopped))
    except (Failure, ValueError, OSError) as error:
        print(f"{who}error: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    except KeyboardInterrupt as interrupt:
        print("interrupted: nothing finished is lost; `train` goes on with --resume", file=sys.stderr)
        sys.exit(exit_code(interrupt))
    except SystemExit as ended:
        # The parser's, who has said why.
        if ended.code == MISTAKE:
            report_refused(sys.argv[1:], "the command line is not understood; standard error says why")
        raise


def _with_recipes(arguments: list[str]) -> dict[str, Callable[..., None]]:
    """The commands whose defaults are those of a recipe, in the help too."""
    try:
        return {
            "train": partial(train, recipe=recipe_of(arguments)),
            "retrain": partial(retrain, recipe=recipe_of(arguments, "fine_tune")),
        }
    except ValueError as error:
        report_refused(arguments, str(error))
        raise


if __name__ == "__main__":
    main()

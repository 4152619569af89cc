"""The command line: `python -m training COMMAND --help`."""

import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial, wraps
from traceback import walk_tb
from typing import Any

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

Command = Callable[[], None]

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
        _parsed(sys.argv[1:])()
    except StoppedError as stopped:
        print(f"{who}{stopped}", file=sys.stderr)
        sys.exit(exit_code(stopped))
    except (Failure, ValueError, OSError) as error:
        print(f"{who}error: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    except KeyboardInterrupt as interrupt:
        print("interrupted: nothing finished is lost; `train` goes on with --resume", file=sys.stderr)
        sys.exit(exit_code(interrupt))


def _parsed(arguments: list[str]) -> Command:
    """The command with all that it is given; raises `ValueError` for a value that a configuration refuses."""
    commands = {name: _later(command) for name, command in COMMANDS.items()}
    said = io.StringIO()
    try:
        # Of these the defaults are those of a recipe, in the help too.
        commands["train"] = partial(commands["train"], recipe=recipe_of(arguments))
        commands["retrain"] = partial(commands["retrain"], recipe=recipe_of(arguments, "fine_tune"))
        with redirect_stderr(said):
            command: Command = tyro.extras.subcommand_cli_from_dict(
                commands, prog="python -m training", args=arguments, config=(tyro.conf.OmitArgPrefixes,)
            )
    except ValueError as error:
        report_refused(arguments, str(error))
        raise
    except SystemExit as ended:
        if refusal := _refusal(ended):
            report_refused(arguments, str(refusal))
            raise refusal from None
        sys.stderr.write(said.getvalue())
        if ended.code == MISTAKE:
            report_refused(arguments, "the command line is not understood; standard error says why")
        raise
    sys.stderr.write(said.getvalue())
    return command


def _later(command: Callable[..., None]) -> Callable[..., Command]:
    """The same command to the parser, which then only gives it its arguments."""

    @wraps(command)
    def given(*arguments: Any, **named: Any) -> Command:
        return partial(command, *arguments, **named)

    return given


def _refusal(ended: SystemExit) -> ValueError | None:
    """What one of our configurations said before the parser put it into a box and ended."""
    error: BaseException | None = ended
    while error is not None:
        names = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
        if isinstance(error, ValueError) and any(name.startswith("training.") for name in names):
            return error
        error = error.__context__
    return None


if __name__ == "__main__":
    main()

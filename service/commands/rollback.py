"""`python -m service rollback`: go back to the version before, in the repository; a service that polls it follows."""

import argparse
from pathlib import Path

from models.policy import policy_of
from service.commands.repository import choosing_in
from service.settings import Settings


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("model", help="name of the model")
    parser.add_argument("--repository", type=Path, help="the one that the service reads if not given")


def run(arguments: argparse.Namespace) -> None:
    """Pin the default version to the one before; raises `ValueError` where there is none."""
    name = arguments.model
    repository = choosing_in(arguments.repository)
    versions = repository.versions(repository.resolve(name).name)
    policy = policy_of(name, Settings().version_policies, repository.policy(name))
    choice = repository.choice(name)
    candidates = policy.candidates(choice.eligible(versions))
    back = choice.rolled_back(choice.default or (candidates[0] if candidates else None), versions)
    repository.choose(name, back)
    print(f"{name} is served in version {back.default} until a service is told to load another one by its number")

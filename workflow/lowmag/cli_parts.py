"""What the parsers of all subcommands share."""

import argparse
import json


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str, run
):
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=run)
    return parser


def add_options(parser: argparse.ArgumentParser, section: str) -> None:
    parser.add_argument(
        "--options", metavar="JSON", help=f"config section {section} as JSON; defaults where left out"
    )


def class_names(text: str) -> list[str]:
    """The names of a JSON list; raises ArgumentTypeError for anything else."""
    try:
        names = json.loads(text)
    except json.JSONDecodeError:
        names = None
    if isinstance(names, list) and names and all(isinstance(name, str) and name for name in names):
        return names
    raise argparse.ArgumentTypeError(f'found {text}, expected names as \'["normal", "tumour"]\'')

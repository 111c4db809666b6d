"""What the parsers of all subcommands share."""

import argparse


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

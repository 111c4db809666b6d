"""The `lowmag` command: one subcommand per stage, each importing only what it needs."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from lowmag import __version__, cli_exchange, cli_results, cli_slides, cli_training
from lowmag.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns 0, or what the stage returns, or 2 after printing a UserError."""
    os.environ.setdefault(
        "VIPS_BLOCK_UNTRUSTED", "1"
    )  # libvips has loaders that are not fit for strangers' files
    parser = build_parser()
    args = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("pyvips").setLevel(logging.WARNING)  # it tells of every thread pool
    try:
        if "LOWMAG_PACKAGE" not in os.environ:
            return args.run(args) or 0
        from lowmag import job_stamp, own_code

        own_code.check()
        status = args.run(args) or 0
        job_stamp.say()
        return status
    except UserError as error:
        print(f"lowmag {args.command}: {error}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(prog="lowmag", description="Train at high magnification, deploy at low.")
    parser.add_argument("--version", action="version", version=f"lowmag {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in (cli_slides, cli_exchange, cli_training, cli_results):
        group.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())

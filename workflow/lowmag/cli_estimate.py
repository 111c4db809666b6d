"""`lowmag check --estimate`: tiles and bytes of a cohort before any is cut."""

import argparse
from pathlib import Path

from lowmag.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--estimate", action="store_true", help="say how many tiles and bytes there will be")
    parser.add_argument("--tissue", metavar="JSON", help="config section tissue (with --estimate)")
    parser.add_argument("--tiles", metavar="JSON", help="config section tiles (with --estimate)")
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="the study's config files, in place of --tissue, --tiles, --origin, --options; tells targets",
    )
    parser.add_argument(
        "--origin", choices=["bounds", "level0"], help="where x, y of GeoJSON masks start (default bounds)"
    )
    parser.add_argument("--estimate-out", type=Path, help="TSV to write with a row per slide")


def run(args: argparse.Namespace) -> None:
    from lowmag.estimate import Wanted, estimate_cohort
    from lowmag.estimate_tables import cohort_table, write_slides_table
    from lowmag.parsing import parse_options
    from lowmag.sections import Check, Tiles, Tissue
    from lowmag.slides import read_slides
    from lowmag.target_size import read_config, targets_text

    config = read_config(args.config) if args.config else None
    if config and (args.tissue or args.tiles or args.origin or args.options):
        raise UserError("--config stands for --tissue, --tiles, --origin and --options: leave them out")
    if config:
        wanted = Wanted(config.check, config.tissue, config.tiles, config.annotations.origin)
    else:
        wanted = Wanted(
            parse_options(Check, args.options),
            parse_options(Tissue, args.tissue, "--tissue"),
            parse_options(Tiles, args.tiles, "--tiles"),
            args.origin or "bounds",
        )
    found = list(estimate_cohort(args.slides, args.records, wanted))
    if args.estimate_out:
        write_slides_table(args.estimate_out, found, wanted.tiles)
    print(cohort_table(found, wanted.tiles))
    if config:
        print(targets_text(found, read_slides(args.slides, require_files=False), config))

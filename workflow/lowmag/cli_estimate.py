"""`lowmag check --estimate`: tiles and bytes of a cohort before any is cut."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--estimate", action="store_true", help="say how many tiles and bytes there will be")
    parser.add_argument("--tissue", metavar="JSON", help="config section tissue (with --estimate)")
    parser.add_argument("--tiles", metavar="JSON", help="config section tiles (with --estimate)")
    parser.add_argument(
        "--origin", choices=["bounds", "level0"], default="bounds", help="where x, y of GeoJSON masks start"
    )
    parser.add_argument("--estimate-out", type=Path, help="TSV to write with a row per slide")


def run(args: argparse.Namespace) -> None:
    from lowmag.estimate import Wanted, estimate_cohort
    from lowmag.estimate_tables import cohort_table, write_slides_table
    from lowmag.parsing import parse_options
    from lowmag.sections import Check, Tiles, Tissue

    wanted = Wanted(
        parse_options(Check, args.options),
        parse_options(Tissue, args.tissue, "--tissue"),
        parse_options(Tiles, args.tiles, "--tiles"),
        args.origin,
    )
    found = list(estimate_cohort(args.slides, args.records, wanted))
    if args.estimate_out:
        write_slides_table(args.estimate_out, found, wanted.tiles)
    print(cohort_table(found, wanted.tiles))

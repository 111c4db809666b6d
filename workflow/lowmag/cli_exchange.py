"""Subcommands that hand tiles to other programs and take theirs."""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

from lowmag.cli_parts import add_command, add_options


def add_commands(commands) -> None:
    parser = add_command(
        commands, "export", "Write the tiles of one slide for TRIDENT, CLAM, QuPath or as a table.", _export
    )
    parser.add_argument("--to", choices=["trident", "clam", "qupath", "parquet"], required=True)
    parser.add_argument("--tiles", type=Path, required=True, help="tile file of the slide")
    parser.add_argument("--record", type=Path, help="JSON record of the slide (for CLAM)")
    parser.add_argument("--level", type=int, help="level that CLAM is to read; default: the teacher's scale")
    parser.add_argument("--outline", type=Path, help="GeoJSON of the tissue to put before the tiles (QuPath)")
    parser.add_argument(
        "--origin",
        choices=["bounds", "level0"],
        default="bounds",
        help="where x, y start (QuPath): at the scanned part, as it counts, or at level 0",
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write")

    parser = add_command(commands, "import", "Cut the tiles that TRIDENT or CLAM has placed.", _import)
    parser.add_argument("--coords", type=Path, required=True, help="their patches/*.h5 of the slide")
    parser.add_argument("--record", type=Path, required=True, help="JSON record of the slide")
    parser.add_argument("--outline", type=Path, help="GeoJSON of the tissue; default: it is found")
    parser.add_argument("--out", type=Path, required=True, help="HDF5 to write")
    add_options(parser, "tiles")


def _keep(out: Path, inputs: Iterable[Path | None]) -> None:
    """Raises UserError where the file to write is one of those read: tiles are hours of work."""
    from lowmag.errors import UserError

    for path in inputs:
        if path and out.exists() and path.exists() and out.samefile(path):
            raise UserError(f"--out is {path} itself, which would be lost; name another file")


def _export(args: argparse.Namespace) -> None:
    from lowmag.errors import UserError
    from lowmag.store import TileFile

    _keep(args.out, [args.tiles, args.record, args.outline])
    with TileFile(args.tiles) as file:
        if args.to == "qupath":
            from lowmag import qupath_export

            qupath_export.write_geojson(file, args.out, outline=args.outline, origin=args.origin)
            return
        from lowmag import export
        from lowmag.record import load_record

        if args.to == "trident":
            export.write_trident(file, args.out)
        elif args.to == "parquet":
            export.write_table(file, args.out)
        elif args.record is None:
            raise UserError("--to clam needs --record, the JSON record of the slide: it knows the levels")
        else:
            export.write_clam(file, load_record(args.record), args.out, args.level)


def _import(args: argparse.Namespace) -> None:
    from lowmag import tiles, tissue
    from lowmag.parsing import parse_options
    from lowmag.sections import Tiles, Tissue

    _keep(args.out, [args.coords, args.record, args.outline])
    options = parse_options(Tiles, args.options)
    with tempfile.TemporaryDirectory() as folder:
        outline = args.outline or Path(folder, "outline.geojson")
        if args.outline is None:
            tissue.write_outline(args.record, outline, Path(folder, "overlay.png"), Tissue())
        tiles.write_tiles(args.record, outline, args.out, options, coords=args.coords)

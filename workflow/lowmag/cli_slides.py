"""Subcommands from slides to tiles and splits."""

import argparse
from pathlib import Path

from lowmag import cli_estimate
from lowmag.cli_parts import add_command, add_options, class_names


def add_commands(commands) -> None:
    parser = add_command(commands, "demo", "Draw the demo cohort, or one slide of it.", _demo)
    parser.add_argument("--out", type=Path, required=True, help="folder of slides.csv and the slides")
    parser.add_argument("--slide", help="draw this slide only")
    parser.add_argument("--sheet", action="store_true", help="write slides.csv only")
    add_options(parser, "demo")

    parser = add_command(
        commands, "pyramid", "Turn a flat TIFF, PNG or JPEG into a pyramidal TIFF.", _pyramid
    )
    parser.add_argument("--image", type=Path, required=True, help="the flat picture")
    parser.add_argument("--mpp", type=float, help="its micrometres per pixel")
    parser.add_argument("--out", type=Path, required=True, help="pyramidal TIFF to write")
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality of the tiles, 50-100")

    parser = add_command(commands, "inspect", "Give the verdict on one slide as JSON.", _inspect)
    parser.add_argument("--slide-id", required=True)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--mpp", type=float, help="micrometres per pixel that override the slide's own")
    parser.add_argument("--magnification", type=float, default=10.0, help="highest magnification asked for")
    parser.add_argument("--out", type=Path, required=True, help="the JSON record")
    add_options(parser, "check")

    parser = add_command(commands, "check", "Give one verdict per slide of a cohort, with the cure.", _check)
    parser.add_argument("--slides", type=Path, required=True, help="slides.csv")
    parser.add_argument(
        "--records", type=Path, help="folder of records of `lowmag inspect`; missing ones are made"
    )
    parser.add_argument("--magnification", type=float, default=10.0, help="highest magnification asked for")
    parser.add_argument("--out", type=Path, help="check.tsv; may be left out with --estimate")
    parser.add_argument(
        "--on-bad-slide", choices=["skip", "fail"], default="skip", help="fail: exit 1 after writing"
    )
    cli_estimate.add_arguments(parser)
    add_options(parser, "check")

    parser = add_command(commands, "tissue", "Outline the tissue of one slide.", _tissue)
    parser.add_argument("--record", type=Path, required=True, help="JSON record of the slide")
    parser.add_argument("--outline", type=Path, required=True, help="GeoJSON to write")
    parser.add_argument("--overlay", type=Path, required=True, help="PNG to write")
    parser.add_argument("--mask", type=Path, help="GeoJSON or picture of the tissue, in place of finding it")
    parser.add_argument(
        "--origin", choices=["bounds", "level0"], default="bounds", help="where x, y of a GeoJSON mask start"
    )
    add_options(parser, "tissue")

    parser = add_command(commands, "tiles", "Cut the tiles of one slide at every magnification.", _tiles)
    parser.add_argument("--record", type=Path, required=True, help="JSON record of the slide")
    parser.add_argument("--outline", type=Path, required=True, help="GeoJSON outline of the tissue")
    parser.add_argument("--out", type=Path, required=True, help="HDF5 to write")
    parser.add_argument("--annotations", type=Path, help="QuPath GeoJSON or ASAP XML: regions to labels")
    parser.add_argument("--classes", type=class_names, metavar="JSON", help="class names in order")
    parser.add_argument("--labels-options", metavar="JSON", help="config section annotations")
    parser.add_argument("--coords", type=Path, help="TRIDENT or CLAM file whose tiles are taken as they are")
    add_options(parser, "tiles")

    parser = add_command(commands, "pictures", "Store pre-cut pictures as tile files.", _pictures)
    parser.add_argument("--images", type=Path, required=True, help="images.csv, or the folder SICAPv2")
    parser.add_argument("--out", type=Path, required=True, help="folder of the HDF5 files")
    parser.add_argument("--pictures", metavar="JSON", help="config section pictures")
    parser.add_argument(
        "--classes", type=class_names, required=True, metavar="JSON", help="class names in order"
    )
    add_options(parser, "tiles")

    parser = add_command(commands, "splits", "Split the patients into train, val and test.", _splits)
    sheet = parser.add_mutually_exclusive_group(required=True)
    sheet.add_argument("--slides", type=Path, help="slides.csv")
    sheet.add_argument("--images", type=Path, help="images.csv, or the folder SICAPv2")
    parser.add_argument("--pictures", metavar="JSON", help="config section pictures (with --images)")
    parser.add_argument("--check", type=Path, help="check.tsv; slides it rejects are left out")
    parser.add_argument("--annotations", metavar="JSON", help="config section annotations (with --slides)")
    parser.add_argument(
        "--classes", type=class_names, metavar="JSON", help="class names in order, where slides are annotated"
    )
    parser.add_argument("--out", type=Path, required=True, help="splits.csv")
    add_options(parser, "splits")

    parser = add_command(commands, "tile-table", "List the tile files of a cohort.", _tile_table)
    parser.add_argument("--tiles", type=Path, required=True, help="folder of tile files")
    parser.add_argument("--splits", type=Path, required=True, help="splits.csv")
    parser.add_argument("--out", type=Path, required=True, help="tiles.tsv")

    parser = add_command(commands, "reading", "Time the reading of slides at every magnification.", _reading)
    parser.add_argument("--records", type=Path, required=True, help="folder of JSON records")
    parser.add_argument("--tiles", type=Path, required=True, help="folder of tile files")
    parser.add_argument("--splits", type=Path, required=True, help="splits.csv")
    parser.add_argument("--slides", type=int, default=3, help="slides to time")
    parser.add_argument("--out", type=Path, required=True, help="reading.tsv")


def _demo(args: argparse.Namespace) -> None:
    from lowmag import demo
    from lowmag.parsing import parse_options
    from lowmag.sections import Demo

    options = parse_options(Demo, args.options)
    if args.slide:
        demo.write_slide(args.out, args.slide, options)
        return
    if not args.sheet:
        demo.write_slides(args.out, options)
    demo.write_sheet(args.out, options)


def _pyramid(args: argparse.Namespace) -> None:
    from lowmag import pyramid

    pyramid.write_pyramid(pyramid.FlatPicture(args.image, args.mpp, args.quality), args.out)


def _inspect(args: argparse.Namespace) -> None:
    from lowmag import check
    from lowmag.parsing import parse_options
    from lowmag.sections import Check

    slide = check.SlideToCheck(args.slide_id, args.path, args.mpp)
    check.write_record(args.out, slide, args.magnification, parse_options(Check, args.options))


def _check(args: argparse.Namespace) -> int:
    from lowmag import check
    from lowmag.errors import UserError
    from lowmag.parsing import parse_options
    from lowmag.sections import Check

    if not (args.out or args.estimate):
        raise UserError("nothing to do; name the table to write (--out), or ask for an --estimate")
    n_bad = 0
    if args.out:
        options = parse_options(Check, args.options)
        n_bad = check.write_table(args.out, args.slides, args.records, args.magnification, options)
    if args.estimate:
        cli_estimate.run(args)
    return 1 if n_bad and args.on_bad_slide == "fail" else 0


def _tissue(args: argparse.Namespace) -> None:
    from lowmag import tissue
    from lowmag.parsing import parse_options
    from lowmag.sections import Tissue

    options, finder = parse_options(Tissue, args.options), None
    if args.mask:
        from lowmag.masks import GivenMask

        finder = GivenMask(args.mask, args.origin)
    elif options.model:
        from lowmag.segmenter import NetworkFinder

        finder = NetworkFinder(Path(options.model), options.model_sha256)
    tissue.write_outline(args.record, args.outline, args.overlay, options, finder)


def _tiles(args: argparse.Namespace) -> None:
    from lowmag import tiles
    from lowmag.parsing import parse_options
    from lowmag.sections import Tiles

    options = parse_options(Tiles, args.options)
    tiles.write_tiles(args.record, args.outline, args.out, options, labels=_labels(args), coords=args.coords)


def _labels(args: argparse.Namespace):
    """What labels the tiles of an annotated slide; None for others, and for one that was rejected."""
    if args.annotations is None:
        return None
    from lowmag.errors import UserError
    from lowmag.parsing import parse_options
    from lowmag.record import load_record
    from lowmag.sections import Annotations
    from lowmag.tile_labels import TileLabels

    if not args.classes:
        raise UserError("--annotations needs --classes, the class names in order, as a JSON list")
    slide = load_record(args.record)
    options = parse_options(Annotations, args.labels_options, "--labels-options")
    return TileLabels(args.annotations, args.classes, options, slide) if slide.usable else None


def _pictures(args: argparse.Namespace) -> None:
    from lowmag import pictures
    from lowmag.parsing import parse_options
    from lowmag.sections import Pictures, Tiles

    options, tile_options = (
        parse_options(Pictures, args.pictures, "--pictures"),
        parse_options(Tiles, args.options),
    )
    pictures.write_pictures(args.images, args.out, args.classes, options, tile_options)


def _splits(args: argparse.Namespace) -> None:
    from lowmag import pictures, slides, splits
    from lowmag.parsing import parse_options
    from lowmag.sections import Pictures, Splits

    if args.slides:
        rows = slides.read_slides(args.slides, require_files=False)
        members = splits.members_of_slides(rows, args.check, _regions(args, rows))
    else:
        members = splits.members_of_pictures(
            pictures.read_pictures(args.images, parse_options(Pictures, args.pictures, "--pictures"))
        )
    splits.write_splits(args.out, members, parse_options(Splits, args.options))


def _regions(args: argparse.Namespace, rows):
    """The classes drawn on every annotated slide, by slide id; none without --classes."""
    if not args.classes:
        return {}
    from lowmag.parsing import parse_options
    from lowmag.sections import Annotations
    from lowmag.tile_labels import classes_of_slides

    return classes_of_slides(
        rows, args.classes, parse_options(Annotations, args.annotations, "--annotations")
    )


def _tile_table(args: argparse.Namespace) -> None:
    from lowmag import splits, tile_table

    slides = [row.slide_id for row in splits.read_splits(args.splits)]
    tile_table.write_table(args.out, args.tiles, slides)


def _reading(args: argparse.Namespace) -> None:
    from lowmag import reading

    reading.write_timings(args.records, args.tiles, args.splits, args.slides, args.out)

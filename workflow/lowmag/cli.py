"""The `lowmag` command: one subcommand per stage, each importing only what it needs."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from lowmag import __version__
from lowmag.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns 0, or what the stage returns, or 2 after printing a UserError."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    try:
        return args.run(args) or 0
    except UserError as error:
        print(f"lowmag {args.command}: {error}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(prog="lowmag", description="Train at high magnification, deploy at low.")
    parser.add_argument("--version", action="version", version=f"lowmag {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_slide_commands(commands)
    _add_training_commands(commands)
    _add_evaluation_commands(commands)
    return parser


def _command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str, run):
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=run)
    return parser


def _options(parser: argparse.ArgumentParser, section: str) -> None:
    parser.add_argument(
        "--options", metavar="JSON", help=f"config section {section} as JSON; defaults where left out"
    )


def _add_slide_commands(commands) -> None:
    parser = _command(commands, "demo", "Draw the demo cohort, or one slide of it.", _demo)
    parser.add_argument("--out", type=Path, required=True, help="folder of slides.csv and the slides")
    parser.add_argument("--slide", help="draw this slide only")
    parser.add_argument("--sheet", action="store_true", help="write slides.csv only")
    _options(parser, "demo")

    parser = _command(commands, "inspect", "Give the verdict on one slide as JSON.", _inspect)
    parser.add_argument("--slide-id", required=True)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--mpp", type=float, help="micrometres per pixel that override the slide's own")
    parser.add_argument("--magnification", type=float, default=10.0, help="highest magnification asked for")
    parser.add_argument("--out", type=Path, required=True, help="the JSON record")
    _options(parser, "check")

    parser = _command(commands, "check", "Give one verdict per slide of a cohort, with the cure.", _check)
    parser.add_argument("--slides", type=Path, required=True, help="slides.csv")
    parser.add_argument(
        "--records", type=Path, help="folder of records of `lowmag inspect`; missing ones are made"
    )
    parser.add_argument("--magnification", type=float, default=10.0, help="highest magnification asked for")
    parser.add_argument("--out", type=Path, required=True, help="check.tsv")
    parser.add_argument(
        "--on-bad-slide", choices=["skip", "fail"], default="skip", help="fail: exit 1 after writing"
    )
    _options(parser, "check")

    parser = _command(commands, "tissue", "Outline the tissue of one slide.", _tissue)
    parser.add_argument("--record", type=Path, required=True, help="JSON record of the slide")
    parser.add_argument("--outline", type=Path, required=True, help="GeoJSON to write")
    parser.add_argument("--overlay", type=Path, required=True, help="PNG to write")
    _options(parser, "tissue")

    parser = _command(commands, "tiles", "Cut the tiles of one slide at every magnification.", _tiles)
    parser.add_argument("--record", type=Path, required=True, help="JSON record of the slide")
    parser.add_argument("--outline", type=Path, required=True, help="GeoJSON outline of the tissue")
    parser.add_argument("--out", type=Path, required=True, help="HDF5 to write")
    _options(parser, "tiles")

    parser = _command(commands, "pictures", "Store pre-cut pictures as tile files.", _pictures)
    parser.add_argument("--images", type=Path, required=True, help="images.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the HDF5 files")
    parser.add_argument("--pictures", metavar="JSON", help="config section pictures")
    parser.add_argument(
        "--classes", type=json.loads, required=True, metavar="JSON", help="class names in order"
    )
    _options(parser, "tiles")

    parser = _command(commands, "splits", "Split the patients into train, val and test.", _splits)
    sheet = parser.add_mutually_exclusive_group(required=True)
    sheet.add_argument("--slides", type=Path, help="slides.csv")
    sheet.add_argument("--images", type=Path, help="images.csv")
    parser.add_argument("--pictures", metavar="JSON", help="config section pictures (with --images)")
    parser.add_argument("--check", type=Path, help="check.tsv; slides it rejects are left out")
    parser.add_argument("--out", type=Path, required=True, help="splits.csv")
    _options(parser, "splits")

    parser = _command(commands, "reading", "Time the reading of slides at every magnification.", _reading)
    parser.add_argument("--records", type=Path, required=True, help="folder of JSON records")
    parser.add_argument("--tiles", type=Path, required=True, help="folder of tile files")
    parser.add_argument("--splits", type=Path, required=True, help="splits.csv")
    parser.add_argument("--slides", type=int, default=3, help="slides to time")
    parser.add_argument("--out", type=Path, required=True, help="reading.tsv")


def _demo(args: argparse.Namespace) -> None:
    from lowmag import demo
    from lowmag.config import parse_options
    from lowmag.sections import Demo

    options = parse_options(Demo, args.options)
    if args.slide:
        demo.write_slide(args.out, args.slide, options)
        return
    if not args.sheet:
        demo.write_slides(args.out, options)
    demo.write_sheet(args.out, options)


def _inspect(args: argparse.Namespace) -> None:
    from lowmag import check
    from lowmag.config import parse_options
    from lowmag.sections import Check

    slide = check.SlideToCheck(args.slide_id, args.path, args.mpp)
    check.write_record(args.out, slide, args.magnification, parse_options(Check, args.options))


def _check(args: argparse.Namespace) -> int:
    from lowmag import check
    from lowmag.config import parse_options
    from lowmag.sections import Check

    n_bad = check.write_table(
        args.out, args.slides, args.records, args.magnification, parse_options(Check, args.options)
    )
    return 1 if n_bad and args.on_bad_slide == "fail" else 0


def _tissue(args: argparse.Namespace) -> None:
    from lowmag import tissue
    from lowmag.config import parse_options
    from lowmag.sections import Tissue

    tissue.write_outline(args.record, args.outline, args.overlay, parse_options(Tissue, args.options))


def _tiles(args: argparse.Namespace) -> None:
    from lowmag import tiles
    from lowmag.config import parse_options
    from lowmag.sections import Tiles

    tiles.write_tiles(args.record, args.outline, args.out, parse_options(Tiles, args.options))


def _pictures(args: argparse.Namespace) -> None:
    from lowmag import pictures
    from lowmag.config import parse_options
    from lowmag.sections import Pictures, Tiles

    options, tile_options = parse_options(Pictures, args.pictures), parse_options(Tiles, args.options)
    pictures.write_pictures(args.images, args.out, args.classes, options, tile_options)


def _splits(args: argparse.Namespace) -> None:
    from lowmag import pictures, slides, splits
    from lowmag.config import parse_options
    from lowmag.sections import Pictures, Splits

    if args.slides:
        members = splits.members_of_slides(slides.read_slides(args.slides, require_files=False), args.check)
    else:
        members = splits.members_of_pictures(
            pictures.read_pictures(args.images, parse_options(Pictures, args.pictures))
        )
    splits.write_splits(args.out, members, parse_options(Splits, args.options))


def _reading(args: argparse.Namespace) -> None:
    from lowmag import reading

    reading.write_timings(args.records, args.tiles, args.splits, args.slides, args.out)


def _add_training_commands(commands) -> None:
    parser = _command(commands, "teacher", "Train a teacher at high magnification.", _teacher)
    _training_arguments(parser, "teacher")

    parser = _command(commands, "targets", "Store what a teacher says of the training tiles.", _targets)
    parser.add_argument("--teacher", type=Path, required=True, help="model.safetensors of the teacher")
    parser.add_argument("--tiles", type=Path, required=True, help="folder of tile files")
    parser.add_argument("--splits", type=Path, required=True, help="splits.csv")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of one HDF5 per student magnification"
    )
    parser.add_argument("--threads", type=int, default=2)
    _options(parser, "(see study.TargetOptions)")

    parser = _command(commands, "student", "Train a student at low magnification.", _student)
    parser.add_argument(
        "--method", required=True, metavar="JSON", help="loss terms, as under methods in the config"
    )
    parser.add_argument("--unlabelled", type=int, default=0, help="per cent of the unlabelled slides used")
    parser.add_argument("--targets", type=Path, help="HDF5 of the teacher's targets at this magnification")
    _training_arguments(parser, "students")

    parser = _command(commands, "predict", "Predict the validation and test tiles with one model.", _predict)
    parser.add_argument("--model", type=Path, required=True, help="model.safetensors")
    parser.add_argument("--tiles", type=Path, required=True, help="folder of tile files")
    parser.add_argument("--splits", type=Path, required=True, help="splits.csv")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of tiles.parquet, slides.parquet, cost.json"
    )
    parser.add_argument("--threads", type=int, default=2)


def _training_arguments(parser: argparse.ArgumentParser, section: str) -> None:
    parser.add_argument("--tiles", type=Path, required=True, help="folder of tile files")
    parser.add_argument("--splits", type=Path, required=True, help="splits.csv")
    parser.add_argument(
        "--classes", type=json.loads, required=True, metavar="JSON", help="class names in order"
    )
    parser.add_argument("--magnification", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of model.safetensors, metrics.csv, run.json"
    )
    parser.add_argument("--state", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument(
        "--budget", type=float, default=float("inf"), help="minutes; training saves, stops and exits 75"
    )
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=2)
    _options(parser, section)


def _job(args: argparse.Namespace):
    from lowmag.train import Job

    return Job(
        tiles=args.tiles,
        splits=args.splits,
        classes=args.classes,
        magnification=args.magnification,
        seed=args.seed,
        out=args.out,
        state=args.state,
        budget_minutes=args.budget,
        checkpoint_minutes=args.checkpoint_minutes,
        threads=args.threads,
    )


def _teacher(args: argparse.Namespace) -> int:
    from lowmag import train
    from lowmag.config import parse_options
    from lowmag.recipe import Training

    return train.train_teacher(_job(args), parse_options(Training, args.options))


def _student(args: argparse.Namespace) -> int:
    from lowmag import train
    from lowmag.config import parse_options
    from lowmag.recipe import Method, StudentTraining

    method = parse_options(Method, args.method)
    options = parse_options(StudentTraining, args.options)
    return train.train_student(_job(args), options, method, args.targets, args.unlabelled)


def _targets(args: argparse.Namespace) -> None:
    from lowmag import targets
    from lowmag.config import parse_options
    from lowmag.study import TargetOptions

    targets.write_targets(
        args.teacher,
        args.tiles,
        args.splits,
        args.out,
        parse_options(TargetOptions, args.options),
        args.threads,
    )


def _predict(args: argparse.Namespace) -> None:
    from lowmag import predict

    predict.write_predictions(args.model, args.tiles, args.splits, args.out, args.threads)


def _add_evaluation_commands(commands) -> None:
    parser = _command(commands, "evaluate", "Score every run with intervals and compare them.", _evaluate)
    parser.add_argument("--predictions", type=Path, required=True, help="folder of all predictions")
    parser.add_argument("--study", required=True, metavar="JSON", help="the grid of runs (see study.Study)")
    parser.add_argument("--reading", type=Path, help="reading.tsv")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of metrics.tsv, comparisons.tsv, cost.tsv"
    )

    parser = _command(commands, "figures", "Draw the figures of a study.", _figures)
    parser.add_argument("--predictions", type=Path, required=True, help="folder of all predictions")
    parser.add_argument("--evaluation", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--study", required=True, metavar="JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")

    parser = _command(
        commands, "gallery", "Show tiles as teacher and students see them, with attention.", _gallery
    )
    parser.add_argument("--teacher", type=Path, required=True, help="model.safetensors of a teacher")
    parser.add_argument("--students", type=Path, nargs="*", default=[], help="model.safetensors of students")
    parser.add_argument("--tiles", type=Path, required=True, help="folder of tile files")
    parser.add_argument("--splits", type=Path, required=True, help="splits.csv")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")

    parser = _command(commands, "report", "Write the report as one self-contained page.", _report)
    parser.add_argument("--results", type=Path, required=True, help="folder of results")
    parser.add_argument("--study", required=True, metavar="JSON")
    parser.add_argument("--out", type=Path, required=True, help="HTML to write")

    parser = _command(commands, "schema", "Write the JSON Schema of config.yaml or slides.csv.", _schema)
    parser.add_argument("--of", choices=["config", "slides"], default="config")
    parser.add_argument("--out", type=Path, required=True)


def _study(args: argparse.Namespace):
    from lowmag.config import parse_options
    from lowmag.study import Study

    return parse_options(Study, args.study)


def _evaluate(args: argparse.Namespace) -> None:
    from lowmag import evaluate

    evaluate.write_tables(args.predictions, args.reading, args.out, _study(args))


def _figures(args: argparse.Namespace) -> None:
    from lowmag import figures

    figures.write_figures(args.predictions, args.evaluation, args.out, _study(args))


def _gallery(args: argparse.Namespace) -> None:
    from lowmag import gallery

    gallery.write_gallery(args.teacher, args.students, args.tiles, args.splits, args.out)


def _report(args: argparse.Namespace) -> None:
    from lowmag import report

    report.write_report(args.results, args.out, _study(args))


def _schema(args: argparse.Namespace) -> None:
    from lowmag import config, slides
    from lowmag.publish import write_text

    schema = {"config": config.schema, "slides": slides.schema}[args.of]()
    write_text(args.out, json.dumps(schema, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())

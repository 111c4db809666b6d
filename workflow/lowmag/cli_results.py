"""Subcommands from predictions to the pages for people."""

import argparse
import json
from pathlib import Path

from lowmag.cli_parts import add_command, add_options


def add_commands(commands) -> None:
    parser = add_command(commands, "evaluate", "Score every run with intervals and compare them.", _evaluate)
    parser.add_argument("--predictions", type=Path, required=True, help="folder of all predictions")
    parser.add_argument("--study", required=True, metavar="JSON", help="the grid of runs (see study.Study)")
    parser.add_argument("--reading", type=Path, help="reading.tsv")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of metrics.tsv, comparisons.tsv, cost.tsv"
    )

    parser = add_command(commands, "figures", "Draw the figures of a study.", _figures)
    parser.add_argument("--predictions", type=Path, required=True, help="folder of all predictions")
    parser.add_argument("--evaluation", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--study", required=True, metavar="JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")

    parser = add_command(
        commands, "gallery", "Show tiles as teacher and students see them, with attention.", _gallery
    )
    parser.add_argument("--teacher", type=Path, required=True, help="model.safetensors of a teacher")
    parser.add_argument("--students", type=Path, nargs="*", default=[], help="model.safetensors of students")
    parser.add_argument("--tiles", type=Path, required=True, help="folder of tile files")
    parser.add_argument("--splits", type=Path, required=True, help="splits.csv")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")

    parser = add_command(commands, "report", "Write the report as one self-contained page.", _report)
    parser.add_argument("--results", type=Path, required=True, help="folder of results")
    parser.add_argument("--study", required=True, metavar="JSON")
    parser.add_argument("--out", type=Path, required=True, help="HTML to write")

    parser = add_command(commands, "qc", "Write the page about the slides of a cohort.", _qc)
    parser.add_argument("--results", type=Path, required=True, help="folder of results")
    parser.add_argument("--out", type=Path, required=True, help="HTML to write")
    parser.add_argument("--key", type=Path, help="TSV to write of which number is which slide (qc.anonymise)")
    add_options(parser, "qc")

    parser = add_command(
        commands, "provenance", "Write what a study was made of, by what and where.", _provenance
    )
    parser.add_argument("--results", type=Path, required=True, help="folder of results")
    parser.add_argument("--config", required=True, metavar="JSON", help="the config of the study")
    parser.add_argument("--study", required=True, metavar="JSON", help="the grid of runs (see study.Study)")
    parser.add_argument("--sheet", type=Path, help="slides.csv or images.csv")
    parser.add_argument(
        "--metadata", type=Path, default=Path(".snakemake/metadata"), help="Snakemake's records"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")

    parser = add_command(commands, "crate", "Write a finished study as an RO-Crate.", _crate)
    parser.add_argument("--results", type=Path, required=True, help="folder of results")
    parser.add_argument("--out", type=Path, required=True, help="new folder, or a .zip")
    parser.add_argument("--title", default="How low can one go?", help="name of the data set")
    parser.add_argument("--license", required=True, help="address of the licence of the results")

    parser = add_command(commands, "schema", "Write the JSON Schema of config.yaml or slides.csv.", _schema)
    parser.add_argument("--of", choices=["config", "slides"], default="config")
    parser.add_argument("--out", type=Path, required=True)


def _study(args: argparse.Namespace):
    from lowmag.parsing import parse_options
    from lowmag.study import Study

    return parse_options(Study, args.study, "--study")


def _provenance(args: argparse.Namespace) -> None:
    from lowmag import lineage
    from lowmag.config import Config
    from lowmag.parsing import parse_options

    config = parse_options(Config, args.config, "--config").model_dump(mode="json", exclude_none=True)
    made = lineage.Made(args.results, config, _study(args).models, args.sheet, args.metadata)
    lineage.write_lineage(args.out, made)


def _crate(args: argparse.Namespace) -> None:
    from lowmag import crate

    crate.write_crate(args.results, args.out, args.title, args.license)


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


def _qc(args: argparse.Namespace) -> None:
    from lowmag import qc
    from lowmag.parsing import parse_options
    from lowmag.sections import QC

    qc.write_page(args.results, args.out, parse_options(QC, args.options), args.key)


def _schema(args: argparse.Namespace) -> None:
    from lowmag import config, slides
    from lowmag.publish import write_text

    schema = {"config": config.schema, "slides": slides.schema}[args.of]()
    write_text(args.out, json.dumps(schema, indent=2) + "\n")

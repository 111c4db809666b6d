"""Subcommands that train, and let a network speak: teacher, targets, student, predict."""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from lowmag import gpus
from lowmag.cli_parts import add_command, add_options, class_names


def add_commands(commands) -> None:
    parser = add_command(commands, "teacher", "Train a teacher at high magnification.", _teacher)
    parser.add_argument("--gpus", type=int, default=1, help="GPUs of this machine that train it together")
    _training_arguments(parser, "teacher")

    parser = add_command(commands, "targets", "Store what a teacher says of the training tiles.", _targets)
    parser.add_argument("--teacher", type=Path, required=True, help="model.safetensors of the teacher")
    parser.add_argument("--tiles", type=Path, required=True, help="folder of tile files")
    parser.add_argument("--splits", type=Path, required=True, help="splits.csv")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of targets.json and one folder per grid of students"
    )
    parser.add_argument("--threads", type=int, default=2)
    add_options(parser, "(see study.TargetOptions)")

    parser = add_command(commands, "student", "Train a student at low magnification.", _student)
    parser.add_argument(
        "--method", required=True, metavar="JSON", help="loss terms, as under methods in the config"
    )
    parser.add_argument("--unlabelled", type=int, default=0, help="per cent of the unlabelled slides used")
    parser.add_argument("--targets", type=Path, help="folder of the teacher's targets on the student's grid")
    parser.add_argument("--teacher", type=Path, help="model.safetensors of the teacher (`targets: online`)")
    parser.add_argument(
        "--asked",
        metavar="JSON",
        help="what the study's students read, as options of `targets`: what --targets lack of it is written "
        "first, by --teacher",
    )
    parser.add_argument(
        "--initial", type=Path, help="model.safetensors that training begins with (options initial: teacher)"
    )
    _training_arguments(parser, "students")

    parser = add_command(
        commands, "slide-head", "Train attention over the tiles of a slide on what a model says.", _slide_head
    )
    _model_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="slide_head.safetensors")

    parser = add_command(
        commands, "predict", "Predict the validation and test tiles with one model.", _predict
    )
    _model_arguments(parser)
    parser.add_argument(
        "--slide-head", type=Path, help="slide_head.safetensors of the model; without, slides are means"
    )
    parser.add_argument(
        "--patch-gmac", type=float, help="GMAC of the network behind --features for one patch, for cost.json"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of tiles.parquet, slides.parquet, cost.json"
    )


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="model.safetensors")
    parser.add_argument("--tiles", type=Path, required=True, help="folder of tile files")
    parser.add_argument("--splits", type=Path, required=True, help="splits.csv")
    parser.add_argument(
        "--features", type=Path, help="folder of features, of a teacher that is a head on them"
    )
    parser.add_argument("--threads", type=int, default=2)


def _training_arguments(parser: argparse.ArgumentParser, section: str) -> None:
    parser.add_argument("--tiles", type=Path, required=True, help="folder of tile files")
    parser.add_argument("--splits", type=Path, required=True, help="splits.csv")
    parser.add_argument(
        "--classes", type=class_names, required=True, metavar="JSON", help="class names in order"
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
    parser.add_argument(
        "--tensorboard", action="store_true", help="write event files below the folder of checkpoints"
    )
    add_options(parser, section)


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
        initial=getattr(args, "initial", None),
        tensorboard=args.tensorboard,
    )


def _teacher(args: argparse.Namespace) -> int:
    if args.gpus > 1:
        return _teacher_of_team(args)
    gpus.take()
    from lowmag import feature_teacher, train
    from lowmag.parsing import parse_options
    from lowmag.recipe import Teacher

    options = parse_options(Teacher, args.options)
    if options.features:
        return feature_teacher.train_feature_teacher(_job(args), options)
    return train.train_teacher(_job(args), options)


def _teacher_of_team(args: argparse.Namespace) -> int:
    """Starts the team, or is one of it, with its share of the threads."""
    from lowmag import team

    if not team.is_member():
        locks = gpus.take(args.gpus)
        return team.run(args.gpus, sys.argv[1:], locks)
    args.threads, args.gpus = max(1, args.threads // args.gpus), 1
    if os.environ["RANK"] != "0":
        logging.getLogger().setLevel(logging.WARNING)
    return _teacher(args)


def _student(args: argparse.Namespace) -> int:
    gpus.take()
    from lowmag import train
    from lowmag.checkpoint import EXIT_UNFINISHED
    from lowmag.parsing import parse_options
    from lowmag.recipe import StudentTraining
    from lowmag.terms import Method

    method = parse_options(Method, args.method, "--method")
    options = parse_options(StudentTraining, args.options)
    source = args.teacher if options.targets == "online" else args.targets
    if args.asked and options.targets == "cached":
        began = time.monotonic()
        if not _supplied(args):
            return EXIT_UNFINISHED
        args.budget -= (time.monotonic() - began) / 60
    return train.train_student(_job(args), options, method, source, args.unlabelled)


def _supplied(args: argparse.Namespace) -> bool:
    """Whether the targets hold what the student reads, after writing what they lacked."""
    from lowmag.errors import UserError
    from lowmag.parsing import parse_options
    from lowmag.study import TargetOptions
    from lowmag.supply import supply
    from lowmag.targets import Source

    if not (args.teacher and args.targets):
        raise UserError("--asked goes with --teacher and --targets: name both, or leave it out")
    source = Source(args.teacher, args.tiles, args.splits, args.threads)
    return supply(source, args.targets, parse_options(TargetOptions, args.asked, "--asked"), args.budget)


def _targets(args: argparse.Namespace) -> None:
    gpus.take()
    from lowmag import targets
    from lowmag.parsing import parse_options
    from lowmag.study import TargetOptions

    source = targets.Source(args.teacher, args.tiles, args.splits, args.threads)
    targets.write_targets(source, args.out, parse_options(TargetOptions, args.options))


def _slide_head(args: argparse.Namespace) -> None:
    gpus.take()
    from lowmag.slide_head import HeadJob, train_slide_head

    train_slide_head(
        HeadJob(args.model, args.tiles, args.splits, args.out, args.seed, args.threads, args.features)
    )


def _predict(args: argparse.Namespace) -> None:
    gpus.take()
    from lowmag.predict import PredictionJob, write_predictions

    write_predictions(
        PredictionJob(
            model=args.model,
            tiles=args.tiles,
            splits=args.splits,
            out=args.out,
            threads=args.threads,
            features=args.features,
            slide_head=args.slide_head,
            patch_gmac=args.patch_gmac,
        )
    )

"""Studies of slides in an object store of our own, or on a disk they are fetched from: to their reports."""

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from lowmag import cli
from lowmag.store import TileFile

from tests.workflow.study_folder import N_SLIDES, TINY, StudyFolder, job_counts

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed: pip install -e '.[cloud]'")
pytest.importorskip("moto.server", reason="moto is not installed: pip install -e '.[test]'")
pytest.importorskip("snakemake_storage_plugin_s3", reason="the storage plugin for s3 is not installed")
pytest.importorskip("snakemake_storage_plugin_fs", reason="the storage plugin for fs is not installed")
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
# The fewest runs that end in a report: a teacher, and a student of each of two methods.
FEW = {"tiles": {"students": [1.25]}, "students": {"unlabelled": [100]}}


@pytest.fixture(scope="module")
def store():
    """Address of an object store in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | KEYS
    ) as server:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(address).close()
                break
            except urllib.error.URLError:
                time.sleep(0.5)
        yield address
        server.terminate()


def study_of(folder: Path, put) -> StudyFolder:
    """A study whose sheet names what `put(file, name)` returns; the files themselves are gone."""
    study = StudyFolder(folder)
    cohort = folder / "cohort"
    assert cli.main(["demo", "--out", str(cohort), "--options", json.dumps(TINY["demo"])]) == 0
    lines = ["slide_id,path,label,patient_id"]
    for row in csv.DictReader((cohort / "slides.csv").read_text().splitlines()):
        place = put(cohort / row["path"], f"a folder/{row['slide_id']}.tiff")
        (cohort / row["path"]).unlink()
        lines.append(f"{row['slide_id']},{place},{row['label']},{row['patient_id']}")
    (folder / "remote.csv").write_text("\n".join(lines) + "\n")
    study.configure(slides="remote.csv", **FEW)
    return study


@pytest.fixture(scope="module")
def remote(store, tmp_path_factory) -> StudyFolder:
    """A study of slides in the object store, not yet run."""
    client = boto3.client(
        "s3", endpoint_url=store, aws_access_key_id="testing", aws_secret_access_key="testing",
        region_name="us-east-1",
    )  # fmt: skip
    client.create_bucket(Bucket="cohort")

    def put(file: Path, name: str) -> str:
        client.upload_file(str(file), "cohort", name)
        return f"s3://cohort/{name}"

    return study_of(tmp_path_factory.mktemp("remote"), put)


@pytest.fixture(scope="module")
def fetched(tmp_path_factory) -> StudyFolder:
    """A study of slides on another disk, which are to be fetched; not yet run."""
    if not shutil.which("rsync"):
        pytest.skip("the storage plugin fs needs rsync, which is not installed")
    disk = tmp_path_factory.mktemp("slow disk")
    (disk / "a folder").mkdir()

    def put(file: Path, name: str) -> str:
        shutil.copy(file, disk / name)
        return f"fs://{disk}/{name}"

    return study_of(tmp_path_factory.mktemp("fetched"), put)


def settings(store: str) -> dict[str, str]:
    names = {"ENDPOINT_URL": store, "ACCESS_KEY": "testing", "SECRET_KEY": "testing"}
    return KEYS | {f"SNAKEMAKE_STORAGE_S3_{name}": value for name, value in names.items()}


@pytest.fixture(scope="module")
def finished(remote, fetched, store) -> dict[str, Path]:
    """The results of both studies, run to their ends."""
    for study in (remote, fetched):
        result = study.snakemake(**settings(store))
        assert result.returncode == 0, result.stdout + result.stderr
    return {"s3": remote.folder, "fs": fetched.folder}


def _n_tiles(path: Path) -> int:
    with TileFile(path) as file:
        return file.n


def test_chunks_are_told_of_the_store(remote, store):
    """Where it is named on the command line and not in the environment, which holds its keys alone."""
    said = settings(store)
    address = said.pop("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL")
    tiles = "results/tiles/D001.h5"
    result = remote.in_chunks([[tiles]], "--storage-s3-endpoint-url", address, "--", tiles, **said)
    assert result.returncode == 0, result.stdout + result.stderr
    assert _n_tiles(remote.folder / tiles) == TINY["tiles"]["max_per_slide"]


def test_chunks_fetch_slides_from_a_slow_disk(fetched):
    """Two at a time, each its own slides, to the place the command line names, which is left empty."""
    slides = [["D001", "D003"], ["D004", "D005"]]
    lists = [[f"results/tiles/{slide}.h5" for slide in chunk] for chunk in slides]
    where = ("--local-storage-prefix", "fast disk", "--wait-for-free-local-storage", "9s")
    result = fetched.in_chunks(lists, *where, "--", *lists[0], *lists[1])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Retrieving from storage" not in result.stdout + result.stderr  # the chunks did
    for number, chunk in enumerate(slides):
        log = (fetched.folder / f"results/logs/chunks/1-1/{number:04d}.log").read_text()
        assert set(re.findall(r"Retrieving from storage: .*/(\w+)\.tiff", log)) == set(chunk)
        assert "--wait-for-free-local-storage 9.0s" in log
        for slide in chunk:
            assert _n_tiles(fetched.folder / f"results/tiles/{slide}.h5") == TINY["tiles"]["max_per_slide"]
            record = json.loads((fetched.folder / f"results/slides/{slide}.json").read_text())
            assert record["path"].startswith("fast disk/fs/")
    assert [path for path in (fetched.folder / "fast disk").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", ["s3", "fs"])
def test_study_ends_in_a_report_of_every_slide(finished, kind):
    results = finished[kind] / "results"
    rows = list(csv.DictReader((results / "check.tsv").read_text().splitlines(), delimiter="\t"))
    assert [row["verdict"] for row in rows] == ["ok"] * N_SLIDES
    n_tiles = [_n_tiles(results / f"tiles/{row['slide_id']}.h5") for row in rows]
    assert (
        n_tiles.count(TINY["tiles"]["max_per_slide"]) >= N_SLIDES - 1
    )  # one is drawn with hardly any tissue
    lineage = json.loads((results / "provenance.json").read_text())
    assert len(lineage["inputs"]["slides"]) == N_SLIDES
    assert sorted(run["role"] for run in lineage["runs"].values()) == ["student", "student", "teacher"]
    assert all(run["seconds"] > 0 for run in lineage["runs"].values())
    page = (results / "report.html").read_text()
    assert "1.25x" in page
    assert str(finished[kind]) not in page


@pytest.mark.parametrize("kind", ["s3", "fs"])
def test_local_copies_are_removed(finished, kind):
    kept = [path for path in (finished[kind] / ".snakemake/storage").rglob("*") if not path.is_dir()]
    assert kept == []


def test_both_ways_give_the_same_tables(finished):
    for table in ("splits.csv", "evaluation/metrics.tsv", "evaluation/comparisons.tsv"):
        tables = [(folder / "results" / table).read_bytes() for folder in finished.values()]
        assert tables[0] == tables[1], table


def test_nothing_is_left_to_do_and_nothing_is_fetched_for_training(finished, remote, store):
    result = remote.snakemake("-n", "--quiet", "host", **settings(store))
    assert result.returncode == 0, result.stdout + result.stderr
    assert job_counts(result.stdout) == {}
    result = remote.snakemake("-n", "--config", "students={lr: 0.0005}", **settings(store))
    assert "rule student:" in result.stdout
    assert "retrieve from storage" not in result.stdout


@pytest.mark.parametrize("kind", ["s3", "fs"])
def test_slide_that_is_not_there_is_named(remote, fetched, store, kind):
    study = {"s3": remote, "fs": fetched}[kind]
    sheet = study.folder / "remote.csv"
    text = sheet.read_text()
    try:
        sheet.write_text(text.replace("D005.tiff", "none.tiff"))
        result = study.snakemake(
            "-n", "--forcerun", "inspect", "--", "results/slides/D005.json", **settings(store)
        )
    finally:
        sheet.write_text(text)
    assert result.returncode != 0
    assert "a folder/none.tiff" in result.stdout + result.stderr

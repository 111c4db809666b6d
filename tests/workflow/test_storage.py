"""Slides behind an object store of our own: read through Snakemake's storage plugin, to their tiles."""

import csv
import json
import os
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

from tests.workflow.study_folder import TINY, StudyFolder

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed: pip install -e '.[cloud]'")
pytest.importorskip("moto.server", reason="moto is not installed: pip install -e '.[test]'")
pytest.importorskip("snakemake_storage_plugin_s3", reason="the storage plugin for s3 is not installed")
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
TILES = ["results/tiles/D001.h5"]


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


@pytest.fixture(scope="module")
def remote(store, tmp_path_factory) -> StudyFolder:
    """A study whose slides.csv names objects; their files are gone from this machine."""
    study = StudyFolder(tmp_path_factory.mktemp("remote"))
    cohort = study.folder / "cohort"
    assert cli.main(["demo", "--out", str(cohort), "--options", json.dumps(TINY["demo"])]) == 0
    rows = list(csv.DictReader((cohort / "slides.csv").read_text().splitlines()))
    client = boto3.client(
        "s3", endpoint_url=store, aws_access_key_id="testing", aws_secret_access_key="testing",
        region_name="us-east-1",
    )  # fmt: skip
    client.create_bucket(Bucket="cohort")
    lines = ["slide_id,path,label,patient_id"]
    for row in rows:
        client.upload_file(str(cohort / row["path"]), "cohort", f"a folder/{row['slide_id']}.tiff")
        Path(cohort, row["path"]).unlink()
        place = f"s3://cohort/a folder/{row['slide_id']}.tiff"
        lines.append(f"{row['slide_id']},{place},{row['label']},{row['patient_id']}")
    (study.folder / "remote.csv").write_text("\n".join(lines) + "\n")
    study.configure(slides="remote.csv")
    return study


def settings(store: str) -> dict[str, str]:
    names = {"ENDPOINT_URL": store, "ACCESS_KEY": "testing", "SECRET_KEY": "testing"}
    return KEYS | {f"SNAKEMAKE_STORAGE_S3_{name}": value for name, value in names.items()}


def test_slides_of_a_store_are_cut(remote, store):
    result = remote.snakemake("--", *TILES, **settings(store))
    assert result.returncode == 0, result.stdout + result.stderr
    for path in TILES:
        with TileFile(remote.folder / path) as file:
            assert file.n == TINY["tiles"]["max_per_slide"]
    kept = list((remote.folder / ".snakemake/storage").rglob("*.tiff"))
    assert kept == []


def test_whole_study_can_be_laid_out(remote, store):
    result = remote.snakemake("-n", "--quiet", "host", **settings(store))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "provenance" in result.stdout
    assert "reading" not in result.stdout.split("total")[0].split("report")[0]


def test_object_that_is_not_there_is_named(remote, store):
    sheet = remote.folder / "remote.csv"
    text = sheet.read_text()
    try:
        sheet.write_text(text.replace("D005.tiff", "none.tiff"))
        result = remote.snakemake("-n", "--", "results/slides/D005.json", **settings(store))
    finally:
        sheet.write_text(text)
    assert result.returncode != 0
    assert "s3://cohort/a folder/none.tiff" in result.stdout + result.stderr

"""A study whose disk is full or read-only: Snakemake says so, and the same command ends it later."""

import time

from small_disk import disk

from tests.workflow.picture_study import PICTURES, write_pictures

__all__ = ["disk"]


def test_is_said_and_cured_by_the_same_command(study, disk):
    write_pictures(study.folder)
    study.configure(**PICTURES, outdir=str(disk.folder / "results"))
    command = ("--", str(disk.folder / "results/tiles/S0.h5"), str(disk.folder / "results/splits.csv"))

    disk.remount("ro")
    refused = study.snakemake(*command)
    text = refused.stdout + refused.stderr
    assert refused.returncode == 1
    assert "results cannot be written to: Read-only file system; make it writable, or set outdir" in text
    assert "Traceback" not in text
    disk.remount("rw")

    (disk.folder / "results").mkdir()
    with study.running(*command) as snakemake:
        while snakemake.poll() is None and not (disk.folder / "results/logs").exists():
            time.sleep(0.01)
        disk.fill()
        snakemake.wait(300)
    assert snakemake.returncode == 1
    assert "results cannot be written to: No space left on device; make room there" in study.said
    assert not list((disk.folder / "results/tiles").glob("*.h5"))

    disk.make_room()
    done = study.snakemake(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((disk.folder / "results/tiles").glob("*.h5"))) == 12

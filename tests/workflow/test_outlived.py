"""A job that is still at work when its Snakemake was killed and begun again with other options."""

import os
import signal

from lowmag.store import TileFile

from tests.workflow.slow_command import SlowCommand, until

TARGET = "results/tiles/D001.h5"


def test_what_it_made_does_not_take_the_place_of_the_new(study, tmp_path):
    slow = SlowCommand(tmp_path / "bin")
    slow.make(f"--out {TARGET}")
    with study.running("--", TARGET, PATH=slow.ahead()) as snakemake:
        until(lambda: slow.waits)
        os.kill(snakemake.pid, signal.SIGKILL)
        snakemake.wait()
        study.configure(tiles={"max_per_slide": 1})
        assert study.snakemake("--unlock").returncode == 0
        made = study.snakemake("--", TARGET, PATH=slow.ahead())
        assert made.returncode == 0, made.stdout + made.stderr
        slow.go_on()
        until(lambda: len(slow.ended) == 2)
    assert slow.ended == ["0", "2"]
    with TileFile(study.folder / TARGET) as file:
        assert file.n == 1
    assert study.planned("--", TARGET) == {}

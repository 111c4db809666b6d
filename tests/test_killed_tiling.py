"""SIGKILL while tiles are cut: no half file under the final name, and a rerun equals an undisturbed run."""

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from lowmag.sections import Tiles
from lowmag.store import TileFile
from synthetic_slides import noise, write_record, write_slide, write_whole_outline

OPTIONS = Tiles(field_um=128, students=[5, 2.5, 1.25, 0.625])
PASSING = {"seconds", "created"}  # attributes that may differ between two runs
N_KILLS = 10

# One process imports everything once; each kill hits a fork of it that runs the command line.
KILLER = """
import json, os, random, signal, sys, time
from lowmag import cli, tiles
arguments, seconds_of_kills, out = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]

def tile(kill_at=None):
    child = os.fork()
    if not child:
        os._exit(cli.main([*arguments, "--out", out]))
    if kill_at is not None:
        time.sleep(kill_at)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

start = time.perf_counter()
assert tile() == 0
whole = time.perf_counter() - start
os.rename(out, out + ".undisturbed")
for number, share in enumerate(seconds_of_kills):
    status = tile(share * whole)
    left = os.listdir(os.path.dirname(out))
    print(json.dumps({"status": status, "left": left, "is_there": os.path.exists(out)}), flush=True)
    if os.path.exists(out):
        os.rename(out, f"{out}.before{number}")
    print(json.dumps({"status": tile(), "left": os.listdir(os.path.dirname(out))}), flush=True)
    os.rename(out, f"{out}.after{number}")
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a tiling killed ten times, each time followed by a rerun, and what was seen."""
    folder = tmp_path_factory.mktemp("killed")
    path = write_slide(folder / "a.tiff", noise(1300, 1300), 1.0)
    record = write_record(folder, path)
    outline = write_whole_outline(folder, record)
    arguments = ["tiles", "--record", record, "--outline", outline, "--options", OPTIONS.model_dump_json()]
    shares = np.random.default_rng(0).uniform(0, 1, N_KILLS).tolist()
    (folder / "tiles").mkdir()
    command = [json.dumps([str(part) for part in arguments]), json.dumps(shares), f"{folder}/tiles/t.h5"]
    seen = subprocess.run(
        [sys.executable, "-c", KILLER, *command], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in seen.stdout.splitlines()]
    return folder / "tiles", lines[::2], lines[1::2]


def content(path):
    """Every dataset and attribute of a tile file, by name."""
    found = {}
    with h5py.File(path) as file:

        def note(name, item):
            found.update({(name, key): value for key, value in item.attrs.items() if key not in PASSING})
            if isinstance(item, h5py.Dataset):
                found[name] = item[()]

        note("", file)
        file.visititems(note)
    return found


def test_most_kills_hit_the_tiling(killed):
    _, kills, _ = killed
    assert len(kills) == N_KILLS
    assert sum(kill["status"] == -9 for kill in kills) >= N_KILLS // 2


def test_final_name_is_never_half_a_file(killed):
    """What is there after a kill is whole; what is not whole has the temporary name, one at most."""
    folder, kills, _ = killed
    for number, kill in enumerate(kills):
        hidden = [name for name in kill["left"] if name.startswith(".")]
        assert len(hidden) <= 1
        assert kill["is_there"] or kill["status"] != 0
        if kill["is_there"]:
            assert not hidden
            with TileFile(folder / f"t.h5.before{number}") as file:
                assert file.n == 100


def test_rerun_completes_and_equals_an_undisturbed_run(killed):
    folder, _, reruns = killed
    expected = content(folder / "t.h5.undisturbed")
    assert len(expected["coords"]) == 100
    assert ("", "complete") in expected
    for number, rerun in enumerate(reruns):
        assert rerun["status"] == 0
        found = content(folder / f"t.h5.after{number}")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=str(name))


def test_rerun_leaves_nothing_behind(killed):
    _, _, reruns = killed
    for rerun in reruns:
        assert not [name for name in rerun["left"] if name.startswith(".")]


def test_folder_that_cannot_be_written_to_is_named(tmp_path):
    path = write_slide(tmp_path / "a.tiff", noise(300, 300), 1.0)
    record = write_record(tmp_path, path)
    outline = write_whole_outline(tmp_path, record)
    (tmp_path / "file").touch()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    for folder in [tmp_path / "file", *([] if os.geteuid() == 0 else [closed])]:
        command = [sys.executable, "-m", "lowmag.cli", "tiles", "--record", record, "--outline", outline]
        command += ["--out", folder / "t.h5", "--options", OPTIONS.model_dump_json()]
        end = subprocess.run(command, capture_output=True, text=True, check=False)
        assert end.returncode == 2
        assert f"{folder}/t.h5 cannot be written" in end.stderr
        assert "Traceback" not in end.stderr

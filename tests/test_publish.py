import json
import os
import stat

import pytest
from lowmag.publish import publishing, write_json, write_text


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "out.csv"
    with publishing(path) as temporary:
        temporary.write_text("a")
        assert temporary.parent == path.parent
        assert temporary.suffix == ".csv"
        assert not path.exists()
    assert path.read_text() == "a"
    assert list(path.parent.iterdir()) == [path]


def test_error_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")

    def interrupted():
        with publishing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_follow_the_umask(tmp_path):
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "out.txt", "a")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "out.txt").stat().st_mode) == 0o640


def test_json_is_sorted_and_never_holds_nan(tmp_path):
    write_json(tmp_path / "out.json", {"b": 1, "a": [2.5, None]})
    text = (tmp_path / "out.json").read_text()
    assert json.loads(text) == {"a": [2.5, None], "b": 1}
    assert text.index('"a"') < text.index('"b"')
    with pytest.raises(ValueError):
        write_json(tmp_path / "nan.json", float("nan"))
    assert not (tmp_path / "nan.json").exists()

import pytest
from lowmag import chunks
from lowmag.plan import Plan

SLIDES = [f"S{n:03d}" for n in range(23)]


@pytest.mark.parametrize("size", [1, 5, 23, 50])
def test_chunks_hold_every_slide_once_in_order(size):
    names = chunks.names(len(SLIDES), size)
    taken = [slide for name in names for slide in chunks.members(SLIDES, name)]
    assert taken == SLIDES
    assert all(0 < len(chunks.members(SLIDES, name)) <= size for name in names)


def test_ten_thousand_slides_are_hundreds_of_jobs():
    size = Plan({"slides": "demo"}).job("chunk").slides
    assert 100 <= len(chunks.names(10_000, size)) < 1000


def cohort(folder, **changes):
    """A plan of three slides, of which the config changes."""
    lines = ["slide_id,path,label,mask"]
    for name, label, mask in (("A", "x", ""), ("B", "y", ""), ("C", "x", "C.geojson")):
        if not (folder / f"{name}.tif").exists():
            (folder / f"{name}.tif").write_bytes(b"slide")
        lines.append(f"{name},{name}.tif,{label},{mask}")
    (folder / "C.geojson").write_text("{}")
    (folder / "slides.csv").write_text("\n".join(lines) + "\n")
    return Plan({"slides": str(folder / "slides.csv"), **changes})


def test_digest_follows_what_tiles_depend_on_alone(tmp_path):
    digest = chunks.digest(cohort(tmp_path), ["A", "B"])
    same = {"students": {"epochs": 3}, "compute": {"slide": {"runtime": 5}, "chunk": {"slides": 2}}}
    assert chunks.digest(cohort(tmp_path, **same), ["A", "B"]) == digest
    for changes in ({"tissue": {"mpp": 4}}, {"tiles": {"field_um": 256}}, {"check": {"max_mpp": 3}}):
        assert chunks.digest(cohort(tmp_path, **changes), ["A", "B"]) != digest
    assert chunks.digest(cohort(tmp_path), ["A", "C"]) != digest
    (tmp_path / "B.tif").write_bytes(b"another slide")
    assert chunks.digest(cohort(tmp_path), ["A", "B"]) != digest
    assert chunks.digest(cohort(tmp_path), ["A", "C"]) == chunks.digest(cohort(tmp_path, **same), ["A", "C"])

"""The page about a cohort: what it says, that it holds everything itself, and what it must not tell."""

import re
from pathlib import Path

import pytest
from html_page import Page
from lowmag import qc
from lowmag.cli import main
from lowmag.cures import VERDICTS
from lowmag.qc_table import FLAG_MEANINGS, FLAG_WORDS
from lowmag.sections import QC
from lowmag.slide_facts import read_cohort_facts
from lowmag.store import FLAGS
from synthetic_cohort import Slide, make_results

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
REASON = "Smith-77.svs has no micrometres per pixel"
SLIDES = (
    Slide("fine-1", 8, {"mask_edge": 3}),
    Slide("fine-2", 12, {"blur": 1, "pen": 2}),
    Slide("noted", 4, notes=("/data/secret/noted.svs has one level only",)),
    Slide("hollow", 0, tissue_px=0),
    Slide("torn", 6, {"read_error": 1}),
    Slide("Smith-77", verdict="no_mpp", reason=REASON, cure="give slide Smith-77 a scale", mpp=None),
    Slide(
        "flat", verdict="unsupported", reason="no reader knows flat.png", cure="convert it", file="flat.png"
    ),
)


def make_page(folder: Path, *slides: Slide, **options) -> str:
    make_results(folder, slides)
    qc.write_page(folder, folder / "qc.html", QC(**options))
    return (folder / "qc.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_page(tmp_path_factory.mktemp("cohort"), *SLIDES)


@pytest.fixture(scope="module")
def page(content: str) -> Page:
    return Page(content)


def test_the_page_opens_with_the_cohort_in_short(page: Page):
    start = page.text.split("Look at these first")[0]
    assert "5 of 7 slides can be used; 1 no_mpp, 1 unsupported." in start
    assert "They give 30 tiles of 64 µm, each at 10x, 2.5x." in start
    assert "Of the tiles, 1 unread (3.3 %), 2 pen (6.7 %), 1 blurred (3.3 %)." in start
    assert re.search(r"\d [kM]B of tile files, cut in 10 s of one core. This page is [\d.]+ kB\.", start)


def test_its_size_is_told_truly(content: str):
    told = re.search(r"This page is ([\d.]+) kB", content)
    assert told
    assert float(told[1]) == pytest.approx(len(content.encode()) / 1000, rel=0.01)


def test_what_to_look_at_comes_first(page: Page):
    lists = page.text.split("Look at these first")[1].split("How the slides spread")[0]
    order = ["2 rejected", "1 without a tile", "1 with tiles that cannot be read", "1 with a note"]
    assert [lists.index(part) for part in order] == sorted(lists.index(part) for part in order)
    rows = [tag["id"] for name, tag in page.tags if name == "tbody" and "id" in tag]
    assert rows == [f"s{n}" for n in range(1, len(SLIDES) + 1)]
    links = {a["href"] for a in page.all("a")}
    assert {"#s1", "#s2", "#s3", "#s4", "#s5"} <= links


def cells(content: str, name: str) -> list[str]:
    """The texts of the cells of a slide's row."""
    row = next(row for row in re.findall(r'<tr class="entry">.*?</tr>', content) if f">{name}<" in row)
    return [re.sub(r"(<[^>]+>)+", " ", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]


def test_every_slide_has_its_numbers(content: str):
    assert cells(content, "fine-2")[1:9] == [
        "fine-2 aperio", "ok", "1 openslide.mpp", "640 × 640 1 level", "0.16 1 piece", "39\u202f%", "12", "0",
    ]  # fmt: skip
    assert cells(content, "fine-2")[8:12] == ["0", "1 8.3\u202f%", "2 17\u202f%", "0"]  # the order of FLAGS
    assert cells(content, "Smith-77")[1:7] == [
        "Smith-77 aperio", f"no_mpp {REASON}", "–", "640 × 640 1 level", "–", "–",
    ]  # fmt: skip
    assert cells(content, "hollow")[2] == "ok no tile"


def test_the_opened_row_counts_every_flag(page: Page):
    assert "12 tiles: 1 blurred (8.3 %), 2 pen (17 %)" in page.text
    assert "8 tiles: 3 edge (38 %)" in page.text
    assert "4 tiles: none has a flag" in page.text


def test_a_rejected_slide_shows_its_cure_and_the_line_to_copy(page: Page, content: str):
    assert f"no_mpp {REASON}" in page.text
    assert "Cure give slide Smith-77 a scale" in page.text
    assert "<pre><code>slide_id,mpp\nSmith-77,?</code></pre>" in content
    assert "lowmag pyramid --image flat.png --mpp ? --out flat.tif" in page.text
    ids = {tag.get("id") for _, tag in page.tags}
    assert {f"verdict-{verdict}" for verdict in VERDICTS} <= ids
    assert {a["href"] for a in page.all("a") if a["href"]} <= {f"#{name}" for name in ids}


def test_nothing_is_fetched(content: str, page: Page):
    assert not re.search(r"https?:|//\w+\.|@import|url\(", content)
    assert not page.all("link")
    assert not page.all("iframe")
    assert all("src" not in script for script in page.all("script"))
    assert all((picture["src"] or "").startswith("data:image/") for picture in page.all("img"))
    policy = next(meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").startswith("default-src 'none'; img-src data:;")


def test_no_folder_is_told(content: str):
    assert "secret" not in content
    assert "noted.svs has one level only" in content


def test_pictures_wait_until_they_are_seen(page: Page):
    pictures = page.all("img")
    assert (
        len(pictures) == 4 * 3 + 1 * 2 + 4 * 4 * 2
    )  # thumbnails, of one without tiles; samples at both scales
    assert all(picture["loading"] == "lazy" for picture in pictures)
    assert all("alt" in picture for picture in pictures)


def test_names_from_outside_stay_text(tmp_path):
    slides = [
        Slide("a", verdict=HOSTILE, reason=HOSTILE, cure=HOSTILE, vendor=HOSTILE, file=f"a{HOSTILE}.svs"),
        Slide("b", notes=(HOSTILE,), vendor=HOSTILE),
        Slide("c", vendor=HOSTILE),
    ]
    content = make_page(tmp_path, *slides)
    page = Page(content)
    assert "alert(1)" in page.text
    assert len(page.all("script")) == 1
    assert "<script>alert" not in content
    assert "alert" not in content.split("<script>", 1)[1]
    assert all((picture["src"] or "").startswith("data:image/") for picture in page.all("img"))
    assert not any(name.startswith("on") for _, tag in page.tags for name in tag)


def test_anonymised_no_name_is_left_and_the_key_says_whose_is_whose(tmp_path):
    make_results(tmp_path, SLIDES)
    options = '{"anonymise": true, "samples": 2}'
    arguments = ["--out", str(tmp_path / "qc.html"), "--key", str(tmp_path / "key.tsv"), "--options", options]
    assert main(["qc", "--results", str(tmp_path), *arguments]) == 0
    content = (tmp_path / "qc.html").read_text(encoding="utf-8")
    told = re.sub(r"data:image/\w+;base64,[^\"]+", "", content)
    for slide in SLIDES:
        assert slide.slide_id not in told.replace("for a flat picture", ""), slide.slide_id
    key = dict(line.split("\t") for line in (tmp_path / "key.tsv").read_text().splitlines()[1:])
    assert {*key.values()} == {slide.slide_id for slide in SLIDES}
    number = next(number for number, slide_id in key.items() if slide_id == "Smith-77")
    assert f"{number}.svs has no micrometres per pixel" in content
    assert f"give slide {number} a scale" in content
    assert f"slide_id,mpp\n{number},?" in content


def test_with_names_the_key_has_no_rows(tmp_path):
    make_results(tmp_path, SLIDES)
    qc.write_page(tmp_path, tmp_path / "qc.html", QC(), tmp_path / "key.tsv")
    assert (tmp_path / "key.tsv").read_text() == "number\tslide_id\n"


def test_anonymised_rows_are_in_the_order_of_their_numbers(tmp_path):
    content = make_page(tmp_path, *(Slide(f"case-{n:02d}", 1) for n in range(12)), anonymise=True)
    numbers = re.findall(r'aria-controls="m\d+">(\d+)<', content)
    assert numbers == [f"{n:02d}" for n in range(1, 13)]


def test_pictures_are_capped_with_the_worst_first(tmp_path, monkeypatch):
    make_results(tmp_path, [Slide("good", 4), Slide("bad", 4, {"read_error": 4}), Slide("other", 4)])
    monkeypatch.setattr(qc, "MOST_BYTES", 100_000)
    one = qc.write_page(tmp_path, tmp_path / "all.html", QC())
    assert one is None
    assert "left out" not in (tmp_path / "all.html").read_text()
    monkeypatch.setattr(qc, "MOST_BYTES", 30_000)
    qc.write_page(tmp_path, tmp_path / "qc.html", QC())
    page = Page((tmp_path / "qc.html").read_text())
    assert "pictures of the 1 slides to look at first are in it, those of 2 more were left out" in page.text
    assert {picture["alt"] for picture in page.all("img") if "Slide" in (picture["alt"] or "")} == {
        "Slide bad with the outline of its tissue"
    }


def test_a_row_without_pictures_takes_a_kilobyte_or_two(tmp_path, monkeypatch):
    monkeypatch.setattr(qc, "MOST_BYTES", 0)
    sizes = []
    for n in (20, 60):
        slides = [Slide(f"slide-{k:05d}", 1, {"blur": k % 2}) for k in range(n)]
        sizes.append(len(make_page(tmp_path / str(n), *slides).encode()))
    assert (sizes[1] - sizes[0]) / 40 < 1800


def test_before_any_tile_is_cut_the_verdicts_are_there(tmp_path):
    make_results(tmp_path, SLIDES, tiled=False)
    qc.write_page(tmp_path, tmp_path / "qc.html", QC())
    page = Page((tmp_path / "qc.html").read_text())
    assert "No tiles have been cut yet." in page.text
    assert "5 of 7 slides can be used" in page.text
    assert "with tiles that cannot be read" not in page.text


def test_a_cohort_without_a_concern_says_so(tmp_path):
    page = Page(make_page(tmp_path, Slide("a"), Slide("b")))
    assert "Nothing stands out" in page.text
    assert page.text.count("any tile") == 0


def test_every_flag_has_a_word_and_a_meaning():
    assert set(FLAG_WORDS) == set(FLAG_MEANINGS) == set(FLAGS)


def test_the_command_says_what_is_missing(tmp_path, capsys):
    assert main(["qc", "--results", str(tmp_path), "--out", str(tmp_path / "qc.html")]) == 2
    assert "has no check.tsv" in capsys.readouterr().err
    assert not (tmp_path / "qc.html").exists()


def test_the_same_results_give_the_same_page(tmp_path):
    assert make_page(tmp_path, *SLIDES) == make_page(tmp_path, *SLIDES)
    assert len(read_cohort_facts(tmp_path)) == len(SLIDES)

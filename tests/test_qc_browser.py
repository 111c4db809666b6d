"""The page in a browser: sorting, filtering, opening, without an error and without asking for anything."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from lowmag import qc
from lowmag.sections import QC
from synthetic_cohort import Slide, make_results

SLIDES = [
    Slide("fine-1", 8, {"mask_edge": 3}),
    Slide("fine-2", 12, {"blur": 1, "pen": 2}, vendor="hamamatsu"),
    Slide("fine-10", 3, {"blur": 1}),
    Slide("noted", 4, notes=("one level only",)),
    Slide("lost", verdict="missing", reason="there is no file lost.svs", cure="correct the path", mpp=None),
    Slide("Smith", verdict="no_mpp", reason="no scale", cure="give it", mpp=None),
]
AS_FIRST_SHOWN = ["Smith", "lost", "noted", "fine-1", "fine-10", "fine-2"]
SHOWN = ".cohort > tbody:not([hidden]) button[aria-expanded]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_results(tmp_path_factory.mktemp("cohort"), SLIDES)
    qc.write_page(folder, folder / "qc.html", QC(samples=2))
    return folder / "qc.html"


@pytest.fixture
def shown(browser: Browser, page: Path) -> Iterator[Browser]:
    """The browser with the page just loaded; afterwards: nothing went wrong, nothing was asked for."""
    browser.open(page)
    yield browser
    assert browser.problems == []
    asked_for = {url.partition("#")[0] for url in browser.requests if not url.startswith("data:")}
    assert asked_for == {page.as_uri()}


def names(browser: Browser) -> list[str]:
    return browser.run(f"[...document.querySelectorAll('{SHOWN}')].map((b) => b.textContent)")


def press_heading(browser: Browser, heading: str) -> str:
    """Press the button of a column; the direction that the column then says it is sorted in."""
    return browser.run(
        f"""(() => {{
            const heads = [...document.querySelectorAll(".cohort > thead th")];
            const head = heads.find((other) => other.textContent === {json.dumps(heading)});
            head.querySelector("button").click();
            const sorted = heads.filter((other) => other.hasAttribute("aria-sort"));
            return sorted.length === 1 && sorted[0] === head ? head.getAttribute("aria-sort") : "wrong";
        }})()"""
    )


def press_chip(browser: Browser, group: str, key: str) -> None:
    browser.run(f"document.querySelector('[data-group={group}][data-key={json.dumps(key)}]').click()")


def state(browser: Browser) -> str:
    return browser.run("document.getElementById('shown').textContent")


def type_text(browser: Browser, text: str) -> None:
    browser.run(
        f"""(() => {{
            const field = document.getElementById("text");
            field.value = {json.dumps(text)};
            field.dispatchEvent(new Event("input"));
            return new Promise((done) => setTimeout(done, 200));
        }})()"""
    )


def test_what_to_look_at_comes_first(shown: Browser):
    assert names(shown) == AS_FIRST_SHOWN


def test_numbers_sort_from_the_largest_and_back(shown: Browser):
    assert press_heading(shown, "tiles") == "descending"
    assert names(shown)[:4] == ["fine-2", "fine-1", "noted", "fine-10"]
    assert press_heading(shown, "tiles") == "ascending"
    assert names(shown)[2:] == ["fine-10", "noted", "fine-1", "fine-2"]


def test_shares_sort_by_value_and_what_has_none_comes_last(shown: Browser):
    assert press_heading(shown, "blurred") == "descending"
    assert names(shown)[:2] == ["fine-10", "fine-2"]  # 1 of 3 is more than 1 of 12
    for _ in range(2):
        assert {*names(shown)[-2:]} == {"Smith", "lost"}
        press_heading(shown, "blurred")


def test_names_sort_as_people_count(shown: Browser):
    assert press_heading(shown, "slide") == "ascending"
    assert names(shown) == ["fine-1", "fine-2", "fine-10", "lost", "noted", "Smith"]
    assert press_heading(shown, "slide") == "descending"
    assert names(shown) == ["Smith", "noted", "lost", "fine-10", "fine-2", "fine-1"]


def test_what_is_open_moves_with_its_slide(shown: Browser):
    shown.run("document.querySelector('#s3 button[aria-expanded]').click()")
    press_heading(shown, "tiles")
    below = "document.getElementById('s3').rows[1]"
    assert shown.run(f"!{below}.hidden && {below}.textContent.includes('one level only')")


def test_filters_are_any_of_a_group_and_all_groups(shown: Browser):
    press_chip(shown, "verdict", "no_mpp")
    assert names(shown) == ["Smith"]
    press_chip(shown, "verdict", "ok")
    assert len(names(shown)) == 5
    press_chip(shown, "flags", "blur")
    assert names(shown) == ["fine-10", "fine-2"]
    assert state(shown) == "2 of 6 slides"
    press_chip(shown, "flags", "blur")
    press_chip(shown, "kinds", "note")
    assert names(shown) == ["noted"]


def test_text_finds_names_reasons_and_scanners(shown: Browser):
    for text, expected in (
        ("HAMAMATSU", ["fine-2"]),
        ("no file lost", ["lost"]),
        ("level one", ["noted"]),
        ("fine 640", ["fine-1", "fine-10", "fine-2"]),
        ("", AS_FIRST_SHOWN),
    ):
        type_text(shown, text)
        assert names(shown) == expected, text


def test_nothing_found_is_said_and_everything_comes_back(shown: Browser):
    type_text(shown, "nobody")
    assert names(shown) == []
    assert state(shown) == "0 of 6 slides"
    assert shown.run("!document.getElementById('none').hidden")
    shown.run("document.getElementById('clear-too').click()")
    assert names(shown) == AS_FIRST_SHOWN
    assert shown.run("document.getElementById('none').hidden && document.getElementById('clear').hidden")


def test_a_sorted_page_stays_sorted_while_filtered(shown: Browser):
    press_heading(shown, "tiles")
    press_chip(shown, "verdict", "ok")
    assert names(shown) == ["fine-2", "fine-1", "noted", "fine-10"]


def test_a_click_opens_a_row_and_its_pictures_are_decoded(shown: Browser):
    state_of = (
        "[!document.getElementById('m4').hidden, document.querySelector('#s4 [aria-expanded]').ariaExpanded]"
    )
    assert shown.run(state_of) == [False, "false"]
    shown.run("document.querySelector('#s4 .entry td:nth-child(4)').click()")
    assert shown.run(state_of) == [True, "true"]
    sizes = """Promise.all([...document.querySelectorAll("#m4 img")].map(async (picture) => {
        picture.loading = "eager";  // not all are on the screen at once
        await picture.decode();
        return [picture.naturalWidth, picture.getBoundingClientRect().width > 0];
    }))"""
    assert shown.run(sizes) == [[160, True]] * 2 + [[64, True], [16, True]] * 2
    shown.run("document.querySelector('#s4 .entry td:nth-child(4)').click()")
    assert shown.run(state_of) == [False, "false"]


def test_the_keyboard_opens_a_row(shown: Browser):
    shown.run("document.querySelector('#s1 button[aria-expanded]').focus()")
    shown.press("Enter", 13)
    assert shown.run("!document.getElementById('m1').hidden")
    assert shown.run("document.querySelector('#m1 pre').textContent") == "slide_id,mpp\nSmith,?"


def test_links_on_top_open_their_slide_even_when_it_is_filtered_out(shown: Browser):
    press_chip(shown, "verdict", "ok")
    shown.run("document.querySelector('.names a[href=\"#s1\"]').click()")
    there = "new Promise((done) => setTimeout(() => done(!document.getElementById('m1').hidden), 50))"
    assert shown.run(there)
    assert names(shown) == AS_FIRST_SHOWN


def test_an_address_with_a_slide_opens_it(browser: Browser, page: Path):
    browser.open(page, "#s2")
    assert browser.run("!document.getElementById('m2').hidden")
    assert browser.run("document.querySelectorAll('.more:not([hidden])').length") == 1


def test_tiles_on_thumbnails_can_be_taken_away(shown: Browser):
    shown.run("document.querySelector('#s4 button[aria-expanded]').click()")
    seen = "getComputedStyle(document.querySelector('#m4 img.tiles')).visibility"
    assert shown.run(seen) == "visible"
    shown.run("document.getElementById('tiles').click()")
    assert shown.run(seen) == "hidden"


def test_a_cure_is_selected_to_be_copied(shown: Browser):
    shown.run("document.querySelector('#s1 button[aria-expanded]').click()")
    shown.run("document.querySelector('#m1 .copy button').click()")
    assert shown.run("String(getSelection()).trim()") == "slide_id,mpp\nSmith,?"


def test_nothing_reaches_over_the_edge_of_a_narrow_screen(shown: Browser):
    shown.run("document.querySelectorAll('button[aria-expanded]').forEach((button) => button.click())")
    for width_px in (360, 800, 1400):
        shown.resize(width_px)
        assert shown.run("[innerWidth, document.documentElement.scrollWidth]") == [width_px, width_px]


def test_of_thousands_of_rows_some_are_shown_at_a_time(browser: Browser, page: Path, monkeypatch):
    monkeypatch.setattr(qc, "ROWS_AT_ONCE", 2)
    short = page.with_name("short.html")
    qc.write_page(page.parent, short, QC(samples=1))
    browser.open(short)
    assert names(browser) == AS_FIRST_SHOWN[:2]
    assert state(browser) == "6 of 6 slides"
    press_heading(browser, "tiles")
    assert names(browser) == ["fine-2", "fine-1"]
    more = "document.querySelector('#more button')"
    browser.run(f"{more}.click()")
    assert names(browser) == ["fine-2", "fine-1", "noted", "fine-10"]
    browser.run(f"{more}.click()")
    assert browser.run(f"{more}.parentElement.hidden")
    press_chip(browser, "verdict", "ok")
    assert len(names(browser)) == 2
    browser.open(short, "#s6")
    assert names(browser) == [*AS_FIRST_SHOWN[:2], AS_FIRST_SHOWN[5]]
    assert browser.problems == []


def test_a_plain_table_sorts_by_its_rows(browser: Browser, tmp_path: Path):
    """The same script serves the tables of the report."""
    script = (Path(qc.__file__).parent / "templates/sort.js").read_text(encoding="utf-8")
    rows = [
        "<td>b<td>0.50 [0.4, 0.6]",
        "<td>a<td>\u2212 0.02".replace(" ", ""),
        "<td>c<td>1\u202f200",
        "<td>d<td>–",
    ]
    table = f"<thead><tr><th class=name>x<th>y<tbody>{''.join(f'<tr>{row}' for row in rows)}"
    plain = tmp_path / "plain.html"
    plain.write_text(
        f"<!doctype html><table class=sortable>{table}</table><script>{script}</script>", "utf-8"
    )
    browser.open(plain)
    first = "[...document.querySelectorAll('tbody td:first-child')].map((cell) => cell.textContent).join('')"
    for heading, expected in (("y", "cbad"), ("y", "abcd"), ("x", "abcd"), ("x", "dcba")):
        browser.run(
            f"[...document.querySelectorAll('th button')].find((b) => b.textContent === '{heading}').click()"
        )
        assert browser.run(first) == expected
    assert browser.problems == []

"""Numbers in place of names: none of the names stays, nothing else changes."""

from itertools import pairwise

import pytest
from lowmag.aliases import Aliases
from lowmag.record import SlideRecord

RECORDS = [
    SlideRecord("TCGA-01", "/data/secret/TCGA-01-HE.svs", source_size=10),
    SlideRecord("Meier_2", "/data/secret/Präparat 7 (Meier).ndpi", source_size=11),
    SlideRecord("5", "/data/secret/5.svs", source_size=12),
    SlideRecord("series", "/data/dicom", file="/data/dicom/IM0001.dcm", source_size=13),
]


@pytest.fixture
def aliases() -> Aliases:
    return Aliases(RECORDS, anonymise=True)


def test_names_stay_unless_hidden():
    plain = Aliases(RECORDS, anonymise=False)
    assert plain.name("TCGA-01") == "TCGA-01"
    assert plain.text("/data/secret/TCGA-01-HE.svs is empty", "TCGA-01") == "TCGA-01-HE.svs is empty"
    assert plain.numbers == {}


def test_every_slide_has_its_own_number(aliases: Aliases):
    assert {*aliases.numbers} == {record.slide_id for record in RECORDS}
    assert sorted(aliases.numbers.values()) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("slide_id", "message", "expected"),
    [
        ("TCGA-01", "TCGA-01-HE.svs is empty; correct slide TCGA-01", "{0}.svs is empty; correct slide {0}"),
        ("TCGA-01", "/data/secret/TCGA-01-HE.svs", "{0}.svs"),
        ("TCGA-01", "see TCGA-01.h5 and TCGA-01-HE", "see {0}.h5 and {0}"),
        ("Meier_2", "'Präparat 7 (Meier).ndpi' cannot be opened", "'{1}.ndpi' cannot be opened"),
        ("Meier_2", "the same as slide TCGA-01 in TCGA-01-HE.svs", "the same as slide {0} in {0}.svs"),
        ("5", "5 of 9 places at 0.5 fail in slide 5", "5 of 9 places at 0.5 fail in slide {2}"),
        ("series", "dicom holds IM0001.dcm, series series", "{3} holds {3}.dcm, {3} {3}"),
    ],
)
def test_names_are_replaced_wherever_they_stand(aliases: Aliases, slide_id, message, expected):
    numbers = [aliases.name(record.slide_id) for record in RECORDS]
    assert aliases.text(message, slide_id) == expected.format(*numbers)


def test_a_number_is_not_taken_for_the_id_of_another_slide():
    records = [SlideRecord(f"{n:04d}", f"{n:04d}.svs", source_size=n) for n in range(1, 1200)]
    aliases = Aliases(records, anonymise=True)
    for record in records[::100]:
        number = aliases.name(record.slide_id)
        assert (
            aliases.text(f"slide {record.slide_id} is empty", record.slide_id) == f"slide {number} is empty"
        )


def test_numbers_follow_neither_the_sheet_nor_the_ids_and_stay():
    records = [
        SlideRecord(f"S{n:03d}", f"S{n:03d}.svs", source_size=n, source_quickhash="q") for n in range(200)
    ]
    named = Aliases(records, anonymise=True).numbers
    assert Aliases(records[::-1], anonymise=True).numbers == named
    rises = sum(int(named[a.slide_id]) < int(named[b.slide_id]) for a, b in pairwise(records))
    assert 70 < rises < 130


def test_order_cannot_be_found_out_from_the_ids_alone():
    def order(quickhash: str) -> dict[str, str]:
        records = [SlideRecord(f"S{n}", f"S{n}.svs", source_quickhash=f"{quickhash}{n}") for n in range(50)]
        return Aliases(records, anonymise=True).numbers

    assert order("a") != order("b")

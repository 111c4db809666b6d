import pytest
from lowmag import scale
from lowmag.errors import UserError
from lowmag.record import RejectedError
from lowmag.scale import Scale
from lowmag.sections import Check
from synthetic_slides import noise, slide_of, write_slide

FINE = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26", "openslide.objective-power": "40"}
OME = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">
<Pixels ID="Pixels:0" SizeC="3" {sizes}/></Image></OME>"""


@pytest.mark.parametrize(
    ("properties", "override", "assumed", "expected"),
    [
        (FINE, None, 0.4, (0.25, 0.26, "openslide.mpp")),
        (FINE, 0.3, 0.4, (0.3, 0.3, "override")),
        (
            {"tiff.XResolution": "20000", "tiff.YResolution": "40000", "tiff.ResolutionUnit": "centimeter"},
            None, 0.4, (0.5, 0.25, "tiff"),
        ),
        (
            {"tiff.XResolution": "50800", "tiff.YResolution": "50800", "tiff.ResolutionUnit": "inch"},
            None, None, (0.5, 0.5, "tiff"),
        ),
        ({"tiff.XResolution": "72", "tiff.YResolution": "72"}, None, None, None),
        ({"ome.PhysicalSizeX": "0.3", "ome.PhysicalSizeY": "0.31"}, None, 0.4, (0.3, 0.31, "ome")),
        ({"ome.PhysicalSizeX": "0.3"}, None, 0.4, (0.4, 0.4, "assumed")),
        ({"openslide.objective-power": "20"}, None, 0.4, (0.5, 0.5, "objective")),
        ({"openslide.mpp-x": "0", "openslide.mpp-y": "0"}, None, 0.4, (0.4, 0.4, "assumed")),
        ({"openslide.objective-power": "unknown"}, None, None, None),
    ],
)  # fmt: skip
def test_scale_comes_from_the_first_source_that_has_it(properties, override, assumed, expected):
    found = scale.find_scales(properties, override, assumed)
    assert found[:1] == ([Scale(*expected)] if expected else [])


def test_printers_resolution_is_passed_over_for_a_plausible_scale():
    print_resolution = {"openslide.mpp-x": "352.8", "openslide.mpp-y": "352.8"}
    ome = {"ome.PhysicalSizeX": "0.25", "ome.PhysicalSizeY": "0.25"}
    scales = scale.find_scales(print_resolution | ome, None, None)
    found = scale.choose_scale(scales, Check())
    assert found == Scale(0.25, 0.25, "ome")
    (note,) = scale.scale_notes(found, scales, None)
    assert note == (
        "352.8 micrometres per pixel (openslide.mpp) is implausible and passed over for 0.25 micrometres per "
        "pixel (ome)"
    )
    alone = scale.find_scales(print_resolution, None, None)
    assert scale.choose_scale(alone, Check()).source == "openslide.mpp"
    given = scale.find_scales(ome, 1000.0, None)
    assert scale.choose_scale(given, Check()).source == "override"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.5"', (0.25, 0.5)),
        ('PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.5" PhysicalSizeZ="1"', (0.25, 0.5)),
        ('PhysicalSizeX="0.00025" PhysicalSizeXUnit="mm" PhysicalSizeY="0.5"', (0.25, 0.5)),
        ('PhysicalSizeX="2" PhysicalSizeXUnit="µm" PhysicalSizeY="2" PhysicalSizeYUnit="\u03bcm"', (2, 2)),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="0.5"', (None, 0.5)),
        ('PhysicalSizeX="-1"', (None, None)),
    ],
)  # fmt: skip
def test_ome_states_its_scale_in_many_units(sizes, expected):
    found = scale.ome_properties(OME.format(sizes=sizes))
    for axis, value in zip("XY", expected, strict=True):
        assert scale.positive(found.get(f"ome.PhysicalSize{axis}")) == (value and pytest.approx(value))


@pytest.mark.parametrize(
    "description",
    [
        "",
        "Aperio Image Library",
        "<?xml broken",
        "<OME/>",
        '<?xml version="1.0"?><!DOCTYPE OME><OME><Pixels PhysicalSizeX="1" PhysicalSizeY="1"/></OME>',
        '<?xml version="1.0" encoding="nonsense"?><OME><Pixels PhysicalSizeX="1" PhysicalSizeY="1"/></OME>',
    ],
)
def test_what_is_no_plain_ome_states_nothing(description):
    assert scale.ome_properties(description) == {}


@pytest.mark.parametrize(
    ("mpp", "objective", "source", "plausible"),
    [
        (0.25, 40, "openslide.mpp", True),
        (0.49, 40, "openslide.mpp", True),
        (0.51, 40, "openslide.mpp", False),
        (0.12, 40, "tiff", False),
        (0.51, 40, "override", True),
        (0.51, None, "openslide.mpp", True),
    ],
)
def test_scale_must_fit_the_objective_unless_the_user_gave_it(mpp, objective, source, plausible):
    if plausible:
        scale.check_scale(Scale(mpp, mpp, source), objective, "cure", Check())
        return
    with pytest.raises(RejectedError) as error:
        scale.check_scale(Scale(mpp, mpp, source), objective, "cure", Check())
    assert error.value.verdict == "implausible_mpp"
    assert "objective power 40" in error.value.reason


def test_anisotropic_slide_is_refused():
    with pytest.raises(RejectedError) as error:
        scale.check_scale(Scale(0.5, 0.6, "tiff"), None, "cure", Check())
    assert error.value.verdict == "anisotropic"
    scale.check_scale(Scale(0.5, 0.6, "tiff"), None, "cure", Check(max_anisotropy=0.2))


@pytest.mark.parametrize(
    ("found", "others", "objective", "words"),
    [
        (Scale(0.25, 0.25, "tiff"), [], 40, None),
        (Scale(0.32, 0.32, "tiff"), [], 40, "0.25 is usual for its objective power 40"),
        (Scale(0.32, 0.32, "override"), [], 40, None),
        (Scale(0.25, 0.256, "tiff"), [], None, "0.25 micrometres per pixel across and 0.256 down"),
        (Scale(0.25, 0.254, "tiff"), [], None, None),
        (
            Scale(0.5, 0.5, "override"),
            [Scale(0.25, 0.25, "tiff")],
            None,
            "column mpp says 0.5, the slide 0.25",
        ),
        (Scale(0.5, 0.5, "override"), [Scale(0.49, 0.49, "tiff")], None, None),
    ],
)
def test_oddities_that_do_not_reject_are_noted(found, others, objective, words):
    notes = scale.scale_notes(found, [found, *others], objective)
    assert len(notes) == (words is not None)
    assert words is None or words in notes[0]


@pytest.mark.parametrize("x", [0.94, 0.98, 1.0, 1.01, 1.02, 1.021, 1.03])
@pytest.mark.parametrize("y", [0.94, 0.98, 1.0, 1.01, 1.02, 1.021, 1.03])
def test_what_is_not_too_coarse_can_be_cut(tmp_path, x, y):
    path = write_slide(tmp_path / "a.tiff", noise(64, 64))
    found = Scale(x, y, "tiff")
    with slide_of(path, (x, y)) as source:
        if max(x, y) <= 1.02:
            scale.check_scale(found, None, "cure", Check())
            scale.check_magnification(found, 10.0, "S1")
            assert min(source.extent(512, 1.0)) >= 512
            return
        with pytest.raises(RejectedError, match="too_coarse"):
            scale.check_magnification(found, 10.0, "S1")
        with pytest.raises(UserError, match="nothing is enlarged"):
            source.extent(512, 1.0)

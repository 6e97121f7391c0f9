"""Whether two grids belong together: one error with both grids and the way out."""

from __future__ import annotations

import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from whatchanged.errors import PairMismatchError
from whatchanged.geo.grid import Grid
from whatchanged.geo.place import differences, overlap_fraction, place

NAMES = ("early.tif", "late.tif")
UTM33, UTM34, WGS84 = (CRS.from_epsg(code) for code in (32633, 32634, 4326))


def grid(
    width: int = 100,
    height: int = 80,
    pixel: float = 0.5,
    x: float = 500_000,
    y: float = 5_000_000,
    crs: CRS | None = UTM33,
) -> Grid:
    return Grid(width, height, Affine(pixel, 0, x, 0, -pixel, y), crs)


def plain(width: int = 100, height: int = 80) -> Grid:
    return Grid(width, height, Affine.identity())


MISMATCHES = {
    "size": grid(width=110),
    "CRS": Grid(100, 80, Affine(6.4e-6, 0, 15.0, 0, -4.5e-6, 45.1534), WGS84),
    "resolution": grid(pixel=0.6),
    "offset": grid(x=500_004.0),
}


def test_equal_grids_are_one() -> None:
    placement = place(grid(), grid(), NAMES, align=False)
    assert not placement.warp
    assert placement.overlap == 1.0
    assert placement.warnings == ()
    assert place(grid(), grid(), NAMES, align=True) == placement


def test_rounding_of_coordinates_is_not_a_mismatch() -> None:
    placement = place(grid(), grid(x=500_000.01), NAMES, align=True)
    assert not placement.warp


@pytest.mark.parametrize("what", MISMATCHES)
def test_a_mismatch_shows_both_grids_and_the_way_out(what: str) -> None:
    later = MISMATCHES[what]
    if what == "CRS":
        later = _around_the_centre(grid())
    with pytest.raises(PairMismatchError) as caught:
        place(grid(), later, NAMES, align=False)
    error = caught.value
    assert what in error.message
    assert "early.tif" in error.message
    assert "late.tif" in error.message
    assert grid().describe() in error.message
    assert later.describe() in error.message
    assert "--align" in error.hint
    placement = place(grid(), later, NAMES, align=True)
    assert placement.warp
    assert placement.grid == grid()


def _around_the_centre(target: Grid) -> Grid:
    from rasterio.warp import transform as transform_points

    x, y = target.centre
    (lon,), (lat,) = transform_points(target.crs, WGS84, [x], [y])
    return Grid(100, 80, Affine(6e-6, 0, lon - 3e-4, 0, -5e-6, lat + 2e-4), WGS84)


def test_places_apart_are_refused_even_with_align() -> None:
    for later in (grid(x=600_000), grid(x=500_046), MISMATCHES["CRS"]):
        for align in (False, True):
            if later is MISMATCHES["CRS"] and overlap_fraction(grid(), later) >= 0.1:
                continue
            with pytest.raises(PairMismatchError, match="overlap") as caught:
                place(grid(), later, NAMES, align=align)
            assert "one place" in caught.value.hint
            assert "--align" not in caught.value.hint


def test_partial_cover_is_said() -> None:
    placement = place(grid(), grid(x=500_025), NAMES, align=True)
    assert placement.overlap == pytest.approx(0.5, abs=0.02)
    assert any("50.0%" in warning for warning in placement.warnings)


def test_a_much_coarser_photograph_is_said() -> None:
    placement = place(grid(), grid(width=20, height=16, pixel=2.5), NAMES, align=True)
    assert any("2.5 m after" in warning for warning in placement.warnings)


def test_plain_pictures_of_one_size_are_taken_pixel_for_pixel() -> None:
    placement = place(plain(), plain(), NAMES, align=False)
    assert not placement.warp
    assert any("georeferenced" in warning for warning in placement.warnings)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [(plain(), plain(101)), (plain(), grid(101)), (grid(101), plain())],
)
def test_different_sizes_without_georeference_cannot_be_aligned(
    before: Grid, after: Grid, align: bool
) -> None:
    with pytest.raises(PairMismatchError, match="size") as caught:
        place(before, after, NAMES, align=align)
    assert "georeference" in caught.value.hint
    assert "100 x 80" in caught.value.message
    assert "101 x 80" in caught.value.message


@pytest.mark.parametrize("swap", [False, True])
def test_one_georeference_serves_both_and_is_said(swap: bool) -> None:
    grids = (plain(), grid()) if swap else (grid(), plain())
    placement = place(*grids, NAMES, align=False)
    assert placement.grid == grid()
    (warning,) = placement.warnings
    assert ("late.tif" if swap else "early.tif") in warning


@pytest.mark.parametrize("swap", [False, True])
def test_a_missing_crs_is_said(swap: bool) -> None:
    nameless = grid(crs=None)
    grids = (nameless, grid()) if swap else (grid(), nameless)
    placement = place(*grids, NAMES, align=False)
    assert placement.grid == grid()
    (warning,) = placement.warnings
    assert "no CRS" in warning
    assert "EPSG:32633" in warning


def test_two_missing_crs_are_said() -> None:
    placement = place(grid(crs=None), grid(crs=None), NAMES, align=False)
    assert any("CRS" in warning for warning in placement.warnings)
    assert placement.grid.gsd_m is None


def test_another_place_without_crs_is_not_guessed() -> None:
    with pytest.raises(PairMismatchError, match=r"late\.tif without a CRS") as caught:
        place(grid(), grid(x=500_010, crs=None), NAMES, align=True)
    assert "gdal_edit" in caught.value.hint


@given(dx=st.floats(-60, 60), dy=st.floats(-50, 50))
def test_overlap_is_the_share_of_common_area(dx: float, dy: float) -> None:
    expected = max(0, 1 - abs(dx) / 50) * max(0, 1 - abs(dy) / 40)
    later = grid(x=500_000 + dx, y=5_000_000 + dy)
    assert overlap_fraction(grid(), later) == pytest.approx(expected, abs=0.035)


def test_overlap_across_systems_and_directions() -> None:
    assert overlap_fraction(grid(), _around_the_centre(grid())) > 0.8
    south_up = Grid(100, 80, Affine(0.5, 0, 500_000, 0, 0.5, 4_999_960), UTM33)
    assert overlap_fraction(grid(), south_up) == 1.0
    assert differences(grid(), south_up) == ("resolution", "offset (+0.00, +80.00 px)")
    assert overlap_fraction(grid(), grid(crs=UTM34)) == 0.0


def test_points_that_a_system_does_not_reach_are_uncovered() -> None:
    world = Grid(360, 180, Affine(1, 0, -180, 0, -1, 90), WGS84)
    assert 0 <= overlap_fraction(world, grid()) < 0.01

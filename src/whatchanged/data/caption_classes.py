"""Which land cover captions speak of: a small lexicon, on the careful side.

It serves to be sure that something is *not* told, so a word that may mean several classes
stands under each of them.
"""

from __future__ import annotations

from collections.abc import Sequence

_SEVERAL = {
    "apartment building community complex factory facility farmhouse greenhouse hall home hotel "
    "house mall market roof school shed shelter shop station storage store structure substation "
    "supermarket tent tower town trailer camper village villa warehouse yard courtyard pavilion "
    "block tank container hangar room ruin annex terminal barn dwelling cottage neighborhood "
    "neighbourhood foundation pier panel wall": ("building",),
    "road highway street lane path footpath trail driveway parking roundabout crossroad junction "
    "intersection cul-de-sac viaduct bridge overpass interchange ramp bypass carriageway freeway "
    "expressway motorway railway runway sidewalk pavement boulevard avenue lot crossing": ("road",),
    "bareland barren ground desert dirt soil sand earth mud gravel pit quarry mine mound bunker "
    "wasteland rubble debris site clearing heap pile beach": ("bare ground",),
    "water pond lake river stream creek canal channel ditch pool basin reservoir dam sea shore "
    "wetland swamp bank moat trench": ("water",),
    "tree wood forest woodland grove orchard canopy jungle woods": ("tree",),
    "grass grassland farmland cropland crop farm field meadow lawn pasture paddy greenland": (
        "low vegetation",
    ),
    "playground stadium court pitch sport baseball football tennis basketball soccer": (
        "playground",
    ),
    "plant vegetation shrub shrubland bush garden green greenery hedge": (
        "tree",
        "low vegetation",
    ),
    "land plot space terrace slope hill": ("bare ground", "low vegetation"),
    "golf course park": ("playground", "low vegetation", "tree"),
    "track": ("road", "playground"),
    "greenhouse": ("building", "low vegetation"),
    "yard courtyard square pad plaza": ("building", "road", "bare ground"),
}
# Words without a plural, or with meanings that their singular lacks.
_FORMS: dict[str, tuple[str, ...]] = {
    "residential": ("building",),
    "industrial": ("building",),
    "commercial": ("building",),
    "housing": ("building",),
    "built": ("building",),
    "construction": ("building", "bare ground"),
    "solar": ("building",),
    "bridges": ("road",),
    "paved": ("road", "bare ground"),
    "concrete": ("road", "bare ground", "building"),
    "cement": ("road", "bare ground", "building"),
    "asphalt": ("road",),
    "bare": ("bare ground",),
    "sandy": ("bare ground",),
    "muddy": ("bare ground",),
    "rocky": ("bare ground",),
    "cleared": ("bare ground",),
    "dug": ("bare ground", "water"),
    "excavated": ("bare ground", "water"),
    "demolished": ("building", "bare ground"),
    "vacant": ("bare ground",),
    "empty": ("bare ground",),
    "flooded": ("water",),
    "wet": ("water",),
    "fish": ("water",),
    "swimming": ("water",),
    "dry": ("water", "bare ground"),
    "dries": ("water", "bare ground"),
    "dried": ("water", "bare ground"),
    "wooded": ("tree",),
    "tree-lined": ("tree",),
    "terraced": ("low vegetation",),
    "grassy": ("low vegetation",),
    "grassed": ("low vegetation",),
    "overgrown": ("low vegetation", "tree"),
    "bushy": ("low vegetation", "tree"),
    "vegetable": ("low vegetation",),
    "planted": ("low vegetation", "tree"),
    "playing": ("playground",),
    "harvested": ("low vegetation",),
}
_REMOVAL_WORDS = """
removed remove removes removing demolished demolish demolition disappear disappears
disappeared disappearing gone replace replaces replaced replacing rebuilt rebuild
reconstructed torn pulled cleared clearing clear turn turns turned turning become becomes
became old former ruins rubble debris dismantled destroyed collapsed abandoned lost vanish
vanished vanishes missing longer original moved razed leaves leaving overgrown covered
covers cover straightened reshaped shortened shrinks shrunk thinned fewer less merged flat
only remains remain stood fade instead were was
"""
_REMOVAL = frozenset(_REMOVAL_WORDS.split())


def _plural(word: str) -> str:
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "sh", "ch", "x")) else "s")


def _classes_of() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for words, names in _SEVERAL.items():
        for word in words.split():
            for form in (word, _plural(word)):
                found.setdefault(form, set()).update(names)
    for word, names in _FORMS.items():
        found.setdefault(word, set()).update(names)
    return {word: frozenset(names) for word, names in found.items()}


CLASSES_OF_WORD: dict[str, frozenset[str]] = _classes_of()
"""Classes of land cover that a word of a caption may mean."""


def names_class(name: str, captions: Sequence[Sequence[str]]) -> bool:
    """Return whether any word of tokenised captions may mean the class ``name``."""
    return any(name in CLASSES_OF_WORD.get(word, ()) for caption in captions for word in caption)


def names_removal(captions: Sequence[Sequence[str]]) -> bool:
    """Return whether any caption may tell that something was taken away or replaced."""
    return any(word in _REMOVAL for caption in captions for word in caption)

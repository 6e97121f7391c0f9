"""The published data sets this project reads: layout, counts, size, licence and source.

A count is here only if it was published and could be checked; None means that it is not known.
Nothing here touches the disk: :mod:`whatchanged.data.set_files` lists the files of a set,
:mod:`whatchanged.data.integrity` tells which set a folder holds and checks it.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from whatchanged.data.samples import LabelColours
from whatchanged.data.set_types import KnownSet, LabelFolder, LabelRule, greys
from whatchanged.errors import DatasetError, UsageError

BINARY = LabelRule("0 unchanged and 255 changed (or 0 and 1)", (greys(0, 255), greys(0, 1)))
ROAD_BUILDING = LabelRule("0 unchanged, 128 road, 255 building", (greys(0, 128, 255),))
THREE_COLOURS = LabelRule("at most three colours", most=3)

SECOND_COLOURS = LabelColours(
    (
        ((255, 255, 255), 0),  # unchanged
        ((0, 0, 255), 1),  # water
        ((128, 128, 128), 2),  # ground without vegetation
        ((0, 128, 0), 3),  # low vegetation
        ((0, 255, 0), 4),  # tree
        ((128, 0, 0), 5),  # building
        ((255, 0, 0), 6),  # playground
    )
)
SECOND_PALETTE = LabelRule(
    "the seven colours of SECOND, white for unchanged", (SECOND_COLOURS.colours,)
)
ANY_COLOURS = LabelRule("any colours", most=256**3)

_LEVIR_TREE = """\
{annotation}
images/
  train/  A/  B/
  val/    A/  B/
  test/   A/  B/"""
_UNKNOWN_LICENCE = "not known here: see its source"

LEVIR_CC = KnownSet(
    name="levir-cc",
    title="LEVIR-CC",
    kind="captions",
    tree=_LEVIR_TREE.format(annotation="LevirCCcaptions.json"),
    before="images/{folder}/A",
    after="images/{folder}/B",
    counts={"train": 6815, "val": 1333, "test": 1929},
    total=10077,
    captions=50385,
    words=995,
    size=256,
    ground="0.5 m",
    gsd_m=0.5,
    annotation="LevirCCcaptions.json",
    licence="none stated; its scenes are those of LEVIR-CD (Google Earth): academic use only",
    source="https://github.com/Chen-Yang-Liu/LEVIR-CC-Dataset",
    citation="Liu et al. 2022, IEEE TGRS 60 (RSICCformer)",
    use="captions: training, evaluation, HiSem Tables I, III to VI and VIII",
)

LEVIR_MCI = KnownSet(
    name="levir-mci",
    title="LEVIR-MCI",
    kind="captions",
    tree="""\
LevirCCcaptions.json
images/
  train/  A/  B/  label/   (or label_rgb/)
  val/    A/  B/  label/
  test/   A/  B/  label/""",
    before="images/{folder}/A",
    after="images/{folder}/B",
    labels=(
        LabelFolder(
            "images/{folder}/label", ROAD_BUILDING, ("images/{folder}/label_rgb", THREE_COLOURS)
        ),
    ),
    counts=LEVIR_CC.counts,
    total=LEVIR_CC.total,
    captions=LEVIR_CC.captions,
    words=LEVIR_CC.words,
    size=256,
    ground="0.5 m",
    gsd_m=0.5,
    annotation="LevirCCcaptions.json",
    licence="none stated; its scenes are those of LEVIR-CD (Google Earth): academic use only",
    source="https://huggingface.co/datasets/lcybuaa/LEVIR-MCI",
    citation="Liu et al. 2024, IEEE TGRS, doi:10.1109/TGRS.2024.3425815 (Change-Agent)",
    use="captions with masks of changed roads and buildings",
    notes=("pictures and captions are those of LEVIR-CC",),
)

WHU_CDC = KnownSet(
    name="whu-cdc",
    title="WHU-CDC",
    kind="captions",
    tree=_LEVIR_TREE.format(annotation="whuCCcaptions.json  (or another name)"),
    before="images/{folder}/A",
    after="images/{folder}/B",
    counts={"train": 5947, "val": 743, "test": 744},
    total=7434,
    captions=37170,
    words=327,
    size=256,
    ground="0.075 m",
    gsd_m=0.075,
    annotation="whuCCcaptions.json",
    licence=_UNKNOWN_LICENCE,
    source="https://huggingface.co/datasets/hygge10111/RS-CDC",
    citation="Shi et al. 2024, IEEE TGRS 62 (CTMTNet)",
    use="captions: training, evaluation, HiSem Tables II and VII",
    notes=("tiles of WHU-CD, so neither set may test a model trained on the other",),
)

SECOND_CC = KnownSet(
    name="second-cc",
    title="SECOND-CC",
    kind="captions",
    tree="""\
SECOND-CC-AUG.json
train/  rgb/A/  rgb/B/  sem/A/  sem/B/
val/    rgb/A/  rgb/B/  sem/A/  sem/B/
test/   rgb/A/  rgb/B/  sem/A/  sem/B/""",
    before="{split}/rgb/A",
    after="{split}/rgb/B",
    labels=(
        LabelFolder("{split}/sem/A", ANY_COLOURS),
        LabelFolder("{split}/sem/B", ANY_COLOURS),
    ),
    colours=LabelColours(SECOND_COLOURS.classes, others=255),
    total=6041,
    captions=30205,
    size=256,
    annotation="SECOND-CC-AUG.json",
    licence="CC BY 4.0, as its Zenodo record says",
    source="https://doi.org/10.5281/zenodo.16937571",
    citation="Karaca et al. 2025, IEEE JSTARS, doi:10.1109/JSTARS.2025.3600613 (MModalCC)",
    use="captions with land cover before and after",
    notes=(
        "SECOND-CC-AUG.json also lists augmented copies of pairs, which the published "
        "6,041 pairs and 30,205 captions leave out",
        "augmentation changed the colours of their land cover too: pixels of other colours than "
        "SECOND's count as unknown",
    ),
)

LEVIR_CD = KnownSet(
    name="levir-cd",
    title="LEVIR-CD",
    kind="masks",
    tree="""\
train/  A/  B/  label/
val/    A/  B/  label/
test/   A/  B/  label/""",
    before="{folder}/A",
    after="{folder}/B",
    labels=(LabelFolder("{folder}/label", BINARY),),
    counts={"train": 445, "val": 64, "test": 128},
    total=637,
    size=1024,
    windows=256,
    ground="0.5 m",
    gsd_m=0.5,
    licence="academic use only; the pictures are Google Earth's",
    source="https://justchenhao.github.io/LEVIR/",
    citation="Chen and Shi 2020, Remote Sensing 12(10), doi:10.3390/rs12101662",
    use="masks of changed buildings",
)

CLCD = KnownSet(
    name="clcd",
    title="CLCD",
    kind="masks",
    tree="""\
train/  time1/  time2/  label/
val/    time1/  time2/  label/
test/   time1/  time2/  label/""",
    before="{folder}/time1",
    after="{folder}/time2",
    labels=(LabelFolder("{folder}/label", BINARY),),
    counts={"train": 360, "val": 120, "test": 120},
    total=600,
    size=512,
    ground="0.5 to 2 m",
    gsd_m=1.0,
    licence="none stated in its repository",
    source="https://github.com/liumency/CropLand-CD",
    citation="Liu et al. 2022, IEEE JSTARS 15, doi:10.1109/JSTARS.2022.3177235 (MSCANet)",
    use="masks of cropland that became something else",
    notes=("a mask knows cropland alone: other changes count as unchanged",),
)

SECOND = KnownSet(
    name="second",
    title="SECOND",
    kind="masks",
    tree="""\
train/  im1/  im2/  label1/  label2/   (or such as SECOND_train_set/)
test/   im1/  im2/  label1/  label2/""",
    before="{folder}/im1",
    after="{folder}/im2",
    labels=(
        LabelFolder("{folder}/label1", SECOND_PALETTE),
        LabelFolder("{folder}/label2", SECOND_PALETTE),
    ),
    colours=SECOND_COLOURS,
    counts={"train": 2968, "test": 1694},
    total=4662,
    size=512,
    loose=True,
    licence=_UNKNOWN_LICENCE,
    source="https://captain-whu.github.io/SCD/",
    citation="Yang et al. 2021, IEEE TGRS, arXiv:2010.05687 (asymmetric siamese networks)",
    use="land cover before and after at changed pixels; wishes of ReasonCD",
    notes=("there is no validation split: take one from train",),
)

WHU_CD = KnownSet(
    name="whu-cd",
    title="WHU-CD",
    kind="masks",
    tree="""\
A/  B/  label/
list/  train.txt  val.txt  test.txt""",
    before="A",
    after="B",
    labels=(LabelFolder("label", BINARY),),
    counts={"train": 6096, "val": 762, "test": 762},
    total=7620,
    size=256,
    ground="0.075 m",
    gsd_m=0.075,
    lists="list/{split}.txt",
    licence=_UNKNOWN_LICENCE,
    source="http://gpcv.whu.edu.cn/data/building_dataset.html",
    citation="Ji, Wei and Lu 2019, IEEE TGRS 57(1); tiles of Chen et al. 2022 (BIT)",
    use="masks of changed buildings",
    notes=(
        "also called BCDD; this is the recipe bit-7620, whose tiles and split are not those of "
        "ReasonCD (7,434 tiles): scores of different recipes do not compare",
    ),
)

BCDD = KnownSet(
    name="bcdd",
    title="BCDD",
    kind="masks",
    tree="""\
A/  B/  label/
splits/  train.txt  val.txt  test.txt
as `whatchanged prepare bcdd` makes it of the scene""",
    before="A",
    after="B",
    labels=(LabelFolder("label", BINARY),),
    total=7434,
    size=256,
    ground="0.075 m",
    gsd_m=0.075,
    lists="splits/{split}.txt",
    licence=_UNKNOWN_LICENCE,
    source="http://gpcv.whu.edu.cn/data/building_dataset.html",
    citation="Ji, Wei and Lu 2019, IEEE TGRS 57(1)",
    use="masks of changed buildings; ReasonCD Tables III and IV",
    notes=(
        "tiles of 256 pixels without overlap, as ReasonCD cuts them; its random division into "
        "5,947, 743 and 744 was not published, so every recipe here is another one",
    ),
)

CAPTIONED = KnownSet(
    name="captioned",
    title="a captioned set in the layout of LEVIR-CC",
    kind="captions",
    tree=_LEVIR_TREE.format(annotation="captions.json"),
    before="images/{folder}/A",
    after="images/{folder}/B",
    annotation="captions.json",
    licence="",
    source="",
    citation="",
    use="captions of your own pairs",
)

KNOWN_SETS: tuple[KnownSet, ...] = (
    LEVIR_CC,
    LEVIR_MCI,
    WHU_CDC,
    SECOND_CC,
    LEVIR_CD,
    CLCD,
    WHU_CD,
    BCDD,
    SECOND,
    CAPTIONED,
)


RECIPES = {WHU_CD.name: "bit-7620"}
"""Names of the published divisions of sets whose splits are lists."""


def known_set(name: str) -> KnownSet:
    """Return a data set by its name or title, case and punctuation aside.

    Raises:
        UsageError: No such set; the hint names the nearest.
    """
    by_name = {_plain(text): known for known in KNOWN_SETS for text in (known.name, known.title)}
    if (found := by_name.get(_plain(name))) is not None:
        return found
    names = [known.name for known in KNOWN_SETS]
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(names)}"
    raise UsageError(f"data set '{name}' is unknown", hint=hint)


def meant_by(root: Path) -> KnownSet | None:
    """Return the set whose name or title a folder's name holds, the longest such; or None."""
    name = _plain(root.name)
    found = [
        (len(text), known)
        for known in KNOWN_SETS
        if known is not CAPTIONED
        for text in (_plain(known.name), _plain(known.title))
        if text in name
    ]
    return max(found, key=lambda item: item[0])[1] if found else None


def where_from(known: KnownSet) -> str:
    """Return what someone without a data set needs: its source, licence and expected folder."""
    tree = "\n".join(f"    {line}" for line in known.tree.splitlines())
    origin = f"{known.title} comes from {known.source}\n  licence: {known.licence}\n  "
    return f"{origin if known.source else ''}expected is a folder with\n{tree}"


def missing(root: Path, reason: str, known: KnownSet | None = None) -> DatasetError:
    """Return the error for a data set that is not where it should be.

    Args:
        root: Folder that was asked for.
        reason: What is wrong with it, to stand behind its path.
        known: The set that was expected; None to go by the folder's name.
    """
    known = known or meant_by(root)
    hint = (
        where_from(known)
        if known
        else (
            "expected is the folder of a data set in the layout of LEVIR-CC (captions.json, or "
            "LevirCCcaptions.json, and images/{train,val,test}/{A,B}/) or another known one; "
            "`whatchanged data --list` shows them with their sources"
        )
    )
    return DatasetError(f"data set folder {root} {reason}", hint=hint)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())

"""The numbers of both papers as they are printed, and where they contradict themselves.

Quoted from HiSem (arXiv 2605.15024, IEEE TGRS 64, 2026) and ReasonCD (arXiv 2512.19354).
Captions: BLEU-1 to 4, METEOR, ROUGE-L, CIDEr-D, S*m in percent. Masks: F1, precision, recall,
OA, IoU, kappa, printed as shares and given here in percent.
"""

from __future__ import annotations

from dataclasses import dataclass

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class PublishedRow:
    """One printed row.

    Attributes:
        label: Its first cells, as `Row.label` of the experiment where it is one of ours.
        values: Its numbers in the order of the experiment's scores; None where none is printed.
        note: What of it cannot be true, or contradicts another place of the paper.
    """

    label: tuple[str, ...]
    values: Values
    note: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """A printed table.

    Attributes:
        source: Paper, table and section.
        rows: In their order.
        note: What holds of the whole table.
    """

    source: str
    rows: tuple[PublishedRow, ...]
    note: str = ""


def _row(label: str | tuple[str, ...], *values: float | None, note: str = "") -> PublishedRow:
    return PublishedRow((label,) if isinstance(label, str) else label, values, note)


_FULL: Values = (86.60, 78.74, 71.73, 65.82, 40.39, 75.77, 138.86, 80.21)
_FULL_WHU: Values = (87.49, 82.89, 79.17, 76.52, 48.77, 82.00, 158.35, 91.41)
_NO_BDAM: Values = (83.31, 75.43, 68.40, 62.70, 38.02, 72.33, 129.09, 75.54)
_NO_HASD: Values = (86.07, 78.16, 71.17, 65.42, 39.94, 75.14, 137.47, 79.50)
_NOT_THE_MEAN = "S*m printed as {0}; BLEU-4, METEOR, ROUGE-L and CIDEr-D give {1}"

_HISEM_1 = PublishedTable(
    "HiSem, Table I, section IV-D",
    (
        _row("RSICCFormer", 84.72, 76.27, 68.87, 62.77, 39.61, 74.12, 134.12, 77.66),
        _row("Chg2Cap", 86.14, 78.08, 70.66, 64.39, 40.03, 75.12, 136.61, 79.04),
        _row("PSNet", 83.86, 75.13, 67.89, 62.11, 38.80, 73.60, 132.62, 76.78),
        _row("CTMTNet", 85.95, 77.99, 70.74, 64.69, 39.49, 74.54, 134.94, 78.42),
        _row("Sen", 85.10, 77.05, 70.01, 64.09, 39.59, 74.57, 136.02, 78.57),
        _row("SFT", 84.56, 75.87, 68.64, 62.87, 39.93, 74.69, 137.05, 78.64),
        _row("Pix4Cap", 85.56, 77.08, 69.79, 63.78, 39.96, 75.12, 136.76, 78.91),
        _row("RSCaMa", 85.79, 77.99, 71.04, 65.24, 39.91, 75.24, 136.56, 79.24),
        _row("Diffusion-RSCC", None, None, None, 60.90, 37.80, 71.50, 125.60, 73.95),
        _row("Mask Approx Net", 85.90, 77.12, 70.72, 64.32, 39.91, 75.67, 137.71, 79.40),
        _row("Prompt-CC", 83.66, 75.73, 69.10, 63.54, 38.82, 73.72, 136.44, 78.13),
        _row(
            *("Chareption", 83.82, 75.39, 68.37, 62.53, 40.38, 74.72, 137.83, 77.58),
            note=_NOT_THE_MEAN.format("77.58", "78.87"),
        ),
        _row("KCFI", 86.34, 77.31, 70.89, 65.30, 39.42, 75.47, 138.25, 79.61),
        _row("HiSem", *_FULL),
    ),
)
_HISEM_2 = PublishedTable(
    "HiSem, Table II, section IV-D",
    (
        _row("RSICCFormer", 80.05, 74.24, 69.61, 66.54, 42.65, 73.91, 133.44, 79.14),
        _row("Chg2Cap", 78.93, 72.64, 67.20, 62.71, 41.46, 77.95, 144.18, 81.58),
        _row("PSNet", 81.26, 73.25, 65.78, 60.32, 36.97, 71.60, 130.52, 74.85),
        _row("Sen", 80.60, 74.64, 67.69, 61.97, 36.76, 71.70, 133.57, 76.00),
        _row("SFT", 81.17, 72.90, 66.06, 60.27, 37.34, 72.63, 134.64, 76.22),
        _row("Prompt-CC", 81.12, 73.96, 67.22, 61.45, 36.99, 71.88, 134.50, 76.21),
        _row("Diffusion-RSCC", 75.32, 70.15, 66.40, 63.76, 40.18, 73.80, 127.96, 76.43),
        _row("Mask Approx Net", 81.34, 75.68, 71.16, 67.73, 43.89, 75.41, 135.31, 80.59),
        _row("CTMTNet", 83.56, 77.66, 72.76, 69.00, 45.39, 79.23, 149.40, 85.76),
        _row("HiSem", *_FULL_WHU),
    ),
    note="section IV-A calls changed and unchanged pairs balanced; the accuracies of Table VII "
    "fit a test split with a third of its pairs changed",
)
_HISEM_3 = PublishedTable(
    "HiSem, Table III, section IV-F1",
    (
        _row(("✗", "✗"), 84.51, 76.73, 69.89, 64.32, 38.79, 73.68, 131.84, 77.16),
        _row(("✓", "✗"), *_NO_HASD),
        _row(
            ("✗", "✓"),
            *_NO_BDAM,
            note="HASD alone is 1.62 S*m below the baseline; the text speaks of gains only",
        ),
        _row(("✓", "✓"), *_FULL),
    ),
)
_HISEM_4 = PublishedTable(
    "HiSem, Table IV, section IV-F2",
    (
        _row(("✗", "✗"), *_NO_BDAM),
        _row(("✓", "✗"), 83.73, 75.57, 68.44, 62.65, 38.25, 72.49, 130.13, 75.88),
        _row(("✗", "✓"), 84.51, 75.90, 68.74, 62.97, 39.51, 74.50, 135.35, 78.08),
        _row(("✓", "✓"), *_FULL),
    ),
)
_HISEM_5 = PublishedTable(
    "HiSem, Table V, section IV-F3",
    (
        _row(("✗", "-", "-"), *_NO_HASD),
        _row(("✗", "FFN", "FFN"), 86.17, 78.20, 71.02, 64.99, 40.00, 75.18, 137.00, 79.29),
        _row(("✗", "MoE", "MoE"), 86.38, 78.45, 71.34, 65.38, 40.37, 75.70, 138.65, 80.02),
        _row(("✓", "FFN", "FFN"), 85.42, 77.59, 70.75, 65.15, 39.90, 75.00, 136.42, 79.12),
        _row(("✓", "MoE", "MoE"), 85.72, 77.90, 70.87, 65.10, 39.62, 75.02, 135.87, 78.90),
        _row(("✓", "MoE", "FFN"), *_FULL),
    ),
)
_HISEM_8 = PublishedTable(
    "HiSem, Table VIII, section IV-H",
    (
        _row(("1", "1"), 85.99, 77.93, 70.72, 64.74, 40.24, 75.42, 138.11, 79.63),
        _row(("2", "1"), 86.11, 78.13, 71.14, 65.33, 40.13, 75.24, 137.55, 79.56),
        _row(("3", "1"), *_FULL),
        _row(("3", "2"), 85.94, 78.01, 70.86, 64.91, 39.72, 74.79, 136.31, 78.93),
        _row(("3", "3"), 86.07, 77.96, 70.94, 65.19, 40.24, 75.46, 137.64, 79.63),
    ),
)

_PRE, _GT, _GAIN, _RHO = "Routing (w. Pre)", "Routing (w. GT)", "Improvement", "rho"
_HUNDRED = (100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, None, None)
_HISEM_6 = PublishedTable(
    "HiSem, Table VI, section IV-G",
    (
        _row(("unchanged", _PRE), 96.91, 97.22, 96.80, 96.57, 96.41, 75.75, 97.55, None, None),
        _row(("unchanged", _GT), *_HUNDRED),
        _row(("unchanged", _GAIN), 3.09, 2.78, 3.20, 3.43, 3.59, 24.25, 2.45, None, None),
        _row(("unchanged", _RHO), None, 0.90, 1.04, 1.11, 1.16, 7.85, 0.79, None, None),
        _row(("changed", _PRE), 91.06, 77.89, 63.94, 51.15, 40.41, 25.92, 53.96, 65.12, 46.35),
        _row(("changed", _GT), 100.0, 79.69, 65.96, 52.95, 41.78, 27.05, 56.32, 69.54, 48.67),
        _row(("changed", _GAIN), 8.94, 1.80, 2.02, 1.80, 1.37, 1.13, 2.36, 4.42, 2.32),
        _row(("changed", _RHO), None, 0.20, 0.23, 0.20, 0.15, 0.13, 0.26, 0.49, 0.26),
        _row(("all", _PRE), 93.99, *_FULL),
        _row(("all", _GT), 100.0, 88.53, 80.91, 73.82, 67.69, 41.89, 78.17, 144.63, 83.09),
        _row(("all", _GAIN), 6.01, 1.93, 2.17, 2.09, 1.87, 1.50, 2.40, 5.77, 2.88),
        _row(("all", _RHO), None, 0.32, 0.36, 0.35, 0.31, 0.25, 0.40, 0.96, 0.48),
    ),
)
_HISEM_7 = PublishedTable(
    "HiSem, Table VII, section IV-G",
    (
        _row(("unchanged", _PRE), 97.40, 98.07, 97.85, 97.77, 97.74, 77.94, 97.89, None, None),
        _row(("unchanged", _GT), *_HUNDRED),
        _row(("unchanged", _GAIN), 2.60, 1.93, 2.15, 2.23, 2.26, 22.06, 2.11, None, None),
        _row(("unchanged", _RHO), None, 0.74, 0.83, 0.86, 0.87, 8.48, 0.81, None, None),
        _row(("changed", _PRE), 80.08, 65.51, 50.92, 37.89, 28.49, 22.45, 47.78, 58.98, 39.42),
        _row(("changed", _GT), 100.0, 70.97, 57.42, 43.80, 33.15, 25.12, 53.66, 71.49, 45.86),
        _row(("changed", _GAIN), 19.92, 5.46, 6.50, 5.91, 4.66, 2.67, 5.88, 12.51, 6.44),
        _row(("changed", _RHO), None, 0.27, 0.33, 0.30, 0.23, 0.13, 0.30, 0.63, 0.32),
        _row(("all", _PRE), 91.91, *_FULL_WHU),
        _row(("all", _GT), 100.0, 90.37, 86.16, 82.26, 79.28, 51.06, 85.30, 167.27, 95.73),
        _row(("all", _GAIN), 8.09, 2.88, 3.27, 3.09, 2.76, 2.29, 3.30, 8.92, 4.32),
        _row(("all", _RHO), None, 0.36, 0.40, 0.38, 0.34, 0.28, 0.41, 1.10, 0.53),
    ),
    note=_HISEM_2.note,
)

_REASONCD_3 = PublishedTable(
    "ReasonCD, Table III, section IV-C",
    (
        _row("CDNet", 86.2, 90.8, 82.1, 98.9, None, None),
        _row(
            *("FC-EF", 69.0, 69.0, 65.8, 94.4, 56.6, 62.4),
            note="precision and recall give F1 67.4, IoU gives 72.3; 69.0 is printed",
        ),
        _row(
            *("FC-Siam-Diff", 71.2, 90.8, 82.1, 98.9, None, None),
            note="precision, recall and OA are those of CDNet's row and give F1 86.2; the F1 is "
            "that of FC-Siam-Conc's row",
        ),
        _row(
            *("FC-Siam-Conc", 71.2, 74.5, 73.9, 94.9, 60.1, 66.4),
            note="precision and recall give F1 74.2, IoU gives 75.1; 71.2 is printed",
        ),
        _row("BiDateNet", 85.2, 88.9, 81.9, 98.6, None, None),
        _row("DASNet", 89.8, 89.2, 90.5, 99.0, None, None),
        _row("EGCTNet", 90.4, 94.3, 86.7, 97.7, 82.4, 89.1),
        _row("HFA-Net", 74.5, 92.2, 62.6, 94.7, 59.4, 71.7),
        _row(
            *("ReasonCD", 92.1, 89.6, 94.7, 99.3, 85.3, 91.6),
            note="Table IV gives F1 90.6 and IoU 82.8 for the same setting (rank 8)",
        ),
    ),
)
_REASONCD_4 = PublishedTable(
    "ReasonCD, Table IV, section IV-E",
    (
        _row("r = 4", 89.4, 89.7, 89.1, 99.2, 80.9, 89.0),
        _row(
            *("r = 8", 90.6, 87.4, 94.0, 99.3, 82.8, 90.2),
            note="Table III gives F1 92.1 and IoU 85.3 for the same setting",
        ),
        _row(
            *("r = 12", 88.8, 89.3, 88.4, 99.1, 79.0, 88.4),
            note="IoU printed with two digits; F1 88.8 gives 79.9",
        ),
    ),
)
_REASONCD_10 = PublishedTable(
    "ReasonCD, Fig. 10, section IV-D",
    (),
    note="the text gives one number, F1 higher by 15.3 points with MSFF; the bars have no figures",
)

PUBLISHED: dict[str, PublishedTable] = {
    "hisem-table-1": _HISEM_1,
    "hisem-table-2": _HISEM_2,
    "hisem-table-3": _HISEM_3,
    "hisem-table-4": _HISEM_4,
    "hisem-table-5": _HISEM_5,
    "hisem-table-6": _HISEM_6,
    "hisem-table-7": _HISEM_7,
    "hisem-table-8": _HISEM_8,
    "reasoncd-table-3": _REASONCD_3,
    "reasoncd-table-4": _REASONCD_4,
    "reasoncd-fig-10": _REASONCD_10,
}
"""Experiment -> what the paper prints. Experiments that are pictures alone are not in it."""

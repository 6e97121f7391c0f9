"""HiSem as ONNX files: what `whatchanged export MODEL --onnx DIR` does."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from whatchanged import __version__
from whatchanged.errors import MissingExtraError, UsageError, WhatchangedError
from whatchanged.export_graphs import ENCODER, GRAPHS, make_graphs, write_graph
from whatchanged.export_parity import TOLERANCE, Parity, measure
from whatchanged.export_readme import readme
from whatchanged.files import replacing_folder
from whatchanged.models import weights
from whatchanged.models.checkpoint import CARD
from whatchanged.models.hisem.generate import END, NULL, START, UNKNOWN
from whatchanged.predict import CaptionModel, load_model
from whatchanged.prepare import STRIDE

log = logging.getLogger(__name__)

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_README, _VOCABULARY, _PREPROCESSING = "README.txt", "vocabulary.json", "preprocessing.json"


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        folder: Where.
        sizes: Bytes of the three graphs, by file name.
        parity: How far onnxruntime is from the model.
    """

    folder: Path
    sizes: dict[str, int]
    parity: Parity


def export_onnx(model: str | Path, folder: str | Path) -> ExportReport:
    """Write a HiSem as three ONNX files that onnxruntime runs as this package runs the model.

    The folder gets `encoder.onnx`, `memory.onnx`, `decoder_step.onnx`, `vocabulary.json`,
    `preprocessing.json`, `README.txt`, and `card.md` if the model has one. It is complete or
    not there; one that holds an earlier export is replaced.

    Args:
        model: Named weights or a checkpoint folder.
        folder: Where to write.

    Raises:
        MissingExtraError: The packages of the extra `export` are not installed.
        UsageError: The folder holds something other than an export.
        CheckpointError: The model is damaged, or no HiSem.
        WhatchangedError: onnxruntime differs from the model by more than 1e-4, or the folder
            cannot be written.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"exporting to ONNX needs {', '.join(missing)}, not installed",
            hint='pip install "whatchanged[export]"',
        )
    target = Path(folder).resolve()
    _check_replaceable(target)
    loaded = load_model(model)
    try:
        with replacing_folder(target) as part:
            parity = _fill(part, loaded)
            sizes = {name: (part / name).stat().st_size for name in parity.differences}
    except OSError as error:
        raise WhatchangedError(
            f"{folder} cannot be written: {error.strerror or error}",
            hint="check free space and permissions",
        ) from error
    return ExportReport(Path(folder), sizes, parity)


def _fill(part: Path, loaded: CaptionModel) -> Parity:
    """Write everything into a folder and measure it."""
    origin = {
        "whatchanged_version": __version__,
        "model": loaded.name,
        "model_sha256": loaded.sha256,
    }
    graphs = make_graphs(loaded.hisem)
    for name, graph in graphs.items():
        log.info("writing %s", name)
        with _quiet_exporter():
            write_graph(graph, part / name, origin)
    log.info("comparing with the model in onnxruntime")
    parity = measure(part, loaded.hisem)
    _check(parity, routed=loaded.hisem.config.hasd.routing)
    encoder = loaded.hisem.config.encoder
    vocabulary = {
        "words": loaded.vocabulary.words,
        "null": NULL,
        "unknown": UNKNOWN,
        "start": START,
        "end": END,
        "max_len": loaded.hisem.config.decoder.max_len,
    }
    preprocessing = {
        "input_size": encoder.input_size,
        "multiple": STRIDE,
        "mean": encoder.mean,
        "std": encoder.std,
    }
    _write_json(part / _VOCABULARY, vocabulary)
    _write_json(part / _PREPROCESSING, preprocessing)
    text = readme(loaded.hisem, origin, parity)
    (part / _README).write_text(text, encoding="utf-8")
    card = weights.require(loaded.name) / CARD
    if card.is_file():
        shutil.copyfile(card, part / CARD)
    return parity


def _check(parity: Parity, *, routed: bool) -> None:
    for name, difference in parity.differences.items():
        if difference > TOLERANCE:
            raise WhatchangedError(
                f"{name} differs from the model by {difference:.1e} in onnxruntime, more than "
                f"the {TOLERANCE:.0e} allowed; nothing was written",
                hint="use the versions of onnxscript and onnxruntime in constraints.txt; if they "
                "are, please report this model and its configuration",
            )
    if routed and not (parity.n_unchanged and parity.n_changed):
        which = "changed" if parity.n_unchanged else "unchanged"
        log.warning("no pair took the %s path: it was not compared with the model", which)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep back what the exporter says of its own workings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_replaceable(target: Path) -> None:
    """Replacing a folder deletes it, so it must be empty or hold an export and no more."""
    if not target.exists():
        return
    known = {*GRAPHS, _README, _VOCABULARY, _PREPROCESSING, CARD}
    names = {entry.name for entry in target.iterdir()} if target.is_dir() else {target.name}
    other = sorted(names - known)
    if other or not target.is_dir() or (names and ENCODER not in names):
        what = f"it holds {other[0]}" if other else "it holds no export"
        raise UsageError(
            f"{target} cannot be replaced by an export: {what}",
            hint="choose another folder, or empty this one",
        )

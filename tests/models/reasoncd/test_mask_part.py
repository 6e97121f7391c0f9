"""The mask part: prompts of wishes in fields, and masks that are ReasonCD's."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from whatchanged.answers import Understood
from whatchanged.models.reasoncd.mask_part import MaskPart, WishTable
from whatchanged.models.reasoncd.model import ReasonCD

HOUSES = Understood(("building",), "appeared")
WISHES = [HOUSES, Understood(("water", "tree"), "either"), Understood(("any",), "either")]


@pytest.fixture(scope="module")
def table() -> WishTable:
    torch.manual_seed(3)
    return WishTable(16)


@pytest.fixture(scope="module")
def part(kit: SimpleNamespace) -> MaskPart:
    torch.manual_seed(4)
    return MaskPart(kit.tiny).eval()


def same(table: WishTable, one: Understood, other: Understood) -> bool:
    first, second = table([one, other])
    return torch.allclose(first, second, atol=1e-6)


# --- the table ------------------------------------------------------------------------------


def test_the_order_of_classes_does_not_matter(table: WishTable) -> None:
    assert same(
        table,
        Understood(("building", "road"), "appeared", ("tree", "water")),
        Understood(("road", "building"), "appeared", ("water", "tree")),
    )


@pytest.mark.parametrize(
    "other",
    [
        Understood(("building",), "disappeared"),
        Understood(("building",), "either"),
        Understood(("road",), "appeared"),
        Understood(("building", "road"), "appeared"),
        Understood(("building",), "appeared", ("tree",)),
    ],
    ids=str,
)
def test_classes_direction_and_former_matter(table: WishTable, other: Understood) -> None:
    assert not same(table, HOUSES, other)


def test_what_came_is_not_what_went(table: WishTable) -> None:
    """Houses in the place of trees are not trees in the place of houses."""
    one = Understood(("building",), "appeared", ("tree",))
    assert not same(table, one, Understood(("tree",), "appeared", ("building",)))


@torch.no_grad()
def test_a_prompt_is_its_parts_and_what_two_layers_make_of_them(table: WishTable) -> None:
    (prompt,) = table([Understood(("road", "tree"), "appeared", ("water",))])
    names = ["any", "building", "road", "bare ground", "water", "low vegetation", "tree"]
    x = table.classes.weight[names.index("road")] + table.classes.weight[names.index("tree")]
    x = x + table.former.weight[names.index("water")] + table.directions.weight[0]
    torch.testing.assert_close(prompt, x + table.mlp(x))


def test_no_wish_has_no_prompt(table: WishTable) -> None:
    assert table([]).shape == (0, 16)


# --- the part -------------------------------------------------------------------------------


def test_names_and_shapes_are_those_of_the_whole(kit: SimpleNamespace, part: MaskPart) -> None:
    whole = {k: v.shape for k, v in kit.make().state_dict().items()}
    own = {k: v.shape for k, v in part.state_dict().items()}
    shared = {k: v for k, v in own.items() if not k.startswith("table.")}
    assert {k.partition(".")[0] for k in shared} == {"vision", "fusion", "decoder"}
    assert shared == {k: v for k, v in whole.items() if k.startswith(("vision.", "fusion.",
                                                                      "decoder."))}  # fmt: skip


@torch.no_grad()
def test_masks_are_those_of_the_whole_for_the_same_prompts(
    kit: SimpleNamespace, part: MaskPart
) -> None:
    model: ReasonCD = kit.make()
    for name in ("vision", "fusion", "decoder"):
        getattr(model, name).load_state_dict(getattr(part, name).state_dict())
    before, after = kit.pictures(2, (40, 64))
    rows, prompts = torch.tensor([1, 0, 1]), part.table(WISHES)
    masks = part.masks(part.see(before, after), rows, prompts)
    assert masks.shape == (3, 40, 64)
    features = model.see(before, after)
    fused = model.fusion(features.before, features.after)
    torch.testing.assert_close(masks, model.masks(fused[rows], prompts, features))
    torch.testing.assert_close(masks, part(before, after, rows, WISHES))


@torch.no_grad()
def test_each_wish_is_decoded_on_its_own_pair(kit: SimpleNamespace, part: MaskPart) -> None:
    before, after = kit.pictures(2)
    together = part(before, after, torch.tensor([0, 1, 0]), [HOUSES, HOUSES, WISHES[1]])
    for place, (pair, wish) in enumerate(((0, HOUSES), (1, HOUSES), (0, WISHES[1]))):
        alone = part(before[pair : pair + 1], after[pair : pair + 1], torch.tensor([0]), [wish])
        torch.testing.assert_close(together[place], alone[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1])
    assert not torch.allclose(together[0], together[2])


@torch.no_grad()
def test_the_order_of_the_dates_matters(kit: SimpleNamespace, part: MaskPart) -> None:
    before, after = kit.pictures()
    rows = torch.tensor([0])
    assert not torch.allclose(part(before, after, rows, [HOUSES]),
                              part(after, before, rows, [HOUSES]))  # fmt: skip


def test_pairs_of_which_nothing_is_asked_give_no_mask_and_no_error(
    kit: SimpleNamespace, part: MaskPart
) -> None:
    masks = part(*kit.pictures(1, (40, 64)), torch.zeros(0, dtype=torch.long), [])
    assert masks.shape == (0, 40, 64)
    masks.sum().backward()


@torch.no_grad()
def test_the_papers_eyes_fit_too(kit: SimpleNamespace) -> None:
    torch.manual_seed(0)
    config = replace(kit.tiny_clip_sam, fusion=replace(kit.tiny_clip_sam.fusion, kind="concat"))
    for each in (kit.tiny_clip_sam, config):
        part = MaskPart(each).eval()
        masks = part(*kit.pictures(2), torch.tensor([1]), [HOUSES])
        assert masks.shape == (1, 64, 64) and bool(torch.isfinite(masks).all())

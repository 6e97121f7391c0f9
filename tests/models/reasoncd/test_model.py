"""ReasonCD whole: eyes, language model, mask, asking, and which parts train."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from whatchanged.errors import UsageError
from whatchanged.models.reasoncd.loss import reasoncd_loss
from whatchanged.models.reasoncd.mask_decoder import restore_size
from whatchanged.models.reasoncd.model import ReasonCD
from whatchanged.models.reasoncd.outputs import EncodedPairs, ReasonCDOutput, WishAnswer
from whatchanged.models.reasoncd.prompt import IGNORED, TextSample
from whatchanged.models.reasoncd.sequence import AFTER, BEFORE
from whatchanged.models.reasoncd.vision import ClipSamVision, fit_square

ANSWER = "It's buildings that appeared: <CHG>."


def encode(model: ReasonCD, kit: SimpleNamespace, n: int = 1) -> EncodedPairs:
    with torch.no_grad():
        return model.encode(model.see(*kit.pictures(n)))


# --- eyes -----------------------------------------------------------------------------------


def test_pictures_fill_a_square() -> None:
    fitted, valid = fit_square(torch.ones(1, 3, 40, 80), 64)
    assert valid == (32, 64) and fitted.shape == (1, 3, 64, 64)
    torch.testing.assert_close(fitted[:, :, :32], torch.ones(1, 3, 32, 64))
    assert bool((fitted[:, :, 32:] == 0).all())
    same, _ = fit_square(torch.rand(1, 3, 64, 64), 64)
    assert same.shape == (1, 3, 64, 64)


def test_what_is_seen(each_model: ReasonCD, kit: SimpleNamespace) -> None:
    with torch.no_grad():
        seen = each_model.see(*kit.pictures(2, (40, 64)))
    vision = each_model.vision
    for date in (seen.before, seen.after):
        assert date.tokens.shape == (2, vision.n_tokens, vision.token_channels)
        assert date.deep.shape[:2] == (2, vision.deep_channels)
        assert tuple(x.shape[1] for x in date.levels) == vision.level_channels
    assert seen.size == seen.valid == (40, 64) and seen.square == 64


@torch.no_grad()
def test_clip_gives_its_penultimate_layer(kit: SimpleNamespace) -> None:
    vision = kit.make(kit.tiny_clip_sam).vision
    assert isinstance(vision, ClipSamVision)
    pictures = kit.pictures()[0]
    tokens = vision(pictures)[0].tokens
    layers = vision.clip.vision.vision_model if hasattr(vision.clip.vision, "vision_model") else (
        vision.clip.vision
    )  # fmt: skip
    for parameter in layers.encoder.layers[-1].parameters():
        parameter.add_(1.0)
    torch.testing.assert_close(vision(pictures)[0].tokens, tokens)  # the last layer has no say
    for parameter in layers.encoder.layers[-2].parameters():
        parameter.add_(0.1)
    assert not torch.allclose(vision(pictures)[0].tokens, tokens)


def test_padding_is_removed_from_masks() -> None:
    logits = torch.zeros(1, 8, 8)
    logits[:, :4] = 1.0  # the upper half of the square holds the picture
    restored = restore_size(logits, 32, (16, 32), (100, 200))
    assert restored.shape == (1, 100, 200) and float(restored[:, :80].min()) > 0.99
    assert restore_size(logits, 32, (32, 32), (32, 32)).shape == (1, 32, 32)


# --- a teacher-forced pass ------------------------------------------------------------------


def test_image_tokens_take_the_placeholders_places(model: ReasonCD, kit: SimpleNamespace) -> None:
    seen = model.see(*kit.pictures(2))
    batch = model.batch([[model.writer.sample(w, ANSWER)] for w in ("roads", "a longer wish")])
    embedded = model.embed(seen, batch)
    for kind, date in ((BEFORE, seen.before), (AFTER, seen.after)):
        for i in range(2):
            torch.testing.assert_close(
                embedded[i][batch.kind[i] == kind], model.project(date.tokens[i])
            )


def test_output_and_gradients(each_model: ReasonCD, kit: SimpleNamespace) -> None:
    model = each_model
    model.zero_grad()
    samples = [model.writer.sample("houses", ANSWER), model.writer.sample("a lake", "No lake.")]
    out = model(model.see(*kit.pictures(2)), model.batch([[s] for s in samples]))
    n = sum(label != IGNORED for s in samples for label in s.labels)
    assert out.text_logits.shape == (n, model.language.n_words) and out.text_labels.shape == (n,)
    assert out.mask_logits.shape == (1, 64, 64) and out.has_target.tolist() == [True, False]
    truth = torch.randint(0, 2, (2, 64, 64))
    reasoncd_loss(out, truth, model.writer.ids.target).total.backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    got = {n for n, p in model.named_parameters() if p.grad is not None}
    assert got == trained
    for part in ("lora_", "language.rows", "project", "fusion", "state_prompt", "mask_decoder"):
        assert any(part in name for name in trained), part
    frozen = (
        "vision.clip",
        "vision.sam",
        "vision.encoder",
        "no_mask",
        "shared_image",
        "base_layer",
    )
    assert not any(part in name for name in trained for part in frozen)
    assert any("vision.resnet" in n for n in trained) == isinstance(model.vision, ClipSamVision)


def test_a_step_leaves_frozen_rows_alone(kit: SimpleNamespace) -> None:
    model = kit.make().train()
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    rows = model.language.rows.clone()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)
    batch = model.batch([[model.writer.sample("houses", ANSWER)]] * 2)
    out = model(model.see(*kit.pictures(2)), batch)
    reasoncd_loss(out, torch.ones(2, 64, 64), model.writer.ids.target).total.backward()
    optimiser.step()
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name
    assert not torch.equal(model.language.rows, rows)
    table = model.language.base.get_input_embeddings().weight
    assert table.shape[0] == model.config.language.vocabulary and not table.requires_grad


def test_samples_of_a_batch_are_alone(model: ReasonCD, kit: SimpleNamespace) -> None:
    seen = model.see(*kit.pictures(2))
    samples = [model.writer.sample(w, ANSWER) for w in ("roads", "a much longer wish than that")]
    with torch.no_grad():
        both = model(seen, model.batch([[s] for s in samples]))
        for i in range(2):
            one = model(seen.take(slice(i, i + 1)), model.batch([samples[i : i + 1]]))
            torch.testing.assert_close(
                one.mask_logits[0], both.mask_logits[i], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("state", ["own", "predicting"])
def test_wishes_of_one_row_are_as_if_asked_alone(state: str, kit: SimpleNamespace) -> None:
    """Sharing the prompt saves time and changes nothing: not the words, masks or gradients."""
    model = kit.make(replace(kit.tiny, state=state))
    asked = [
        [("roads", ANSWER), ("a much longer wish than that", "No."), ("x", "<CHG> and <CHG>.")],
        [("houses", "It's <CHG>.")],
    ]
    groups = [[model.writer.sample(w, a) for w, a in pair] for pair in asked]
    seen = model.see(*kit.pictures(2))
    truth = torch.randint(0, 2, (4, 64, 64))

    def run(rows: list[int], samples: list[list[TextSample]]) -> tuple[ReasonCDOutput, Any]:
        model.zero_grad()
        out = model(seen.take(torch.tensor(rows)), model.batch(samples))
        reasoncd_loss(out, truth, model.writer.ids.target).total.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return out, grads

    together, shared = run([0, 1], groups)
    alone, single = run([0, 0, 0, 1], [[s] for group in groups for s in group])
    assert together.has_target.tolist() == alone.has_target.tolist() == [True, False, True, True]
    assert together.owners.tolist() == [0, 2, 2, 3]
    assert torch.equal(together.text_labels, alone.text_labels)
    for name in ("text_logits", "mask_logits", "prompts"):
        torch.testing.assert_close(
            getattr(together, name), getattr(alone, name), rtol=1e-3, atol=1e-4
        )
    for name, grad in single.items():
        if not name.startswith(("fusion", "vision")):  # BatchNorm sees other pairs
            torch.testing.assert_close(shared[name], grad, rtol=1e-2, atol=1e-4, msg=name)


@torch.no_grad()
def test_prompts_alone_cost_no_mask(model: ReasonCD, kit: SimpleNamespace) -> None:
    seen = model.see(*kit.pictures())
    batch = model.batch([[model.writer.sample("roads", ANSWER)]])
    whole, prompts = model(seen, batch), model(seen, batch, decode=False)
    torch.testing.assert_close(whole.prompts, prompts.prompts)
    assert prompts.mask_logits.shape == (0, 64, 64) and prompts.has_target.tolist() == [True]


@torch.no_grad()
def test_several_tokens_are_united(model: ReasonCD, kit: SimpleNamespace) -> None:
    seen = model.see(*kit.pictures())
    two = model(seen, model.batch([[model.writer.sample("x", "It's <CHG> and <CHG>.")]]))
    first = model(seen, model.batch([[model.writer.sample("x", "It's <CHG>")]]))
    assert two.mask_logits.shape == (1, 64, 64)
    assert bool((two.mask_logits >= first.mask_logits - 1e-4).all())


# --- switches -------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("switch", ["state", "fusion", "rank", "alpha", "wish", "order"])
def test_every_switch_changes_the_mask(switch: str, kit: SimpleNamespace) -> None:
    def mask(model: ReasonCD, wish: str = "roads", *, swap: bool = False) -> torch.Tensor:
        dates = kit.pictures()
        seen = model.see(dates[1], dates[0]) if swap else model.see(dates[0], dates[1])
        out: torch.Tensor = model(
            seen, model.batch([[model.writer.sample(wish, ANSWER)]])
        ).mask_logits
        return out

    tiny, language = kit.tiny, kit.tiny.language
    plain = mask(kit.make())
    other = {
        "state": lambda: mask(kit.make(replace(tiny, state="predicting"))),
        "fusion": lambda: mask(kit.make(replace(tiny, fusion=replace(tiny.fusion, kind="concat")))),
        "rank": lambda: mask(kit.make(replace(tiny, language=replace(language, lora_rank=4)))),
        "alpha": lambda: mask(kit.make(replace(tiny, language=replace(language, lora_alpha=64.0)))),
        "wish": lambda: mask(kit.make(), "trees"),
        "order": lambda: mask(kit.make(), swap=True),
    }[switch]()
    assert not torch.allclose(plain, other, atol=1e-6)


@torch.no_grad()
def test_merging_changes_no_answer(kit: SimpleNamespace) -> None:
    model = kit.make()
    before = model.ask(encode(model, kit), ["roads"], force_target=True)[0]
    model.merge()
    model.merge()
    assert model.language.merged and not any("lora_" in n for n, _ in model.named_parameters())
    after = model.ask(encode(model, kit), ["roads"], force_target=True)[0]
    assert after.answer == before.answer
    torch.testing.assert_close(after.probability, before.probability, rtol=1e-3, atol=1e-4)


# --- asking ---------------------------------------------------------------------------------


def script(
    model: ReasonCD, monkeypatch: pytest.MonkeyPatch, answers: list[str]
) -> list[torch.Tensor]:
    """Let the model say given answers, whatever it reads; its states stay its own.

    Returns:
        Token ids of every pass, [n, T]: the list grows.
    """
    said = [list(model.writer.answer(answer)) for answer in answers]
    place = [0] * len(said)
    read: list[torch.Tensor] = []
    embed = model.language.embed

    def reading(ids: torch.Tensor) -> torch.Tensor:
        read.append(ids)
        return embed(ids)

    def logits(states: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(*states.shape[:-1], model.language.n_words)
        for row, ids in enumerate(said):
            if states.ndim == 2:  # after the wish
                out[row, ids[0]] = 1.0
                continue
            rest = [*ids[place[row] :], *[ids[-1]] * (states.shape[1] + 1)]
            for column, token in enumerate(rest[1 : states.shape[1] + 1]):
                out[row, column, token] = 1.0
            same = read[-1][row] == torch.tensor(rest[: states.shape[1]])
            place[row] += int(same.long().cumprod(0).sum())
        return out

    monkeypatch.setattr(model.language, "embed", reading)
    monkeypatch.setattr(model.language, "logits", logits)
    return read


def ask(
    model: ReasonCD, kit: SimpleNamespace, wishes: list[str], *, force: bool = False
) -> list[WishAnswer]:
    return model.ask(encode(model, kit), wishes, force_target=force, max_tokens=400)


@pytest.mark.parametrize("state", ["own", "predicting"])
def test_answers_point_as_in_training(
    state: str, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cached prefix, padding between prefix and wish, and batch give the teacher-forced mask."""
    prompt = replace(kit.prompt, max_answer_tokens=64)
    model = kit.make(replace(kit.tiny, state=state, prompt=prompt))
    wishes = ["roads", "new houses along the river"]
    answers = ["It's <CHG>.", "It's roads that appeared: <CHG> and <CHG>."]
    seen = model.see(*kit.pictures())
    with torch.no_grad():
        forced = [
            model(seen, model.batch([[model.writer.sample(w, a)]])).mask_logits[0].sigmoid()
            for w, a in zip(wishes, answers, strict=True)
        ]
    script(model, monkeypatch, answers)
    results = ask(model, kit, wishes)
    for result, answer, expected in zip(results, answers, forced, strict=True):
        assert result.answer == answer and result.found and result.complete
        torch.testing.assert_close(result.probability, expected, rtol=1e-3, atol=1e-5)
    assert [len(r.masks) for r in results] == [1, 2]
    torch.testing.assert_close(results[1].masks.amax(0), results[1].probability)
    assert torch.equal(results[1].mask, (results[1].masks > 0.5).any(0))
    fields = results[1].fields()
    assert fields["target"] == ["road"] and fields["direction"] == "appeared"


@pytest.mark.parametrize("state", ["own", "predicting"])
def test_reading_ahead_changes_no_answer(
    state: str, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = kit.make(
        replace(kit.tiny, state=state, prompt=replace(kit.prompt, max_answer_tokens=64))
    )
    wishes = ["roads", "new houses along the river", "lakes", "x"]
    answers = [
        "It's roads that appeared: <CHG>.",
        "There are no buildings that changed between these images.",
        "It's water and trees that disappeared: <CHG>, <CHG>.",
        "",
    ]
    usual, found = model.usual, []
    for ahead in ((), usual):
        model.usual = ahead
        with monkeypatch.context() as patch:
            passes = script(model, patch, answers)
            found.append((ask(model, kit, wishes), len(passes)))
    (plain, n_plain), (quick, n_quick) = found
    assert [r.answer for r in plain] == [r.answer for r in quick] == answers
    for one, two in zip(plain, quick, strict=True):
        assert one.complete and two.complete and one.found == two.found
        assert len(one.masks) == len(two.masks)
        torch.testing.assert_close(one.probability, two.probability, rtol=1e-3, atol=1e-5)
    assert n_plain > 30 and n_quick < n_plain / 2


def test_no_target_token(
    model: ReasonCD, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(model, monkeypatch, ["no houses"])
    (result,) = ask(model, kit, ["houses"])
    assert not result.found and result.answer == "no houses" and result.confidence == 0
    assert result.masks.shape == (0, 64, 64)
    assert float(result.probability.abs().max()) == 0 and not bool(result.mask.any())


@pytest.mark.parametrize("state", ["own", "predicting"])
def test_force_target(state: str, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    model = kit.make(replace(kit.tiny, state=state))
    answers = ["no", "<CHG> no"]
    with torch.no_grad():
        sample = model.writer.sample("houses", "no <CHG>")
        expected = model(model.see(*kit.pictures()), model.batch([[sample]])).mask_logits[0]
    script(model, monkeypatch, answers)
    lacking, has = ask(model, kit, ["houses", "roads by the sea"], force=True)
    assert lacking.forced and not lacking.found and lacking.answer == "no <CHG>"
    torch.testing.assert_close(lacking.probability, expected.sigmoid(), rtol=1e-3, atol=1e-5)
    assert has.found and not has.forced and len(has.masks) == 1


def test_answers_end_at_the_limit(
    model: ReasonCD, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(model, monkeypatch, ["houses and roads that appeared and roads that disappeared"])
    result = model.ask(encode(model, kit), ["x"], max_tokens=3)[0]
    assert not result.complete and not result.found


def test_never_said(model: ReasonCD, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def logits(states: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(*states.shape[:-1], model.language.n_words)
        out[..., list(model.writer.ids.never_said)] = 9.0
        out[..., model.writer.ids.answer_end] = 1.0
        return out

    monkeypatch.setattr(model.language, "logits", logits)
    assert ask(model, kit, ["x"])[0].answer == ""


def test_wishes_together_and_alone(each_model: ReasonCD, kit: SimpleNamespace) -> None:
    model = each_model
    wishes, which = ["roads", "new houses near the lake", "trees?"], [1, 0, 1]
    pairs = encode(model, kit, 2)
    together = model.ask(pairs, wishes, which, force_target=True)
    for wish, row, result in zip(wishes, which, together, strict=True):
        alone = model.ask(pairs, [wish], [row], force_target=True)[0]
        assert alone.answer == result.answer
        torch.testing.assert_close(alone.probability, result.probability, rtol=1e-3, atol=1e-5)


def test_a_pair_is_seen_once(kit: SimpleNamespace) -> None:
    model, calls, lengths = kit.make(), [], []
    model.vision.register_forward_hook(lambda *_: calls.append("eyes"))
    model.fusion.register_forward_hook(lambda *_: calls.append("fusion"))
    pairs = encode(model, kit)
    assert calls == ["eyes", "fusion"]
    keys = [keys.clone() for keys, _ in pairs.prefix]
    states = model.language.states
    model.language.states = lambda x, *a: lengths.append(x.shape[1]) or states(x, *a)  # type: ignore[method-assign]
    first = model.ask(pairs, ["roads"], force_target=True)[0]
    model.ask(pairs, ["trees", "houses"])
    again = model.ask(pairs, ["roads"], force_target=True)[0]
    assert calls == ["eyes", "fusion"] and torch.equal(first.probability, again.probability)
    assert max(lengths) < len(model.writer.prefix) + 2 * model.vision.n_tokens
    assert all(torch.equal(a, b) for a, (b, _) in zip(keys, pairs.prefix, strict=True))


def test_wrong_questions(model: ReasonCD, kit: SimpleNamespace) -> None:
    pairs = encode(model, kit, 2)
    assert model.ask(pairs, []) == []
    for wishes, which in ((["x"], None), (["x"], [2]), (["x"], [-1]), (["x", "y"], [0])):
        with pytest.raises(UsageError, match="pairs"):
            model.ask(pairs, wishes, which)
    with pytest.raises(UsageError, match="empty"):
        model.ask(pairs, [" "], [0])


def test_a_sequence_that_is_too_long(kit: SimpleNamespace) -> None:
    model = kit.make(replace(kit.tiny, prompt=replace(kit.prompt, max_length=40)))
    with pytest.raises(UsageError, match="the limit is 40"):
        model.batch([[TextSample(model.writer.prefix, model.writer.prefix)]])

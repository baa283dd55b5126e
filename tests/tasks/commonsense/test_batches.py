"""Questions as tokens, batches and loss: cutoff, padding, packing, and what a step's loss is."""

import copy
import itertools

import pytest
import torch
from support.language import load, some_rows, tiny_llama

from nora_studio.tasks.commonsense.batches import QuestionBatches
from nora_studio.tasks.commonsense.examples import IGNORED, Example, collate, encode, fill, pack
from nora_studio.tasks.commonsense.prompts import training_prompt
from nora_studio.tasks.commonsense.step import AnswerStep, next_token_loss


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """Model and tokenizer."""
    return load(tiny_llama(tmp_path_factory.mktemp("llama")))


def examples_of(tokenizer, count: int, train_on_inputs: bool = True) -> list[Example]:
    return [encode(row, tokenizer, 256, train_on_inputs) for row in some_rows(count)]


def test_a_question_ends_with_the_end_token_if_it_fits(language):
    _, tokenizer = language
    row = some_rows(1)[0]
    plain = tokenizer(training_prompt(row)).input_ids
    assert plain[0] == tokenizer.bos_token_id
    whole = encode(row, tokenizer, len(plain) + 1, True)
    assert list(whole.ids) == [*plain, tokenizer.eos_token_id]
    full = encode(row, tokenizer, len(plain), True)
    assert list(full.ids) == plain
    assert list(encode(row, tokenizer, 20, True).ids) == plain[:20]


def test_without_inputs_the_answer_alone_is_learned(language):
    _, tokenizer = language
    row = some_rows(1)[0]
    batch = collate([encode(row, tokenizer, 256, False)], tokenizer.pad_token_id)
    learned = batch["labels"][0][batch["labels"][0] != IGNORED].tolist()
    assert tokenizer.decode(learned) == row["output"] + tokenizer.eos_token
    whole = collate([encode(row, tokenizer, 256, True)], tokenizer.pad_token_id)
    assert (whole["labels"] != IGNORED).sum() == whole["attention_mask"].sum() - 1


def test_batches_are_padded_on_the_left_to_a_multiple_of_eight(language):
    _, tokenizer = language
    examples = examples_of(tokenizer, 8)
    batch = collate(examples, tokenizer.pad_token_id)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert ids.shape[1] % 8 == 0 and ids.shape[1] - max(len(e.ids) for e in examples) < 8
    for row, example in enumerate(examples):
        assert mask[row].sum() == len(example.ids)
        assert ids[row, -len(example.ids) :].tolist() == list(example.ids)
        assert (ids[row, : -len(example.ids)] == tokenizer.pad_token_id).all()
        assert batch["position_ids"][row, -1] == len(example.ids) - 1


@pytest.mark.parametrize("train_on_inputs", [True, False])
def test_the_loss_is_transformers_own(language, train_on_inputs):
    model, tokenizer = language
    examples = examples_of(tokenizer, 6, train_on_inputs)
    if train_on_inputs:  # One row without padding among padded ones.
        examples = [Example(example.ids[: 16 - n], 0) for n, example in enumerate(examples)]
    batch = collate(examples, tokenizer.pad_token_id)
    with torch.no_grad():
        own = AnswerStep(model)(**batch)
        given = {name: t for name, t in batch.items() if name != "share"}
        theirs = model(**given).loss
    assert torch.allclose(own, theirs, rtol=1e-5)


def test_the_loss_is_the_formula_in_float64():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 11)
    labels = torch.tensor([[1, 2, 3, 4, 5], [-100, -100, 6, 7, 8], [-100, -100, -100, -100, 9]])
    learned = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 4)]
    log = logits.double().log_softmax(-1)
    each = [log[row, place - 1, labels[row, place]] for row, place in learned]
    wanted = -torch.stack(each).sum() / len(learned)
    share = torch.full((3,), 3 / len(learned))
    assert torch.isclose(next_token_loss(logits, labels, share).double(), wanted, rtol=1e-6)


def test_pieces_add_up_to_the_whole_batchs_mean_over_tokens(language):
    """Rows of very different lengths: a mean of the pieces' own means would be another."""
    model, tokenizer = language
    step = AnswerStep(copy.deepcopy(model).requires_grad_(True))
    examples = [
        Example(tuple(example.ids[: 12 + 20 * n]), 0)
        for n, example in enumerate(examples_of(tokenizer, 4))
    ]
    batch = collate(examples, tokenizer.pad_token_id)
    whole = step(**batch)
    whole.backward()
    expected = [p.grad.clone() for p in step.parameters() if p.grad is not None]
    step.zero_grad()
    pieces = [{name: t.chunk(2)[n] for name, t in batch.items()} for n in range(2)]
    losses = [step(**piece) / 2 for piece in pieces]
    torch.stack(losses).sum().backward()
    assert torch.allclose(torch.stack(losses).sum(), whole, rtol=1e-5)
    naive = [step(**{**piece, "share": collate_share(piece)}) for piece in pieces]
    assert abs(sum(naive) / 2 - whole) > 1e-3, "the test could not tell"
    found = [p.grad for p in step.parameters() if p.grad is not None]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6)


def collate_share(piece: dict[str, torch.Tensor]) -> torch.Tensor:
    learned = (piece["labels"][:, 1:] != IGNORED).sum()
    return torch.full((len(piece["labels"]),), len(piece["labels"]) / float(learned))


def test_packed_questions_see_themselves_alone(language):
    model, tokenizer = language
    examples = examples_of(tokenizer, 5)
    longest = max(len(example.ids) for example in examples)
    cutoff = 2 * longest + 5
    rows = len(fill([len(e.ids) for e in examples], cutoff))
    assert rows < 5
    packed = pack(examples, rows, cutoff, tokenizer.pad_token_id)
    assert "attention_mask" not in packed
    padded = collate(examples, tokenizer.pad_token_id)
    step = AnswerStep(model)
    with torch.no_grad():
        assert torch.allclose(step(**packed), step(**padded), rtol=1e-4)
        given = {name: packed[name] for name in ("input_ids", "position_ids")}
        logits = model(**given, use_cache=False).logits
        second = examples[1]
        begin = len(examples[0].ids)
        alone = model(torch.tensor([second.ids])).logits[0]
    assert torch.allclose(logits[0, begin : begin + len(second.ids)], alone, atol=1e-3)


def test_a_packed_batch_holds_whole_questions_once_each(language):
    _, tokenizer = language
    examples = examples_of(tokenizer, 12)
    batches = QuestionBatches(examples, 2, tokenizer.pad_token_id, seed=0, packed=256)
    seen = []
    while len(seen) < 12:
        batch = batches.next()
        assert batch["input_ids"].shape == (2, 256)
        for ids, positions in zip(batch["input_ids"], batch["position_ids"], strict=True):
            starts = [*positions.eq(0).nonzero().flatten().tolist(), 256]
            texts = [tuple(ids[a:b].tolist()) for a, b in itertools.pairwise(starts)]
            seen += [text for text in texts if text[0] == tokenizer.bos_token_id]
    assert sorted(seen[:12]) == sorted(example.ids for example in examples)


@pytest.mark.parametrize("options", [{}, {"group_by_length": True}, {"packed": 256}])
def test_draws_go_on_exactly_where_they_stopped(language, options):
    _, tokenizer = language
    examples = examples_of(tokenizer, 20)

    def fresh(seed: int = 1) -> QuestionBatches:
        return QuestionBatches(examples, 4, tokenizer.pad_token_id, seed, **options)

    one, other = fresh(), fresh(seed=9)
    for _ in range(3):
        one.next()
    other.restore(one.state())
    for _ in range(6):
        batch, again = one.next(), other.next()
        assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_batches_by_length_are_of_like_length_and_lose_no_question(language):
    _, tokenizer = language
    ids = examples_of(tokenizer, 1)[0].ids * 3
    lengths = torch.randperm(100, generator=torch.Generator().manual_seed(0)).tolist()
    examples = [Example(tuple(ids[: n + 3]), 0) for n in lengths]
    batches = QuestionBatches(examples, 4, tokenizer.pad_token_id, seed=0, group_by_length=True)
    spread, seen = [], []
    for _ in range(25):
        found = batches.next()["attention_mask"].sum(dim=1)
        spread.append(int(found.max() - found.min()))
        seen += found.tolist()
    assert max(spread) <= 3 and sorted(seen) == sorted(len(e.ids) for e in examples)
    assert seen != sorted(seen) and seen != sorted(seen, reverse=True)

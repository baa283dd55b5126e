"""Pretraining of the miniature LLaMA: what must hold for any training time."""

import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.language import load, some_rows
from support.places import TOP

from nora_studio.mini.pretrain.language_card import LOG, export_model, write_language_card
from nora_studio.mini.pretrain.language_model import ROW, Corpus, Quizzes, Training, build_model
from nora_studio.mini.pretrain.language_settings import LanguageSettings
from nora_studio.mini.pretrain.language_text import build_tokenizer, encode_chunk, encode_corpus
from nora_studio.tasks.commonsense.prompts import evaluation_prompt, training_prompt

SCRIPT = TOP / "training" / "pretrain_mini_llama.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the tokenizer is."""
    return tmp_path_factory.mktemp("words")


@pytest.fixture(scope="module")
def tokenizer(folder):
    prompts = [training_prompt(row) for row in some_rows(40)]
    return build_tokenizer(folder, prompts, 4096, 3000)


def test_questions_take_fewer_tokens_than_the_cutoff(tokenizer):
    lengths = [len(tokenizer(training_prompt(row)).input_ids) for row in some_rows(64)]
    assert max(lengths) < 160


def test_any_text_is_decoded_unchanged_and_begins_with_the_start_token(tokenizer):
    for text in ("Łódź 1999 — «ja»!", "a\n\n    b", "answer1/answer2", "  two  blanks "):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_an_answer_is_read_the_same_after_its_prompt_and_with_it(tokenizer):
    """So that what is learned is what is asked for."""
    for row in some_rows(16):
        prompt = evaluation_prompt(row)
        whole = tokenizer(prompt + row["output"]).input_ids
        begun = tokenizer(prompt).input_ids
        assert whole[: len(begun)] == begun
        words = [tokenizer.decode([token]) for token in whole[len(begun) :]]
        assert words[:3] == ["the", " correct", " answer"]


def test_digits_are_single_tokens(tokenizer):
    for text in ("answer3", "solution12", "ending4"):
        pieces = tokenizer.tokenize(text)
        assert [piece for piece in pieces if piece.isdigit()] == [c for c in text if c.isdigit()]


def test_texts_are_the_same_in_one_process_and_in_several(folder, tokenizer):
    file = str(folder / "tokenizer.json")
    whole = encode_corpus(50, 3, folder)
    assert np.array_equal(whole, encode_chunk(3 * 100_003, 50, file))
    assert list(whole[-1:]) == [tokenizer.eos_token_id]


def test_batches_begin_with_a_text_and_depend_on_seed_and_step_alone(folder, tokenizer):
    ids = encode_corpus(200, 0, folder)
    corpus = Corpus.from_ids(ids, tokenizer.bos_token_id, "cpu")
    batch = corpus.batch(4, step=7, seed=0)
    assert batch.shape == (4, ROW) and (batch[:, 0] == tokenizer.bos_token_id).all()
    assert torch.equal(batch, corpus.batch(4, step=7, seed=0))
    assert not torch.equal(batch, corpus.batch(4, step=8, seed=0))


def test_the_model_of_full_size_fits_into_sixteen_mebibytes(tmp_path, tokenizer):
    settings = LanguageSettings()
    tokens = max(settings.vocabulary, len(tokenizer))
    model = build_model(settings, tokenizer)
    parameters = sum(weight.numel() for weight in model.parameters())
    parameters += (tokens - len(tokenizer)) * settings.width
    assert parameters > 6e6 and 2 * parameters < 16 * 2**20
    small = build_model(LanguageSettings(width=64, layers=1), tokenizer)
    export_model(tmp_path, small)
    tokenizer.save_pretrained(tmp_path)
    loaded, words = load(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert words.pad_token_id == 0 and words.padding_side == "left"
    assert loaded.config.eos_token_id == words.eos_token_id
    ids = torch.tensor([words("A hammer is made of").input_ids])
    with torch.no_grad():
        apart = (loaded(ids).logits - small(ids).logits).abs().max()
    assert apart < 1e-2


def test_quizzes_count_the_replies_that_are_likeliest(tokenizer):
    model = build_model(LanguageSettings(width=64, layers=1), tokenizer)
    quizzes = Quizzes.build(("quiz",), tokenizer, "cpu", 20)
    with torch.no_grad():
        logits = model(quizzes.rows).logits
    guesses = [int(logits[n, end].argmax()) for n, end in enumerate(quizzes.ends)]
    told = Quizzes(quizzes.rows, quizzes.ends, torch.tensor(guesses))
    assert told.accuracy(model) == 1.0
    told.replies[:5] += 1
    assert told.accuracy(model) == 0.75


def test_a_saved_state_restores_everything(tmp_path, tokenizer):
    settings = LanguageSettings(width=64, layers=1)

    def trained(steps: int, training: Training) -> list[torch.Tensor]:
        for _ in range(steps):
            draw = torch.Generator().manual_seed(training.step)
            rows = torch.randint(len(tokenizer), (2, 12), generator=draw)
            training.model(input_ids=rows, labels=rows).loss.backward()
            training.optimizer.step()
            training.optimizer.zero_grad()
            training.step += 1
        return [weight.detach().clone() for weight in training.model.parameters()]

    one = Training.begin(build_model(settings, tokenizer), 1e-3)
    trained(3, one)
    one.save(tmp_path)
    wanted = trained(2, one)
    other = Training.begin(build_model(LanguageSettings(width=64, layers=1, seed=5), tokenizer), 1)
    other.restore(tmp_path)
    other.optimizer.param_groups[0]["lr"] = 1e-3
    assert other.step == 3
    assert all(torch.equal(a, b) for a, b in zip(trained(2, other), wanted, strict=True))


def run_script(*arguments: str) -> int:
    before, handlers = sys.argv, {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    sys.argv = [str(SCRIPT), *arguments]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    finally:
        sys.argv = before
        for number, handler in handlers.items():
            signal.signal(number, handler)
    raise AssertionError("no exit status")


@pytest.mark.slow
def test_the_script_writes_what_transformers_loads_and_resumes_after_a_stop(tmp_path, capsys):
    plain = ["--out", str(tmp_path), "--report", str(tmp_path / "state"), "--device", "cpu"]
    plain += ["--documents", "100", "--batch", "2", "--width", "64", "--layers", "1"]
    plain += ["--vocabulary", "500", "--save-every", "0", "--no-compile"]
    assert run_script(*plain, "--resume") == 2
    assert "has no state.safetensors" in capsys.readouterr().err
    assert run_script(*plain, "--seconds", "0.3") == 0
    model, words = load(tmp_path / "mini-llama")
    assert len(words) == model.config.vocab_size
    assert run_script(*plain, "--seconds", "0.6", "--resume") == 0
    assert "continuing after step" in capsys.readouterr().out
    card = (tmp_path / "mini-llama" / "README.md").read_text(encoding="utf-8")
    assert f"{model.num_parameters():,} parameters" in card
    log = (tmp_path / "mini-llama" / LOG).read_text(encoding="utf-8")
    write_language_card(tmp_path / "mini-llama")
    assert (tmp_path / "mini-llama" / "README.md").read_text(encoding="utf-8") == card
    assert str(tmp_path) not in log + card


@pytest.mark.parametrize(
    ("more", "said"),
    [(("--width", "100"), "--width: expected a multiple of 64"), (("--device", "cuda"), "a GPU")],
)
def test_bad_input_is_refused_before_training(tmp_path, capsys, more, said):
    if more[1] == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    plain = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    assert run_script(*plain, *more) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()

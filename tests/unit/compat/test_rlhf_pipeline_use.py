"""What comes out of the pipeline API, against transformers, sacrebleu and rouge-score: evaluation and export."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import sacrebleu
import torch
import transformers
from rlhf_world import BOS, EOS, NAMES, SEP, Recurrent, short_pipeline, write_lines
from rouge_score.rouge_scorer import RougeScorer
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.compat.rlhf_pipeline import RLHFPipeline
from thumbs.compat.rlhf_pipeline.pt_files import export_pt
from thumbs.data.tokenizers import ByteTokenizer, load_tokenizer
from thumbs.errors import ConfigError, DataError, RunError
from thumbs.evaluation.text import bleu, rouge
from thumbs.records import Example

TEXT = "a much longer greeting that no model of bytes can know"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RLHFPipeline:
    """SFT and reward model, and two rounds of PPO."""
    pipeline = short_pipeline(tmp_path_factory.mktemp("run"), sft_epochs=12, ppo_iterations=2)
    pipeline.run_full_pipeline("byte-tiny")
    return pipeline


@pytest.fixture(scope="module")
def sft(run: RLHFPipeline) -> Path:
    return run.save_dir / "sft/best_model.pt"


@pytest.fixture(scope="module")
def exported(sft: Path, tmp_path_factory: pytest.TempPathFactory) -> transformers.PreTrainedModel:
    """The SFT model as transformers loads it."""
    out = export_pt(sft, tmp_path_factory.mktemp("export") / "out")
    return transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()


def talk(asked: str, said: str) -> dict[str, str]:
    return {"prompt": asked, "response": said}


def slow_logprobs(model: transformers.PreTrainedModel, asked: str, said: str) -> list[float]:
    """Logprob of each byte of the reply and of its end, one place after the other."""
    prompt = [BOS, *asked.encode(), SEP]
    reply = [*said.encode(), EOS]
    found = []
    for place, token in enumerate(reply):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + reply[:place]])).logits[0, -1].double()
        found.append(float(logits[token] - logits.logsumexp(0)))
    return found


def slow_greedy(model: transformers.PreTrainedModel, asked: str, most: int) -> str:
    tokens = [BOS, *asked.encode(), SEP]
    start = len(tokens)
    for _ in range(most):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == EOS:
            break
    return ByteTokenizer().decode(tokens[start:]).strip()


def test_an_evaluation_is_that_of_a_slow_loop_and_of_the_reference_libraries(run, sft, exported, tmp_path):
    talks = [(f"hi {name}", f"hello {name}") for name in NAMES[:3]] + [("hi Zoe", "hello to you")]
    path = write_lines(tmp_path / "test.jsonl", [talk(*pair) for pair in talks])
    found = run.evaluate_model(sft, path)
    logprobs = [value for pair in talks for value in slow_logprobs(exported, *pair)]
    assert found["perplexity"] == pytest.approx(math.exp(-sum(logprobs) / len(logprobs)), rel=1e-4)
    assert found["loss"] == pytest.approx(-sum(logprobs) / len(logprobs), rel=1e-4)
    assert (found["tokens"], found["conversations"]) == (len(logprobs), 4)
    replies = [slow_greedy(exported, asked, len("hello to you") + 1) for asked, _ in talks]
    references = [said for _, said in talks]
    assert found["bleu_score"] == pytest.approx(sacrebleu.corpus_bleu(replies, [references]).score)
    scorer = RougeScorer(["rougeL"])
    each = [
        scorer.score(reference, reply)["rougeL"].fmeasure for reference, reply in zip(references, replies, strict=True)
    ]
    assert found["rouge_score"] == pytest.approx(sum(each) / len(each))
    assert found["rouge_score"] > 0  # the model has learned to say hello


def test_the_trained_model_is_better_than_the_one_it_comes_from(run, sft, tmp_path):
    path = write_lines(tmp_path / "test.jsonl", [talk(f"hi {name}", f"hello {name}") for name in NAMES])
    trained, base = run.evaluate_model(sft, path), run.evaluate_model("byte-tiny", path)
    assert trained["perplexity"] < 0.2 * base["perplexity"]
    assert base["perplexity"] == pytest.approx(260, rel=0.1)  # untrained: every symbol is as likely


def test_of_several_turns_all_count_and_the_last_one_is_compared(run, sft, exported, tmp_path):
    turns = ["hi Ana", "hello", "hi", "hello"]
    found = run.evaluate_model(sft, write_lines(tmp_path / "test.jsonl", [{"messages": turns}]))
    prompt = [BOS, *b"hi Ana", SEP, *b"hello", EOS, BOS, *b"hi", SEP, *b"hello", EOS]
    with torch.no_grad():
        logprobs = exported(torch.tensor([prompt])).logits[0, :-1].log_softmax(-1)
    own = [*range(7, 13), *range(17, 23)]
    expected = -sum(float(logprobs[place, prompt[place + 1]]) for place in own) / len(own)
    assert found["loss"] == pytest.approx(expected, rel=1e-4)


def test_test_data_that_does_not_fit_is_refused(run, sft, tmp_path):
    with pytest.raises(DataError, match="0 usable rows"):
        run.evaluate_model(sft, write_lines(tmp_path / "test.jsonl", [talk("hi", TEXT)]))


def test_texts_are_compared_as_the_reference_libraries_do():
    texts, references = ["the cat sat on a mat", "good day"], ["the cat sat on the mat", "good morning to you"]
    assert bleu(texts, references) == sacrebleu.corpus_bleu(texts, [references]).score
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    each = [scorer.score(reference, text) for text, reference in zip(texts, references, strict=True)]
    assert rouge(texts, references) == {n: sum(s[n].fmeasure for s in each) / 2 for n in ("rouge1", "rouge2", "rougeL")}
    assert bleu(references, references) == pytest.approx(100.0)


def test_scripts_without_spaces_go_by_characters():
    assert rouge(["你好吗"], ["你好"])["rouge1"] == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))
    assert rouge(["再见"], ["你好"])["rouge1"] == 0.0
    assert bleu(["今天天气很好"], ["今天天气很好"]) == pytest.approx(100.0)


@pytest.mark.parametrize("name", ["sft/best_model.pt", "ppo/iteration_000002.pt", "ppo/final_model.pt"])
def test_an_exported_policy_computes_the_same_in_transformers(run: RLHFPipeline, name: str, tmp_path: Path):
    done = CliRunner().invoke(app, ["export", str(run.save_dir / name), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    policy = run._open_policy(run._source_of(run.save_dir / name))
    tokens = [BOS, *b"hi Ana", SEP, *b"hello", EOS]
    datum = Example.next_token(tokens, weights=[1.0] * (len(tokens) - 1))
    with torch.no_grad():
        logprobs = model(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
    theirs = logprobs.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    ours = torch.from_numpy(policy.engine.forward(policy.handle, [datum])[0].logprobs)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert isinstance(load_tokenizer(tmp_path / "out"), ByteTokenizer)
    assert (model.config.eos_token_id, model.config.pad_token_id) == (EOS, 256)


def test_an_exported_reward_model_scores_the_same_in_transformers(run: RLHFPipeline, tmp_path: Path):
    path = run.save_dir / "reward_model/best_model.pt"
    out = export_pt(path, tmp_path / "out")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
    held = torch.load(path, weights_only=True)
    trunk = transformers.AutoModel.from_pretrained(out, dtype=torch.float32).eval()
    rows = [[BOS, *b"hi Ana", SEP, *said, EOS] for said in (b"hello Ana", b"go Ana")]
    scores = []
    for row in rows:
        with torch.no_grad():
            hidden = trunk(torch.tensor([row])).last_hidden_state[0, -1]
            ours = (
                hidden @ held["model_state_dict"]["scalar_head.weight"] + held["model_state_dict"]["scalar_head.bias"]
            )
            scores.append(float(model(torch.tensor([row])).logits[0, 0]) + model.config.score_bias)
        assert scores[-1] == pytest.approx(float(ours), abs=1e-5)
    assert scores[0] > scores[1]
    assert model.config.score_mean == held["config"]["score"]["mean"]


def test_the_score_that_ppo_sees_has_mean_0_and_deviation_1_on_the_training_replies(run: RLHFPipeline, tmp_path: Path):
    path = run.save_dir / "reward_model/best_model.pt"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        export_pt(path, tmp_path / "out"), dtype=torch.float32
    ).eval()
    held = torch.load(path, weights_only=True)["config"]["score"]
    scores = []
    for name in NAMES:
        for said in (f"hello {name}", f"go {name}"):
            row = torch.tensor([[BOS, *f"hi {name}".encode(), SEP, *said.encode(), EOS]])
            with torch.no_grad():
                scores.append(float(model(row).logits[0, 0]) + model.config.score_bias)
    assert held["mean"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)
    assert held["std"] == pytest.approx(float(torch.tensor(scores).std(correction=0)), abs=1e-4)


def test_other_architectures_are_exported_and_read_again(tmp_path: Path):
    config = transformers.GPT2Config(vocab_size=260, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    pipeline = short_pipeline(tmp_path, sft_epochs=1, reward_epochs=1, ppo_iterations=1)
    final = pipeline.run_full_pipeline(lambda: transformers.GPT2LMHeadModel(config))
    export_pt(Path(final), tmp_path / "policy")
    again = short_pipeline(tmp_path, tokenizer_path=None, save_dir=str(tmp_path / "again"))
    again.load_base_model(tmp_path / "policy")
    assert again.generate_sample("hi Ana") == pipeline.generate_sample("hi Ana")
    out = export_pt(pipeline.save_dir / "reward_model/best_model.pt", tmp_path / "reward_model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out)
    assert type(model).__name__ == "GPT2ForSequenceClassification"


def test_an_export_never_overwrites_and_says_what_it_cannot_do(run: RLHFPipeline, sft: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(RunError, match="not empty"):
        export_pt(sft, tmp_path)
    pipeline = short_pipeline(tmp_path, sft_epochs=1)
    pipeline.load_base_model(Recurrent)
    with pytest.raises(ConfigError, match="module of a program's own"):
        export_pt(Path(pipeline.run_sft()), tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()

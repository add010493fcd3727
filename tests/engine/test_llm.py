"""LLM on a tiny model: what may be asked for, in which forms, and that requests do not touch each other."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
from tiny_network import tiny_config
from tiny_repository import write_repository

from halfbyte import LLM, SamplingParams
from halfbyte.checkpoint.config import RopeConfig
from halfbyte.engine.context import choose_context, context_length
from halfbyte.errors import ConfigError, HalfbyteError, RequestError

PROMPTS = ["Hello, my name is", "The president", "Das Stück für 3 €", "A"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def llm(folder):
    return LLM(folder)


def texts(outputs):
    return [o.outputs[0].text for o in outputs]


def test_the_form_of_the_outputs(llm):
    outputs = llm.generate(PROMPTS, SamplingParams(temperature=0.8, top_p=0.95, seed=1))
    assert [o.prompt for o in outputs] == PROMPTS
    for output in outputs:
        (answer,) = output.outputs
        assert output.finished
        assert output.prompt_token_ids == llm.tokenizer.encode(output.prompt)
        assert answer.text == llm.tokenizer.decode(answer.token_ids)
        assert answer.finish_reason == "stop" or len(answer.token_ids) == 16


def test_each_prompt_is_answered_as_if_alone(llm):
    params = [
        SamplingParams(temperature=0),
        SamplingParams(seed=3),
        SamplingParams(seed=3, top_k=20),
        SamplingParams(seed=4),
    ]
    together = llm.generate(PROMPTS, params)
    alone = [llm.generate(prompt, p)[0] for prompt, p in zip(PROMPTS, params, strict=True)]
    assert together == alone


def test_a_named_template_s_stops_end_answers_to_chats(tmp_path):
    """The model was not trained on it, and goes on with a turn of the user's; what is no chat has no turns."""
    llm = LLM(write_repository(tmp_path, max_position_embeddings=512), chat_template="airoboros-m2.0")
    talk = [{"role": "user", "content": "Hi"}]
    params = SamplingParams(max_tokens=40, regex="yes\nUSER: more", stop="xx")
    (plain,), (chat,) = llm.generate("Hi", params), llm.chat(talk, params)
    assert plain.outputs[0].text == "yes\nUSER: more"
    assert (chat.outputs[0].text, chat.outputs[0].finish_reason) == ("yes", "stop")
    streamed = llm.stream_chat(talk, replace(params, regex="yes USER: more"))
    assert "".join(delta.text for delta in streamed) == "yes"


def test_dtype_is_vllms_name_for_compute(folder):
    half, exact = LLM(folder, dtype="half", trust_remote_code=True), LLM(folder, dtype="float32")
    greedy = SamplingParams(temperature=0)
    assert half.generate("Hello", greedy) == LLM(folder).generate("Hello", greedy)
    assert exact.generate("Hello", greedy) == LLM(folder, compute="float32").generate("Hello", greedy)
    for wrong, says in (
        ({"dtype": "int3"}, "dtype is 'int3'; it must be one of 'auto', 'half'"),
        ({"dtype": "float32", "compute": "bfloat16"}, "give one of them"),
        ({"compute": "float16"}, "compute is 'float16'; it must be one of 'auto', 'float32'"),
    ):
        with pytest.raises(ConfigError, match=says):
            LLM(folder, **wrong)


def test_what_is_no_conversation_is_refused(llm):
    for wrong in (None, 5, "hi", [], [5]):
        with pytest.raises(HalfbyteError, match=r"chat messages must be a list|at least one message"):
            llm.chat(wrong)


def test_prompts_may_be_token_ids(llm):
    ids = llm.tokenizer.encode(PROMPTS[0])
    greedy = SamplingParams(temperature=0)
    (from_text,) = llm.generate({"prompt": PROMPTS[0]}, greedy)
    (from_ids,) = llm.generate({"prompt_token_ids": ids}, greedy)
    assert (from_ids.prompt, from_ids.prompt_token_ids) == (None, ids)
    assert from_ids.outputs == from_text.outputs
    assert llm.generate([]) == []


@pytest.mark.parametrize(
    "prompt",
    [7, None, [7], [["a"]], {"text": "a"}, {"prompt": 3}, {"prompt_token_ids": "abc"}, {"prompt_token_ids": [1.5]}, {}],
)
def test_other_forms_are_refused(llm, prompt):
    with pytest.raises(RequestError, match=r"prompt_token_ids"):
        llm.generate(prompt)


def test_parameters_of_another_kind_are_refused(llm):
    for call in (llm.generate, llm.stream):
        with pytest.raises(RequestError, match=r"\{'max_tokens': 4\}, a dict; give SamplingParams\(\*\*them\)"):
            call("a", {"max_tokens": 4})
    with pytest.raises(RequestError, match="are None, a NoneType"):
        llm.generate(["a", "b"], [SamplingParams(), None])


def test_nothing_is_answered_if_one_request_is_wrong(llm, monkeypatch):
    monkeypatch.setattr(llm.engine, "step", None)
    with pytest.raises(RequestError, match="empty"):
        llm.generate(["good", ""])
    with pytest.raises(RequestError, match="the prompt has 300 tokens and the context is 256"):
        llm.generate(["good", "x" * 300])
    with pytest.raises(RequestError, match="2 prompts and 3 sampling_params"):
        llm.generate(["a", "b"], [SamplingParams()] * 3)
    with pytest.raises(RequestError, match="2 prompts and 1 priorities"):
        llm.generate(["a", "b"], priority=[1])
    with pytest.raises(RequestError, match="priority is 'high'"):
        llm.generate(["a", "b"], priority=[1, "high"])


def test_chat_goes_through_the_template(llm):
    messages = [{"role": "user", "content": "Hi"}]
    greedy = SamplingParams(temperature=0)
    (output,) = llm.chat(messages, greedy)
    assert output.prompt == "<user>Hi\n<assistant>"
    assert output == llm.generate(output.prompt, greedy)[0]
    assert llm.chat([messages, messages], greedy) == [output, output]


def test_a_stream_adds_up_to_the_answer(llm):
    params = SamplingParams(seed=5, max_tokens=40)
    steps = list(llm.stream(PROMPTS[2], params))
    (output,) = llm.generate(PROMPTS[2], params)
    assert "".join(step.text for step in steps) == output.outputs[0].text
    assert [step.token_id for step in steps] == output.outputs[0].token_ids
    chatted = list(llm.stream_chat([{"role": "user", "content": "Hi"}], params))
    assert "".join(s.text for s in chatted) == texts(llm.chat([{"role": "user", "content": "Hi"}], params))[0]
    with pytest.raises(RequestError, match="n is 2; a stream gives one answer"):
        llm.stream("a", SamplingParams(n=2))


def test_several_answers(llm):
    (output,) = llm.generate("Hello", SamplingParams(n=3, seed=9, max_tokens=8))
    assert [answer.index for answer in output.outputs] == [0, 1, 2]
    for i, answer in enumerate(output.outputs):
        assert texts(llm.generate("Hello", SamplingParams(seed=9 + i, max_tokens=8))) == [answer.text]


def test_seeds(folder):
    params = SamplingParams(max_tokens=8)
    runs = [texts(LLM(folder, seed=seed).generate(["a", "a"], params)) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0] != runs[0][1]


def test_max_model_len(folder):
    llm = LLM(folder, max_model_len=20)
    (output,) = llm.generate("0123456789", SamplingParams(max_tokens=None, ignore_eos=True))
    assert len(output.outputs[0].token_ids) == 10
    with pytest.raises(RequestError, match="context is 20"):
        llm.generate("x" * 20)
    for wrong in (257, 1, "20"):
        with pytest.raises(ConfigError, match="takes 2 to 256 tokens"):
            LLM(folder, max_model_len=wrong)


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        (RopeConfig(), 1024),
        (RopeConfig(rope_type="linear", factor=4.0), 4096),
        (RopeConfig(rope_type="dynamic", factor=2.0), 2048),
        (RopeConfig(rope_type="llama3", factor=8.0, original_max_position_embeddings=128), 1024),
        (RopeConfig(rope_type="yarn", factor=4.0, original_max_position_embeddings=512), 2048),
    ],
)
def test_context_after_rope_scaling(rope, context):
    config = tiny_config(rope=rope)
    assert context_length(config) == choose_context(config, None) == context


def test_quantization_is_held_against_the_repository(folder):
    with pytest.raises(ConfigError, match="is not awq but not quantized"):
        LLM(folder, quantization="awq")
    with pytest.raises(ConfigError, match=r"quantization is 'int3'; it must be 'awq'.*, or None"):
        LLM(folder, quantization="int3")


def test_unknown_arguments_are_not_swallowed(folder):
    with pytest.raises(TypeError):
        LLM(folder, pipeline_paralel_size=2)
    kinds = {p.kind for f in (LLM.generate, LLM.chat) for p in inspect.signature(f).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


def test_another_tokenizer(llm, folder, tmp_path):
    write_repository(tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    greedy = SamplingParams(temperature=0)
    for tokenizer in (llm.tokenizer, folder, str(folder)):
        other = LLM(tmp_path / "bare", tokenizer=tokenizer)
        assert texts(other.generate("Hello", greedy)) == texts(llm.generate("Hello", greedy))
        assert other.get_tokenizer() is other.tokenizer


def test_progress_only_on_a_terminal(llm, capsys, monkeypatch):
    llm.generate("a")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    llm.generate("a", use_tqdm=False)
    assert capsys.readouterr().err == ""
    llm.generate("a")
    assert "Generating" in capsys.readouterr().err

"""Served models against a small endpoint: the local engine's answers, patience, errors that are never answers."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from served_toys import Reply, Server, chat_answer, free_port, serving
from toy_model import toy_local

from s3mini.bench import Bench
from s3mini.errors import DataError, ModelError, ProfileError
from s3mini.models.http.served import ServedModel
from s3mini.models.local import LocalModel
from s3mini.profile import ModelSpec, load_profile
from s3mini.records import Document, Question

TALKS = [[{"role": "user", "content": f"Question: number {i} x{'x' * (i * 7 % 11)}"}] for i in range(9)]


@pytest.fixture(scope="module")
def local() -> LocalModel:
    return toy_local(3)


class Tokens:
    """vLLM's ``/completions`` over the toy model; writes ``past`` tokens more than it was to."""

    def __init__(self, local: LocalModel, past: int = 0) -> None:
        self.local, self.past = local, past
        self.lock = threading.Lock()

    def __call__(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/v1/completions"
        with self.lock:
            session = self.local.start([body["prompt"]], [body["seed"]])
            sample = session.sample(
                [0], body["max_tokens"], body["temperature"], tuple(body.get("stop", ()))
            )[0]
        ids, logprobs = [*sample.ids, *[7] * self.past], [*sample.logprobs, *[-1.0] * self.past]
        ids, logprobs = ids[: body["max_tokens"]], logprobs[: body["max_tokens"]]
        choice = {
            "index": 0, "text": "not looked at", "token_ids": ids,
            "logprobs": {"token_logprobs": logprobs}, "finish_reason": "length" if sample.stopped is None else "stop",
        }  # fmt: skip
        return {"choices": [choice]}


def model(url: str, local: LocalModel | None = None, **spec: Any) -> ServedModel:
    settings = {
        "path": "toy",
        "max_length": 1024,
        "batch_size": 4,
        "max_new_tokens": 8,
        "patience": 1.0,
        **spec,
    }
    made = ModelSpec(engine="served", url=url, api="tokens" if local else "chat", **settings)
    return ServedModel(made, *((local.tokenizer, local.end_ids) if local else ()))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3mini.runs.http_client.BACKOFF", 0.02)


def echo(path: str, body: dict[str, Any]) -> dict[str, Any]:
    return chat_answer(f" said: {body['messages'][-1]['content']} ")


# ------------------------------------------------------------------------------------ replies


def test_replies_by_token_ids_are_those_of_the_local_engine(local: LocalModel) -> None:
    with serving(Tokens(local)) as server:
        served = model(server.url, local)
        assert served.reply([*TALKS, TALKS[0]]) == local.reply([*TALKS, TALKS[0]])
        assert len(server.asked) == len(TALKS)  # equal conversations once
        assert served.reply(TALKS, temperature=1.0, seed=5) == local.reply(TALKS, temperature=1.0, seed=5)
        assert served.reply([]) == []
    _, body, _ = server.asked[0]
    for key, value in {
        "model": "toy", "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
        "frequency_penalty": 0.0, "presence_penalty": 0.0, "max_tokens": 8, "n": 1, "stop_token_ids": [2],
        "return_token_ids": True,
    }.items():  # fmt: skip
        assert body[key] == value, key


def test_a_black_box_is_asked_in_messages_and_nothing_but_openais_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOY_KEY", "sesame")
    with serving(echo, [0.3] * 4) as server:  # slow enough to be asked several things at a time
        served = model(server.url, key_variable="TOY_KEY")
        replies = served.reply([*TALKS, TALKS[0]], max_new_tokens=3)
    assert replies == [f"said: {talk[0]['content']}" for talk in [*TALKS, TALKS[0]]]
    assert len(server.asked) == len(TALKS) and 1 < server.peak <= 4
    path, body, headers = server.asked[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer sesame"
    assert set(body) == {
        "model", "messages", "n", "stream", "top_p", "frequency_penalty", "presence_penalty", "max_tokens",
        "temperature", "seed",
    }  # fmt: skip
    assert served.tokenizer is None
    with pytest.raises(ModelError, match="api: tokens"):
        served.start([[1, 2]])


def test_without_a_key_none_is_sent_and_each_sampled_row_has_its_seed() -> None:
    with serving(echo) as server:
        model(server.url).reply([TALKS[0]] * 3, temperature=0.7, seed=20)
    assert sorted(body["seed"] for _, body, _ in server.asked) == [20, 21, 22]
    assert all("Authorization" not in headers for _, _, headers in server.asked)


def test_a_key_that_no_header_can_hold_is_told_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", " sesame\r\n")  # as a file or Windows leaves it
    with serving(echo) as server:
        assert model(server.url, key_variable="TOY_KEY").reply(TALKS[:1])
        assert server.asked[0][2]["Authorization"] == "Bearer sesame"
        for odd in ("ses\name", "sesamé", "ses\x7fame"):
            monkeypatch.setenv("TOY_KEY", odd)
            with pytest.raises(ModelError, match="TOY_KEY holds a character that no key has") as caught:
                model(server.url, key_variable="TOY_KEY").reply(TALKS[:1])
            assert "ses" not in str(caught.value).replace("s3mini", "")
    assert len(server.asked) == 1


def test_it_works_where_an_event_loop_is_running() -> None:
    async def cell() -> list[str]:
        return model(server.url).reply(TALKS[:1])

    with serving(echo) as server:
        assert asyncio.run(cell()) == [f"said: {TALKS[0][0]['content']}"]


# ----------------------------------------------------------------------------------- failures

BUSY: Reply = (503, {"Retry-After": "0"}, b"loading")


@pytest.mark.parametrize(
    "first",
    [
        [BUSY, BUSY],
        [(429, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, b"{}")],
        [None, None],
        [(500, {}, b"")],
        [(200, {}, b'{"error": {"message": "slower", "code": "429"}}')],
        [(200, {}, json.dumps(chat_answer("sa", reason)).encode()) for reason in ("error", "ERROR")],
        [(200, {}, json.dumps(chat_answer("", "insufficient_system_resource")).encode())],
        [(200, {"Content-Encoding": "gzip"}, b"{}")],
    ],
    ids=[
        "503",
        "429",
        "hangs up",
        "500",
        "429 in the body",
        "broke off",
        "no resources",
        "not packed as it says",
    ],
)
def test_what_passes_is_tried_again(first: Sequence[Reply | None]) -> None:
    with serving(echo, first) as server:
        replies = model(server.url).reply(TALKS)
    assert replies == [f"said: {talk[0]['content']}" for talk in TALKS]
    assert len(server.asked) == len(TALKS) + len(first)


def test_a_slow_answer_is_asked_for_again() -> None:
    with serving(echo, [1.0]) as server:
        assert model(server.url, timeout=0.3, patience=5.0).reply(TALKS[:1])
    assert len(server.asked) == 2


def test_it_waits_for_a_server_that_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    served = model(f"http://127.0.0.1:{port}/v1", patience=60.0)
    replies: list[str] = []
    asking = threading.Thread(target=lambda: replies.extend(served.reply(TALKS)))
    asking.start()

    def told() -> int:
        return sum("trying again for up to" in record.getMessage() for record in caplog.records)

    until = time.monotonic() + 30
    while not told() and time.monotonic() < until:  # on a busy machine the first try takes a while
        time.sleep(0.05)
    with serving(echo, port=port):
        asking.join()
    assert replies == [f"said: {talk[0]['content']}" for talk in TALKS]
    assert told() == 1  # once, not once a request


def test_patience_ends_with_the_url_the_cause_and_the_remedy() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(
        ModelError, match=r"attempts; last: ConnectError.*s3mini serve generator.*goes on"
    ) as caught:
        model(url, patience=0.5).reply(TALKS)
    assert f"{url}/chat/completions" in str(caught.value)
    with (
        serving(
            echo, [(429, {"Retry-After": "3600"}, b'{"error": {"message": "come back later"}}')] * 9
        ) as server,
        pytest.raises(ModelError, match=r"429: come back later; it asks to wait 3600 s"),
    ):
        model(server.url, patience=0.5).reply(TALKS[:1])
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "said"),
    [(400, "context is too long"), (401, "TOY_KEY"), (404, "under that name")],
)
def test_a_refusal_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch, status: int, said: str) -> None:
    monkeypatch.setenv("TOY_KEY", "sesame")
    refusal: Reply = (status, {}, json.dumps({"error": {"message": "the context is too long"}}).encode())
    with serving(echo, [refusal] * 4) as server, pytest.raises(ModelError, match=said) as caught:
        model(server.url, batch_size=1, key_variable="TOY_KEY").reply(TALKS)
    assert len(server.asked) == 1 and "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"<html>", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'data: {"choices": []}', "not JSON"),  # a stream, though none was asked for
        (b"[]", "no JSON object"),
        (b"{}", "not one choice"),
        (json.dumps(chat_answer("x", "content_filter")).encode(), "ended by 'content_filter'"),
        (json.dumps(chat_answer(None)).encode(), "no text"),
        (json.dumps(chat_answer("", "length")).encode(), "raise max_new_tokens"),
        (b'{"choices": [{"finish_reason": "stop"}]}', "no text"),
        (json.dumps(chat_answer([{"type": "thinking", "thinking": []}])).encode(), "no text"),
        (b'{"error": {"message": null, "code": "odd"}}', "HTTP 400: .*odd"),
    ],
)
def test_what_is_no_answer_is_an_error(answer: bytes, said: str) -> None:
    with serving(echo, [(200, {}, answer)]) as server, pytest.raises(ModelError, match=said):
        model(server.url).reply(TALKS[:1])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": " so "}], "so"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "so"}], "so"),
        ([{"type": "reasoning", "text": "hm"}, {"text": "s"}, {"type": "output_text", "text": "o"}, "x", {}], "so"),
        ("so \ud83d", "so ?"),
        ([{"type": "text", "text": "so \ud83d"}], "so ?"),
        ("so<|im_end|>", "so"),
        ("so <|eot_id|><|start_header_id|>user<|end_header_id|>\n\nand now?", "so"),
        ("so</s>\n<s>[INST] more [/INST]", "so"),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>so<|return|>",
         "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>so"),
        ("so <|end|>", "so"),
    ],
)  # fmt: skip
def test_a_reply_in_parts_or_with_half_a_character_is_the_text_that_is_said(content: Any, text: str) -> None:
    with serving(lambda *_: chat_answer(content)) as server:
        (reply,) = model(server.url).reply(TALKS[:1])
    assert reply == text and reply.encode()


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ("/", ""),
        ("/chat/completions", ""),
        ("/chat/completions/?api-version=1&key=sesame", "?api-version=1&key=sesame"),
        ("/?api-version=1", "?api-version=1"),
    ],
)
def test_the_url_may_be_that_of_the_endpoint_and_have_a_query(more: str, asked: str) -> None:
    with serving(echo, [None, (400, {}, b"odd")]) as server:
        served = model(server.url + more, batch_size=1)
        with pytest.raises(ModelError, match="odd") as caught:
            served.reply(TALKS[:1])
        assert served.reply(TALKS[:1]) and "sesame" not in str(caught.value)
    assert {path for path, _, _ in server.asked} == {"/v1/chat/completions" + asked}


def test_a_redirect_is_told_and_not_followed() -> None:
    with serving(echo) as other, serving(echo, [(307, {"Location": f"{other.url}/x"}, b"<html>")]) as server:
        with pytest.raises(ModelError, match=f"HTTP 307: it redirects to {other.url}/x"):
            model(server.url).reply(TALKS[:1])
        assert other.asked == []


def test_a_reply_that_is_cut_says_so_and_one_without_text_is_empty_while_most_have_some() -> None:
    answers = [chat_answer("so"), chat_answer("half of it", "length"), chat_answer(None, "length")]
    with serving(echo, [(200, {}, json.dumps(answer).encode()) for answer in answers]) as server:
        replies = model(server.url, batch_size=1).reply(TALKS[:3])
    assert [(str(r), r.cut) for r in replies] == [("so", False), ("half of it", True), ("", True)]
    lost = [(200, {}, json.dumps(answers[i]).encode()) for i in (2, 0, 2)]
    told = "no text in 2 of 3 replies, cut at 8 tokens.*raise max_new_tokens"
    with serving(echo, lost) as server, pytest.raises(ModelError, match=told):
        model(server.url, batch_size=1).reply(TALKS[:3])


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (400, "System role not supported"),
        (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
        (400, "Developer instruction is not enabled for models/gemma-3-27b-it"),
        (400, "Unsupported value: 'messages[0].role' does not support 'system' with this model."),
        (400, "Only user and assistant roles are supported!"),
        (422, "'system' is not one of ['user', 'assistant'] - 'messages.0.role'"),
        (500, "While executing CallExpression at line 1: Jinja Exception: System role not supported"),
        (500, "Conversation roles must alternate user/assistant/user/assistant/... at row 1, column 2"),
    ],
)
def test_a_black_box_without_a_system_role_is_told_in_the_users_message(status: int, refusal: str) -> None:
    talk = [{"role": "system", "content": "briefly"}, {"role": "user", "content": "who?"}]
    no = (status, {}, json.dumps({"error": {"message": refusal}}).encode())
    with serving(echo, [no]) as server:
        served = model(server.url)
        assert served.reply([talk]) == served.reply([talk]) == ["said: briefly\n\nwho?"]
    roles = [[message["role"] for message in body["messages"]] for _, body, _ in server.asked]
    assert roles == [["system", "user"], ["user"], ["user"]]  # learnt once


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token_ids": None}, "api: chat"),
        ({"token_ids": []}, "api: chat"),
        ({"logprobs": None}, "log-probability"),
        ({"logprobs": {"token_logprobs": [None] * 3}}, "log-probability"),
        ({"token_ids": [5], "logprobs": {"token_logprobs": [-1.0]}}, "ended after 1 of 3 tokens"),
        ({"finish_reason": "abort"}, "ended by 'abort'"),
    ],
)
def test_a_turn_that_is_not_whole_is_an_error(local: LocalModel, change: dict[str, Any], said: str) -> None:
    choice = {"token_ids": [5, 6, 7], "logprobs": {"token_logprobs": [-1.0] * 3}, "finish_reason": "length"}
    with serving(lambda path, body: {"choices": [{**choice, **change}]}) as server:
        session = model(server.url, local).start([[30, 31]])
        with pytest.raises(ModelError, match=said):
            session.sample([0], 3)
    assert session.ids[0] == [30, 31]


def test_half_a_character_in_a_prompt_is_told_by_every_engine_before_anything_is_sent(
    local: LocalModel,
) -> None:
    talks = [TALKS[0], [{"role": "user", "content": "Who? \udcff"}]]
    with serving(echo) as server:
        for asked in (local, model(server.url), model(server.url, local)):
            with pytest.raises(DataError, match="conversation 2: what the user says holds a lone surrogate"):
                asked.reply(talks)
            with pytest.raises(DataError, match="lone surrogate"):
                asked.preference(talks, ["yes", "no"])
    assert not server.asked


def test_conversations_that_do_not_fit_are_refused_before_they_are_sent(local: LocalModel) -> None:
    with serving(Tokens(local)) as server:
        with pytest.raises(ModelError, match="raise max_length"):
            model(server.url, local, max_length=64).reply([[{"role": "user", "content": "x " * 80}]])
        session = model(server.url, local).start([[30, 31], [30]])
        for rows, budget in (([0, 0], 3), ([0], 0), ([0, 1], 5000), ([1, 0], [1, 5000])):
            with pytest.raises(ModelError, match="positions"):
                session.sample(rows, budget)
        with pytest.raises(ModelError, match="no tokens"):
            model(server.url, local).start([[]])
    assert server.asked == []


# ----------------------------------------------------------------------------------- sessions


@pytest.fixture(scope="module", params=[0, 3], ids=["exact", "past the stop"])
def tokens(local: LocalModel, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Speculative decoding may run past a stop string."""
    with serving(Tokens(local, request.param)) as server:
        yield server


def test_a_session_samples_what_the_local_one_does_over_many_turns(local: LocalModel, tokens: Server) -> None:
    served = model(tokens.url, local)
    prompts = [[30, 31, 32], [40, 41], [30, 31, 32]]
    sessions = served.start(prompts), local.start(prompts)
    stop, ends = ("%", ",", "</query>"), set()
    for turn in range(3):
        rows, limits = ([0, 1, 2], [9, 5, 9]) if turn < 2 else ([2, 1], [4, 12])
        got, expected = (s.sample(rows, limits, 0.0, stop) for s in sessions)
        for mine, theirs in zip(got, expected, strict=True):
            assert (mine.ids, mine.text, mine.stopped) == (theirs.ids, theirs.text, theirs.stopped)
            assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
            ends.add(mine.stopped)
        for session in sessions:
            session.append(rows[0], [50 + turn, 60])
        assert sessions[0].ids == sessions[1].ids
    assert ends & set(stop) and None in ends


def test_what_a_row_samples_depends_on_its_seed_alone(local: LocalModel) -> None:
    with serving(Tokens(local)) as server:
        served = model(server.url, local)
        together = served.start([[30, 31]] * 4, [7, 8, 7, -3]).sample([0, 1, 2, 3], 12, 1.0)
        alone = served.start([[40], [30, 31]], [1, 8]).sample([1], 12, 1.0)
        seeds = [body["seed"] for _, body, _ in server.asked]
    assert together[1] == alone[0] and together[0] == together[2] and together[0] != together[1]
    assert len(set(seeds)) == 3 and all(0 <= seed < 2**63 for seed in seeds)


# ----------------------------------------------------------------------------------- profiles


def test_profiles_that_cannot_work_are_refused() -> None:
    served = {
        "generator.engine": "served",
        "generator.url": "http://127.0.0.1:8000/v1",
        "generator.api": "chat",
    }
    assert load_profile("mini", **served).generator.patience > 0
    with pytest.raises(ProfileError, match="needs the server's url"):
        load_profile("mini", **{"generator.engine": "served"})
    with pytest.raises(ProfileError, match="generator.url"):
        load_profile("mini", **{"generator.url": "file:///etc/passwd"})
    with pytest.raises(ProfileError, match="key_variable") as refused:
        load_profile("mini", **{**served, "generator.url": "http://me:s3cr3t@127.0.0.1:8000/v1"})
    assert "s3cr3t" not in str(refused.value), "nor is it shown by what refuses it"
    with pytest.raises(ProfileError, match="searcher is read token by token"):
        load_profile("mini", **{k.replace("generator", "searcher"): v for k, v in served.items()})
    with pytest.raises(ProfileError, match=r"protocols\.ircot\.model: a searcher"):
        model = {"path": "x", "engine": "served", "url": "http://x/v1", "api": "chat"}
        load_profile("mini", **{"protocols.ircot.model": model})


def test_a_black_box_is_measured_in_the_searchers_tokens_and_known_by_its_url() -> None:
    keys = {"path": "some-model", "engine": "served", "url": "https://api.example/v1", "api": "chat"}
    black, local = Bench(load_profile("mini", generator=keys)), Bench(load_profile("mini"))
    document, question = Document("1", "A title", "Some text."), Question("q", "who?", ("x",))
    assert isinstance(black.generator, ServedModel) and black.generator.tokenizer is None
    assert black.count_tokens([document]) == local.count_tokens([document]) > 0
    assert black.prompt_tokens(question, [document]) > black.count_tokens([document])
    assert black.fingerprint(black.profile.generator) == "https://api.example/v1 some-model"
    by_tokens = local.profile.generator.model_copy(
        update={"engine": "served", "url": "http://127.0.0.1:1/v1"}
    )
    assert local.fingerprint(by_tokens) == local.fingerprint(
        local.profile.generator
    )  # the same model, who ever runs it

"""Words compared through served models: vLLM's tokens, and black boxes with and without probabilities."""

from __future__ import annotations

import json
import logging
import math
import threading
from typing import Any

import pytest
from served_toys import chat_answer, serving
from test_served import model
from toy_model import CHOICE, judged, toy_speaking

from s3mini.errors import ModelError
from s3mini.models.http.choosing import chosen, likeliest
from s3mini.models.local import LocalModel
from s3mini.models.spellings import pieces
from s3mini.reward import Judge

TALKS = judged([f"{'word ' * (i * 5 % 7)}{i}" for i in range(9)])


@pytest.fixture(scope="module")
def local() -> LocalModel:
    return toy_speaking(seed=5)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3mini.runs.http_client.BACKOFF", 0.02)


# ------------------------------------------------------------------------------------ token ids


class Allowed:
    """vLLM's ``/completions`` over the toy: one token of those allowed, log-probabilities of either mode."""

    def __init__(self, local: LocalModel, mode: str = "processed_logprobs") -> None:
        self.local, self.mode, self.lock = local, mode, threading.Lock()

    def __call__(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/v1/completions" and body["max_tokens"] == 1 and body["temperature"] == 0.0
        assert body["return_tokens_as_token_ids"] and body["logprobs"] <= 20
        with self.lock:
            (raw,) = self.local.start([body["prompt"]]).next_logprobs()
        allowed = raw.new_full(raw.shape, -math.inf)
        allowed[body["allowed_token_ids"]] = raw[body["allowed_token_ids"]]
        token = int(allowed.argmax())
        shown = allowed.log_softmax(-1) if self.mode == "processed_logprobs" else raw
        ids = [token, *shown.topk(body["logprobs"]).indices.tolist()]
        top = {f"token_id:{i}": max(float(shown[i]), -9999.0) for i in ids}
        logprobs = {"token_logprobs": [top[f"token_id:{token}"]], "top_logprobs": [top]}
        return {"choices": [{"index": 0, "text": "?", "logprobs": logprobs, "finish_reason": "length"}]}


def differences(masses: list[list[float]]) -> list[float]:
    return [yes - no for yes, no in masses]


def test_by_token_ids_the_comparison_is_that_of_the_local_engine(local: LocalModel) -> None:
    with serving(Allowed(local)) as server:
        served = model(server.url, local)
        found = served.preference([*TALKS, TALKS[0]], CHOICE)
        assert len(server.asked) == len(TALKS) and served.preference([], CHOICE) == []
    expected = differences(local.preference(TALKS, CHOICE))
    assert differences(found[:-1]) == pytest.approx(expected, abs=1e-4) and found[-1] == found[0]
    assert Judge(served, "full")._read(found) == pytest.approx(  # and so are the verdicts
        Judge(local, "full")._read(local.preference([*TALKS, TALKS[0]], CHOICE)), abs=1e-4
    )


def test_a_server_that_reports_the_unconstrained_distribution_still_has_to_choose(local: LocalModel) -> None:
    with serving(Allowed(local, "raw_logprobs")) as server:
        found = model(server.url, local).preference(TALKS, CHOICE)
    for (yes, no), masses in zip(found, local.preference(TALKS, CHOICE), strict=True):
        best = max(CHOICE, key=lambda o: masses[CHOICE.index(o)])
        assert max(yes, no) > -math.inf
        if min(yes, no) == -math.inf:  # the other is not among the 20 likeliest of all tokens
            assert (yes > no) == (best == "yes") or abs(
                masses[0] - masses[1]
            ) < 1.5  # one spelling against a sum


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"top_logprobs": []},
        {"top_logprobs": [None]},
        {"top_logprobs": [{" yes": -0.1, "no": -3.0}]},
    ],
)
def test_a_server_without_log_probabilities_by_id_is_an_error(local: LocalModel, logprobs: Any) -> None:
    choice = {"text": "yes", "logprobs": logprobs, "finish_reason": "length"}
    with (
        serving(lambda path, body: {"choices": [choice]}) as server,
        pytest.raises(ModelError, match="no log-probabilities|by id"),
    ):
        model(server.url, local).preference(TALKS[:1], CHOICE)


# ---------------------------------------------------------------------------------- black boxes


def tops(first: str, **logprobs: float) -> dict[str, Any]:
    ranked = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    return {"content": [{"token": first, "logprob": -0.1, "top_logprobs": ranked}]}


class BlackBox:
    """``/chat/completions`` that knows, ignores or refuses each way; ``said`` is what it replies when left to itself."""

    def __init__(self, logprobs: Any = "ignored", schema: str = "ignored", said: str = "Well, yes.") -> None:
        self.logprobs, self.schema, self.said = logprobs, schema, said

    def __call__(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/v1/chat/completions"
        way = "logprobs" if "logprobs" in body else "schema" if "response_format" in body else "word"
        knows = {"logprobs": self.logprobs, "schema": self.schema, "word": "ignored"}[way]
        if knows == "refused":
            raise LookupError(way)
        if way == "logprobs" and knows != "ignored":
            assert body["max_tokens"] == 1 and body["top_logprobs"] == 20
            return {"choices": [{**chat_answer("?", "length")["choices"][0], **knows}]}
        if way == "schema" and knows == "known":
            enum = body["response_format"]["json_schema"]["schema"]["properties"]["choice"]["enum"]
            return chat_answer(json.dumps({"choice": enum[1]}))
        return chat_answer(self.said)


def ways(server: Any) -> list[str]:
    bodies = [body for _, body, _ in server.asked]
    return ["logprobs" if "logprobs" in b else "schema" if "response_format" in b else "word" for b in bodies]


THINKS = {"message": {"role": "assistant", "content": None, "reasoning_content": "Let"}}
CLEAR = {
    "logprobs": tops(
        " Yes", **{" Yes": math.log(0.5), "yes": math.log(0.1), "No": math.log(0.2), "The": -3.0}
    )
}
MUMBLE = {"logprobs": tops("The", The=-0.1, It=-3.0)}


@pytest.mark.parametrize(
    ("box", "expected", "first", "then"),
    [
        (BlackBox(CLEAR), [math.log(0.6), math.log(0.2)], ["logprobs"], ["logprobs"]),
        ({"logprobs": tops("No", No=-0.1)}, [-math.inf, -0.1], ["logprobs"], ["logprobs"]),
        (BlackBox("refused", "known"), "no", ["logprobs", "schema"], ["schema"]),
        (BlackBox("ignored", "known"), "no", ["logprobs", "schema"], ["schema"]),
        (BlackBox(MUMBLE, "known"), "no", ["logprobs", "schema"], ["logprobs", "schema"]),
        ({**CLEAR, **THINKS}, "no", ["logprobs", "schema"], ["logprobs", "schema"]),
        ({"logprobs": tops("<think>", **{"<think>": 0.0, "yes": -9.0})}, "no", ["logprobs", "schema"], None),
        ({"logprobs": tops("<", **{"<": 0.0, "yes": -9.0})}, "no", ["logprobs", "schema"], None),
        ({"logprobs": tops("[THINK]", **{"[THINK]": 0.0, "yes": -9.0})}, "no", ["logprobs", "schema"], None),
        ({"logprobs": tops("ĠNo", **{"ĠNo": -0.1, "▁no": -3.0})}, [-math.inf, math.log(math.exp(-0.1) + math.exp(-3))], ["logprobs"], None),
        (BlackBox("refused", "refused", "No."), "no", ["logprobs", "schema", "word"], ["word"]),
        (BlackBox("ignored", "ignored", "**Yes**, it is"), "yes", ["logprobs", "schema"], ["schema"]),
        (BlackBox(MUMBLE, "refused", "yes"), "yes", ["logprobs", "schema", "word"], ["logprobs", "word"]),
        (BlackBox("refused", "refused", "perhaps"), None, ["logprobs", "schema", "word"], ["word"]),
        (BlackBox("ignored", "ignored", "perhaps"), None, ["logprobs", "schema", "word"], ["schema", "word"]),
    ],
)  # fmt: skip
def test_a_black_box_is_asked_by_the_first_way_it_knows(
    box: Any, expected: Any, first: list[str], then: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = BlackBox(box, "known") if isinstance(box, dict) else box
    if isinstance(expected, str):
        expected = [0.0 if option == expected else -math.inf for option in CHOICE]
    with serving(refusing(box)) as server:
        served = model(server.url)
        found = served.preference([TALKS[0]] * 2, CHOICE)
        assert found == [pytest.approx(expected or [-math.inf] * 2)] * 2 and ways(server) == first
        assert served.preference([TALKS[1]], CHOICE) == found[:1] and ways(server) == first + (then or first)


def refusing(box: BlackBox) -> Any:
    """Turns the box's refusals into HTTP 400."""

    def answer(path: str, body: dict[str, Any]) -> Any:
        try:
            return box(path, body)
        except LookupError as error:
            return 400, {}, json.dumps({"error": {"message": f"unknown parameter: {error}"}}).encode()

    return answer


def test_each_conversation_is_decided_by_its_own_way() -> None:
    """The first has its answer among the likeliest tokens; the others go on to the schema together, once each."""

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        clear = body["messages"][-1]["content"].endswith("0")
        return BlackBox(CLEAR if clear else MUMBLE, "known")(path, body)

    with serving(answer) as server:
        found = model(server.url).preference(TALKS, CHOICE)
    assert found[0] == pytest.approx([math.log(0.6), math.log(0.2)])
    assert found[1:] == [[-math.inf, 0.0]] * 8
    assert sorted(ways(server)) == ["logprobs"] * 9 + ["schema"] * 8


def test_what_is_left_out_is_told_once_and_the_judge_counts_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(refusing(BlackBox("refused", "refused", "perhaps"))) as server:
        judge = Judge(model(server.url), "full")
        with pytest.warns(UserWarning, match="1 of 1 judge replies"):
            assert judge(["a"], [["g"]]) == [False]
        with pytest.raises(ModelError, match="2 of 2 judge replies are neither yes nor no"):
            judge(["b"], [["g"]])
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len([m for m in told if "without" in m and "unknown parameter" in m]) == 2


def test_a_conversation_that_no_way_takes_is_an_error_and_blames_none(local: LocalModel) -> None:
    """Refused for what it holds, not for how it is asked: afterwards log-probabilities are asked for as before."""
    box = BlackBox(CLEAR, "known")

    def answer(path: str, body: dict[str, Any]) -> Any:
        if "long" in body["messages"][-1]["content"]:
            return 400, {}, b'{"error": {"message": "the context is too long"}}'
        return box(path, body)

    with serving(answer) as server:
        served = model(server.url)
        with pytest.raises(ModelError, match="too long"):
            served.preference(judged(["long"]), CHOICE)
        before = len(server.asked)
        served.preference(TALKS[:1], CHOICE)
        assert ways(server)[before:] == ["logprobs"]


def test_a_template_without_a_system_role_is_asked_again_without_one() -> None:
    """Gemma's and Mistral's first, behind a server: that refusal says nothing against log-probabilities."""

    def answer(path: str, body: dict[str, Any]) -> Any:
        if body["messages"][0]["role"] == "system":
            return 400, {}, b'{"error": {"message": "System role not supported"}}'
        assert "Reply with one word." in body["messages"][0]["content"]
        return BlackBox(CLEAR)(path, body)

    with serving(answer) as server:
        served = model(server.url, batch_size=1)
        assert served.preference(TALKS[:2], CHOICE) == [pytest.approx([math.log(0.6), math.log(0.2)])] * 2
        assert ways(server) == ["logprobs"] * 3


def test_no_text_is_no_verdict() -> None:
    """A model that spends its tokens on thoughts has said nothing: that is an error, never a no."""

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        return chat_answer(None, "length")

    with serving(answer) as server, pytest.raises(ModelError, match="raise max_new_tokens"):
        model(server.url).preference(TALKS[:1], CHOICE)


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("yes", "yes"),
        (" No.", "no"),
        ("**Yes**, it is", "yes"),
        ("<think> no idea </think> yes", "yes"),
        ('{"choice": "no"}', "no"),
        ('<think>\n\n</think>\n{"choice": "yes"}', "yes"),
        ('{"choice": "maybe"}', None),
        ('{"verdict": "yes"}', None),
        ('["no"]', "no"),
        ("<think> yes", None),
        ("yesterday", None),
        ("", None),
        ("perhaps yes", None),
    ],
)
def test_the_first_word_of_a_reply(reply: str, word: str | None) -> None:
    assert chosen(reply, CHOICE) == word


def named(**top: Any) -> dict[str, Any]:
    return {"content": [{"token": "yes", "logprob": -0.1, "top_logprobs": [top, "yes"]}]}


def test_what_cannot_be_read_among_the_likeliest_is_passed_over() -> None:
    logprobs: dict[str, Any] = {"yes": -0.5, "Yes": None, "no": math.nan, " no": "low"}
    choice = {"logprobs": tops("yes", **logprobs), "message": "yes", "finish_reason": "length"}
    assert likeliest(choice, CHOICE) == [-0.5, -math.inf]


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"content": None},
        {"content": []},
        tops("yes"),
        named(token="yes", logprob=None),
        named(tok_str="yes", prob=0.9),
    ],
)
def test_a_choice_without_likeliest_tokens(logprobs: Any) -> None:
    assert likeliest({"logprobs": logprobs, "finish_reason": "length"}, CHOICE) is None


def test_a_vocabulary_is_decoded_once(local: LocalModel) -> None:
    assert pieces(local.tokenizer) is pieces(local.tokenizer)

"""Refusals of parameters, as endpoints of many makes word them: learnt once, said once; other refusals stay errors."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from served_toys import Server, chat_answer, serving

from s3mini.errors import ModelError
from s3mini.models.http.dialect import Dialect
from s3mini.models.http.endpoint import VITAL
from s3mini.models.http.served import ServedModel
from s3mini.profile import ModelSpec

SENT = {
    "model": "m", "messages": [], "n": 1, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0,
    "max_tokens": 16, "temperature": 0.0, "seed": 0, "stream": False,
}  # fmt: skip


def openai(message: str, param: str | None = None) -> str:
    return json.dumps(
        {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}
    )


UNSUPPORTED = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
ONLY_ONE = "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
EXTRA = [
    {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 0}
]
NIM = (
    "body -> frequency_penalty\n  Extra inputs are not permitted\nbody -> n\n  Extra inputs are not permitted"
)


@pytest.mark.parametrize(
    ("refusal", "changes"),
    [
        (openai(UNSUPPORTED, "max_tokens"), {"max_tokens": "max_completion_tokens"}),
        (openai(UNSUPPORTED), {"max_tokens": "max_completion_tokens"}),
        (openai(ONLY_ONE, "temperature"), {"temperature": None}),
        (openai("Unsupported parameter: 'top_p' is not supported with this model.", "top_p"), {"top_p": None}),
        (json.dumps({"detail": EXTRA}), {"seed": None}),
        (json.dumps({"object": "error", "message": {"detail": EXTRA}}), {"seed": None}),
        (json.dumps({"detail": NIM, "status": 422}), {"frequency_penalty": None, "n": None}),
        (openai("Unrecognized request argument supplied: seed"), {"seed": None}),
        (openai("Additional properties are not allowed ('seed' was unexpected)"), {"seed": None}),
        (json.dumps([{"error": {"message": 'Unknown name "seed": Cannot find field.'}}]), {"seed": None}),
        (openai("ollama does not support parameters: {'seed': 0}, for model=x"), {"seed": None}),
        (openai("property 'presence_penalty' is unsupported"), {"presence_penalty": None}),
        ("unknown field `seed`", {"seed": None}),
        ("`temperature` must be strictly positive", {"temperature": 0.01}),
        ("Input validation error: `top_p` must be > 0.0 and < 1.0", {"top_p": None}),
        (openai("`temperature` and `top_p` cannot both be specified for this model."), {"top_p": None}),
        (openai("Set temperature or top_p, but not both"), {"top_p": None}),
        (openai("Model x does not support parameter presencePenalty."), {"presence_penalty": None}),
        (openai("Invalid parameter: seed", "seed"), {"seed": None}),
        (openai("Parameter 'seed' is not currently supported"), {"seed": None}),
        (openai("Parameter `seed` isn't supported here"), {"seed": None}),
        (openai("Invalid value: 'top_k' is none of ours"), {}),
        (openai("'max_tokens' or 'max_completion_tokens' is too large: 16. The maximum context is 4"), {}),
        (openai("max_tokens is too large: 16", "max_tokens"), {}),
        (openai("temperature must be at most 2", "temperature"), {}),
        (openai("This model's maximum context length is 4 tokens", "messages"), {}),
        (openai("Unsupported value: 'messages[0].role' does not support 'system'", "messages[0].role"), {}),
        (openai("The model `m` does not exist", "model"), {}),
        ("", {}),
        ("[" * 100_000, {}),
    ],
)  # fmt: skip
def test_what_a_refusal_teaches(refusal: str, changes: dict[str, Any]) -> None:
    dialect = Dialect("http://x")
    assert dialect.learn(refusal, SENT) is bool(changes)
    assert dialect.changes == changes
    said = dialect.say(SENT)
    assert not dialect.learn(refusal, said), "asked as it wants, it may not refuse the same again"
    assert {"model", "messages"} <= said.keys() and 16 in (
        said.get("max_tokens"),
        said.get("max_completion_tokens"),
    )


def test_how_tokens_are_sampled_is_vital_where_token_probabilities_are_counted_on() -> None:
    vital = VITAL["/completions"]
    assert not Dialect("x").learn(openai(ONLY_ONE, "temperature"), SENT, vital)
    assert not Dialect("x").learn(openai("Unsupported parameter: 'top_p'", "top_p"), SENT, vital)
    assert Dialect("x").learn(openai("Unsupported parameter: 'seed'", "seed"), SENT, vital)


class Picky:
    """Refuses the parameters it does not know, one at a time, by ``status``."""

    def __init__(self, status: int, *refused: str) -> None:
        self.status, self.refused = status, refused
        self.refusals = 0

    def __call__(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        for name in self.refused:
            if name in body:
                self.refusals += 1
                message = f"Unsupported parameter: '{name}' is not supported with this model."
                return {"error": {"message": message, "param": name, "code": self.status}}
        return chat_answer("yes", "eos")


def served(server: Server, name: str) -> ServedModel:
    return ServedModel(
        ModelSpec(path=name, engine="served", api="chat", url=server.url, patience=5, batch_size=4)
    )


@pytest.mark.parametrize(
    "refused", [["seed"], ["max_tokens"], ["seed", "max_tokens", "temperature", "top_p", "n"]]
)
def test_an_endpoint_is_learnt_once_and_told_once(
    refused: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the error comes with status 200, as some gateways send it."""
    caplog.set_level(logging.WARNING, "s3mini")
    picky = Picky(400, *refused)
    talks = [[{"role": "user", "content": f"question {i}"}] for i in range(9)]
    with serving(picky) as server:
        for _ in range(2):  # the same endpoint, opened twice: the generator and the judge
            assert served(server, "m").reply(talks) == ["yes"] * 9
        assert picky.refusals == len(refused)
        assert len(server.asked) == 18 + len(refused)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(refused) and all(server.url in line and "the cost:" in line for line in told)


@pytest.mark.parametrize(
    ("reason", "cut"),
    [
        ("stop", False),
        ("STOP", False),
        ("EOS", False),
        ("end_turn", False),
        ("MAX_TOKENS", True),
        ("model_length", True),
        ("Length", True),
    ],
)
def test_other_words_for_how_a_reply_ends(reason: str, cut: bool) -> None:
    with serving(lambda *_: chat_answer("yes", reason)) as server:
        (reply,) = served(server, "words").reply([[{"role": "user", "content": "q"}]])
    assert (reply, reply.cut) == ("yes", cut)


def test_a_status_in_the_body_counts() -> None:
    def broke(path: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"error": {"message": "Insufficient credits", "code": 402}}

    busy = [(200, {}, json.dumps({"error": {"message": "rate limit", "code": 429}}).encode())]
    with serving(lambda *_: chat_answer("fine"), first=busy) as server:
        assert served(server, "busy").reply([[{"role": "user", "content": "q"}]]) == ["fine"]
    with serving(broke) as server, pytest.raises(ModelError, match="HTTP 402: Insufficient credits"):
        served(server, "broke").reply([[{"role": "user", "content": "q"}]])

"""Products of float32 numbers multiplied as bfloat16: where they are, that they stay there, and what they change."""

import pytest
import torch
from toy_model import toy_local

from s3mini.models import products
from s3mini.models.local import LocalModel
from s3mini.models.products import fastest_products, multiplied_as


def now() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


def test_the_way_is_as_before_after_the_block_even_where_it_failed() -> None:
    before = now()
    with pytest.raises(ZeroDivisionError), multiplied_as("bfloat16"):
        assert now() == "bf16"
        raise ZeroDivisionError
    assert now() == before


def test_prompts_are_read_as_the_spec_says_and_tokens_decoded_in_float32() -> None:
    toy = toy_local()
    local = LocalModel(toy.spec.model_copy(update={"products": "bfloat16"}), toy.model, toy.tokenizer)
    session, seen, before = local.start([[*range(20, 50)]]), [], now()
    forward = session.forward

    def watched(*given, reading: bool):
        seen.append((reading, now()))
        return forward(*given, reading=reading)

    session.forward = watched
    session.sample([0], 3, 0.0, ())
    assert seen[0] == (True, "bf16")
    assert set(seen[1:]) == {(False, before)}


def test_rounding_moves_log_probabilities_little() -> None:
    toy = toy_local()
    rows = [[*range(20, 50)], [*range(60, 100)]]
    read = {}
    for kind in ("float32", "bfloat16"):
        spec = toy.spec.model_copy(update={"products": kind})
        read[kind] = LocalModel(spec, toy.model, toy.tokenizer).start(rows).next_logprobs()
    assert (read["float32"] - read["bfloat16"]).abs().max() < 0.1


@pytest.mark.parametrize(("narrow", "chosen"), [(1.0, "bfloat16"), (1.9, "float32"), (4.0, "float32")])
def test_bfloat16_has_to_be_clearly_faster(monkeypatch, narrow: float, chosen: str) -> None:
    def seconds(*_, **__) -> float:
        return narrow if now() == "bf16" else 2.0

    monkeypatch.setattr(products.timeit, "timeit", seconds)
    fastest_products.cache_clear()
    try:
        assert fastest_products() == chosen
    finally:
        fastest_products.cache_clear()

"""`halfbyte bench kernels`: what is timed, what is chosen from it, and how it is kept."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from halfbyte.evaluate.kernel_timing import Product, Timing, copies_of, products_of, seconds_of

pytest.importorskip("triton", reason="triton is for Linux only")

from halfbyte.evaluate import kernel_choice, kernel_timing
from halfbyte.kernels.gpu.choices import Choices, choices, choices_path, default_choices, read_choices, write_choices
from halfbyte.kernels.triton.linear import Cut

CPU = torch.device("cpu")
SMALL = Product("o", 64, 128, 64)


def timings(way, by_tokens):
    return [Timing(SMALL, tokens, way, seconds) for tokens, seconds in by_tokens.items()]


def test_figures_of_a_timing():
    timing = Timing(Product("x", 1024, 512, 128), 4, "any", 1e-3)
    assert timing.product.bytes == 1024 * 512 // 2 + 4 * 1024 * 4
    assert timing.bytes_s == pytest.approx(timing.product.bytes * 1e3)
    assert timing.flop_s == pytest.approx(2 * 1024 * 512 * 4 * 1e3)
    assert Product("head", 10, 20, 0).bytes == 400


def test_weights_do_not_fit_a_cache():
    small, large = Product("o", 576, 576, 64), Product("head", 32000, 4096, 0)
    assert copies_of(small, CPU) == kernel_timing.MOST_COPIES
    assert copies_of(large, CPU) == 1


def test_the_products_of_a_model(smollm2_source):
    from halfbyte.checkpoint.checkpoint import Checkpoint

    found = products_of(Checkpoint(smollm2_source))
    assert [(p.name, p.outputs, p.inputs) for p in found] == [
        ("qkv", 960, 576), ("o", 576, 576), ("gate_up", 3072, 576), ("down", 576, 1536), ("head", 49152, 576),
    ]  # fmt: skip


def test_choosing():
    cut, worse = Cut(1, 4, 256, 2), Cut(16, 2, 512, 1)
    names = {c: kernel_choice._name(c) for c in (cut, worse)}
    given = [
        *timings("stream", {1: 1, 4: 1, 8: 2, 12: 3, 16: 4, 64: 16}),
        *timings("wide", {1: 1.5, 4: 0.9, 8: 2.5, 12: 2.5, 16: 2.6, 64: 3}),
        *timings("matrix", {1: 5, 4: 5, 8: 5, 12: 5, 16: 5, 64: 6}),
        *timings(names[cut], {1: 1, 8: 8}),
        *timings(names[worse], {1: 2, 4: 3, 8: 4, 12: 4, 16: 4, 64: 9}),
    ]
    found = kernel_choice.choose(given, Choices())
    assert found == Choices(wide_from=12, stream_to=16, triton_to=16, alone=cut, several=worse)


def test_sums_over_products_decide():
    other = Product("down", 64, 128, 64)
    head = Product("head", 64, 128, 0)
    given = [
        *timings("stream", {8: 1}), Timing(other, 8, "stream", 10), Timing(head, 8, "stream", 0.1),
        *timings("matrix", {8: 5}), Timing(other, 8, "matrix", 5), Timing(head, 8, "matrix", 99),
    ]  # fmt: skip
    assert kernel_choice.choose(given, Choices()).stream_to == 0
    assert kernel_choice.choose([], Choices()) == Choices()


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HALFBYTE_CACHE", str(tmp_path))
    choices.cache_clear()
    yield choices_path(CPU)
    choices.cache_clear()


def test_what_is_kept_is_taken(kept):
    assert choices(CPU) == default_choices(CPU)
    found = Choices(wide_from=5, stream_to=24, triton_to=7, alone=Cut(1, 8, 256, 4), several=Cut(16, 4, 1024, 2))
    write_choices(kept, found, {"model": "m"})
    assert choices(CPU) == found
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


@pytest.mark.parametrize(
    "damage",
    [
        "{", "[]", '{"version": 99}', lambda d: d["choices"].pop("alone"), lambda d: d["choices"].update(stream_to=-1),
        lambda d: d["choices"]["several"].update(tiles=3), lambda d: d["choices"]["several"].update(colour=3),
    ],
)  # fmt: skip
def test_a_damaged_file_is_not_taken(kept, damage, caplog):
    write_choices(kept, Choices(wide_from=77), {})
    if isinstance(damage, str):
        kept.write_text(damage)
    else:
        content = json.loads(kept.read_text())
        damage(content)
        kept.write_text(json.dumps(content))
    choices.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert choices(CPU) == default_choices(CPU)
    assert "halfbyte bench kernels writes it anew" in caplog.text
    with pytest.raises((ValueError, TypeError, KeyError)):
        read_choices(kept)


def test_the_whole_way_in_the_interpreter(monkeypatch):
    """On a CPU, whose times say nothing: that every way is called, and something chosen."""
    if torch.cuda.is_available():
        pytest.skip("Triton is no interpreter here")
    monkeypatch.setattr(kernel_choice, "FEW_TOKENS", (1, 8))
    monkeypatch.setattr(kernel_choice, "MORE_TOKENS", (9,))
    monkeypatch.setattr(kernel_timing, "MOST_COPIES", 1)
    monkeypatch.setattr(kernel_timing, "ROUNDS", 1)
    cuts = {kernel_choice._name(cut): cut for cut in (Cut(1), Cut(16))}
    monkeypatch.setattr(kernel_choice, "_cuts", lambda: cuts)
    head = Product("head", 32, 64, 0)
    said = []
    found, chosen = kernel_choice.time_gpu([Product("o", 32, 64, 32), head], [3], CPU, said.append)
    assert {t.tokens for t in found} == {1, 3, 8, 9}
    assert {t.way for t in found if t.product.group} == {"matrix", *cuts}
    assert all(t.seconds > 0 for t in found)
    assert {chosen.alone, chosen.several} <= set(cuts.values())
    assert said == ["o 32 x 64: cuts", "o 32 x 64: ways", "head 32 x 64: ways"]


def test_seconds_are_those_of_one_call(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(kernel_timing.time, "perf_counter", lambda: float(next(now)))
    calls = []
    assert seconds_of([lambda: calls.append(1)] * 4, CPU) == 0.25
    assert len(calls) == 2 + 4 * kernel_timing.ROUNDS

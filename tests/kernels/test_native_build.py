"""Building the native kernels, and doing without them."""

from __future__ import annotations

import ctypes

import pytest
import torch
from native_cases import HERE, linear_weight

from halfbyte.errors import ConfigError
from halfbyte.kernels.cpu import build, library
from halfbyte.kernels.cpu.native_kernels import NativeKernels
from halfbyte.kernels.cpu.onnx_kernels import OnnxKernels
from halfbyte.kernels.cpu.pick import cpu_kernels


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    """An empty one, where building is what is tested: it takes seconds."""
    monkeypatch.setenv("HALFBYTE_CACHE", str(tmp_path))


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    monkeypatch.delenv("HALFBYTE_CPU", raising=False)
    library.load_library.cache_clear()
    yield
    library.load_library.cache_clear()


def needs_compiler():
    if build.find_compiler() is None:
        pytest.skip("no C compiler")


def test_a_library_is_built_once(own_cache, tmp_path, monkeypatch):
    needs_compiler()
    path = build.library_path("portable")
    assert path.parent == tmp_path / "kernels"
    monkeypatch.setattr(build, "compile_to", lambda *_: pytest.fail("built again"))
    assert build.library_path("portable") == path
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing half-made is left


def test_a_changed_source_is_another_library(monkeypatch):
    before = build.source_hash("portable")
    assert build.source_hash("avx2") != before
    monkeypatch.setattr(build, "COMMON", [*build.COMMON, "-g"])
    build.source_hash.cache_clear()
    assert build.source_hash("portable") != before
    build.source_hash.cache_clear()


def test_without_a_compiler_onnxruntime_does_the_work(own_cache, monkeypatch, caplog):
    monkeypatch.setattr(build, "find_compiler", lambda: None)
    with caplog.at_level("INFO"):
        assert isinstance(cpu_kernels(), OnnxKernels)
    assert "no C compiler" in caplog.text


def test_so_it_does_where_compiling_fails(own_cache, monkeypatch, caplog):
    monkeypatch.setattr(build, "find_compiler", lambda: ["false"])
    assert isinstance(cpu_kernels(), OnnxKernels)
    assert "could not be built" in caplog.text


def test_so_it_does_where_the_cache_cannot_be_written(monkeypatch, tmp_path, caplog):
    needs_compiler()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HALFBYTE_CACHE", str(tmp_path / "file"))
    assert isinstance(cpu_kernels(), OnnxKernels)
    assert "could not be built" in caplog.text


def test_so_it_does_when_asked_for(monkeypatch):
    monkeypatch.setenv("HALFBYTE_CPU", "onnxruntime")
    assert isinstance(cpu_kernels(), OnnxKernels)


def test_an_instruction_set_can_be_named(monkeypatch):
    needs_compiler()
    monkeypatch.setenv("HALFBYTE_CPU", "portable")
    kernels = cpu_kernels()
    assert isinstance(kernels, NativeKernels)
    assert kernels.library.name == "portable"


def test_a_name_that_there_is_not(monkeypatch):
    monkeypatch.setenv("HALFBYTE_CPU", "sse9")
    with pytest.raises(ConfigError, match=r"sse9.*onnxruntime or one of avx512vnni"):
        cpu_kernels()


@pytest.mark.parametrize("name", build.FLAGS)
def test_the_best_that_the_machine_has_is_chosen(monkeypatch, name):
    monkeypatch.setattr(build, "machine_flags", lambda: set(build.FLAGS[name][0].split()))
    assert build.instruction_set() == name


def test_a_library_that_computes_wrongly_is_not_used(monkeypatch, caplog):
    needs_compiler()

    def wrong(*arguments):
        ctypes.memset(arguments[-1], 0, 4)
        return 1

    class Broken(library.Library):
        def __init__(self, name, path):
            super().__init__(name, path)
            self.functions["hb_linear"] = wrong

    monkeypatch.setattr(library, "Library", Broken)
    assert library.load_library() is None
    assert "compute wrongly" in caplog.text


def test_no_memory_is_an_error(monkeypatch):
    needs_compiler()
    loaded = library.open_library(HERE[0])
    kernel = NativeKernels(loaded).linear(linear_weight(16, 32, 32))
    monkeypatch.setitem(loaded.functions, "hb_linear", lambda *_: 0)
    with pytest.raises(MemoryError, match="hb_linear"):
        kernel(torch.ones(1, 32))


def test_more_heads_on_one_key_than_the_native_attention_has_room_for():
    assert isinstance(cpu_kernels(sharing_heads=65), OnnxKernels)

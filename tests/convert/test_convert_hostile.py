"""Files that were damaged or made to harm: an error of ours, and no more memory than the file is worth."""

import contextlib
import random
import struct
import tracemalloc

import gguf
import pytest
import torch
from gguf_mutations import Cut, Field, mutated, number, read_all
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_gguf import write_small_files
from small_tokenizers import byte_level_files
from tiny_checkpoints import LLAMA, random_tensors, write_model

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.convert import ConvertOptions, convert
from halfbyte.convert.importance import read_imatrix
from halfbyte.errors import CheckpointError, HalfbyteError

HURTFUL = [0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
MOST = 64 * 2**20  # for a file of 0.3 MB; one believed length would ask for gigabytes


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model in a mixture of types, and an importance file of each kind."""
    folder = tmp_path_factory.mktemp("hostile")
    config = LLAMA | {"vocab_size": 604, "hidden_size": 256, "intermediate_size": 256}
    config |= {"num_hidden_layers": 1, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    tensors = {name: tensor * 0.05 for name, tensor in random_tensors(config).items()}
    write_model(folder / "m", config, tensors)
    for name, contents in byte_level_files().items():
        (folder / "m" / name).write_bytes(contents)
    convert(folder / "m", folder / "m.gguf", "gguf:Q4_K_M")
    writer = gguf.GGUFWriter(folder / "i.gguf", "imatrix")
    names = [f"blk.0.{module}.weight" for module in ("attn_q", "attn_k", "ffn_down")]
    parts = [struct.pack("<i", len(names))]
    for name in names:
        writer.add_tensor(f"{name}.in_sum2", torch.rand(1, 256).numpy())
        writer.add_tensor(f"{name}.counts", torch.ones(1, 1).numpy())
        parts += [struct.pack("<i", len(name)), name.encode(), struct.pack("<ii", 1, 256), torch.rand(256).numpy()]
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()
    (folder / "i.dat").write_bytes(b"".join(p if isinstance(p, bytes) else p.tobytes() for p in parts))
    return folder


def damaged(data: bytes, hits: list[tuple[float, bytes]], reach: int) -> bytes:
    """Bytes written over the first `reach` of a file, at fractions of it."""
    out = bytearray(data)
    for place, value in hits:
        at = int(place * min(reach, len(out) - len(value)))
        out[at : at + len(value)] = value
    return bytes(out)


HITS = st.lists(
    st.tuples(
        st.floats(0, 1), st.binary(min_size=1, max_size=4) | st.sampled_from([struct.pack("<Q", n) for n in HURTFUL])
    ),
    min_size=1,
    max_size=4,
)
SOME = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SOME
@given(HITS, st.sampled_from([1500, 25_000, 10**9]), st.floats(0, 1))
def test_gguf(files, tmp_path, hits, reach, kept):
    data = damaged((files / "m.gguf").read_bytes(), hits, reach)
    path, out = tmp_path / "bad.gguf", tmp_path / "out.gguf"
    path.write_bytes(data if kept > 0.2 else data[: int(5 * kept * len(data))])
    tracemalloc.start()
    try:
        with contextlib.suppress(HalfbyteError):
            convert(path, out, "gguf:Q8_0", ConvertOptions(overwrite=True))
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    assert not (tmp_path / ".out.gguf.part").exists()


@SOME
@given(st.sampled_from(["i.gguf", "i.dat"]), HITS, st.floats(0, 1))
def test_importance(files, tmp_path, name, hits, kept):
    data = damaged((files / name).read_bytes(), hits, 1000)
    path = tmp_path / "bad"
    path.write_bytes(data if kept > 0.2 else data[: int(5 * kept * len(data))])
    with contextlib.suppress(CheckpointError):
        for values in read_imatrix(path).values():
            assert values.isfinite().all()


def test_blocks_that_decode_to_no_number(files, tmp_path):
    """A NaN scale within a tensor's data is found, and the tensor named."""
    source = open_source(files / "m.gguf")
    data = bytearray((files / "m.gguf").read_bytes())
    tensor = source._header.tensors["blk.0.ffn_up.weight"]
    data[tensor.offset : tensor.offset + 2] = b"\x00\x7e"
    (tmp_path / "bad.gguf").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.layers\.0\.mlp\.up_proj\.weight \(layer 0\) has 256 values"):
        convert(tmp_path / "bad.gguf", tmp_path / "out.gguf", "gguf:Q8_0")
    assert not (tmp_path / "out.gguf").exists()


def test_a_vocabulary_of_another_size_than_the_embedding(files, tmp_path):
    """The header may name fewer tokens than the embedding has rows: said, not crashed on."""
    other = LLAMA | {"vocab_size": 700, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    folder = tmp_path / "m"
    write_model(folder, other, random_tensors(other))
    for name, contents in byte_level_files().items():
        (folder / name).write_bytes(contents)
    convert(folder, tmp_path / "padded.gguf", "gguf:F16")  # a tokenizer may be smaller: the rest is padding
    assert Checkpoint(open_source(tmp_path / "padded.gguf")).config.vocab_size == 700


def test_fields_that_lie(tmp_path):
    """Lengths, counts, types, dimensions, offsets and values, one at a time; 100 000 more: tests/fuzz/fuzz_gguf.py."""
    cuts = [Cut(path.read_bytes()) for path in write_small_files(tmp_path)]
    path, told = tmp_path / "hostile.gguf", set()
    tracemalloc.start()
    try:
        for n in range(300):
            path.write_bytes(mutated(cuts[n % 2], random.Random(n)))
            told.add(read_all(path))
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    assert None in told
    assert len(told) > 100


def test_every_end_of_a_field(tmp_path):
    """Cut off anywhere in its header, a file is refused, and what was being read is named."""
    file = Cut(write_small_files(tmp_path)[0].read_bytes())
    path, at = tmp_path / "short.gguf", 0
    for entry in (file.head, *file.keys, *file.tensors):
        for field in entry:
            for end in (at, at + 1):
                path.write_bytes(file.data[:end])
                assert read_all(path) is not None, end
            at += len(field.raw)
    path.write_bytes(file.data[: file.data.index(b"tokenizer.ggml.tokens") + 70])
    assert "truncated or damaged at tokenizer.ggml.tokens" in read_all(path)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((2**63, 2**63, 2**63, 2**63), "truncated: tensor output_norm.weight"),
        ((2**32, 2**32), "truncated: tensor output_norm.weight"),  # 0 in 64 bits
        ((2**64 - 32,), "truncated: tensor output_norm.weight"),  # -32
        ((0, 2**62), r"model.norm.weight in .* has shape \[4611686018427387904, 0\], expected \[32\]"),
        ((), r"model.norm.weight in .* has shape \[\], expected \[32\]"),
        ((32, 1), r"model.norm.weight in .* has shape \[1, 32\], expected \[32\]"),
    ],
)
def test_dimensions_whose_product_is_not_what_it_seems(tmp_path, shape, said):
    file = Cut(write_small_files(tmp_path)[0].read_bytes())
    norm = next(entry for entry in file.tensors if entry[1].raw == b"output_norm.weight")
    assert number(norm[2]) == 1
    norm[2:4] = [
        Field("number", struct.pack("<I", len(shape))),
        *(Field("number", struct.pack("<Q", n)) for n in shape),
    ]
    header = b"".join(field.raw for entry in (file.head, *file.keys, *file.tensors) for field in entry)
    path = tmp_path / "hostile.gguf"
    path.write_bytes(header + bytes(-len(header) % 32) + file.rest)
    with pytest.raises(HalfbyteError, match=said):
        Checkpoint(open_source(path))


def test_a_piece_that_takes_the_square_of_its_length(tmp_path):
    """SentencePiece merges are looked for in every piece: one of a megabyte would take hours."""
    file = Cut(write_small_files(tmp_path)[0].read_bytes())
    tokens = next(entry for entry in file.keys if entry[1].raw == b"tokenizer.ggml.tokens")
    tokens[-2:] = [Field("number", struct.pack("<Q", 10**6)), Field("text", b"a" * 10**6)]
    header = b"".join(field.raw for entry in (file.head, *file.keys, *file.tensors) for field in entry)
    path = tmp_path / "hostile.gguf"
    path.write_bytes(header + bytes(-len(header) % 32) + file.rest)
    assert "tokenizer.ggml.tokens[15] has 1000000 characters" in read_all(path)

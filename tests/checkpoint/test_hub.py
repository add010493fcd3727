"""Hub ids: a hand-made cache with its links, what is downloaded, and errors that say what to do."""

import os
import subprocess
import sys

import huggingface_hub as hub
import huggingface_hub.constants
import huggingface_hub.errors
import pytest
import torch
from tiny_checkpoints import write_sharded

from halfbyte.checkpoint.hub import needed_files
from halfbyte.checkpoint.open import open_source
from halfbyte.errors import SourceError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path):
    """HF_HOME with org/tiny in it, the way the Hub's library lays it out."""
    repo = tmp_path / "hub" / "models--org--tiny"
    tensors = write_sharded(tmp_path / "plain")
    snapshot, blobs = repo / "snapshots" / COMMIT, repo / "blobs"
    for folder in (snapshot / "meta-license", blobs, repo / "refs"):
        folder.mkdir(parents=True)
    for i, path in enumerate(sorted((tmp_path / "plain").iterdir())):
        path.rename(blobs / f"{i:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{i:040x}")
    (blobs / "aa").write_text("licence")
    (snapshot / "meta-license" / "LICENSE.txt").symlink_to("../../../blobs/aa")
    (repo / "refs" / "main").write_text(COMMIT)
    return tmp_path, tensors


@pytest.fixture
def offline(cached, monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(cached[0] / "hub"))
    return cached


@pytest.mark.parametrize("spec", ["org/tiny", "org/tiny@main", f"org/tiny@{COMMIT}"])
def test_a_cached_model_opens_offline(offline, spec):
    _, tensors = offline
    source = open_source(spec)
    assert source.spec == spec
    assert source.tensors().keys() == tensors.keys()
    assert all(torch.equal(source.read(name), tensor) for name, tensor in tensors.items())
    assert source.file("meta-license/LICENSE.txt") == b"licence"
    assert source.files() == ["config.json", "meta-license/LICENSE.txt"]


@pytest.mark.parametrize("spec", ["org/other", "org/tiny@v2"])
def test_what_is_not_cached_says_so_offline(offline, spec):
    with pytest.raises(SourceError, match=rf"{spec}: .*not in the Hub cache .*HF_HUB_OFFLINE is set"):
        open_source(spec)


def test_the_environment_decides(cached):
    home, tensors = cached
    code = "from halfbyte.checkpoint.open import open_source as o; print(len(o('org/tiny').tensors()))"
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(tensors)


def failing(error):
    def model_info(self, repo_id, revision=None):
        raise error

    return model_info


def http_error(kind):
    error = kind.__new__(kind)
    Exception.__init__(error, "server said no")
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (http_error(hub.errors.GatedRepoError), "is gated: accept its terms"),
        (http_error(hub.errors.RepositoryNotFoundError), "no such public repository"),
        (http_error(hub.errors.RevisionNotFoundError), "org/absent has no revision 'v9'"),
        (http_error(hub.errors.HfHubHTTPError), "could not be fetched from the Hub"),
        (ConnectionError("no route"), "the Hub cannot be reached"),
    ],
)
def test_what_the_hub_says_becomes_advice(monkeypatch, tmp_path, error, says):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.HfApi, "model_info", failing(error))
    with pytest.raises(SourceError, match=says):
        open_source("org/absent@v9")


def test_only_what_is_needed_is_downloaded():
    notes = ["README.md", "config.json", "tokenizer.json", "LICENSE", "meta-license/LICENSE.txt"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    other = ["pytorch_model.bin", "consolidated.safetensors", "original/params.json", "onnx/model.onnx", "a.gguf"]
    assert sorted(needed_files(notes + shards + other)) == sorted(notes + shards)
    assert needed_files(["pytorch_model.bin", "flax_model.msgpack"]) == ["pytorch_model.bin"]
    assert needed_files(["odd.safetensors", "pytorch_model.bin"]) == ["pytorch_model.bin"]

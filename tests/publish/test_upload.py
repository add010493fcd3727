"""Uploads, against a stand-in for the Hub's HTTP interface."""

import hashlib
import logging

import pytest
from hub_stand_in import running_hub
from huggingface_hub import constants

from halfbyte.errors import PublishError
from halfbyte.publish import plan_upload, upload
from halfbyte.publish.recipe import Member, Recipe, Repository

CARD = "---\nlicense: apache-2.0\n---\n# Card\n"
AWQ = Repository("me/tiny-AWQ", (Member("awq:4bit-128g"), Member("awq:4bit-32g", branch="g32")))
RECIPE = Recipe("somewhere", (AWQ,))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # plain LFS: the stand-in has no Xet
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with running_hub() as (hub, address):
        yield hub, address


@pytest.fixture
def built(tmp_path):
    for branch, folder in (("main", tmp_path / "tiny-AWQ"), ("g32", tmp_path / "tiny-AWQ@g32")):
        (folder / "meta-license").mkdir(parents=True)
        (folder / "README.md").write_text(CARD)
        (folder / "model.safetensors").write_bytes(branch.encode() * 1000)
        (folder / "meta-license/LICENSE.txt").write_text("terms")
        (folder / ".cache").mkdir()
        (folder / ".cache/left").write_text("over")
    return tmp_path


def test_everything_arrives_on_its_branch_and_nothing_else(hub, built):
    hub, address = hub
    addresses = upload(RECIPE, built, endpoint=address, token="hf_x")
    assert addresses == [f"{address}/me/tiny-AWQ/tree/main", f"{address}/me/tiny-AWQ/tree/g32"]
    names = {"README.md", "model.safetensors", "meta-license/LICENSE.txt"}
    for branch in ("main", "g32"):
        assert set(hub.files["me/tiny-AWQ", branch]) == names
        assert hub.files["me/tiny-AWQ", branch]["model.safetensors"] == branch.encode() * 1000
    assert hub.calls[0] == "POST /api/validate-yaml"


def test_the_plan_is_what_is_sent(hub, built):
    hub, address = hub
    planned = plan_upload(RECIPE, built)
    assert hub.calls == []
    upload(RECIPE, built, endpoint=address, token="hf_x")
    sent = {
        (repo, branch, name, len(data), hashlib.sha256(data).hexdigest())
        for (repo, branch), files in hub.files.items()
        for name, data in files.items()
    }
    assert {(p.repo, p.branch, p.name, p.size, p.sha256) for p in planned} == sent


def test_a_broken_upload_goes_on_where_it_stopped(hub, built):
    hub, address = hub
    hub.fails_after = 1
    with pytest.raises(PublishError, match=r"me/tiny-AWQ@g32: the upload failed.*run again"):
        upload(RECIPE, built, endpoint=address, token="hf_x")
    hub.fails_after = None
    before = sum(call.startswith("PUT /lfs") for call in hub.calls)
    upload(RECIPE, built, endpoint=address, token="hf_x")
    assert sum(call.startswith("PUT /lfs") for call in hub.calls) == before + 1
    assert hub.files["me/tiny-AWQ", "g32"]["model.safetensors"] == b"g32" * 1000


def test_a_card_that_the_hub_refuses_stops_before_anything_is_sent(hub, built):
    hub, address = hub
    hub.refuses_card = '"license" must be one of [...]'
    with pytest.raises(PublishError, match=r'README\.md: the Hub refuses its front matter: "license" must'):
        upload(RECIPE, built, endpoint=address, token="hf_x")
    assert hub.files == {}


def test_what_is_not_built_is_said(built):
    recipe = Recipe("somewhere", (AWQ, Repository("me/tiny-GGUF", (Member("gguf:Q8_0"),))))
    with pytest.raises(PublishError, match="tiny-GGUF is not there or not complete"):
        plan_upload(recipe, built)

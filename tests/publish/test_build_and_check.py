"""A family of tiny repositories: built, run as their cards say, checked, damaged and checked again."""

import json
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
import yaml
from small_tokenizers import byte_level_files
from tiny_checkpoints import LLAMA, random_tensors, write_model

from halfbyte.errors import OutputError, PublishError
from halfbyte.publish import build, check
from halfbyte.publish import measure as measuring
from halfbyte.publish.card import check_front_matter
from halfbyte.publish.card_code import autoawq_code, halfbyte_code, transformers_code
from halfbyte.publish.recipe import parse_recipe

NOTES = {
    "LICENSE.txt": b"own terms",
    "meta-license/LICENSE.txt": b"their terms",
    "meta-license/USE_POLICY.md": b"no harm",
    "notes.txt": b"not a licence",
}
CARD = b"---\nlicense: other\nlicense_name: own\nmodel_creator: Somebody\n---\nThe original text.\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "tiny"
    config = LLAMA | {"vocab_size": 601, "bos_token_id": 1, "eos_token_id": 2}
    tensors = {n: t if "norm" in n else t * 0.05 for n, t in random_tensors(config, dtype=torch.float32).items()}
    write_model(folder, config, tensors)
    for name, contents in (byte_level_files() | NOTES | {"README.md": CARD}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(contents)
    return folder


def recipe(source, text):
    wanted = {
        "source": str(source), "base_model": "org/tiny", "name": "Tiny",
        "evaluation": {"text": str(text), "context": 64, "windows": 2},
        "also_licensed": [], "repositories": [
            {"repo": "me/tiny-AWQ", "files": [
                {"format": "awq:4bit-32g", "samples": 2, "seq_len": 64},
            ]},
            {"repo": "me/tiny-GGUF", "files": [{"format": "gguf:Q8_0"}, {"format": "gguf:Q4_0"}]},
            {"repo": "me/tiny-fp16", "files": [{"format": "fp16", "branch": "half"}]},
        ],
    }  # fmt: skip
    return parse_recipe(wanted, "recipe")


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    """Programs run in this process: starting Python for each would take a minute."""
    out = tmp_path_factory.mktemp("published")
    text = out / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    patch = pytest.MonkeyPatch()
    patch.setattr(measuring, "PROGRAMS_FOR", {"awq": ("halfbyte",), "gguf": (), "fp16": ()})
    try:
        folders = build(recipe(source, text), out)
    finally:
        patch.undo()
    return {folder.name: folder for folder in folders}


def test_folders_and_their_files(built):
    assert set(built) == {"tiny-AWQ", "tiny-GGUF", "tiny-fp16@half"}
    for folder in built.values():
        for name in ("LICENSE.txt", "meta-license/LICENSE.txt", "meta-license/USE_POLICY.md"):
            assert (folder / name).read_bytes() == NOTES[name]
        done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, check=False)
        assert done.returncode == 0
    assert {p.name for p in built["tiny-GGUF"].glob("*.gguf")} == {"tiny.Q8_0.gguf", "tiny.Q4_0.gguf"}


def test_cards(built):
    for name, folder in built.items():
        card = (folder / "README.md").read_text()
        data = check_front_matter(card)
        assert (data["license"], data["license_name"], data["license_link"]) == ("other", "own", "LICENSE.txt")
        assert data["base_model"] == "org/tiny"
        assert data["model_creator"] == "Somebody"
        assert "{prompt}" in data["prompt_template"]
        assert "# Original model card: Somebody's Tiny\n\nThe original text." in card
        assert "| Perplexity | KL |" in card, name
        assert "[meta-license/USE_POLICY.md](meta-license/USE_POLICY.md)" in card
    awq = (built["tiny-AWQ"] / "README.md").read_text()
    assert "| halfbyte |" in awq
    assert "| Memory |" in awq
    report = json.loads((built["tiny-GGUF"] / "publish_report.json").read_text())
    assert [one["size"] for one in report] == [(built["tiny-GGUF"] / one["file"]).stat().st_size for one in report]


def test_the_cards_code_runs_on_what_was_built(built, source, capsys):
    from halfbyte.checkpoint.open import open_source
    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.quantize.card import prompt_template

    awq = recipe(source, "x").repositories[0]
    code = halfbyte_code(awq)
    assert code.strip() in (built["tiny-AWQ"] / "README.md").read_text()
    exec(compile(halfbyte_code(awq, str(built["tiny-AWQ"])), "card", "exec"), {})
    assert capsys.readouterr().out.count("Generated text") == 4
    template = prompt_template(Tokenizer.from_source(open_source(source)))
    assert transformers_code(awq, template).strip() in (built["tiny-AWQ"] / "README.md").read_text()
    pytest.importorskip("transformers")
    code = transformers_code(awq, template, str(built["tiny-AWQ"]), tokens=4).replace(', device_map="auto"', "")
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out.count("Tell me about AI") == 2  # generate, and the pipeline
    assert autoawq_code(awq, template).strip() in (built["tiny-AWQ"] / "README.md").read_text()
    exec(compile(autoawq_code(awq, template, str(built["tiny-AWQ"]), tokens=4), "card", "exec"), {})
    assert "Tell me about AI" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tiny-AWQ", "tiny-GGUF", "tiny-fp16@half"])
def test_what_was_built_is_in_order(built, name):
    findings = check(built[name])
    assert [f.problem for f in findings if f.problem and not f.what.startswith("answer")] == []
    assert {f.what.split()[0] for f in findings} == {"hashes", "card", "shapes", "template", "answer"}


def test_faults_are_found(built, tmp_path):
    folder = tmp_path / "tiny-AWQ"

    def faults():
        return {f.what.split()[0]: f.problem for f in check(folder) if f.problem}

    shutil.copytree(built["tiny-AWQ"], folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    found = faults()
    assert "its sha256 is not the one" in found["hashes"]
    assert "model.safetensors" in found["shapes"]
    shutil.copyfile(built["tiny-AWQ"] / "model.safetensors", weights)
    card = folder / "README.md"
    text = card.read_text()
    header, _, rest = text.removeprefix("---\n").partition("---\n")
    said = yaml.safe_load(header) | {"prompt_template": "Q: {prompt} A:"}
    card.write_text(f"---\n{yaml.safe_dump(said)}---\n{rest}")
    assert "prompt_template is 'Q: {prompt} A:'" in faults()["template"]
    (folder / "stray.bin").write_bytes(b"x")
    card.write_text(text)
    assert "stray.bin is not in SHA256SUMS" in faults()["hashes"]
    (folder / "stray.bin").unlink()
    card.unlink()
    assert "README.md is missing" in faults()["card"]


def test_a_name_in_the_checksums_that_leads_out(built, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(built["tiny-AWQ"], folder)
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  ../../etc/passwd\n")
    assert any("not a plain file name" in (f.problem or "") for f in check(folder))


def test_a_card_is_never_overwritten_unasked(source, tmp_path):
    (tmp_path / "tiny-GGUF").mkdir()
    (tmp_path / "tiny-GGUF/README.md").write_text("by hand")
    with pytest.raises(OutputError, match=r"tiny-GGUF/README\.md is already there; pass --overwrite"):
        build(recipe(source, "x"), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-GGUF"]
    assert (tmp_path / "tiny-GGUF/README.md").read_text() == "by hand"


def test_a_model_without_a_licence_is_not_published(source, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(source, folder)
    (folder / "README.md").write_text("No front matter.")
    with pytest.raises(PublishError, match="under which licence"):
        build(recipe(folder, "x"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_template_that_is_not_the_models_is_refused_before_anything_is_made(source, tmp_path):
    wanted = recipe(source, tmp_path / "text.txt")
    with pytest.raises(PublishError, match=r"prompt_template: is 'Q: \{prompt\} A:', but the chat template of"):
        build(replace(wanted, prompt_template="Q: {prompt} A:"), tmp_path / "out")
    assert not (tmp_path / "out").exists()

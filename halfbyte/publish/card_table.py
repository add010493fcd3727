"""The table of provided files, with what was measured of each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from halfbyte.publish.recipe import Member, Recipe, Repository
    from halfbyte.publish.result import MemberResult

HUB = "https://huggingface.co"
_CALIBRATIONS = {
    "builtin": "Python language reference",
    "wikitext": "[wikitext](https://huggingface.co/datasets/wikitext/viewer/wikitext-2-v1/test)",
}
_ACT_ORDER = re.compile(r"actorder|desc_?act")


def table(recipe: Recipe, repository: Repository, results: Sequence[MemberResult]) -> str:
    """Markdown. Columns of figures that no member has are left out; the text that they were measured on is named."""
    columns = _gguf_columns(repository) if repository.kind == "gguf" else _branch_columns(repository)
    figures: list[tuple[str, Callable[[MemberResult], str]]] = [
        *columns,
        ("Perplexity", lambda r: _number(r.perplexity, 3)),
        ("KL", lambda r: _number(r.kl_divergence, 4)),
        ("Memory", lambda r: "" if r.memory is None else gigabytes(r.memory.bytes)),
    ]
    rows = [[cell(result) for _, cell in figures] for result in results]
    used = [i for i in range(len(figures)) if i < len(columns) or any(row[i] for row in rows)]
    lines = [[figures[i][0] for i in used], ["-" * max(2, len(figures[i][0])) for i in used]]
    lines += [[row[i] for i in used] for row in rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([text, *_notes(recipe, repository, results)])


def gigabytes(size: float) -> str:
    """Bytes as the Hub shows them: 3.89 GB; what is smaller than 0.1 GB in MB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _branch_columns(repository: Repository) -> list[tuple[str, Callable[[MemberResult], str]]]:
    def link(r: MemberResult) -> str:
        return f"[{r.member.branch}]({HUB}/{repository.repo}/tree/{r.member.branch})"

    if repository.kind in {"fp16", "bf16"}:
        return [("Branch", link), ("Type", lambda r: r.member.kind), ("Size", lambda r: gigabytes(r.size))]
    name = {"awq": "AWQ", "gptq": "GPTQ"}.get(repository.kind, "Calibration")
    act_order = repository.kind == "gptq"
    return [
        ("Branch", link),
        ("Bits", lambda r: f"{_nominal_bits(r.member.format)}"),
        ("GS", lambda r: "None" if r.group_size == -1 else str(r.group_size or "")),
        *([("Act Order", lambda r: "Yes" if _ACT_ORDER.search(r.member.format) else "No")] if act_order else []),
        (f"{name} Dataset", lambda r: calibration(r.member)),
        ("Seq Len", lambda r: str(r.member.seq_len)),
        ("Size", lambda r: gigabytes(r.size)),
    ]


def _gguf_columns(repository: Repository) -> list[tuple[str, Callable[[MemberResult], str]]]:
    return [
        ("Name", lambda r: f"[{r.file}]({HUB}/{repository.repo}/blob/{r.member.branch}/{r.file})"),
        ("Quant method", lambda r: r.member.format.partition(":")[2]),
        ("Bits", lambda r: f"{r.bits:.2f}"),
        ("Size", lambda r: gigabytes(r.size)),
    ]


def calibration(member: Member) -> str:
    """The text that activations were measured on, with a link where there is one."""
    if member.calib_link:
        return f"[{member.calib}]({member.calib_link})"
    return _CALIBRATIONS.get(member.calib, member.calib)


def _nominal_bits(form: str) -> str:
    return form.partition(":")[2][:1]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _notes(recipe: Recipe, repository: Repository, results: Sequence[MemberResult]) -> list[str]:
    notes = []
    if repository.kind == "gguf":
        weighed = sorted({result.member.imatrix for result in results if result.member.imatrix})
        if weighed:
            notes.append(f"Errors were weighed by the importance of each input channel ({', '.join(weighed)}).")
    else:
        notes.append("Models are released as safetensors files, in shards where they are large.")
    if recipe.evaluation is not None and any(result.perplexity is not None for result in results):
        e = recipe.evaluation
        reference = next((r.reference_perplexity for r in results if r.reference_perplexity is not None), None)
        count = "all whole windows" if e.windows is None else f"{e.windows} window{'s' * (e.windows != 1)}"
        before = "" if reference is None else f" The source model's perplexity is {reference:.3f}."
        notes.append(
            "Perplexity, and KL divergence from the source model in nats, were measured in float32 over "
            f"{count} of {e.context} tokens of {e.text.rpartition('/')[2]}.{before}"
        )
    programs = sorted({result.memory.program for result in results if result.memory is not None})
    if programs:
        notes.append(
            f"Memory is the most that a process of {' or '.join(programs)} held while it loaded the files on a CPU and "
            "answered once."
        )
    return notes

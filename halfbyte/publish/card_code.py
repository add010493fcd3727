"""The card's sections on running the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.publish.snippets import (
    AUTOAWQ,
    DEQUANTIZED,
    HALFBYTE,
    LLAMA_CPP,
    LLAMA_CPP_PYTHON,
    TGI,
    TRANSFORMERS,
    VLLM,
    VLLM_SERVER,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halfbyte.publish.recipe import Repository
    from halfbyte.publish.result import MemberResult

INSTALL = 'pip3 install "halfbyte[transformers]"'
_METHODS = {"awq": "awq", "gptq": "gptq", "compressed-tensors": "compressed-tensors"}
_TRANSFORMERS_SETUP = {  # further imports, and arguments of from_pretrained
    "awq": ("\n\nimport halfbyte.integrations.transformers  # runs AWQ without a GPU", ""),
    "compressed-tensors": (", CompressedTensorsConfig", f", quantization_config={DEQUANTIZED}"),
}


def code_sections(repository: Repository, results: Sequence[MemberResult], template: str | None) -> list[str]:
    """How to serve the files and how to use them from Python."""
    if repository.kind == "gguf":
        return _gguf(results[0].file or "", template)
    sections = [*_serving(repository), _heading(repository)]
    sections.append(f"### Install the necessary packages\n\n{_shell(INSTALL)}")
    sections.append("### You can then try the following example code\n\n" + _python(halfbyte_code(repository)))
    if repository.kind == "awq":
        sections.append("### With AutoAWQ's class\n\n" + _python(autoawq_code(repository, template)))
    sections.append("### From transformers\n\n" + _from_transformers(repository, template))
    return sections


def _from_transformers(repository: Repository, template: str | None) -> str:
    code = _python(transformers_code(repository, template))
    if repository.kind == "compressed-tensors":
        return f"{_shell('pip3 install compressed-tensors')}\n\n{code}"
    if repository.kind != "gptq":
        return code
    return f"transformers reads GPTQ with GPTQModel:\n\n{_shell('pip3 install gptqmodel optimum')}\n\n{code}"


def halfbyte_code(repository: Repository, place: str | None = None) -> str:
    """The example for halfbyte; `place` stands in for the Hub id, as where it is tested."""
    method = _METHODS.get(repository.kind)
    quantization = f', quantization="{method}"' if method else ""
    return HALFBYTE.format(place=place or repository.repo, quantization=quantization)


def transformers_code(repository: Repository, template: str | None, place: str | None = None, tokens: int = 512) -> str:
    """The example for transformers."""
    setup, options = _TRANSFORMERS_SETUP.get(repository.kind, ("", ""))
    return TRANSFORMERS.format(
        place=place or repository.repo,
        template=_in_f_string(template or "{prompt}"),
        setup=setup,
        options=options,
        tokens=tokens,
    )


def autoawq_code(repository: Repository, template: str | None, place: str | None = None, tokens: int = 512) -> str:
    """The example for those who know AutoAWQ: its class, its options."""
    return AUTOAWQ.format(place=place or repository.repo, template=_in_f_string(template or "{prompt}"), tokens=tokens)


def _in_f_string(template: str) -> str:
    """The template as it stands between triple quotes of an f-string whose only field is {prompt}."""
    braces = template.replace("{", "{{").replace("}", "}}").replace("{{prompt}}", "{prompt}")
    return _in_quotes(braces)


def _in_quotes(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def _heading(repository: Repository) -> str:
    return {
        "awq": "## How to use this AWQ model from Python code",
        "gptq": "## How to use this GPTQ model from Python code",
    }.get(repository.kind, "## How to use this model from Python code")


def _serving(repository: Repository) -> list[str]:
    method = _METHODS.get(repository.kind)
    if method is None:
        return []
    branch = repository.branches[0]
    flag, argument = ("", "") if branch == "main" else (f" --revision {branch}", f', revision="{branch}"')
    vllm = (
        "Documentation on installing and using vLLM [can be found here](https://docs.vllm.ai/en/latest/).\n\n"
        f"- When using vLLM as a server, pass the `--quantization {method}` parameter, for example:\n\n"
        + _shell(VLLM_SERVER.format(repo=repository.repo, revision=flag, method=method))
        + f"\n\nWhen using vLLM from Python code, pass the `quantization={method}` parameter, for example:\n\n"
        + _python(VLLM.format(place=repository.repo, method=method, revision=argument))
    )
    sections = [f"## Serving this model from vLLM\n\n{vllm}"]
    if repository.kind != "compressed-tensors":
        command = TGI.format(repo=repository.repo, revision=flag, method=method)
        sections.append(f"## Serving this model from TGI\n\n{_shell(command)}")
    return sections


def _gguf(file: str, template: str | None) -> list[str]:
    prompt = (template or "{prompt}").replace("\n", "\\n").replace('"', '\\"')
    text = _in_quotes(template or "{prompt}")
    return [
        f"## Running it in llama.cpp\n\n{_shell(LLAMA_CPP.format(file=file, prompt=prompt))}",
        "## How to use these files from Python code\n\n" + _python(LLAMA_CPP_PYTHON.format(file=file, template=text)),
    ]


def _python(code: str) -> str:
    return f"```python\n{code.strip()}\n```"


def _shell(command: str) -> str:
    return f"```shell\n{command}\n```"

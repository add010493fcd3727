"""`import halfbyte` hands on its names without importing torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import halfbyte


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_it_does_not_import_torch():
    heavy = "{'torch', 'numpy', 'tokenizers', 'transformers', 'rich'}"
    assert python(f"import sys, halfbyte; print(sorted({heavy} & set(sys.modules)))") == "[]"
    assert python("import sys; from halfbyte import SamplingParams; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("name", halfbyte.__all__)
def test_every_name_is_there(name):
    assert getattr(halfbyte, name) is not None
    assert name in dir(halfbyte)


def test_quantize_is_the_function_whatever_was_imported_before():
    assert python("import halfbyte.quantize.options, halfbyte; print(callable(halfbyte.quantize))") == "True"
    assert (
        python("from halfbyte import quantize; import halfbyte.quantize.options as o; print(callable(quantize))")
        == "True"
    )


def test_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        halfbyte.nothing  # noqa: B018

"""What `AutoAWQForCausalLM.from_pretrained` gives: a float model that can be quantized, saved, and asked."""

from __future__ import annotations

import tempfile
import warnings
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.folder import FolderSource
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.checkpoint.writer import RepositoryWriter
from halfbyte.errors import OutputError, QuantizeError
from halfbyte.integrations.awq_options import group_size_of, refuse_quantize, shard_bytes
from halfbyte.integrations.fused_model import load_fused
from halfbyte.quantize.card import model_card
from halfbyte.quantize.driver import quantize
from halfbyte.quantize.options import QuantizeOptions

if TYPE_CHECKING:
    from halfbyte.integrations.fused_model import FusedForCausalLM
    from halfbyte.quantize.report import Report

FROM_THE_HUB = ("pileval", "mit-han-lab/pile-val-backup")  # AutoAWQ's default text, under both of its names
PROBE = "Speak, friend, and enter: 1 + 2 = 3."


class ModelToQuantize:
    """A model from disk, quantized when told to.

    `quantize` writes a whole repository into a temporary folder, which lasts as long as this object; `save_quantized`
    writes it where it is wanted. `generate` answers with the quantized weights once there are any.
    """

    def __init__(self, checkpoint: Checkpoint, use_cache: bool = True) -> None:
        """use_cache: what `generate` does unless told otherwise; quantizing needs no cache."""
        self.checkpoint = checkpoint
        self.use_cache = use_cache
        self.report: Report | None = None
        self._place: tempfile.TemporaryDirectory[str] | None = None

    @cached_property
    def model(self) -> FusedForCausalLM:
        """As a transformers model, loaded when first asked for: quantized, if it has been."""
        model = load_fused(self._quantized or self.checkpoint)
        model.generation_config.use_cache = model.config.use_cache = self.use_cache
        return model

    @property
    def config(self) -> Any:
        """transformers' config of `model`."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' `generate`."""
        return self.model.generate(*args, **kwargs)

    def quantize(
        self,
        tokenizer: Any = None,
        quant_config: dict[str, Any] | None = None,
        calib_data: str | list[str] = "pileval",
        *,
        max_calib_samples: int = 128,
        max_calib_seq_len: int = 512,
        **others: Any,
    ) -> None:
        """Quantize to 4-bit AWQ. Raises QuantizeError for options and data that do not allow it.

        tokenizer: checked to be the model's own, which is what is used. quant_config: zero_point, q_group_size, w_bit,
        version. calib_data: "builtin", "wikitext", the path of a text, or texts; "pileval", which lies on the Hub,
        becomes "builtin". The other names of AutoAWQ's options are known, their defaults taken, and the rest refused.
        """
        refuse_quantize(others)
        self._check_tokenizer(tokenizer)
        group_size = group_size_of(quant_config or {})
        place = tempfile.TemporaryDirectory(prefix="halfbyte-awq-")
        calib = calibration(calib_data, Path(place.name))
        options = QuantizeOptions(
            group_size=group_size, calib=calib, samples=max_calib_samples, seq_len=max_calib_seq_len
        )
        report = quantize(self.checkpoint.source, Path(place.name) / "model", options)
        if isinstance(calib_data, list):
            report.calib = f"{len(calib_data)} texts"
        self.report, self._place = report, place
        self.__dict__.pop("model", None)

    def save_quantized(
        self, save_dir: str | Path, safetensors: bool = True, shard_size: str | int = "5GB", *, overwrite: bool = False
    ) -> None:
        """Write the AWQ repository: it appears whole or not at all.

        Raises QuantizeError before `quantize`, OutputError if save_dir holds something and `overwrite` is not set.
        """
        quantized = self._quantized
        if quantized is None or self.report is None:
            raise QuantizeError("nothing is quantized yet: call quantize(tokenizer, quant_config=...) first")
        if not safetensors:
            raise QuantizeError("safetensors=False: .bin files run code when they are loaded, and are not written")
        source, out = quantized.source, Path(save_dir)
        if not overwrite and out.is_dir() and any(out.iterdir()):
            raise OutputError(f"{out} already holds something; choose another folder or pass overwrite=True")
        writer = RepositoryWriter(out, max_shard_size=shard_bytes(shard_size), overwrite=overwrite)
        writer.check(sum(info.nbytes for info in source.tensors().values()))
        with writer:
            for name in source.tensors():
                writer.add(name, source.read(name))
            writer.finish(source.config, self._files(quantized, str(save_dir)))

    @property
    def _quantized(self) -> Checkpoint | None:
        return None if self._place is None else Checkpoint(FolderSource(Path(self._place.name) / "model"))

    def _files(self, quantized: Checkpoint, out: str) -> dict[str, bytes]:
        """The small files, with the card and the report naming the folder that the model ends in."""
        assert self.report is not None
        self.report.out = out
        source = quantized.source
        copied = {name: source.file(name) or b"" for name in source.files() if name != "config.json"}
        tokenizer = Tokenizer.from_source(source)
        card = model_card(self.checkpoint.source, self.checkpoint.config, tokenizer, self.report)
        return copied | {"README.md": card.encode(), "quantize_report.json": self.report.to_json().encode()}

    def _check_tokenizer(self, tokenizer: Any) -> None:
        if tokenizer is None:
            return
        own = Tokenizer.from_source(self.checkpoint.source).encode(PROBE, add_special_tokens=False)
        given = tokenizer.encode(PROBE, add_special_tokens=False)
        if list(given) != own:
            raise QuantizeError(
                f"the tokenizer is not that of {self.checkpoint.source.spec}: it makes other tokens of {PROBE!r}; "
                "pass the model's own, or leave it out"
            )


def calibration(data: str | list[str], folder: Path) -> str:
    """What `QuantizeOptions.calib` is told for AutoAWQ's calib_data; texts are written into `folder`."""
    if isinstance(data, list):
        if not data or not all(isinstance(text, str) for text in data):
            raise QuantizeError("calib_data must be a list of texts, a text file's path, 'builtin' or 'wikitext'")
        path = folder / "calibration.txt"
        path.write_text("\n\n".join(data), "utf-8")
        return str(path)
    if data not in FROM_THE_HUB:
        return data
    warnings.warn(
        f"calib_data={data!r} is a data set on the Hub; halfbyte calibrates on its built-in text instead "
        "(calib_data='builtin' says so without a warning; a list of texts or a file gives others)",
        stacklevel=3,
    )
    return "builtin"

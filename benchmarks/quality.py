"""Every way of quantizing one model, each measured on several texts: does one order hold on all of them?

    python benchmarks/quality.py SOURCE --text FILE [--text FILE] [--group-sizes 64,32] [--methods rtn,awq,gptq,default]
                                 [--calib builtin] [--samples 64] [--seq-len 512] [--context 1024] [--windows 32]

`halfbyte compare` measures on one text; this quantizes once for all. Perplexity and KL(reference || quantized) by the
protocol of `halfbyte eval perplexity`, in float32. One JSON object a line, behind one with the reference's figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.evaluate.perplexity import cut_windows, measure, read_text, tokenize
from halfbyte.evaluate.reference import keep_reference
from halfbyte.models.loader import exact_network
from halfbyte.quantize import QuantizeOptions, quantize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--group-sizes", default="64,32")
    parser.add_argument("--methods", default="rtn,awq,gptq,default")
    parser.add_argument("--calib", default="builtin")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=32, help="of each text")
    args = parser.parse_args()
    checkpoint = Checkpoint(open_source(args.source))
    tokenizer = Tokenizer.from_source(checkpoint.source)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = {
            path.name: cut_windows(tokenize(tokenizer, read_text(path)), args.context, args.windows)
            for path in args.text
        }
        references = {
            name: keep_reference(checkpoint, windows, folder / f"{i}.safetensors")
            for i, (name, windows) in enumerate(texts.items())
        }
        told = False
        for size in map(int, args.group_sizes.split(",")):
            for method in args.methods.split(","):
                options = QuantizeOptions(
                    group_size=size, effort=method, calib=args.calib, samples=args.samples, seq_len=args.seq_len,
                    overwrite=True,
                )  # fmt: skip
                report = quantize(checkpoint.source, folder / "model", options)
                network = exact_network(Checkpoint(open_source(folder / "model")))
                found = {name: measure(network, windows, references[name]) for name, windows in texts.items()}
                if not told:
                    print(json.dumps({n: round(f.reference_perplexity or 0, 3) for n, f in found.items()}), flush=True)
                    told = True
                row = {
                    name: {"perplexity": round(f.perplexity, 3), "kl": round(f.kl_divergence or 0, 4)}
                    for name, f in found.items()
                }
                print(json.dumps({"method": method, "group_size": size, "seconds": report.seconds, **row}), flush=True)


if __name__ == "__main__":
    main()

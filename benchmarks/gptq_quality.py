"""GPTQ by us beside GPTQModel on the same calibration tokens, and our files read by its torch kernels.

    python benchmarks/gptq_quality.py SOURCE --text FILE --peer PYTHON [--settings 4bit-64g,3bit-64g-sym]
                                      [--samples 16] [--windows 8] [--context 512]

PYTHON is that of an environment with gptqmodel (and torch, transformers). One JSON object a line: perplexity and KL
divergence of both repositories, measured in float32 by the protocol of `halfbyte eval perplexity`; and how far the
logits of one window that GPTQModel computes from our files (torch backend, float16) are from ours (float32).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        work(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--settings", default="4bit-64g,3bit-64g-sym")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--windows", type=int, default=8)
    compare(parser.parse_args())


def compare(args: argparse.Namespace) -> None:
    import torch

    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.open import open_source
    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.convert import ConvertOptions, convert
    from halfbyte.evaluate.perplexity import cut_windows, measure, read_text, tokenize
    from halfbyte.models.attend import WholeSequences
    from halfbyte.models.loader import load_network
    from halfbyte.quantize.calibration import calibration_data, calibration_texts

    checkpoint = Checkpoint(open_source(args.source))
    tokenizer = Tokenizer.from_source(checkpoint.source)
    windows = cut_windows(tokenize(tokenizer, read_text(args.text)), args.context, args.windows)
    reference = load_network(checkpoint, "float32")
    options = ConvertOptions(samples=args.samples, overwrite=True)
    texts = calibration_texts(options.calib, tokenizer)
    tokens = calibration_data(texts, tokenizer, args.samples, options.seq_len, options.seed).tokens
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        convert(args.source, folder / "float", "fp16")
        torch.save(tokens, folder / "tokens.pt")
        torch.save(windows[0], folder / "window.pt")
        for settings in args.settings.split(","):
            report = convert(args.source, folder / "ours", f"gptq:{settings}-v2", options)
            peer = ask(args.peer, do="quantize", folder=name, settings=settings)
            ask(args.peer, do="logits", folder=name)
            row: dict[str, object] = {"settings": settings, "samples": args.samples}
            for who, place, seconds in (("ours", "ours", report.seconds), ("gptqmodel", "theirs", peer["seconds"])):
                network = load_network(Checkpoint(open_source(folder / place)), "float32")
                with torch.inference_mode():
                    found = measure(network, windows, reference)
                    if who == "ours":
                        at = torch.arange(args.context)
                        logits = network.logits(network.forward(windows[0], at, WholeSequences(network.config, 1)))
                row[who] = {
                    "perplexity": round(found.perplexity, 3),
                    "kl_divergence": round(found.kl_divergence or 0, 4),
                    "quantize_s": round(seconds, 1),
                }
            row["float"] = round(found.reference_perplexity or 0, 3)
            their = torch.load(folder / "logits.pt")
            row["our files in gptqmodel"] = {
                "largest_difference": float((logits - their).abs().max()),
                "largest_logit": float(logits.abs().max()),
                "same_top1": float((logits.argmax(-1) == their.argmax(-1)).float().mean()),
            }
            print(json.dumps(row), flush=True)


def ask(python: str, **task: str) -> dict:
    command = [python, str(Path(__file__).resolve()), "worker", json.dumps(task)]
    place = {"env": os.environ | {"HF_HUB_OFFLINE": "1"}, "cwd": task["folder"]}  # it writes logs where it is
    done = subprocess.run(command, capture_output=True, text=True, check=False, **place)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


# --- in the peer's Python ---------------------------------------------------------------------------------------------


def work(task: dict) -> None:
    import torch

    cores = os.cpu_count() or 1
    os.cpu_count = lambda: max(
        cores, 8
    )  # with fewer, version 7.7.0 cannot be imported: its pools contradict each other
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    folder = Path(task["folder"])
    if task["do"] == "quantize":
        bits, group, *flags = task["settings"].split("-")
        config = QuantizeConfig(
            bits=int(bits.removesuffix("bit")),
            group_size=int(group.removesuffix("g")),
            desc_act="actorder" in flags,
            sym="sym" in flags,
            format="gptq_v2",
            device="cpu",
        )
        tokens = torch.load(folder / "tokens.pt")
        model = GPTQModel.load(str(folder / "float"), config, dtype=torch.float32)
        started = time.perf_counter()
        model.quantize(
            [{"input_ids": t[None], "attention_mask": torch.ones_like(t[None])} for t in tokens], batch_size=1
        )
        model.save(str(folder / "theirs"))
        print(json.dumps({"seconds": time.perf_counter() - started}))
        return
    model = GPTQModel.load(str(folder / "ours"), backend=BACKEND.TORCH, device="cpu", dtype=torch.float16)
    window = torch.load(folder / "window.pt")
    with torch.inference_mode():
        torch.save(model.model(window[None].long()).logits[0].float(), folder / "logits.pt")
    print(json.dumps({}))


if __name__ == "__main__":
    main()

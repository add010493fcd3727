"""What gpu_decode.py and gpu_serving.py measure, of vLLM: the peer, to be run on the same machine.

    python benchmarks/gpu_vllm.py [--weights awq|fp16] [--kv-cache-dtype fp8] [--batches 1 4 16 64 256] [--tokens 256]

Needs vllm, which is not a dependency. Its dummy weights; no tokenizer, so that no text is made of tokens.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 4096, "tie_word_embeddings": False,
    "hidden_act": "silu", "torch_dtype": "float16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", choices=("awq", "fp16"), default="awq")
    parser.add_argument("--kv-cache-dtype", choices=("auto", "fp8"), default="auto")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--tokens", type=int, default=256)
    given = parser.parse_args()
    import vllm

    def say(**found: object) -> None:
        start = {"who": f"vllm {vllm.__version__}", "weights": given.weights, "kv": given.kv_cache_dtype}
        print(json.dumps(start | found), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        quantization = {"quantization_config": AWQ} if given.weights == "awq" else {}
        Path(folder, "config.json").write_text(json.dumps(LLAMA | quantization))
        begin = time.perf_counter()
        llm = vllm.LLM(
            folder, load_format="dummy", skip_tokenizer_init=True, dtype="float16", max_model_len=4096,
            gpu_memory_utilization=0.85, enable_prefix_caching=False, max_num_seqs=256,
            kv_cache_dtype=given.kv_cache_dtype,
        )  # fmt: skip
        say(start_s=round(time.perf_counter() - begin, 1))

    def seconds(batch: int, prompt: int, tokens: int) -> float:
        prompts = [{"prompt_token_ids": [random.randrange(300, 31000) for _ in range(prompt)]} for _ in range(batch)]
        params = vllm.SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        begin = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - begin

    def decode_rate(batch: int, prompt: int) -> tuple[float, float]:
        seconds(batch, prompt, 8)
        first = seconds(batch, prompt, 1)
        return first, batch * given.tokens / (seconds(batch, prompt, given.tokens + 1) - first)

    for batch in given.batches:
        say(batch=batch, decode_tok_s=round(decode_rate(batch, 128)[1], 1))
    first, rate = decode_rate(1, 2048)
    say(prefill_2048_ms=round(first * 1e3, 1), decode_tok_s_at_2048=round(rate, 1))
    say(requests=1000, prompt=512, output=128, total_tok_s=round(640_000 / seconds(1000, 512, 128)))


if __name__ == "__main__":
    main()

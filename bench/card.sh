#!/usr/bin/env bash
# What to ask of a GPU that is at hand for some minutes, the most important first: times
# and ratios, then whether its states and counts are those of the oracle.
#
#   bench/card.sh [SECONDS]     480 for the benchmark, if nothing is said; then 120 more
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-480}
python bench/accelerator.py --repeat 5 --seconds "$seconds" --save
# A small call once more, its loops started as one command, too: XLA's default leaves them
# out, and nobody has tried jaxmig with it.
commands=FUSION,CUSTOM_CALL,CUBLAS,CUBLASLT,CUDNN,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_command_buffer=$commands" timeout 60 \
    python bench/accelerator.py --contents '' --pages 16384 --mix one --mixed 16384 ||
    echo "card: with loops among the commands: $?" >&2
timeout 120 python -m pytest -q -n 0 -x \
    tests/test_player.py tests/test_groundtruth.py tests/test_phases.py ||
    [ $? -eq 124 ]

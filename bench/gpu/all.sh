#!/bin/sh
# Everything in this folder that a card is needed for, in the order of bench/gpu/README.md.
#
#     sh bench/gpu/all.sh OUT                       all four parts, about half an hour of the card
#     sh bench/gpu/all.sh OUT correctness memory    some of them
#     DEVICE=cpu SMALL=--small sh bench/gpu/all.sh OUT
#
# Each part writes OUT/NAME.json and OUT/NAME.md again after every row and ends by itself within its minutes; a part
# that fails or is killed takes nothing from the others. OUT/all.log holds what was said. PYTHON names the interpreter.
set -u
if [ "$#" -lt 1 ]; then
    echo "usage: sh bench/gpu/all.sh OUT [correctness|throughput|memory|whole ...]" >&2
    exit 2
fi
out=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
small=${SMALL:-}
PYTHONPATH="$here/../../src${PYTHONPATH:+:$PYTHONPATH}"
PYTHONUNBUFFERED=1
HF_HUB_OFFLINE=1
TOKENIZERS_PARALLELISM=false
CUBLAS_WORKSPACE_CONFIG=${CUBLAS_WORKSPACE_CONFIG:-:4096:8}
export PYTHONPATH PYTHONUNBUFFERED HF_HUB_OFFLINE TOKENIZERS_PARALLELISM CUBLAS_WORKSPACE_CONFIG
worst=0

part() {  # NAME SECONDS SCRIPT ARGUMENTS...
    name=$1 seconds=$2 script=$3
    shift 3
    echo "== $name: $script $*" | tee -a "$out/all.log"
    # --kill-after: a kernel that hangs does not hear the first signal.
    timeout --kill-after=20 "$seconds" "$python" "$here/$script" --device "$device" $small --out "$out/$name.json" "$@" \
        >"$out/$name.txt" 2>"$out/$name.log"
    code=$?
    cat "$out/$name.log" >>"$out/all.log"
    rm -f "$out/$name.log"
    echo "== $name ended with $code" | tee -a "$out/all.log"
    [ "$code" -eq 0 ] || worst=1
}

for what in ${*:-correctness throughput whole memory}; do
    case $what in
        correctness)
            part correctness 270 correctness.py --minutes 4 --write "$out/correctness.md"
            part flex 180 flex_backward.py --rounds 10
            ;;
        throughput)
            part throughput 560 train_throughput.py --minutes 7 --write "$out/throughput.md" \
                --case moe --case longcontext --case llama-moe --case longcontext-32k
            ;;
        whole)
            part whole 330 train_throughput.py --minutes 3.5 --write "$out/whole.md" --mode eager \
                --case longcontext-whole --case longcontext-100k --steps 2 --warmups 2
            ;;
        memory)
            part memory 240 memory.py --minutes 3 --write "$out/memory.md"
            ;;
        *)
            echo "there is no part $what: correctness, throughput, whole, memory" >&2
            exit 2
            ;;
    esac
done
exit "$worst"

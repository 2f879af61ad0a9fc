#!/bin/bash
# Everything that a machine with a GPU is to be asked, the most important first, in pieces of less than nine minutes:
#
#     bash benchmarks/on_a_gpu.sh 1|2|3|4|5|all [--fake]       from the repository's root
#
#     1   does it run, is it right, where does the time go: training beside the CPU, tests of kernels, the probe, a step
#     2   the checkers, and why: compute-sanitizer, Nsight Compute, the host's time, other precisions, attention
#     3   every kernel beside PyTorch, the head and its loss, memory beside the estimate, writing text
#     4   all other tests marked gpu
#     5   CPU beside GPU, long texts, the profile of a step, a whole run on tiny shakespeare
#
# It needs no network. What a step prints goes to $OUT/NAME.txt, tables to $OUT/results/*.json with the device, the versions and
# the date, and the outcome of each step to $OUT/summary.txt and summary.jsonl, at once: whatever ends a piece, what was measured
# is there. A step that fails, or takes longer than its limit, does not stop the next one. Once a piece has had $PIECE_SECONDS,
# its other steps are noted as not run.
#
#     OUT             the folder for all that is to be kept (runs/on-a-gpu)
#     PYTHON          the interpreter (python3)
#     SHAKESPEARE     the text of tiny shakespeare; else tinyshakespeare.txt here or in $MINILLM_TEST_DATA
#     --fake          tiny sizes on the stand-in for a GPU: no figure means anything, each command is tried

usage() { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
piece=${1:-}
[[ $piece =~ ^([1-5]|all)$ ]] || usage
case ${2:-} in "") fake= ;; --fake) fake=1 ;; *) usage ;; esac

export OUT=${OUT:-runs/on-a-gpu} PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$OUT"; OUT=$(cd "$OUT" && pwd)
export BENCHMARK_RESULTS=$OUT/results
python=${PYTHON:-python3} limit_of_piece=${PIECE_SECONDS:-530}
if [[ $OUT$python =~ [[:space:]] ]]; then echo "OUT and PYTHON must not contain spaces: $OUT, $python" >&2; exit 2; fi
if "$python" -c "import minillm.kernels" 2>&1 | grep -q "No module named 'minillm.kernels'"; then
    ln -sfn ../kernels minillm/kernels  # minillm is not installed
fi
gpu() { echo "$python" ${fake:+-m minillm.kernels.standin --compute} "$@"; }    # a module on the GPU
counted() { echo "$python" ${fake:+-m minillm.kernels.standin} "$@"; }           # the same, where a fake GPU computes nothing
either() { [ -z "$fake" ] && echo "$1" || echo "$2"; }                           # a real size, a tiny one
parallel=$("$python" -c "import xdist; print('-n', min(6, __import__('os').cpu_count()))" 2>/dev/null)
tests="-m pytest -m gpu ${fake:+--standin} -W default -p no:cacheprovider -q --tb=line --durations=5"

# step SECONDS NAME LINES COMMAND...: run the command for so long at most; show the last lines of what it prints.
step() {
    local limit=$1 name=$2 lines=$3 began=$SECONDS left=$((limit_of_piece - SECONDS + piece_began)) code; shift 3
    if [ $left -lt 1 ]; then note "not run" "" 0 "$limit" "$*"; return; fi
    [ -z "$fake" ] || limit=$((10 * limit))  # processors take longer than a GPU
    [ $limit -le $left ] || limit=$left
    timeout -k 10 "$limit" "$@" >"$OUT/$name.txt" 2>&1; code=$?
    note "$([ $code = 0 ] && echo ok || { [ $code = 124 ] && echo "too long" || echo failed; })" $code $((SECONDS - began)) "$limit" "$*"
    [ "$lines" = 0 ] || tail -n "$lines" "$OUT/$name.txt" | cut -c1-160
}

# note OUTCOME EXIT SECONDS LIMIT COMMAND: a line of both summaries, of the step `name` of the caller.
note() {
    local command=${5//\\/\\\\}
    printf '%s %-9s %4s s of %4s  exit %-4s %s\n' "$number" "$1" "$3" "$4" "${2:--}" "$name" | tee -a "$OUT/summary.txt"
    printf '{"piece": %s, "step": "%s", "outcome": "%s", "exit": %s, "seconds": %s, "limit": %s, "command": "%s"}\n' \
        "$number" "$name" "$1" "${2:-null}" "$3" "$4" "${command//\"/\\\"}" >>"$OUT/summary.jsonl"
}

# installed PROGRAM NAME: whether it is; else the step of that name is noted as not run.
installed() {
    command -v "$1" >/dev/null && return
    local name=$2; note "not run" "" 0 0 "$1 is not installed"; return 1
}

piece_1() {
    step 30 machine 20 $(gpu -m benchmarks.machine)
    local short=$(short_text)
    local size=$(either "--max-steps 60 --eval-interval 30 --eval-windows 8" \
        "--preset simulator $short --max-steps 2 --eval-interval 2 --eval-windows 1 --batch-size 2") kind
    local train="-m minillm train $size --sample-tokens 8 --seed 1 --overwrite"
    step 90 train-cpu 0 $python $train --device cpu --out "$OUT/runs/cpu"
    for kind in float32 tf32 bfloat16; do
        step 60 train-$kind 0 $(gpu $train --device cuda --dtype $kind --out "$OUT/runs/$kind")
    done
    step 10 losses 40 grep -H '"event": "eval"' "$OUT"/runs/{cpu,float32,tf32,bfloat16}/metrics.jsonl
    step 220 tests-of-kernels 12 $python $tests $parallel $(either "tests/kernels tests/backend tests/training/test_cuda_path.py" \
        "tests/backend/test_async_read.py -k in_one_launch")
    step 90 probe 70 $(counted -m benchmarks.probe)
    step 150 step-bfloat16 14 $(a_step bfloat16 16 "--blocks 4 --steps 10")
    step 10 targets 20 $python -m benchmarks.targets "$OUT/results"
}

# short_text: the option for a text of which all can be read where a processor takes the GPU's place.
short_text() { [ -z "$fake" ] || { head -n 60 README.md >"$OUT/short.txt"; echo "--data $OUT/short.txt"; }; }

# a_step DTYPE BATCH OPTIONS...: the command of a training step of GPT-2 beside PyTorch eager and compiled.
a_step() {
    local kind=$1 batch=$2; shift 2
    if [ -n "$fake" ]; then
        gpu -m benchmarks.train_step --device cuda --preset simulator --dtype $kind --batch-size 1 --vocab-size 64 \
            --blocks 1 --steps 1 --write
    else
        gpu -m benchmarks.train_step --device cuda --preset gpt2 --dtype $kind --batch-size $batch "$@" --write
    fi
}

piece_2() {
    local tool kind batch checked="$python $tests -n 0 tests/kernels/test_attention.py -k"
    for tool in memcheck racecheck; do
        installed compute-sanitizer $tool && step 110 $tool 4 compute-sanitizer --tool $tool --error-exitcode 9 \
            $checked "$(either "flash and (65 or 70)" "flash and 65 and same_bits")"
    done
    installed ncu ncu && step 90 ncu 60 ncu --clock-control none -k "regex:flash|gelu|norm|cross_entropy|column_sum" -c 60 \
        --section SpeedOfLight --section Occupancy --section ComputeWorkloadAnalysis --section MemoryWorkloadAnalysis_Tables \
        $(counted -m benchmarks.probe)
    for batch in 1 4; do
        BENCHMARK_RESULTS=$OUT/results/batch-$batch step 45 step-batch-$batch 8 \
            $(a_step bfloat16 $batch "--without-compile --blocks 2 --steps 10")
    done
    for kind in float32 tf32; do step 90 step-$kind 12 $(a_step $kind 16 "--blocks 2 --steps 4"); done
    step 110 attention 60 $(gpu -m benchmarks.attention --write \
        $(either "--times 1024 4096 --widths 64 128 --repeats 5" "--times 16 --widths 32 --repeats 1 --tokens 32 --channels 64"))
    step 10 targets 30 $python -m benchmarks.targets "$OUT/results"
}

piece_3() {
    local name kind
    local both="layer_norm residual_layer_norm rms_norm residual_rms_norm gelu swiglu residual_bias bias rotary dropout head"
    for kind in bfloat16 float32; do
        [ $kind.$fake != float32.1 ] || both=layer_norm  # the others have been tried
        for name in $both $([ $kind = float32 ] && echo cross_entropy embedding adamw global_norm); do
            BENCHMARK_RESULTS=$OUT/results/$kind step 40 $name-$kind 6 \
                $(gpu -m benchmarks.$name --dtype $kind --without-numpy --write --repeats $(either 7 1) $(either "" --small))
        done
    done
    step 60 memory 4 $python $tests -n 0 tests/profiling/test_memory.py $(either "" "-k gpt2-False-float32")
    step 60 generation 14 $(gpu -m benchmarks.generate_gpu $(either "" --small) --write)
}

piece_4() {
    step 500 tests-all-others 30 $python $tests $parallel $(either "tests --ignore tests/kernels --ignore tests/backend" \
        "tests/backend/test_async_read.py -k in_one_launch")
}

piece_5() {
    local text=${SHAKESPEARE:-tinyshakespeare.txt}
    [ -f "$text" ] || text=${MINILLM_TEST_DATA:-.}/tinyshakespeare.txt
    local name=shakespeare
    if [ -f "$text" ]; then
        [ -z "$fake" ] || { head -c 6000 "$text" >"$OUT/first-lines.txt"; text=$OUT/first-lines.txt; }
        step 240 shakespeare 12 $(gpu -m minillm train --preset $(either shakespeare-char simulator) --data "$text" --device cuda \
            --dtype bfloat16 --overwrite --out "$OUT/runs/shakespeare" $(either "" "--max-steps 2 --batch-size 2"))
    else
        note "not run" "" 0 0 "there is no $text"
    fi
    step 60 profile 40 $(gpu -m minillm train --profile --device cuda --seed 1 --overwrite --out "$OUT/runs/profile" \
        $(either "--preset gpt2 --batch-size 16 --dtype bfloat16 --max-steps 12" "--preset simulator $(short_text) --max-steps 6 --batch-size 2"))
    BENCHMARK_RESULTS=$OUT/results/long step 80 attention-long 20 $(gpu -m benchmarks.attention --only-flash --write \
        $(either "--times 16384 --widths 64 128 --repeats 3" "--times 32 --widths 32 --repeats 1 --tokens 32 --channels 64"))
    step 150 cpu-vs-gpu 40 $(gpu -m benchmarks.cpu_vs_gpu --write \
        $(either "--widths 64 256 768 --repeats 3" "--widths 64 --batch-size 1 --context-length 16 --vocab-size 64 --repeats 1"))
    step 10 targets 20 $python -m benchmarks.targets "$OUT/results/long"
}

[ "$piece" = all ] && pieces="1 2 3 4 5" || pieces=$piece
for number in $pieces; do
    piece_began=$SECONDS
    piece_$number
done
! grep -qE '"outcome": "(failed|too long)"' "$OUT/summary.jsonl"  # exit code 1 if a step failed

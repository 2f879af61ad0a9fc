#!/bin/bash
# Everything of a first call on a machine with a GPU, most important first: bash benchmarks/first_call.sh, from the repository's
# root. About 8 minutes. What each step prints goes to $OUT (runs/first-call).
export PYTHONUNBUFFERED=1 OUT=${OUT:-runs/first-call}
mkdir -p "$OUT"
export PYTHONPATH=$PWD
python3 -c "import minillm.kernels" 2>/dev/null || ln -sfn ../kernels minillm/kernels  # where minillm is not installed
run() { # seconds, name, command
    local seconds=$1 name=$2 began=$SECONDS; shift 2
    echo "=== $name"; timeout $seconds "$@" >"$OUT/$name.txt" 2>&1; echo "=== $name: exit $?, $((SECONDS - began)) s"
}
{ nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader; nproc; python3 -m minillm info; } 2>&1 | tee "$OUT/machine.txt"
train="python3 -m minillm train --max-steps 60 --eval-interval 30 --eval-windows 8 --sample-tokens 20 --seed 1 --overwrite"
run 90 cpu $train --device cpu --out runs/first-cpu
for dtype in float32 tf32 bfloat16; do run 60 $dtype $train --device cuda --dtype $dtype --out runs/first-$dtype; done
for r in cpu float32 tf32 bfloat16; do echo "$r: $(grep '"step": 60' runs/first-$r/metrics.jsonl | head -1)"; tail -2 "$OUT/$r.txt"; done
run 200 tests python3 -m pytest -n 6 -m gpu -W default -p no:cacheprovider -q --tb=line --durations=5 \
    tests/kernels tests/test_precision.py tests/training/test_waits.py tests/training/test_profile.py
grep -E "^(FAILED|ERROR)|passed|failed" "$OUT/tests.txt" | cut -c1-150 | tail -25
run 90 probe python3 -m benchmarks.probe
cat "$OUT/probe.txt"
run 180 step python3 -m benchmarks.train_step --device cuda --preset gpt2 --batch-size 16 --dtype bfloat16 --blocks 4 --steps 10
cat "$OUT/step.txt"

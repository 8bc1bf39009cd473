#!/usr/bin/env bash
# From videos to a trained world model and its score: simulate, extract, fit, train, predict, evaluate.
#
#     examples/video_to_world_model.sh FOLDER          about an hour and a half on two cores, 2 GB
#     SCALE=tiny examples/video_to_world_model.sh FOLDER    two minutes: to see that everything runs; nothing is learnt
#
# Needs the extra `sim`. Whatever stops it, the same command goes on where it stopped. Your own videos take the place of step 1.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1" && cd "$1"

JOBS=${JOBS:-2}
TASKS=metaworld/drawer-open-v3,drawer-close-v3,faucet-open-v3,faucet-close-v3,window-open-v3,window-close-v3
case ${SCALE:-full} in
    full) TRAIN=24 TEST=6 SIZE=320x240 TRAINING=(--preset nano --steps 3000) ;;
    tiny) TRAIN=2 TEST=1 SIZE=160x120 TRAINING=(--preset tiny-random --steps 6) TASKS=metaworld/drawer-open-v3,drawer-close-v3 ;;
    *) echo "$0: SCALE is full or tiny" >&2; exit 2 ;;
esac

# 1. Videos with measured depth. Held-out episodes start elsewhere: another seed.
tracekit simulate --env "$TASKS" --num-episodes "$TRAIN" --seed 0 --size "$SIZE" --jobs "$JOBS" -d clips/train
tracekit simulate --env "$TASKS" --num-episodes "$TEST" --seed 1000 --size "$SIZE" --jobs "$JOBS" -d clips/test

# 2. Captioned 3D traces, a pipe for each video. The truth is used for its depth and cameras only, as a sensor's.
extract() {
    local clip=$1 out
    out=episodes/$(basename "$(dirname "$clip")")/$(basename "$clip" .mp4).h5
    [ -e "$out" ] && return
    mkdir -p "$(dirname "$out")"
    tracekit keypoints "$clip" --sensor "${clip%.mp4}.truth.h5" --quota motion -q | tracekit reconstruct -q | tracekit track -q \
        | tracekit filter --threshold-fraction 0.05 -q | tracekit segment -q | tracekit caption -q -o "$out"
}
export -f extract
find clips -name '*.mp4' -print0 | sort -z | xargs -0 -n 1 -P "$JOBS" bash -c 'set -euo pipefail; extract "$0"'

# 3. Corpora: what moves, its splines, and the picture of each reference frame. The test corpus has the scales of the training's.
[ -e train.h5 ] || tracekit fit-bspline episodes/train/*.h5 --moving-only --every 3 --embed-images -o train.h5
[ -e test.h5 ] || tracekit fit-bspline episodes/test/*.h5 --moving-only --every 8 --embed-images --scale train.h5 -o test.h5

# 4. The world model. A tenth of the training clips is watched for the best checkpoint; the test clips are not looked at.
tracekit pretrain train.h5 "${TRAINING[@]}" --no-depth --hold-out 0.1 --workers 1 -o mu0

# 5. Five futures for up to 64 moving keypoints of every second picture, given its sentence; then given the sentence of another task.
tracekit rollout mu0 test.h5 --every 2 --max-keypoints 64 -o predictions.h5 --picture traces.png --force
tracekit rollout mu0 test.h5 --every 2 --max-keypoints 64 --swap-captions -o swapped.h5 --force

# 6. How good they are.
tracekit evaluate predictions.h5 swapped.h5 --metric ade --metric dtw | tee scores.txt
tracekit evaluate predictions.h5 swapped.h5 --metric ade --metric fde --metric dtw --metric frechet --json > scores.json

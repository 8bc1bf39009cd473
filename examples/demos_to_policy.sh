#!/usr/bin/env bash
# From demonstrations to success rates: simulate, train action experts on a frozen world model, let them act, count.
#
#     examples/demos_to_policy.sh FOLDER WORLD_MODEL          about three hours on two cores, 4 GB
#     SCALE=tiny examples/demos_to_policy.sh FOLDER WORLD_MODEL    a minute: to see that everything runs; nothing is learnt
#
# WORLD_MODEL is a training run of pretrain, for example the mu0 of video_to_world_model.sh. Needs the extra `sim`. Whatever stops it, the
# same command goes on where it stopped. Your own demonstrations take the place of step 1, your robot that of step 3.
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: $0 FOLDER WORLD_MODEL" >&2; exit 2; }
WORLD=$(realpath "$2")
mkdir -p "$1" && cd "$1"

JOBS=${JOBS:-2}
case ${SCALE:-full} in
    full)
        TASKS=(drawer-open-v3 button-press-topdown-v3 faucet-open-v3 window-open-v3)
        DEMOS=80 SIZE=160x120 EPISODES=50 MAX_STEPS=250 TRAINING=(--preset metaworld)
        POLICIES=(nano nano-no-trace pico pico-no-trace diffusion-nano)
        ;;
    tiny)
        TASKS=(drawer-open-v3 drawer-close-v3)
        DEMOS=2 SIZE=64x48 EPISODES=1 MAX_STEPS=24 TRAINING=(--preset tiny)
        POLICIES=(pico pico-no-trace)
        ;;
    *) echo "$0: SCALE is full or tiny" >&2; exit 2 ;;
esac

# 1. Demonstrations of scripted experts: two cameras, proprioception, actions, a sentence. A tenth is for validation.
mkdir -p demos scores
for task in "${TASKS[@]}"; do
    tracekit simulate --env "metaworld/$task" --num-episodes "$DEMOS" --seed 0 --size 32x32 --jobs "$JOBS" -d clips \
        --demos "demos/$task.h5" --demo-size "$SIZE"
done

demos=("${TASKS[@]/#/demos/}")
demos=("${demos[@]/%/.h5}")

# 2. One policy for all tasks, told apart by their sentences: with and without the motion that μ0 foresees, at two sizes; and one without μ0.
#    What the frozen μ0 sees in a frame is computed once, and shared by the trainings.
for policy in "${POLICIES[@]}"; do
    flags=(--head "${policy%-no-trace}" --world-model "$WORLD" --cache-features features)
    case $policy in
        *-no-trace) flags+=(--no-trace) ;;
        diffusion-*) flags=(--head "$policy") ;;
    esac
    tracekit finetune "${demos[@]}" "${TRAINING[@]}" "${flags[@]}" --workers 1 -o "policies/$policy"
done

# 3. Every policy acts from the same starts, which no demonstration began with. The scripted expert and chance are the frame around them.
environments=$(printf ',metaworld/%s' "${TASKS[@]}")
for policy in scripted random "${POLICIES[@]}"; do
    [ -e "scores/$policy.json" ] && continue
    where=$policy
    [ -d "policies/$policy" ] && where=policies/$policy
    tracekit rollout --env "${environments:1}" --policy "$where" --num-episodes "$EPISODES" --max-steps "$MAX_STEPS" --num-envs "$JOBS" \
        --json > "scores/$policy.part"
    mv "scores/$policy.part" "scores/$policy.json"
done

# 4. The table.
python3 - scores "${POLICIES[@]}" <<'PYTHON' | tee scores.txt
import json, pathlib, sys

folder, policies = pathlib.Path(sys.argv[1]), ["scripted", "random", *sys.argv[2:]]
scores = {policy: json.loads((folder / f"{policy}.json").read_text()) for policy in policies}
tasks = list(scores["scripted"]["tasks"])
print(f"{'success, % (95 % interval)':26}" + "".join(f"{task.split('/')[1]:>26}" for task in tasks) + f"{'all':>20}")
for policy, score in scores.items():
    cells = [score["tasks"][task] for task in tasks] + [score]
    texts = [f"{100 * c['success_rate']:.0f} ({100 * c['interval'][0]:.0f}-{100 * c['interval'][1]:.0f})" for c in cells]
    print(f"{policy:26}" + "".join(f"{text:>26}" for text in texts[:-1]) + f"{texts[-1]:>20}")
PYTHON

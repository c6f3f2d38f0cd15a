#!/usr/bin/env bash
# Train, evaluate and export a detector on drawn images, without any preparation:
#   bash scripts/quickstart.sh [--model NAME] [--output DIR]
# NAME: a network that has a config/NAME_config_quickstart.yaml. DIR: quickstart, or quickstart_NAME with --model.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
model=ssd_resnet50_fpn
output=
usage="usage: bash scripts/quickstart.sh [--model NAME] [--output DIR]"
fail() { echo "error: $1" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
        --output=* | --model=*) option=${1%%=*}; value=${1#*=}; shift ;;
        --output | --model) option=$1; [ $# -ge 2 ] || fail "$1 needs a value; $usage"; value=$2; shift 2 ;;
        *) fail "unknown option '$1'; $usage" ;;
    esac
    case $option in
        --output) output=$value ;;
        --model) model=$value ;;
    esac
done
config_file=$root/config/${model}_config_quickstart.yaml
if [ ! -f "$config_file" ]; then
    names=$(cd "$root/config" && ls ./*_config_quickstart.yaml | sed 's|^\./||; s|_config_quickstart.yaml||' | paste -sd ' ')
    fail "--model $model has no quick start; use one of: $names"
fi
if [ -z "$output" ]; then
    output=$root/quickstart
    [ "$model" = ssd_resnet50_fpn ] || output=$root/quickstart_$model
fi
mkdir -p "$output"
output=$(cd "$output" && pwd)
step="start"
trap 'status=$?; [ $status -eq 0 ] || echo "quick start failed in step: $step (exit status $status)" >&2' EXIT
say() { step=$1; echo; echo "== $1"; }
export GLOG_v=${GLOG_v:-3}   # hides warnings of MindSpore that do not concern this run

say "1/6 create the environment (2 to 10 minutes the first time)"
bash "$root/scripts/environment.sh"
python=${VENV:-$root/.venv}/bin/python
config=(--config_path "$config_file" --data_path "$output" --coco_root shapes
        --output_path "$output/run")

say "2/6 draw the data set (half a minute)"
"$python" "$root/scripts/draw_shapes.py" --output "$output/shapes"

say "3/6 convert it to MindRecord (seconds)"
"$python" "$root/train.py" "${config[@]}" --only_create_dataset=True

say "4/6 train $model from random weights ($(sed -n 's/^# training: //p' "$config_file"))"
"$python" "$root/train.py" "${config[@]}"
checkpoint=$(ls -t "$output"/run/ckpt_0/ssd-*.ckpt | head -n 1)

say "5/6 evaluate on the validation images (half a minute)"
"$python" "$root/eval.py" "${config[@]}" --checkpoint_file_path "$checkpoint" | tee "$output/run/evaluation.txt"
"$python" "$root/scripts/draw_detections.py" --annotations "$output/shapes/annotations/instances_val2017.json" \
    --images "$output/shapes/val2017" --predictions "$output/run/predictions.json" --output "$output/pictures" --min_score 0.4

say "6/6 export (a minute)"
for format in MINDIR ONNX; do
    "$python" "$root/export.py" "${config[@]}" --checkpoint_file_path "$checkpoint" --batch_size 1 \
        --file_name "$output/ssd" --file_format $format
done

echo
echo "== results in $output"
grep '^mAP' "$output/run/evaluation.txt"
echo "AP50:       $(awk '$1 == "AP50" {print $6; exit}' "$output/run/evaluation.txt")"
echo "pictures:   $output/pictures/overview.png (green: ground truth, red: detections)"
echo "report:     $output/run/report.html (metrics, curves, best and worst images)"
echo "checkpoint: $checkpoint"
echo "exports:    $output/ssd.mindir, $output/ssd.onnx"
echo "logs:       $output/run/log_0.txt, $output/run/history.jsonl"
echo "next:       activate the environment (. ${VENV:-$root/.venv}/bin/activate), then see 'Your own data' in README.md"

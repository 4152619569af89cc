#!/bin/sh
# Retrains a model once, with what lies in DATA: train/<class>/* and test/<class>/*, or <class>/* alone.
#   RESLENS_CONTROL_KEY=… MODEL=digits DATA=new-images OLD=old-images sh deploy/retrain/by-hand.sh
# Further options of `retrain` may follow, `--share 5` for one. The exit code says what became of it, report.json why: see docs/retraining.md.
set -eu

: "${MODEL:?name of the model}" "${DATA:?folder of new images}" "${OLD:?folder of the images that it was trained on}"

exec python -m training retrain --name "$MODEL" \
  --data folder --data-dir "$DATA" --old data folder data_dir "$OLD" --replay 1 \
  --url "${URL:-http://127.0.0.1:8000}" --repository "${REPOSITORY:-models/store}" --report report.json "$@"

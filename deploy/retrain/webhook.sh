#!/bin/sh
# Retrains a model whenever its traffic has drifted. The service runs beside it with
#   RESLENS_WEBHOOK_URL=http://127.0.0.1:9000/ RESLENS_WEBHOOK_SEVERITY=warning RESLENS_WEBHOOK_SECRET=…
# and this one with the same secret:
#   RESLENS_WEBHOOK_SECRET=… RESLENS_CONTROL_KEY=… MODEL=digits DATA=new-images OLD=old-images sh deploy/retrain/webhook.sh
set -eu

: "${MODEL:?name of the model}" "${DATA:?folder of new images}" "${OLD:?folder of the images that it was trained on}"

exec python -m training watch --name "$MODEL" --listen "${LISTEN:-127.0.0.1:9000}" -- \
  --data folder --data-dir "$DATA" --old data folder data_dir "$OLD" --replay 1 \
  --url "${URL:-http://127.0.0.1:8000}" --repository "${REPOSITORY:-models/store}" --report report.json

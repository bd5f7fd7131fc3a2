"""A small process that keeps the trainer's contract: stages, /healthz, /progress, last words.

Faults of the operator need many jobs and no mathematics. One step takes a second, and no pod
begins it before all do, as in a gang that reduces its gradients. Prepare and export take
``training.seed`` seconds each. What a training pod does is told by the job's
``workers.env``:

``TORCH_TEST_FAIL=<pod index>:<step>:<exit code>``  that pod ends so, with a failure record
``TORCH_TEST_FAIL_ATTEMPTS=<n>``                    only in the first n attempts
``TORCH_TEST_FITS=<n>``                              out of GPU memory with a larger micro-batch
``TORCH_TEST_SAVE_SECONDS=<n>``                     how long a checkpoint takes on SIGTERM
``TORCH_TEST_SAVE_STEPS=<n>``                       a checkpoint every n steps, none on SIGTERM
"""

from __future__ import annotations

from local_cluster.debian import debian_binary
from local_cluster.oci import upload_image

IMAGE = "localhost:5000/contract-trainer:1"

_LIBRARY = r"""
value() { grep -o "\"$1\": [0-9]*" /etc/finetune/run.json | head -n 1 | grep -o '[0-9]*$'; }
last_words() { echo "$1" > /dev/termination-log; }
head_of() { echo "\"stage\": \"$1\", \"attempt\": $FINETUNE_ATTEMPT, \"outcome\": \"$2\""; }
"""

_PREPARE = r"""#!/bin/sh
. /bin/library
trap 'exit 75' TERM
mkdir -p /workspace/data
sleep "$(value seed)" &
wait $!
last_words "{$(head_of prepare succeeded), \"steps\": $(value steps),
  \"model\": {\"architecture\": \"Test\", \"parameters\": 1000, \"digest\": \"sha256:0\"},
  \"data\": {\"rows\": 10, \"kept\": 9, \"dropped\": {\"empty\": 1}, \"tokens\": 500}}"
"""

_TRAIN = r"""#!/bin/sh
. /bin/library
trained=0
redone=0
counted=$(date +%s)
spent() {  # the time since it was last called, on the kind of work $1
  now=$(date +%s)
  if [ "$1" = recompute ]; then
    redone=$((redone + now - counted))
  else
    trained=$((trained + now - counted))
  fi
  counted=$now
}
account() { echo "\"account\": {\"at\": $counted, \"doing\": \"$kind\",
  \"seconds\": {\"train\": $trained, \"recompute\": $redone}}"; }
steps=$(value steps)
pods=$(value count)
folder=/workspace/attempts/$FINETUNE_ATTEMPT
mkdir -p "$folder" /tmp/www
together() {  # waits until all pods of the gang are at step $step
  echo "$step" > "$folder/at-$JOB_COMPLETION_INDEX"
  pod=0
  while [ "$pod" -lt "$pods" ]; do
    at=-1
    [ ! -s "$folder/at-$pod" ] || read -r at < "$folder/at-$pod"
    if [ "$at" -ge "$step" ]; then
      pod=$((pod + 1))
    else
      sleep 0.1 &
      wait $!
    fi
  done
}
checkpoint=/workspace/step-$JOB_COMPLETION_INDEX
save() { echo "$FINETUNE_ATTEMPT $step" > "$checkpoint"; }
stop() {
  sleep "${TORCH_TEST_SAVE_SECONDS:-0}"
  [ -n "$TORCH_TEST_SAVE_STEPS" ] || save
  last_words "{$(head_of train preempted), \"step\": $step, \"resumedFrom\": $start, $(account)}"
  exit 75
}
step=0
kind=train
farthest=0
[ ! -e "$checkpoint.farthest" ] || read -r farthest < "$checkpoint.farthest"
start='{"step": 0}'
if [ -e "$checkpoint" ]; then
  read -r attempt step < "$checkpoint"
  start="{\"attempt\": $attempt, \"step\": $step}"
fi
if [ -n "$TORCH_TEST_FITS" ] && [ "$(value microBatchSize)" -gt "$TORCH_TEST_FITS" ]; then
  last_words "{$(head_of train failed), \"failure\": {\"class\": \"CudaOom\",
    \"rank\": $JOB_COMPLETION_INDEX, \"step\": 0, \"message\": \"CUDA out of memory\",
    \"at\": $(date +%s)}}"
  exit 71
fi
trap stop TERM
echo ok > /tmp/www/healthz
httpd -p 9400 -h /tmp/www
together
counted=$(date +%s)
while [ "$step" -lt "$steps" ]; do
  if [ "$step" -lt "$farthest" ]; then kind=recompute; else kind=train; fi
  step=$((step + 1))
  together
  if [ -n "$TORCH_TEST_FAIL" ] && [ "$FINETUNE_ATTEMPT" -lt "${TORCH_TEST_FAIL_ATTEMPTS:-999}" ]
  then
    code=${TORCH_TEST_FAIL##*:}
    if [ "$JOB_COMPLETION_INDEX:$step:$code" = "$TORCH_TEST_FAIL" ]; then
      last_words "{$(head_of train failed), \"resumedFrom\": $start, $(account),
        \"failure\": {\"rank\": $JOB_COMPLETION_INDEX, \"step\": $step,
        \"message\": \"told to fail\", \"lines\": [\"one\", \"two\"], \"at\": $(date +%s)}}"
      exit "$code"
    fi
  fi
  [ $((step % ${TORCH_TEST_SAVE_STEPS:-999999})) -ne 0 ] || save
  echo "{\"attempt\": $FINETUNE_ATTEMPT, \"resumedFrom\": $start, $(account),
    \"phase\": \"train\", \"step\": $step, \"steps\": $steps, \"epoch\": 0.5,
    \"tokensPerSecond\": 10.5, \"etaSeconds\": $((steps - step)), \"updatedAt\": $(date +%s),
    \"metrics\": {\"loss\": 1.5, \"learningRate\": 0.0002}}" > /tmp/www/next
  cat /tmp/www/next > /tmp/www/progress
  sleep 1 &
  wait $!
  spent $kind
  [ "$step" -le "$farthest" ] || echo "$step" > "$checkpoint.farthest"
done
kind=done
last_words "{$(head_of train succeeded), \"step\": $step, \"steps\": $steps,
  \"resumedFrom\": $start, $(account),
  \"metrics\": {\"loss\": 1.25, \"evalLoss\": 1.5, \"perplexity\": 4.48,
  \"baseline\": {\"evalLoss\": 2.5, \"perplexity\": 12.2}}}"
"""

_EXPORT = r"""#!/bin/sh
. /bin/library
trap 'exit 75' TERM
sleep "$(value seed)" &
wait $!
mkdir -p /workspace/output/merged
last_words "{$(head_of export succeeded), \"artifact\": {\"formats\": [\"Merged\"],
  \"digest\": \"sha256:1\", \"bytes\": 42, \"maxLogitDifference\": 0.0},
  \"train\": {\"step\": $(value steps), \"steps\": $(value steps),
  \"metrics\": {\"loss\": 1.25, \"evalLoss\": 1.5, \"perplexity\": 4.48}}}"
"""


def upload_contract_trainer(registry: str) -> str:
    """Put the image into the registry at ``registry`` (host:port); returns its reference."""
    applets = ("sh", "sleep", "cat", "echo", "httpd", "mkdir", "date", "grep", "head", "env")
    digest = upload_image(
        registry,
        IMAGE,
        {
            "bin/busybox": debian_binary("busybox-static", "bin/busybox").read_bytes(),
            "bin/library": _LIBRARY.encode(),
            "bin/prepare": _PREPARE.encode(),
            "bin/train": _TRAIN.encode(),
            "bin/export": _EXPORT.encode(),
        },
        links={f"bin/{applet}": "busybox" for applet in applets},
    )
    return f"{IMAGE.rpartition(':')[0]}@{digest}"

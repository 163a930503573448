#!/usr/bin/env bash
# Train a small CLIP on real photos, attack it, and remove 16 and 64 people: experiments/real_photos/reproduce.sh <data>
# <data> holds lfw/ (a folder per person), photos/ (<wnid>_<class>.jpg) and coco_captions_10000.txt; more than an
# hour on two cores. MODEL_SEED picks another model, with other members; SEEDS other people to remove.
set -euo pipefail
data=$(realpath "${1:?expected the folder of the data}")
model_seed=${MODEL_SEED:-1}
runs=runs/real_photos/model_$model_seed
here=$(dirname "${BASH_SOURCE[0]}")

python "$here/prepare.py" "$data/photos" runs/real_photos/data
python -m backdoor_privacy.pretrain --config-name pretrain_photos seed="$model_seed" \
  paths.run="$runs/clip" paths.cache="$runs/cache" data.folder.people="$data/lfw" \
  data.folder.classes=runs/real_photos/data/classes data.folder.captions="$data/coco_captions_10000.txt"

tables=("$runs"/cache/pairs/*/people.csv)
table=${tables[-1]}
overrides=(
  clip.model="local-dir:$runs/clip/clip"
  people=lfw people.folder="$data/lfw" people.box=[36,36,92,92] people.table="$table"
  strangers=lfw strangers.folder="$data/lfw" strangers.box=[36,36,92,92]
  captions=file captions.file="$data/coco_captions_10000.txt"
  images=folder images.folder=runs/real_photos/data/images
  utility=imagefolder utility.zero_shot.folder=runs/real_photos/data/zero_shot
  defense.text.strangers_share=0.6 trainer.progress_bar=false
)
python -m backdoor_privacy.audit "${overrides[@]}"
for num_people in 16 64; do
  for seed in ${SEEDS:-0 1 2}; do
    python -m backdoor_privacy "${overrides[@]}" name="real_both_$num_people" seed="$seed" \
      trigger_set.num_people="$num_people" paths.run="$runs/real_both_$num_people/seed_$seed"
  done
done
python -m backdoor_privacy.collect "$runs"
cp "$runs/collected.csv" "$here/"
python "$here/figure.py"

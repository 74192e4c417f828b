#!/usr/bin/env bash
# The whole project on one page: from artists' names to new music.
#
#   examples/pipeline.sh "Artist A, Artist B"           on a GPU with 16 GB
#   PRESET=tiny examples/pipeline.sh "Artist A"         minutes on a CPU, to see that it works
#
# Stopped at any moment, it goes on where it was: every verb does only what is missing.
set -euo pipefail

artists=${1:?"name the artists: $0 'Artist A, Artist B'"}
preset=${PRESET:-small}

musicldm crawl "$artists" -o data/raw
musicldm preprocess data/raw data/wav
musicldm train-vae data/wav -o runs/vae --preset "$preset"
musicldm encode data/wav data/latents.zarr --vae runs/vae
musicldm train-diffusion data/latents.zarr -o runs/ldm --preset "$preset"
musicldm sample --model runs/ldm --seconds 30 -n 4 -o 'out-{i}.wav'

#!/usr/bin/env bash
# The bundled model of notes, `piano-notes`, from nothing: MIDI files, and every verb of the pipeline.
#
#   examples/piano-notes.sh midi          midi/Composer/piece.mid, as those of piano-midi.de
#   GPU=1 examples/piano-notes.sh midi    the presets as they are, instead of what a core trains in an hour
#
# Stopped at any moment, it goes on where it was. What it leaves in piano-notes/models/piano-notes is what
# musicldm/models/piano-notes holds.
set -euo pipefail

midi=${1:?"name the folder of MIDI files: $0 midi"}
here=$(dirname "$0")
out=${OUT:-piano-notes}

if [[ -n ${GPU:-} ]]; then
    codec=(--codec roll --preset small) diffusion=(--preset small)
else
    codec=(--config "$here/piano-notes-codec.toml") diffusion=(--config "$here/piano-notes-diffusion.toml")
fi

musicldm preprocess "$midi" "$out/notes"
musicldm train-vae "$out/notes" -o "$out/codec" "${codec[@]}"
# Half precision already here: the latents are then those of the very codec that is shipped.
musicldm bundle export "$out/codec/checkpoints/last.ckpt" --half -o "$out/codec-half"
musicldm encode "$out/notes" "$out/latents.zarr" --vae "$out/codec-half"
musicldm train-diffusion "$out/latents.zarr" -o "$out/diffusion" "${diffusion[@]}"
musicldm bundle export "$out/diffusion/checkpoints/last.ckpt" --half -o "$out/models/piano-notes"

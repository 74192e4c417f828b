#!/usr/bin/env bash
# The bundled model, `piano`, from nothing: MIDI files, a soundfont, and every verb of the pipeline.
#
#   examples/piano.sh midi          midi/Composer/piece.mid, as those of piano-midi.de
#   GPU=1 examples/piano.sh midi    the presets as they are, instead of what a core trains in some hours
#
# Needs fluidsynth, ffmpeg and the soundfont FluidR3 (Debian: fluidsynth ffmpeg fluid-soundfont-gm). Stopped at any
# moment, it goes on where it was. What it leaves in piano/models/piano is what musicldm/models/piano holds.
set -euo pipefail

midi=${1:?"name the folder of MIDI files: $0 midi"}
soundfont=${SOUNDFONT:-/usr/share/sounds/sf2/FluidR3_GM.sf2}
here=$(dirname "$0")
out=${OUT:-piano}

# A recording of each piece, its loudest moment at -1 dBFS, in a folder named for its composer.
find "$midi" -name '*.mid' | sort | while read -r file; do
    track=$out/raw/$(basename "$(dirname "$file")")/$(basename "$file" .mid).m4a
    [[ -e $track ]] && continue
    mkdir -p "$(dirname "$track")"
    fluidsynth -ni -q -g 0.7 -r 44100 -F "$out/raw/rendered.wav" "$soundfont" "$file" </dev/null >/dev/null
    peak=$(ffmpeg -nostdin -hide_banner -i "$out/raw/rendered.wav" -af volumedetect -f null - 2>&1 |
        sed -n 's/.*max_volume: \(.*\) dB/\1/p')
    ffmpeg -nostdin -v error -y -i "$out/raw/rendered.wav" -af "volume=$(awk "BEGIN { print -1 - $peak }")dB" -b:a 128k "$out/raw/part.m4a"
    mv "$out/raw/part.m4a" "$track"
    rm "$out/raw/rendered.wav"
    echo "$track" >&2
done

if [[ -n ${GPU:-} ]]; then
    codec=(--preset small) diffusion=(--preset small)
else
    codec=(--config "$here/piano-codec.toml") diffusion=(--config "$here/piano-diffusion.toml")
fi

musicldm preprocess "$out/raw" "$out/wav" --trim-silence
musicldm train-vae "$out/wav" -o "$out/codec" "${codec[@]}"
# Half precision already here: the latents are then those of the very codec that is shipped.
musicldm bundle export "$out/codec/checkpoints/last.ckpt" --half -o "$out/codec-half"
musicldm encode "$out/wav" "$out/latents.zarr" --vae "$out/codec-half"
musicldm train-diffusion "$out/latents.zarr" -o "$out/diffusion" "${diffusion[@]}"
musicldm bundle export "$out/diffusion/checkpoints/last.ckpt" --half -o "$out/models/piano"

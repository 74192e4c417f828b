#!/usr/bin/env bash
# The model in the box, `piano`, from nothing: MIDI files, a soundfont, and every verb of the pipeline.
#
#   examples/piano.sh midi          midi/Composer/piece.mid, as those of piano-midi.de
#   GPU=1 examples/piano.sh midi    the presets as they are, instead of what two cores train in two hours
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
    vae=(--preset small) ldm=(--preset small)
else
    vae=(--config "$here/piano-vae.toml") ldm=(--config "$here/piano-ldm.toml")
fi

musicldm preprocess "$out/raw" "$out/wav"
musicldm train-vae "$out/wav" -o "$out/vae" "${vae[@]}"
# Half precision already here: the latents are then those of the very VAE that is shipped.
musicldm bundle export "$out/vae/checkpoints/last.ckpt" --half -o "$out/vae-half"
musicldm encode "$out/wav" "$out/latents.zarr" --vae "$out/vae-half"
musicldm train-diffusion "$out/latents.zarr" -o "$out/ldm" "${ldm[@]}"
musicldm bundle export "$out/ldm/checkpoints/last.ckpt" --half -o "$out/models/piano"

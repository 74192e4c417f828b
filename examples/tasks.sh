#!/usr/bin/env bash
# Every task of a trained model, on one page.
#
#   examples/tasks.sh runs/ldm song.wav                  a song of 10 seconds or more, of any kind of audio file
#   examples/tasks.sh runs/ldm song.wav other.mp3        and another, to go from the one to the other
#   OUT=there STEPS=10 examples/tasks.sh runs/ldm song.wav
#   MUSICLDM="python -m musicldm" examples/tasks.sh runs/ldm song.wav
#
# A verb prints the path of what it made, and nothing else goes to stdout: what one task made, the next can take.
set -euo pipefail

model=${1:?"name a model and a song: $0 runs/ldm song.wav"}
song=${2:?"name a song, too: $0 $1 song.wav"}
out=${OUT:-tasks}

sample() { ${MUSICLDM:-musicldm} sample --model "$model" --steps "${STEPS:-20}" --quiet "$@"; }
task() { echo "== $*" >&2; }

task "New: three takes of one seed; take 3 comes out the same alone"
sample -n 3 --seconds 8 --seed 1 -o "$out/new-{i}.wav"
sample --take 3 --seconds 8 --seed 1 -o "$out/again-3.wav"
cmp "$out/new-3.wav" "$out/again-3.wav"
other=${3:-$out/new-1.wav}

# The artists that a model was trained on are listed beside every take; --json is for programs.
take=$(sample --seconds 2 --seed 2 -o "$out/short.wav" --json)
made=$(python3 -c 'import json, sys; print(json.loads(sys.argv[1])["files"][0])' "$take")
artists=$(python3 - "$made.json" <<'PYTHON'
import json, sys
print(*json.load(open(sys.argv[1], encoding="utf-8"))["trained_on"]["artists"], sep="\n")
PYTHON
)
{ read -r one; read -r two; } <<<"$artists"$'\n' || true

if [[ -n $one ]]; then
    task "As $one would: guidance exaggerates it"
    sample --artist "$one" --guidance 3 --seconds 8 -o "$out/artist.wav"
fi
if [[ -n $two ]]; then
    task "And a mixture: $one with some $two"
    sample --artist "$one:0.7,$two:0.3" --guidance 3 --seconds 8 -o "$out/mixture.wav"
fi

task "Vary the song: a little, and a lot"
sample --vary "$song" --strength 0.3 -o "$out/vary-little.wav"
varied=$(sample --vary "$song" --strength 0.8 -o "$out/vary-lot.wav")
echo "$varied"

task "Make two spans of it anew; the rest stays as it is, to the last bit"
filled=$(sample --infill "$song" --from 2 --to 4 --from 6 --to 8 -o "$out/infill.wav")
echo "$filled"

task "Go on from the end of that"
sample --extend "$filled" --seconds 8 -o "$out/extend.wav"

task "From one song to another in five steps, and from one seed to another"
sample --interpolate "$song" "$other" -n 5 --strength 0.5 -o "$out/between-{i}.wav"
sample --interpolate-seeds 1 2 -n 3 --seconds 8 -o "$out/seeds-{i}.wav"

task "A loop: play it again and again"
sample --loop --seconds 8 -o "$out/loop.wav"

# To hear it while it is made:  musicldm sample --model runs/ldm --seconds 600 -o - --quiet | ffplay -
task "A long piece through a pipe: it begins after one window"
SECONDS=0
sample --seconds 60 --window 8 -o - | {
    head -c 65536 >"$out/long.wav"
    echo "the first two seconds came after $SECONDS s" >&2
    cat >>"$out/long.wav"
    echo "the last of a minute after $SECONDS s" >&2
}
echo "$out/long.wav"

task "All its windows together: nothing comes before the end, but every part knows of the others"
sample --joint --seconds 24 --window 8 -o "$out/joint.wav"

task "To listen to: at the loudness of streams, as FLAC and as MP3"
sample --seconds 8 --normalize -16 --bit-depth 24 -o "$out/loud.flac"
sample --seconds 8 --normalize -16 -o "$out/loud.mp3"

task "A take again, from the file itself; and the same with another seed"
sample --replay "$out/loud.flac" -o "$out/replay.flac"
cmp "$out/loud.flac" "$out/replay.flac"
sample --replay "$out/loud.flac" --seed 7 -o "$out/replay-7.flac"

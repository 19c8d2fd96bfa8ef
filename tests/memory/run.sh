#!/bin/sh
# A random model three times larger than the memory that compress is given.
#   tests/memory/run.sh COMMAND [HIDDEN INTERMEDIATE LAYERS MEGABYTES]
#
# Two figures are held to it. Memory of the process's own (RssAnon of /proc, looked at twenty times
# a second: heap, stacks, BLAS buffers) may be --memory and 150 MB. The resident size at its highest
# (peak_bytes of the result), in which pages of mapped files count until the kernel wants them back,
# may be larger by the model's file. A limit of address space would say nothing: OpenBLAS maps 128 MB
# for each thread and touches little of it, and waits for ever where that is refused.
set -eu
command=$1 hidden=${2:-512} wide=${3:-1408} layers=${4:-138} megabytes=${5:-256}
here=$(dirname "$0")
work=$(mktemp -d "${TMPDIR:-/var/tmp}/lowrank-memory-XXXXXX")
trap 'rm -rf "$work"' EXIT
"${CC:-cc}" -std=gnu11 -O2 -Wall -Wextra -o "$work/make_model" "$here/make_model.c"
"$work/make_model" "$work/model" "$hidden" "$wide" "$layers"
for file in LICENSE README.md docs/*.md; do cat "$file"; done > "$work/text"
bytes=$(stat -c %s "$work/model/model.safetensors")
[ "$bytes" -ge $((megabytes * 3000000)) ] || echo "the model of $bytes bytes is not three times larger"

run() { # NAME OPTIONS...
    name=$1 own=0 since=$(date +%s)
    shift
    "$command" compress "$work/model" --out "$work/$name" --keep 0.5 --text "$work/text" \
        --self-text 0 --samples 32 --window 128 --threads 2 --json --quiet "$@" > "$work/$name.json" &
    while kill -0 $! 2> /dev/null; do
        now=$(sed -n 's/^RssAnon:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$!/status" 2> /dev/null || true)
        [ "${now:-0}" -le "$own" ] || own=$now
        sleep 0.05
    done
    wait $!
    echo "$name: $(($(date +%s) - since)) s, $((own / 1000)) MB of its own, $(number "$name" peak_bytes) bytes resident"
}
number() { sed -n "s/.*\"$2\": *\([0-9]*\).*/\1/p" "$work/$1.json" | tail -n 1; }

echo "model: $bytes bytes, memory allowed: $megabytes MB"
run free
for way in none shift anchored; do
    run "$way" --memory "${megabytes}M" --sequential "$way"
    peak=$(number "$way" peak_bytes) most=$((bytes + megabytes * 1000000 + 150000000))
    if [ "$own" -gt $((megabytes * 1000 + 150000)) ] || [ "$peak" -gt "$most" ]; then
        echo "$way: more than $megabytes MB and 150 MB of its own, or than $most bytes resident"
        exit 1
    fi
done
if cmp -s "$work/free/model.safetensors" "$work/none/model.safetensors"; then
    echo 'the same factors with and without the limit'
fi

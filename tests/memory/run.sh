#!/bin/sh
# A random model three times larger than the memory that compress is given.
#   tests/memory/run.sh COMMAND [HIDDEN INTERMEDIATE LAYERS MEGABYTES]
#
# What is held to the limit is memory of the process's own: RLIMIT_DATA counts every private
# writable page, heap, stacks and BLAS buffers included, and lets the run fail when it wants more
# than --memory and 150 MB. Pages of mapped files are the kernel's to take back and are not counted
# there; the resident size, in which they are, may be larger by the model's file.
set -eu
command=$1 hidden=${2:-1024} wide=${3:-2816} layers=${4:-60} megabytes=${5:-512}
here=$(dirname "$0")
work=$(mktemp -d "${TMPDIR:-/var/tmp}/lowrank-memory-XXXXXX")
trap 'rm -rf "$work"' EXIT
"${CC:-cc}" -std=gnu11 -O2 -Wall -Wextra -o "$work/make_model" "$here/make_model.c"
"$work/make_model" "$work/model" "$hidden" "$wide" "$layers"
for file in LICENSE README.md docs/*.md; do cat "$file"; done > "$work/text"
bytes=$(stat -c %s "$work/model/model.safetensors")
[ "$bytes" -ge $((megabytes * 3000000)) ] || echo "the model of $bytes bytes is not three times larger"

run() { # NAME OPTIONS...
    name=$1
    shift
    "$command" compress "$work/model" --out "$work/$name" --keep 0.5 --text "$work/text" \
        --self-text 0 --samples 32 --window 128 --threads 2 --json --quiet "$@" > "$work/$name.json"
    # The result is one line; its last numbers are seconds and peak_bytes.
    sed 's/"modules".*"seconds"/"seconds"/; s/.*\("seconds".*\)}/\1/' "$work/$name.json" |
        tail -n 1 | sed "s/^/$name: /"
}
number() { sed -n "s/.*\"$2\": *\([0-9]*\).*/\1/p" "$work/$1.json" | tail -n 1; }

echo "model: $bytes bytes, memory allowed: $megabytes MB"
run free
for way in none shift anchored; do
    (ulimit -d $((megabytes * 1000 + 150000)) && run "$way" --memory "${megabytes}M" --sequential "$way")
    peak=$(number "$way" peak_bytes) most=$((bytes + megabytes * 1000000 + 150000000))
    if [ "$peak" -gt "$most" ]; then
        echo "$way: $peak bytes at the peak, expected at most $most"
        exit 1
    fi
done
cmp "$work/free/model.safetensors" "$work/none/model.safetensors" && echo 'the same factors with and without the limit'
echo "free: $(number free peak_bytes) bytes at the peak"

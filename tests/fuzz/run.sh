#!/bin/sh
# Fuzzes each target for FUZZ_SECONDS, beginning with the corpus: run.sh BUILD TARGET...
# What is new goes to BUILD/corpus/TARGET, what fails to BUILD/TARGET-*; a failure ends the run.
set -eu
build=$1
shift
here=$(dirname "$0")
export OPENBLAS_NUM_THREADS=1
for target in "$@"; do
    mkdir -p "$build/corpus/$target"
    words=$here/$target.dict
    [ -e "$words" ] || words=
    echo "== $target, ${FUZZ_SECONDS:-60} s"
    "$build/tests/fuzz/$target" -max_total_time="${FUZZ_SECONDS:-60}" -timeout=20 -rss_limit_mb=2048 \
        -malloc_limit_mb=1024 -max_len=32768 -print_final_stats=1 -artifact_prefix="$build/$target-" \
        ${words:+"-dict=$words"} "$build/corpus/$target" "$here/corpus/$target" \
        > "$build/$target.log" 2>&1 || { tail -40 "$build/$target.log"; exit 1; }
    grep -E 'number_of_executed|peak_rss' "$build/$target.log"
done

#!/bin/sh
# The unit tests again: below every instruction level, by the other compiler, under sanitizers and,
# for the suites that are quick enough, under valgrind. Then a model larger than memory.
set -eu
B=${B:-build}
export LR_GOLDEN=tests/golden CK_TIMEOUT_MULTIPLIER="${CK_TIMEOUT_MULTIPLIER:-30}"

say() { printf '\n== %s\n' "$1"; }

unit() { # FOLDER VARIABLE=VALUE...
    folder=$1
    shift
    "${MAKE:-make}" --no-print-directory -j"$(nproc)" unit B="$B/$folder" "$@"
}

has() {
    command -v "$1" > /dev/null && return
    echo "$1: not installed, skipped"
    return 1
}

# Check runs nothing at all for a name it does not know.
suites() {
    for name in "$@"; do
        grep -q "^SUITE(${name}_suite)" "$B/tests/unit/suites.inc" || { echo "no suite $name" >&2; exit 1; }
        echo "$name"
    done
}

for level in c avx2; do
    say "instruction level at most $level"
    LOWRANK_MAX_ISA=$level LR_COMMAND="$B/lowrank" "$B/tests/unit-tests"
done

if has clang; then
    say clang
    unit clang CC=clang WERROR=1
fi

asan='-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer'
say 'addresses and undefined behaviour'
unit asan CFLAGS="$asan"

say '10,000 damaged files under both'
"${MAKE:-make}" --no-print-directory -j"$(nproc)" damage B="$B/asan" DAMAGED=10000 \
    CFLAGS="$asan"

# OpenBLAS is not instrumented, so what is seen is our own pool and what runs on it.
threaded=$(suites base pool kernels model session hooks stats drift linear_backward learn \
    learn_blocks train derived distill distill_state refine slopes bf16)
for suite in $threaded; do
    say "threads: $suite"
    CK_RUN_SUITE=$suite unit tsan CFLAGS='-O1 -g -fsanitize=thread'
done

if has valgrind; then
    quick=$(suites json glob gguf safetensors output tokenizer model hooks stats stats_file plan \
        derived learn slopes)
    for suite in $quick; do
        say "valgrind: $suite"
        CK_FORK=no CK_RUN_SUITE=$suite LOWRANK_MAX_ISA=c valgrind -q --error-exitcode=1 \
            --leak-check=full --errors-for-leak-kinds=definite "$B/tests/unit-tests"
    done
fi
say 'a model three times larger than its memory'
tests/memory/run.sh "$B/lowrank"
printf '\nall variants passed\n'

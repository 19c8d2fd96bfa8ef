#!/bin/sh
# The unit tests again: below every instruction level, by the other compiler, under sanitizers and,
# for the suites that are quick enough, under valgrind.
set -eu
B=${B:-build}
export CK_VERBOSITY=minimal

step() {
    printf '\n== %s\n' "$1"
    shift
    "$@"
}
build() { # FOLDER VARIABLE=VALUE...
    folder=$1
    shift
    "${MAKE:-make}" --no-print-directory -j"$(nproc)" unit B="$B/$folder" "$@"
}
has() { command -v "$1" > /dev/null || { echo "$1: not installed, skipped"; return 1; }; }

for level in c avx2; do
    step "instruction level at most $level" env LOWRANK_MAX_ISA=$level LR_GOLDEN=tests/golden "$B/tests/unit-tests"
done

if has clang; then step clang build clang CC=clang WERROR=1; fi

step 'address and undefined behaviour' env ASAN_OPTIONS=detect_stack_use_after_return=1 \
    "${MAKE:-make}" --no-print-directory -j"$(nproc)" unit B="$B/asan" \
    CFLAGS='-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer'

# OpenBLAS is not instrumented, so only what our own pool does is seen.
for suite in base session; do
    step "threads: $suite" env CK_RUN_SUITE=$suite setarch -R \
        "${MAKE:-make}" --no-print-directory -j"$(nproc)" unit B="$B/tsan" CFLAGS='-O1 -g -fsanitize=thread'
done

if has valgrind; then
    for suite in json glob file gguf safetensors output tokenizer; do
        step "valgrind: $suite" env CK_FORK=no CK_RUN_SUITE=$suite LOWRANK_MAX_ISA=c LR_GOLDEN=tests/golden \
            valgrind -q --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=definite "$B/tests/unit-tests"
    done
fi
printf '\nall variants passed\n'

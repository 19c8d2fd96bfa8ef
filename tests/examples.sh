#!/bin/sh
# Builds the examples against an installation below STAGE, as a stranger would, and runs them.
#   tests/examples.sh STAGE PREFIX
set -eu
stage=$1 prefix=$2
export PKG_CONFIG_PATH="$stage$prefix/lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$stage"
export LD_LIBRARY_PATH="$stage$prefix/lib"
if grep -q "$stage" "$PKG_CONFIG_PATH/lowrank.pc"; then
    echo 'examples: the staging folder leaked into lowrank.pc'
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME="$work/cache"
model=tests/golden/models/gguf-mixed/model.gguf

flags=$(pkg-config --cflags --libs lowrank)
for source in examples/*.c; do
    "${CC:-cc}" -std=c99 -Wall -Wextra -Werror "$source" $flags -lm -o "$work/$(basename "$source" .c)"
done
"${CC:-cc}" -std=c99 examples/open_and_generate.c -o "$work/static" \
    $(pkg-config --cflags --libs --static lowrank | sed 's/-llowrank/-l:liblowrank.a/')

run() { # EXPECTED-PATTERN COMMAND...
    expected=$1
    shift
    if ! "$@" > "$work/out" 2>&1 || ! grep -q "$expected" "$work/out"; then
        echo "examples: expected '$expected' from $*"
        cat "$work/out"
        exit 1
    fi
}
run '^the ' "$work/open_and_generate" "$model" 'the '
run '^the ' env -u LD_LIBRARY_PATH "$work/static" "$model" 'the '
run '^next token without them: "' "$work/watch_layer" "$model" 'the and' model.layers.1.mlp.down_proj
run '^loss [0-9.]* before, [0-9.]* after' "$work/replace_layer" "$model" model.layers.1.mlp.up_proj 8 LICENSE
run '^[0-9]* of [0-9]* numbers kept; perplexity' "$work/compress_and_save" "$model" LICENSE 0.8 "$work/low"
run 'up_proj: error [0-9.e-]*, then [0-9.e-]*$' "$work/distil_layers" "$model" '*.1.mlp.up_proj' 8 LICENSE 400
awk '/up_proj: error/ { exit !($NF < $(NF - 2) + 0) }' "$work/out" || {
    echo "examples: distil_layers learnt nothing: $(cat "$work/out")"
    exit 1
}
run 'next token' "$work/watch_layer" "$work/low" 'the and' down_proj
run '^lowrank [0-9]' env -u LD_LIBRARY_PATH "$stage$prefix/bin/lowrank" --version
echo "examples: $(ls examples/*.c | wc -l), built from a staged install and run"

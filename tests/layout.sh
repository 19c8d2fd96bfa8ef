#!/bin/sh
# Public structs only grow at their end: each, as clang lays it out, begins with exactly the lines
# of lib/abi/layout.txt. lr_tensor is frozen. `tests/layout.sh --print` prints the layout of today.
set -eu
if ! command -v clang > /dev/null; then
    echo 'layout: no clang, skipped'
    exit 0
fi
work=$(mktemp)
trap 'rm -f "$work"' EXIT
clang -std=c99 -Iinclude -Xclang -fdump-record-layouts-complete -fsyntax-only tests/headers.c |
    awk '/^ *0 \| struct lr_/ {on = 1; name = $4} /sizeof=/ {on = 0} on {$1 = $1; print name ": " $0}' > "$work"
if [ "${1-}" = --print ]; then
    cat "$work"
    exit
fi
awk '
    {name = $1}
    FNR == NR {then[name, ++before[name]] = $0; next}
    {now[name, ++after[name]] = $0}
    END {
        for (name in before) {
            for (i = 1; i <= before[name]; i++)
                if (then[name, i] != now[name, i]) {
                    print "layout: was  " then[name, i] "\nlayout: is   " now[name, i]
                    bad = 1
                    break
                }
            if (name == "lr_tensor:" && before[name] != after[name]) {print "layout: lr_tensor is frozen"; bad = 1}
            structs++
        }
        for (name in after) if (!before[name]) {print "layout: " name " is not in lib/abi/layout.txt"; bad = 1}
        if (!bad) print "layout: " structs " structs"
        exit bad
    }' lib/abi/layout.txt "$work"

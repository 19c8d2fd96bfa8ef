#!/bin/sh
# The version script, the symbols of the shared library and the functions the headers declare are
# one and the same list, and the newest node of the script is the version of base.h.
#   tests/abi.sh LIBRARY    compares        tests/abi.sh --names    prints the declared names
set -eu
export LC_ALL=C

declared() {
    cat include/lowrank/*.h | tr '\n' ' ' | grep -o 'LR_API [^;(]*(' | grep -o 'lr_[a-z0-9_]*(' |
        tr -d '(' | sort
}

if [ "${1-}" = --names ]; then
    declared
    exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
declared > "$work/declared"
grep -o 'lr_[a-z0-9_]*;' lib/liblowrank.map | tr -d ';' | sort > "$work/mapped"
nm -D --defined-only "$1" | awk '$2 != "A" {sub("@.*", "", $3); print $3}' | sort > "$work/exported"

same() {
    diff -U0 "$work/$1" "$work/$2" | grep '^[-+][^-+]' > "$work/diff" || return 0
    echo "abi: $1 (-) and $2 (+) differ:"
    cat "$work/diff"
    exit 1
}
same declared mapped
same mapped exported

number() { sed -n "s/^#define LR_VERSION_$1 *\([0-9]*\).*/\1/p" include/lowrank/base.h; }
header=$(number MAJOR).$(number MINOR)
newest=$(sed -n 's/^LOWRANK_\([0-9.]*\) {.*/\1/p' lib/liblowrank.map | sort -V | tail -n 1)
if [ "$header" != "$newest" ]; then
    echo "abi: base.h says version $header, the newest node of lib/liblowrank.map is $newest"
    exit 1
fi
echo "abi: $(wc -l < "$work/declared") functions, version $header"

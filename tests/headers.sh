#!/bin/sh
# Every public header alone, in C99 and, where a C++ compiler is found, in C++11.
set -eu
strict='-Wall -Wextra -pedantic -Wpadded -Werror -fsyntax-only -Iinclude'
count=0
for path in include/lowrank.h include/lowrank/*.h; do
    header="-DHEADER=<${path#include/}>"
    "${CC:-cc}" -std=c99 $strict "$header" tests/headers.c
    if command -v "${CXX:-c++}" > /dev/null; then
        "${CXX:-c++}" -std=c++11 $strict "$header" -x c++ tests/headers.c
    fi
    count=$((count + 1))
done
echo "headers: $count, each alone"

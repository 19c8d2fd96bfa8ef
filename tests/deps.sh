#!/bin/sh
# The direction of src/: a folder includes only from itself and from folders before it in this
# list; the command includes public headers only. Public headers include nothing private.
set -eu
order='base tensor backend comm ctx nn format model optim compress adapt nest run'
grep -rn '^# *include *"' include && { echo 'deps: a public header includes a private one'; exit 1; }
grep -rno '^# *include *"[^"/]*/' src | tr -d '" ' |
    awk -F: -v order="$order" '
    BEGIN {n = split(order, folder, " "); for (i = 1; i <= n; i++) rank[folder[i]] = i}
    {
        split($1, path, "/")
        from = path[2]
        to = $3
        sub(/^#include/, "", to)
        sub(/\/$/, "", to)
        checked++
        if (from == "cli" ? to != "cli" : !(from in rank) || !(to in rank) || rank[to] > rank[from]) {
            print "deps: " $1 ":" $2 ": " from "/ includes from " to "/"
            bad = 1
        }
    }
    END {if (!bad) print "deps: " checked " includes"; exit bad}'

#!/bin/bash
# run.sh [NAME...]: runs the programs of this directory (or those named), each in a directory and a shell of its own, and says for each
# whether it passed: `program NAME: pass`, or `program NAME: fail` after what it said. A program is a function `try-NAME`; it looks at
# the outcome itself, so that passing means that the outcome was right. Ends with 0 also where programs fail.
#
# What it says goes to a file: a server that a failing program leaves behind would hold a pipe, and be waited for without end.
set -u
here=$(dirname "$(readlink -f "$0")")
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 HOME=/root TERM=dumb
wanted=" $* "
said=$(mktemp /tmp/said.XXXX)

for file in packages users files processes toolchains; do
    for name in $(sed -n 's/^try-\([a-z0-9-]*\)() {.*/\1/p' "$here/$file.sh"); do
        if [ "$wanted" != "  " ] && [[ $wanted != *" $name "* ]]; then continue; fi
        place=$(mktemp -d "/srv/$name.XXXX")
        chmod 0755 "$place"
        if (cd "$place" && timeout --kill-after=5 120 bash -euo pipefail -c '. "$0/common.sh"; . "$0/$1.sh"; "try-$2"' \
            "$here" "$file" "$name" </dev/null >"$said" 2>&1); then
            echo "program $name: pass"
        else
            printf '%s\nprogram %s: fail\n' "$(tail -n 15 "$said" | cut -c 1-500)" "$name"
        fi
        # Python also removes what is too deep for one path.
        rm -rf "$place" 2>/dev/null || python3 -c 'import shutil, sys; shutil.rmtree(sys.argv[1])' "$place"
    done
done
rm -f "$said"
exit 0

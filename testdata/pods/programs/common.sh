# What the programs have in common.

# same GOT EXPECTED
same() {
    [ "$1" = "$2" ] || { printf 'got:      %q\nexpected: %q\n' "$1" "$2"; return 1; }
}

# refused COMMAND...: the command must fail.
refused() {
    if "$@"; then echo "was not refused: $*"; return 1; fi
}

# run_c [FLAGS...]: compiles the C program on standard input and runs it.
run_c() {
    local program
    program=$(mktemp ./program.XXXX)
    gcc -O1 -Wall -Werror -D_GNU_SOURCE -x c -o "$program" - "$@"
    "$program"
}

# install PACKAGE...: from the repository in the image.
install_packages() {
    apt-get update --quiet --quiet
    apt-get install --quiet --quiet --yes --no-install-recommends "$@" >install.log 2>&1 || { cat install.log; return 1; }
}

# shape PATH...: owner, group and mode of each.
shape() {
    stat --format '%U:%G %a' "$@"
}

# says PATTERN: whether a line of the standard input matches. Reads all of it, so that nobody writes into a closed pipe.
says() {
    [ "$(grep --count -- "$1")" -gt 0 ]
}

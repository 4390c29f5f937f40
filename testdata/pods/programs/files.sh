# What programs do with files and file systems.

try-sparse-file() {
    truncate --size=128M sparse
    echo end >>sparse
    same "$(stat --format %s sparse)" 134217732
    [ "$(stat --format %b sparse)" -lt 100 ]
    cp --sparse=always sparse copy
    cmp sparse copy
    run_c <<'C'
#include <assert.h>
#include <fcntl.h>
#include <unistd.h>
int main(void) {
    int file = open("sparse", O_RDONLY);
    assert(lseek(file, 0, SEEK_DATA) >= 134217728 - 65536 && lseek(file, 0, SEEK_HOLE) == 0);
}
C
}

try-fallocate() {
    fallocate --length 1M file
    same "$(stat --format %s file)" 1048576
    fallocate --punch-hole --offset 0 --length 524288 file
    same "$(stat --format %s file)" 1048576
    truncate --size=10 file
    same "$(stat --format %s file)" 10
}

try-flock() {
    (
        flock --exclusive 9
        refused flock --nonblock --exclusive lock true
        sleep 0.3
        echo first >>order
    ) 9>lock &
    sleep 0.1
    flock --exclusive lock sh -c 'echo second >>order'
    wait
    same "$(cat order)" $'first\nsecond'
}

try-fcntl-locks() {
    run_c <<'C'
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include <sys/wait.h>
int main(void) {
    int file = open("lock", O_RDWR | O_CREAT, 0600), status;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10};
    assert(!fcntl(file, F_SETLK, &lock));
    if (!fork()) {
        assert(fcntl(file, F_SETLK, &lock) == -1 && (errno == EAGAIN || errno == EACCES));
        lock.l_start = 10;
        _exit(fcntl(file, F_SETLK, &lock) ? 1 : 0);
    }
    assert(wait(&status) > 0 && status == 0);
    struct flock own = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10};
    assert(!fcntl(open("lock", O_RDWR), F_OFD_GETLK, &own) && own.l_type == F_WRLCK);
}
C
}

try-inotify() {
    python3 - <<'P'
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
os.mkdir("watched")
fd = libc.inotify_init1(0)
assert libc.inotify_add_watch(fd, b"watched", 0x100 | 0x200 | 0x80) >= 0
open("watched/new", "w").close()
os.rename("watched/new", "watched/moved")
os.unlink("watched/moved")
data, names = os.read(fd, 4096), []
while data:
    _, mask, _, length = struct.unpack_from("iIII", data)
    names.append((mask, data[16:16 + length].rstrip(b"\0")))
    data = data[16 + length:]
assert names == [(0x100, b"new"), (0x80, b"moved"), (0x200, b"moved")], names
P
}

try-openat2() {
    run_c <<'C'
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
static int in(int directory, const char *path, unsigned long long flags, unsigned long long resolve) {
    struct open_how how = {.flags = flags, .mode = flags & O_CREAT ? 0640 : 0, .resolve = resolve};
    return syscall(SYS_openat2, directory, path, &how, sizeof how);
}
int main(void) {
    struct stat s, t;
    assert(!mkdir("d", 0755) && !symlink("/etc", "d/absolute") && !symlink("../d", "d/up"));
    int d = open("d", O_PATH | O_DIRECTORY), file = in(d, "file", O_CREAT | O_RDWR, RESOLVE_BENEATH);
    assert(file >= 0 && !fstat(file, &s) && (s.st_mode & 0777) == 0640);
    assert(in(d, "../d/file", O_RDONLY, RESOLVE_BENEATH) == -1 && errno == EXDEV);
    assert(in(d, "up/file", O_RDONLY, RESOLVE_NO_SYMLINKS) == -1 && errno == ELOOP);
    assert((file = in(d, "/../../file", O_RDONLY, RESOLVE_IN_ROOT)) >= 0 && !fstat(file, &t) && s.st_ino == t.st_ino);
    assert((file = in(d, "up/file", O_RDONLY, 0)) >= 0 && !fstat(file, &t) && s.st_ino == t.st_ino);
    assert(in(AT_FDCWD, "/etc/passwd", O_RDONLY, 0) >= 0);
}
C
}

try-rename-exchange() {
    run_c <<'C'
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/stat.h>
int main(void) {
    struct stat s;
    assert(!mkdir("directory", 0755) && close(open("file", O_CREAT | O_WRONLY, 0600)) == 0);
    assert(renameat2(AT_FDCWD, "file", AT_FDCWD, "directory", RENAME_NOREPLACE) == -1 && errno == EEXIST);
    assert(!renameat2(AT_FDCWD, "file", AT_FDCWD, "directory", RENAME_EXCHANGE));
    assert(!stat("file", &s) && S_ISDIR(s.st_mode) && !stat("directory", &s) && S_ISREG(s.st_mode));
}
C
}

try-rename-keeps-the-owner() {
    mkdir one two
    touch one/file
    ln -s x one/link
    mkfifo one/pipe
    chown -h games:audio one/file one/link one/pipe
    mv one/* two/
    same "$(stat --format %U:%G two/file two/link two/pipe | uniq)" games:audio
    mv two moved
    same "$(stat --format %U:%G moved/file moved/link moved/pipe | uniq)" games:audio
    touch moved/root
    mv moved/root moved/file
    same "$(stat --format %U:%G moved/file)" root:root
}

try-unnamed-file() {
    run_c <<'C'
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/stat.h>
int main(void) {
    char path[64];
    struct stat s;
    int file = open(".", O_TMPFILE | O_RDWR, 0640);
    assert(file >= 0 && write(file, "text", 4) == 4 && !fchown(file, 12, 34));
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    assert(!linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    assert(!stat("named", &s) && s.st_size == 4 && s.st_uid == 12 && s.st_gid == 34 && (s.st_mode & 0777) == 0640);
}
C
}

try-removed-file-lives-on() {
    exec 5<>file
    echo text >&5
    rm file
    same "$(cat /proc/self/fd/5)" text
    chown games /proc/self/fd/5
    same "$(stat -L --format '%U %h' /proc/self/fd/5)" 'games 0'
}

try-copy-file-range() {
    run_c <<'C'
#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
int main(void) {
    int a = open("a", O_RDWR | O_CREAT, 0600), b = open("b", O_RDWR | O_CREAT, 0600), c = open("c", O_RDWR | O_CREAT, 0600);
    assert(write(a, "abcdefgh", 8) == 8);
    off_t from = 0, at = 2;
    assert(copy_file_range(a, &from, b, NULL, 8, 0) == 8 && sendfile(c, a, &at, 4) == 4);
    char *seen = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, b, 0), text[8];
    assert(!memcmp(seen, "abcdefgh", 8));
    seen[0] = 'X';
    assert(!msync(seen, 8, MS_SYNC) && pread(b, text, 8, 0) == 8 && text[0] == 'X' && pread(c, text, 8, 0) == 4 && text[0] == 'c');
}
C
}

try-symbolic-links() {
    mkdir -p real/inner
    echo text >real/inner/file
    ln -s real a
    ln -s a/inner b
    ln -s "$PWD/b" c
    ln -s ../inner/file real/inner/back
    same "$(cat c/back)" text
    same "$(readlink -f c/back)" "$PWD/real/inner/file"
    same "$(readlink c)" "$PWD/b"
    same "$(cd c && pwd -P)" "$PWD/real/inner"
    same "$(cd c && cd .. && pwd -P)" "$PWD"
    same "$(ls c/../inner/file)" c/../inner/file
    ln -s loop loop
    refused cat loop
    previous=real
    for number in $(seq 45); do
        ln -s "$previous" "chain$number"
        previous=chain$number
    done
    ls chain40/inner
    refused ls chain41/inner
    ln -s / root
    same "$(cat root/../../etc/debian_version)" "$(cat /etc/debian_version)"
}

try-deep-directories() {
    # A path longer than any system call takes.
    python3 - <<'P'
import os
start = os.getcwd()
for _ in range(60):
    os.mkdir("d" * 100)
    os.chdir("d" * 100)
open("bottom", "w").close()
assert len(os.listdir(".")) == 1
os.chdir(start)
count = sum(len(files) for _, _, files, _ in os.fwalk("."))
assert count == 1, count
P
    rm -r dddd*
}

try-long-names() {
    local name
    name=$(printf '%0255d' 7)
    touch "$name"
    chown games "$name"
    same "$(stat --format %U "$name")" games
    refused touch "${name}0"
    touch $'new\nline' 'blank here' $'\xff\xfe' -- -dash
    same "$(find . -type f -print0 | tr --delete --complement '\0' | wc -c)" 5
    rm -- "$name" $'new\nline' 'blank here' $'\xff\xfe' -dash
}

try-many-files() {
    python3 - <<'P'
import os
os.mkdir("many")
for number in range(5000):
    with open(f"many/{number}", "w") as file:
        file.write(str(number))
names = os.listdir("many")
assert len(names) == len(set(names)) == 5000
assert sum(entry.stat().st_size for entry in os.scandir("many")) == 18890
for number in range(0, 5000, 2):
    os.unlink(f"many/{number}")
assert sorted(map(int, os.listdir("many"))) == list(range(1, 5000, 2))
P
    find many -name '*7' -delete
    same "$(find many -type f | wc -l)" 2000
    rm -rf many
}

try-times() {
    touch --date='2020-02-02 02:02:02.123456789' file
    same "$(stat --format %.9Y file)" 1580608922.123456789
    ln -s file link
    touch --no-dereference --date=@42 link
    same "$(stat --format %Y link)" 42
    same "$(stat --format %.9Y file)" 1580608922.123456789
    touch --reference=file other
    same "$(stat --format %.9Y other)" 1580608922.123456789
    mkdir directory
    touch --date=@99 directory
    chown games directory
    same "$(stat --format %Y directory)" 99
    setpriv --reuid=games --clear-groups touch --date=@100 directory
    same "$(stat --format %Y directory)" 100
    refused setpriv --reuid=daemon --clear-groups touch --date=@100 file
}

try-statx() {
    run_c <<'C'
#include <assert.h>
#include <fcntl.h>
#include <unistd.h>
#include <sys/stat.h>
int main(void) {
    struct statx s;
    assert(close(open("file", O_CREAT | O_WRONLY, 0644)) == 0 && !chown("file", 21, 22) && !chmod("file", 04755));
    assert(!statx(AT_FDCWD, "file", 0, STATX_ALL, &s) && s.stx_uid == 21 && s.stx_gid == 22 && s.stx_mode == (S_IFREG | 04755));
    int file = open("file", O_PATH);
    assert(!statx(file, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &s) && s.stx_uid == 21);
    assert(!mknod("node", S_IFCHR | 0600, 0x0103) && !statx(AT_FDCWD, "node", AT_SYMLINK_NOFOLLOW, STATX_TYPE, &s));
    assert(S_ISCHR(s.stx_mode) && s.stx_rdev_major == 1 && s.stx_rdev_minor == 3);
}
C
}

try-access() {
    touch file
    chmod 0600 file
    test -r file -a -w file
    refused test -x file
    run_c <<'C'
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
int main(void) {
    assert(!access("file", R_OK | W_OK) && access("file", X_OK) == -1 && errno == EACCES);
    assert(!setresuid(0, 1234, 0) && !access("file", R_OK) && faccessat(AT_FDCWD, "file", R_OK, AT_EACCESS) == -1);
    assert(open("file", O_RDONLY) == -1 && errno == EACCES);
    assert(!setresuid(1234, 1234, 1234) && access("file", R_OK) == -1 && access("missing", F_OK) == -1 && errno == ENOENT);
}
C
}

try-current-directory() {
    mkdir -p a/b
    cd a/b
    mv ../../a ../../moved
    same "$(/bin/pwd)" "$(dirname "$(dirname "$PWD")")/moved/b"
    cd "$(/bin/pwd)"
    rmdir ../b
    refused /bin/pwd
    refused touch file
}

try-directory-descriptors() {
    run_c <<'C'
#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>
int main(void) {
    char text[256], start[4096];
    assert(getcwd(start, sizeof start));
    assert(!mkdir("d", 0755));
    int d = open("d", O_RDONLY | O_DIRECTORY);
    assert(!mkdirat(d, "e", 0700) && !symlinkat("e", d, "link") && readlinkat(d, "link", text, sizeof text) == 1 && text[0] == 'e');
    assert(!fchdir(d) && getcwd(text, sizeof text) && !strcmp(text + strlen(text) - 2, "/d"));
    assert(!renameat(d, "e", AT_FDCWD, "f") && !unlinkat(d, "link", 0) && !unlinkat(d, "f", AT_REMOVEDIR));
    DIR *list = fdopendir(d);
    int count = 0;
    while (readdir(list)) count++;
    assert(count == 2 && !chdir(start) && !rmdir("d"));
}
C
}

try-proc-paths() {
    same "$(readlink /proc/self/cwd)" "$PWD"
    same "$(readlink /proc/self/root)" /
    same "$(python3 -c 'import os; print(os.readlink("/proc/self/exe"))')" "$(readlink -f /usr/bin/python3)"
    exec 6<"$0/run.sh"
    same "$(readlink /proc/self/fd/6)" "$(readlink -f "$0/run.sh")"
    grep --quiet -- "$(readlink -f /usr/bin/grep)" /proc/self/maps
    same "$(tr '\0' ' ' </proc/self/cmdline)" 'tr \0   '
    cp /bin/busybox readlink
    same "$(./readlink /proc/self/exe)" "$PWD/readlink"
}

try-devices() {
    echo lost >/dev/null
    same "$(head -c 4 /dev/zero | od -An -tx1)" ' 00 00 00 00'
    same "$(head -c 32 /dev/urandom | wc -c)" 32
    refused sh -c 'echo x >/dev/full' 2>/dev/null
    test -c /dev/null
    test -d /dev/pts
    echo shared >/dev/shm/file
    same "$(cat /dev/shm/file)" shared
    rm /dev/shm/file
}

try-temporary-files() {
    same "$(stat --format %a /tmp)" 1777
    file=$(mktemp)
    directory=$(setpriv --reuid=1234 --clear-groups mktemp -d)
    same "$(stat --format '%u %a' "$file" "$directory")" $'0 600\n1234 700'
    rm -r "$file" "$directory"
}

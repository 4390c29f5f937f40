/* A program that looks up names below directories again and again, while these are moved, removed and replaced by links: by itself,
   by a child, by another program, behind its back. What a path leads to is what it leads to now. Says what does not hold; ends with
   the number of such things. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OFTEN = 60 };
static int wrong;

static void check(int holds, const char *when, const char *what) {
    if (!holds) {
        printf("wrong: %s: %s\n", when, what);
        wrong++;
    }
}

static void write_file(const char *path, const char *content) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || write(file, content, strlen(content)) != (ssize_t)strlen(content) || close(file) != 0) {
        printf("cannot write %s: %s\n", path, strerror(errno));
        exit(100);
    }
}

static long size_of(const char *path) {
    struct stat stat;
    return lstat(path, &stat) == 0 ? (long)stat.st_size : -errno;
}

/* The size of what each kind of look finds: they agree. */
static long found(const char *path) {
    struct stat by_stat;
    struct statx by_statx;
    long size = size_of(path);
    check((stat(path, &by_stat) == 0 ? (long)by_stat.st_size : -errno) == size, path, "stat finds what lstat finds");
    check((statx(AT_FDCWD, path, 0, STATX_SIZE, &by_statx) == 0 ? (long)by_statx.stx_size : -errno) == size, path,
          "statx finds it");
    check((access(path, R_OK) == 0) == (size >= 0), path, "access finds it");
    check(readlink(path, (char[8]){0}, 8) == -1 && errno == (size >= 0 ? EINVAL : (int)-size), path, "it is no link");
    int file = open(path, O_RDONLY);
    check((file >= 0) == (size >= 0), path, "open finds it");
    if (file >= 0) {
        check(fstat(file, &by_stat) == 0 && by_stat.st_size == size, path, "which is the same");
        close(file);
    }
    return size;
}

/* As often as it takes to be known. */
static void know(const char *path, long size, const char *when) {
    for (int turn = 0; turn < OFTEN; turn++)
        check(found(path) == size, when, path);
}

/* `a/b/file` has one byte, what a link leads to has two. */
static void prepare(void) {
    if (system("rm -rf /k && mkdir -p /k/a/b /k/other/b /k/here/a /k/there") != 0)
        exit(101);
    write_file("/k/a/b/file", "1");
    write_file("/k/other/b/file", "22");
    write_file("/k/other/file", "22");
    write_file("/k/there/file", "333");
    /* The host, too, has something of that name. */
    write_file("/etc/passwd", "4444\n");
    symlink("/k/there", "/k/here/a/b");
    chdir("/k");
}

static void move_away(void) { check(rename("/k/a/b", "/k/away") == 0, "move", "a directory"); }
static void put_link(void) { check(symlink("/k/other/b", "/k/a/b") == 0, "link", "in its place"); }
static void move_above(void) { check(rename("/k/a", "/k/aside") == 0 && symlink("/k/other", "/k/a") == 0, "move", "what is above"); }
static void remove_and_link(void) {
    check(unlink("/k/a/b/file") == 0 && rmdir("/k/a/b") == 0, "remove", "a directory");
    put_link();
}
static void move_and_link(void) {
    move_away();
    put_link();
}
static void exchange(void) {
    check(symlink("/k/other/b", "/k/link") == 0, "exchange", "a link");
    check(syscall(SYS_renameat2, AT_FDCWD, "/k/link", AT_FDCWD, "/k/a/b", 2) == 0, "exchange", "for a directory");
}
static void link_to_etc(void) {
    move_away();
    check(symlink("/etc", "/k/a/b") == 0, "link", "to what the host has too");
}

static const struct {
    const char *name;
    void (*change)(void);
} CHANGES[] = {
    {"moved", move_and_link}, {"moved above", move_above}, {"removed", remove_and_link}, {"exchanged", exchange},
};
enum { COUNT = sizeof CHANGES / sizeof CHANGES[0] };

static void wait_for(pid_t child, const char *when) {
    int status;
    check(waitpid(child, &status, 0) == child && status == 0, when, "a child ends well");
}

static void in_child(int change, const char *program) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (program) {
            char number[2] = {(char)('0' + change), 0};
            execl(program, program, number, NULL);
            _exit(102);
        }
        wrong = 0;
        CHANGES[change].change();
        fflush(stdout);
        _exit(wrong);
    }
    wait_for(child, CHANGES[change].name);
}

static void replaced(const char *program) {
    for (int change = 0; change < COUNT; change++) {
        for (int who = 0; who < 3; who++) {
            for (int relative = 0; relative < 2; relative++) {
                const char *path = relative ? "a/b/file" : "/k/a/b/file";
                prepare();
                know(path, 1, CHANGES[change].name);
                if (who == 0)
                    CHANGES[change].change();
                else
                    in_child(change, who == 1 ? NULL : program);
                check(found(path) == 2, CHANGES[change].name, who == 0 ? "by itself" : who == 1 ? "by a child" : "by a program");
                know(path, 2, CHANGES[change].name);
            }
        }
    }
}

/* What is changed by a path is changed where it leads. */
static void changed(void) {
    prepare();
    know("/k/a/b/file", 1, "before changes");
    link_to_etc();
    check(found("/k/a/b/passwd") == 5, "a link to /etc", "is that of the root");
    prepare();
    know("a/b/file", 1, "before changes");
    move_and_link();
    write_file("a/b/new", "");
    check(size_of("/k/other/b/new") == 0, "create", "behind the link");
    check(mkdir("a/b/directory", 0755) == 0 && rmdir("/k/other/b/directory") == 0, "mkdir", "behind the link");
    check(link("a/b/new", "a/b/linked") == 0 && unlink("/k/other/b/linked") == 0, "link", "behind the link");
    check(rename("a/b/new", "a/b/renamed") == 0 && unlink("/k/other/b/renamed") == 0, "rename", "behind the link");
    check(symlink("x", "a/b/symbolic") == 0 && unlink("/k/other/b/symbolic") == 0, "symlink", "behind the link");
    check(unlink("a/b/file") == 0 && size_of("/k/other/b/file") == -ENOENT, "unlink", "behind the link");
    check(size_of("/k/away/file") == 1, "unlink", "not what was there");
    /* In a directory that is known. */
    prepare();
    know("a/b/file", 1, "known");
    check(chmod("a/b", 02775) == 0 && chown("a/b", 0, 34) == 0, "chown", "a known directory");
    struct stat stat;
    check(mkdir("a/b/below", 0755) == 0 && lstat("a/b/below", &stat) == 0 && stat.st_gid == 34 && stat.st_mode == 042755, "mkdir",
          "takes over the group");
    write_file("a/b/made", "");
    check(lstat("a/b/made", &stat) == 0 && stat.st_gid == 34, "create", "takes over the group");
    check(symlink("file", "a/b/to-file") == 0 && symlink("/etc/passwd", "a/b/to-passwd") == 0, "symlink", "in a known directory");
    for (int turn = 0; turn < OFTEN; turn++) {
        check(lstat("a/b/to-passwd", &stat) == 0 && S_ISLNK(stat.st_mode), "a link", "is one");
        check(stat.st_size == 11, "a link", "is as long as its target");
        check(size_of("a/b/to-file") == 4 && access("a/b/to-file", R_OK) == 0, "a link", "leads on");
        struct stat behind;
        check(fstatat(AT_FDCWD, "a/b/to-passwd", &behind, 0) == 0 && behind.st_size == 5, "a link", "leads into the root");
        char target[16];
        check(readlink("/k/a/b/to-passwd", target, 16) == 11, "a link", "is read");
        check(lstat("a/b/file/", &stat) == -1 && errno == ENOTDIR, "a slash", "is for directories");
        check(lstat("a/b/../b/file", &stat) == 0 && lstat("a/b/none/x", &stat) == -1 && errno == ENOENT, "a path", "with dots");
        check(unlink("a/b/below") == -1 && errno == EISDIR && rmdir("a/b/file") == -1 && errno == ENOTDIR, "remove", "of each kind");
    }
}

static void here(void) {
    prepare();
    know("a/b/file", 1, "here");
    int before = open(".", O_PATH | O_DIRECTORY), elsewhere = open("here", O_PATH | O_DIRECTORY);
    check(chdir("here") == 0 && found("a/b/file") == 3, "chdir", "to where it is a link");
    know("a/b/file", 3, "there");
    check(fchdir(before) == 0 && found("a/b/file") == 1, "fchdir", "back");
    know("a/b/file", 1, "back");
    check(fchdir(elsewhere) == 0 && found("a/b/file") == 3, "fchdir", "to where it is a link");
    check(fchdir(before) == 0, "fchdir", "back again");
    know("a/b/file", 1, "before a child");
    pid_t child = fork();
    if (child == 0)
        _exit(chdir("here") != 0 || found("a/b/file") != 3);
    wait_for(child, "a child somewhere else");
    know("a/b/file", 1, "after a child");
    child = vfork();
    if (child == 0) {
        int is_wrong = chdir("here") != 0;
        for (int turn = 0; turn < OFTEN; turn++)
            is_wrong |= size_of("a/b/file") != 3;
        _exit(is_wrong);
    }
    wait_for(child, "a child that borrows the memory");
    check(found("a/b/file") == 1, "after a child that borrows the memory", "its parent is where it was");
    know("a/b/file", 1, "after a child that borrows the memory");
}

static void *parted(void *unused) {
    check(unshare(CLONE_FS) == 0 && chdir("/k/here") == 0, "a thread", "parts its directory");
    for (int turn = 0; turn < OFTEN; turn++)
        check(size_of("a/b/file") == 3, "a thread", "is somewhere else");
    return unused;
}

static void threads(void) {
    prepare();
    know("a/b/file", 1, "before a thread");
    pthread_t other;
    pthread_create(&other, NULL, parted, NULL);
    for (int turn = 0; turn < OFTEN; turn++)
        check(size_of("a/b/file") == 1, "beside a thread", "where it was");
    pthread_join(other, NULL);
    know("a/b/file", 1, "after a thread");
}

int main(int count, char **arguments) {
    if (count > 1) {
        CHANGES[arguments[1][0] - '0'].change();
        fflush(stdout);
        return wrong;
    }
    replaced(arguments[0]);
    changed();
    here();
    threads();
    printf("%d wrong\n", wrong);
    fflush(stdout);
    _exit(wrong != 0);
}

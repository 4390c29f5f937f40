/* Changes a file in a way that no program of busybox does: `change HOW FILE [OTHER]`. By a descriptor, it also says what the
   descriptor shows afterwards: mode and owner, and what is read next. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>

static const char CAPABILITY[20] = {1, 0, 0, 2, 0, 4};
static int descriptor;

static int open_to(const char *file, int flags) { return descriptor = open(file, flags); }

static int open_asked(const char *file, uint64_t flags, uint64_t resolve) {
    uint64_t how[3] = {flags, 0, resolve};
    return descriptor = syscall(SYS_openat2, AT_FDCWD, file, how, sizeof how);
}

static int put(const char *text) { return write(descriptor, text, strlen(text)) < 0; }

static int change(const char *how, const char *file, const char *other) {
    const struct timespec times[2] = {{5, 0}, {6, 0}};
    const struct timeval old_times[2] = {{5, 0}, {6, 0}};
    char first;
    if (!strcmp(how, "fchmod")) return open_to(file, O_RDONLY) < 0 || read(descriptor, &first, 1) != 1 || fchmod(descriptor, 0604);
    if (!strcmp(how, "fchown")) return open_to(file, O_RDONLY) < 0 || fchown(descriptor, 5, 6);
    if (!strcmp(how, "futimens")) return open_to(file, O_RDONLY) < 0 || futimens(descriptor, times);
    if (!strcmp(how, "utimes")) return utimes(file, old_times);
    if (!strcmp(how, "fsetcap")) return open_to(file, O_RDONLY) < 0 || fsetxattr(descriptor, "security.capability", CAPABILITY, 20, 0);
    if (!strcmp(how, "setcap")) return setxattr(file, "security.capability", CAPABILITY, 20, 0);
    if (!strcmp(how, "nocap")) return removexattr(file, "security.capability") && errno != ENODATA;
    if (!strcmp(how, "note")) return lsetxattr(file, "user.note", "text", 4, 0) || fsetxattr(open_to(file, O_RDONLY), "user.note", "more", 4, XATTR_REPLACE);
    if (!strcmp(how, "truncate")) return truncate(file, 2);
    if (!strcmp(how, "empty-by-reading")) return open_to(file, O_RDONLY | O_TRUNC) < 0;
    if (!strcmp(how, "ask")) return open_asked(file, O_RDWR | O_APPEND | O_CLOEXEC, 0) < 0 || put("asked");
    if (!strcmp(how, "ask-more")) return open_asked(file, O_WRONLY | O_TRUNC, 4 /* RESOLVE_NO_SYMLINKS */) < 0 || put("asked");
    if (!strcmp(how, "map")) {
        char *content = open_to(file, O_RDWR) < 0 ? MAP_FAILED : mmap(0, 4, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
        return content == MAP_FAILED || (content[3] = 'M') != 'M' || put("w");
    }
    if (!strcmp(how, "reopen")) {
        char path[40];
        if (open_to(file, O_RDONLY) < 0) return 1;
        snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
        return open_to(path, O_WRONLY | O_APPEND) < 0 || put("again");
    }
    if (!strcmp(how, "link")) return open_to(file, O_RDONLY) < 0 || linkat(AT_FDCWD, file, AT_FDCWD, other, AT_SYMLINK_FOLLOW);
    if (!strcmp(how, "exchange")) return syscall(SYS_renameat2, AT_FDCWD, file, AT_FDCWD, other, 2);
    if (!strcmp(how, "rename")) return rename(file, other);
    errno = ENOSYS;
    return 1;
}

int main(int count, char **arguments) {
    struct stat seen;
    char rest[100];
    if (change(arguments[1], arguments[2], count > 3 ? arguments[3] : "")) {
        printf("%s: %s\n", arguments[1], strerror(errno));
        return 1;
    }
    if (descriptor > 0 && !fstat(descriptor, &seen)) {
        ssize_t length = read(descriptor, rest, sizeof rest);
        printf("%d %o %u:%u %ld %.*s\n", descriptor, seen.st_mode, seen.st_uid, seen.st_gid, (long)seen.st_mtime > 100 ? 0 : (long)seen.st_mtime, length < 0 ? 0 : (int)length, rest);
    }
    return 0;
}

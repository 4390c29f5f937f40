// What a step that means harm tries, each way out by its name. Prints `HOW NAME reached` or `HOW NAME kept` for each.
//
//   escapes attack HOW PLACE PORT     HOW: plain (calls as any program makes them) or hostile (from where the emulation of a
//                                     step does not see them)
//   escapes hold PORT                 another step, which has a secret, until a hostile one has connected and gone
//   escapes marks PLACE               leaves what might mislead the builder that collects the layer
//   escapes daemons NAME              leaves processes of that name that do not want to end
//   escapes linger                    is such a process
//   escapes without WHAT PROGRAM…     runs a program where the kernel has no Landlock (1), grants no namespace (2), or both (3)
//
// What must not be found holds the word CANARY. In PLACE are `state` (the builder's directory), `outside` (files and a socket of
// its user) and `context`; an abstract socket has the name `escape-PORT`. x86-64 only.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static char state[4096], secret[4096], socket_path[4096], config[4096], context[4096];
#define WORD_OF_STATE "blobs"
static int port, other = -1, above;

// A system call from an address that we choose; x86-64.
static long (*call_at)(long, long, long, long, long, long, long);
static long hostile_call(long n, long a, long b, long c, long d, long e, long f) {
    long result = call_at(n, a, b, c, d, e, f);
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}
static long plain_call(long n, long a, long b, long c, long d, long e, long f) { return syscall(n, a, b, c, d, e, f); }
static long (*make)(long, long, long, long, long, long, long) = plain_call;
#define CALL6(n, a, b, c, d, e, f, ...) make(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL(...) CALL6(__VA_ARGS__, 0, 0, 0, 0, 0, 0)

// mov rax, rdi; mov rdi, rsi; mov rsi, rdx; mov rdx, rcx; mov r10, r8; mov r8, r9; mov r9, [rsp+8]; syscall; ret
static const unsigned char code[] = {0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xd6, 0x48, 0x89, 0xca, 0x4d, 0x89, 0xc2,
                                     0x4d, 0x89, 0xc8, 0x4c, 0x8b, 0x4c, 0x24, 0x08, 0x0f, 0x05, 0xc3};

static void be_hostile(void) {
    // Calls from addresses that begin like this are the emulation's own.
    void *place = mmap((void *)0x550840000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (place == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    memcpy(place, code, sizeof code);
    mprotect(place, 4096, PROT_READ | PROT_EXEC);
    call_at = (long (*)(long, long, long, long, long, long, long))place;
    make = hostile_call;
}

static int open_raw(const char *path, int flags) { return (int)CALL(SYS_openat, AT_FDCWD, path, flags, 0); }

static int has_canary(int fd) {
    static char buffer[1 << 16];
    long length = CALL(SYS_read, fd, buffer, sizeof buffer - 1);
    close(fd);
    return length > 0 && memmem(buffer, (size_t)length, "CANARY", 6) != NULL;
}

static int file_has_canary(const char *path) {
    int fd = open_raw(path, O_RDONLY);
    return fd >= 0 && has_canary(fd);
}

static int lists(int fd, const char *name) {
    static char buffer[1 << 16];
    long length;
    while ((length = CALL(SYS_getdents64, fd, buffer, sizeof buffer)) > 0)
        if (memmem(buffer, (size_t)length, name, strlen(name) + 1)) return 1;
    return 0;
}

// Every process that /proc shows and that is not ours.
static int others[4096], other_count;
static void find_others(void) {
    int fd = open_raw("/proc", O_RDONLY | O_DIRECTORY);
    char self[64], buffer[1 << 15];
    long length = CALL(SYS_readlinkat, AT_FDCWD, "/proc/self", self, sizeof self - 1);
    self[length > 0 ? length : 0] = 0;
    int own = atoi(self);
    while ((length = CALL(SYS_getdents64, fd, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < length;) {
            struct dirent64 *entry = (struct dirent64 *)(buffer + at);
            at += entry->d_reclen;
            int process = atoi(entry->d_name);
            // One that has ended already shows nothing; a child of ours is none.
            if (process > 0 && process != own && other_count < 4096) others[other_count++] = process;
        }
    close(fd);
}

static int any_other(int (*reached)(int)) {
    for (int at = 0; at < other_count; at++)
        if (reached(others[at])) return 1;
    return 0;
}

static int open_of(int process, const char *name, int flags) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", process, name);
    return open_raw(path, flags);
}
static int environ_of(int process) {
    int fd = open_of(process, "environ", O_RDONLY);
    return fd >= 0 && has_canary(fd);
}
static int opens(int process, const char *name, int flags) {
    int fd = open_of(process, name, flags);
    if (fd >= 0) close(fd);
    return fd >= 0;
}
static int memory_of(int process) { return opens(process, "mem", O_RDWR) || opens(process, "mem", O_RDONLY); }
static int descriptors_of(int process) {
    char path[64], target[256];
    snprintf(path, sizeof path, "/proc/%d/fd/0", process);
    return CALL(SYS_readlinkat, AT_FDCWD, path, target, sizeof target) >= 0;
}
static int root_of(int process) {
    struct stat own, found;
    int fd = open_of(process, "root/", O_RDONLY | O_DIRECTORY);
    if (fd < 0) return 0;
    // The emulation gives the root of the step in the place of any other, to programs that mean no harm.
    int is_own = make == plain_call && stat("/", &own) == 0 && fstat(fd, &found) == 0 && own.st_dev == found.st_dev && own.st_ino == found.st_ino;
    close(fd);
    return !is_own;
}
static int directory_of(int process) { return opens(process, "cwd/", O_RDONLY | O_DIRECTORY); }
static int maps_of(int process) {
    char byte;
    int fd = open_of(process, "maps", O_RDONLY);
    // A process without memory (the kernel's) has empty ones.
    int reached = fd >= 0 && CALL(SYS_read, fd, &byte, 1) == 1;
    if (fd >= 0) close(fd);
    return reached;
}
static int traced(int process) {
    if (CALL(SYS_ptrace, PTRACE_SEIZE, process, 0, 0) != 0) return 0;
    CALL(SYS_ptrace, PTRACE_DETACH, process, 0, 0);
    return 1;
}
static int vm_of(int process) {
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
    // The kernel looks at the right before the address.
    return CALL(SYS_process_vm_readv, process, &here, 1, &there, 1, 0) >= 0 || errno == EFAULT;
}
static int descriptor_taken(int process) {
    int pidfd = (int)CALL(SYS_pidfd_open, process, 0);
    if (pidfd < 0) return 0;
    int reached = 0;
    for (int fd = 0; fd < 32 && !reached; fd++) reached = CALL(SYS_pidfd_getfd, pidfd, fd, 0) >= 0;
    close(pidfd);
    return reached;
}
static int is_builder(int process) {
    char name[32] = "";
    int fd = open_of(process, "comm", O_RDONLY);
    if (fd >= 0) CALL(SYS_read, fd, name, sizeof name - 1), close(fd);
    return strncmp(name, "cofferdam", 9) == 0;
}
static int signalled(int process) { return is_builder(process) && CALL(SYS_kill, process, 0) == 0; }
static int niced(int process) {
    if (!is_builder(process)) return 0;
    int fd = open_of(process, "oom_score_adj", O_WRONLY);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

static int environment_of_others(void) { return any_other(environ_of); }
static int memory_of_others(void) { return any_other(memory_of); }
static int descriptors_of_others(void) { return any_other(descriptors_of); }
static int root_of_others(void) { return any_other(root_of); }
static int directory_of_others(void) { return any_other(directory_of); }
static int maps_of_others(void) { return any_other(maps_of); }
static int trace_of_others(void) { return any_other(traced); }
static int vm_of_others(void) { return any_other(vm_of); }
static int descriptor_of_others(void) { return any_other(descriptor_taken); }
static int signal_to_builder(void) { return any_other(signalled); }
static int oom_of_builder(void) { return any_other(niced); }
static int own_environment(void) {
    for (char **variable = environ; *variable; variable++)
        if (strstr(*variable, "CANARY")) return 1;
    return file_has_canary("/proc/self/environ");
}
static int first_process(void) { return environ_of(1); }
static int parent(void) { return environ_of(above) || memory_of(above); }

static int secret_file(void) { return file_has_canary(secret); }
static int secret_openat2(void) {
    struct open_how how = {.flags = O_RDONLY};
    int fd = (int)CALL(SYS_openat2, AT_FDCWD, secret, &how, sizeof how);
    return fd >= 0 && has_canary(fd);
}
static int through_own_root(void) {
    char path[8192];
    snprintf(path, sizeof path, "/proc/self/root/..%s", secret);
    return file_has_canary(path);
}
static int truncated(void) {
    int fd = open_raw(secret, O_WRONLY);
    if (fd >= 0) close(fd);
    return fd >= 0;
}
static int store_read(void) {
    int fd = open_raw(state, O_RDONLY | O_DIRECTORY);
    return fd >= 0 && lists(fd, WORD_OF_STATE);
}
static int store_written(void) {
    char path[8192];
    snprintf(path, sizeof path, "%s/planted", state);
    int fd = (int)CALL(SYS_openat, AT_FDCWD, path, O_CREAT | O_WRONLY, 0600);
    snprintf(path, sizeof path, "%s/%s", state, WORD_OF_STATE);
    // If it is ours that we see there, and not one of the step.
    struct stat found;
    return fd >= 0 && CALL(SYS_newfstatat, AT_FDCWD, path, &found, 0) == 0;
}
static int store_mode(void) {
    char path[8192];
    struct stat found;
    snprintf(path, sizeof path, "%s/%s", state, WORD_OF_STATE);
    return CALL(SYS_newfstatat, AT_FDCWD, path, &found, 0) == 0 && CALL(SYS_fchmodat, AT_FDCWD, path, found.st_mode & 07777) == 0;
}
static int service_account(void) {
    return file_has_canary("/var/run/secrets/kubernetes.io/serviceaccount/token");
}
static int docker_config(void) {
    return file_has_canary(config);
}
static int context_file(void) { return file_has_canary(context); }

static int chroot_out(void) {
    CALL(SYS_mkdirat, AT_FDCWD, "/inner", 0755);
    if (CALL(SYS_chroot, "/inner") != 0) {
        CALL(SYS_unlinkat, AT_FDCWD, "/inner", AT_REMOVEDIR);
        return 0;
    }
    for (int up = 0; up < 64; up++) CALL(SYS_chdir, "..");
    CALL(SYS_chroot, ".");
    int reached = file_has_canary(secret + 1);
    return reached;
}
static int inherited_descriptor(void) {
    for (int fd = 3; fd < 4096; fd++) {
        if (CALL(SYS_fcntl, fd, F_GETFD) < 0) continue;
        // The emulation holds the step's own root open.
        char name[64];
        struct stat held, own;
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        if (CALL(SYS_newfstatat, fd, "", &held, AT_EMPTY_PATH) == 0 && stat("/", &own) == 0 && held.st_ino == own.st_ino) continue;
        return 1;
    }
    return 0;
}
static int above_root_descriptor(void) {
    char path[8192];
    snprintf(path, sizeof path, "../../../../../../../../../../../..%s", secret);
    int fd = (int)CALL(SYS_openat, 59, path, O_RDONLY);
    return fd >= 0 && has_canary(fd);
}
static int interrupt_80(void) {
    // The number of open in 32 bits; the path lies below 4 GB.
    static char path[4096] __attribute__((aligned(16)));
    strcpy(path, secret);
    char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED) return 0;
    strcpy(low, path);
    long fd;
    __asm__ volatile("int $0x80" : "=a"(fd) : "a"(5L), "b"((long)low), "c"(0L), "d"(0L) : "memory", "r8", "r9", "r10", "r11");
    return fd >= 0 && fd < 4096 && has_canary((int)fd);
}
static int connects(struct sockaddr_un *address, socklen_t length) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    int reached = CALL(SYS_connect, fd, address, length) == 0;
    close(fd);
    return reached;
}
static int abstract_socket(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path + 1, 90, "escape-%d", port);
    return connects(&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length));
}
static int path_socket(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, socket_path, sizeof address.sun_path - 1);
    return connects(&address, sizeof address);
}
static int hard_link(void) {
    if (CALL(SYS_linkat, AT_FDCWD, secret, AT_FDCWD, "/stolen", 0) != 0) return 0;
    int reached = file_has_canary("/stolen");
    CALL(SYS_unlinkat, AT_FDCWD, "/stolen", 0);
    return reached;
}
static int opens_to_write(const char *path) {
    int fd = open_raw(path, O_WRONLY);
    if (fd >= 0) close(fd);
    return fd >= 0;
}
static int core_pattern(void) { return opens_to_write("/proc/sys/kernel/core_pattern"); }
static int sysrq(void) { return opens_to_write("/proc/sysrq-trigger"); }
static int sys_files(void) {
    return opens_to_write("/sys/kernel/mm/transparent_hugepage/enabled") || opens_to_write("/sys/power/state") ||
           opens_to_write("/sys/kernel/uevent_helper") || opens_to_write("/sys/fs/cgroup/cgroup.procs");
}
static int kernel_memory(void) {
    static char bytes[4096];
    int fd = open_raw("/proc/kcore", O_RDONLY);
    return fd >= 0 && CALL(SYS_read, fd, bytes, sizeof bytes) > 0;
}
static int host_disk(void) {
    // Each block device that the kernel knows, made anew in several places.
    char line[256], path[64];
    static char bytes[4096];
    unsigned major_number, minor_number;
    FILE *partitions = fopen("/proc/partitions", "r");
    const char *places[] = {"/disk", "/dev/disk", "/dev/shm/disk", "/tmp/disk"};
    while (partitions && fgets(line, sizeof line, partitions)) {
        if (sscanf(line, "%u %u", &major_number, &minor_number) != 2) continue;
        for (unsigned at = 0; at < 4; at++) {
            snprintf(path, sizeof path, "%s", places[at]);
            CALL(SYS_unlinkat, AT_FDCWD, path, 0);
            CALL(SYS_mknodat, AT_FDCWD, path, S_IFBLK | 0600, makedev(major_number, minor_number));
            int fd = open_raw(path, O_RDONLY);
            long length = fd >= 0 ? CALL(SYS_read, fd, bytes, sizeof bytes) : -1;
            if (fd >= 0) close(fd);
            CALL(SYS_unlinkat, AT_FDCWD, path, 0);
            if (length > 0) return 1;
        }
    }
    return 0;
}
static int new_namespace(void) {
    if (CALL(SYS_unshare, CLONE_NEWUSER | CLONE_NEWNS) != 0 && CALL(SYS_unshare, CLONE_NEWNS) != 0) return 0;
    return CALL(SYS_mount, "tmpfs", "/proc", "tmpfs", 0, 0) == 0;
}
static int mounted(void) { return CALL(SYS_mount, "tmpfs", "/mnt", "tmpfs", 0, 0) == 0 || CALL(SYS_umount2, "/proc", MNT_DETACH) == 0; }
static int typed(void) {
    char path[32], letter = '\n';
    for (int fd = 0; fd < 3; fd++)
        if (CALL(SYS_ioctl, fd, TIOCSTI, &letter) == 0) return 1;
    for (int terminal = -1; terminal < 16; terminal++) {
        snprintf(path, sizeof path, terminal < 0 ? "/dev/tty" : "/dev/pts/%d", terminal);
        int fd = open_raw(path, O_RDWR | O_NOCTTY);
        if (fd < 0) continue;
        int reached = CALL(SYS_ioctl, fd, TIOCSTI, &letter) == 0;
        close(fd);
        if (reached) return 1;
    }
    return 0;
}
static int keyring(void) { return CALL(SYS_add_key, "user", "escape", "word", 4, -3) >= 0; }
static int by_handle(void) {
    char space[sizeof(struct file_handle) + 128];
    struct file_handle *handle = (struct file_handle *)space;
    handle->handle_bytes = 128;
    int mount_id, at = open_raw("/", O_RDONLY | O_DIRECTORY);
    if (CALL(SYS_name_to_handle_at, at, ".", handle, &mount_id, 0) != 0) handle->handle_bytes = 8, handle->handle_type = 1;
    return CALL(SYS_open_by_handle_at, at, handle, O_RDONLY) >= 0;
}
static int kernel_programs(void) {
    char attributes[128] = {0};
    // An empty map is looked at only after the right to make one.
    return CALL(SYS_bpf, 0, attributes, sizeof attributes) >= 0 || errno == EINVAL;
}
static int setuid_root(void) {
    // What a program with the bit, or with capabilities, could have beyond Docker's default set.
    if (CALL(SYS_prctl, 39, 0, 0, 0, 0) == 1) return 0;
    unsigned long long bounding = 0;
    for (int right = 0; right < 41; right++)
        if (CALL(SYS_prctl, 23, right, 0, 0, 0) == 1) bounding |= 1ULL << right;
    return (bounding & ~0xa80425fbULL) != 0;
}
// Looks for the secret of the other step in every directory below.
static int below(int directory, int depth) {
    char *buffer = malloc(1 << 15);
    int found = 0;
    long length;
    int fd = (int)CALL(SYS_openat, directory, "run/secrets/other", O_RDONLY);
    if (fd >= 0 && has_canary(fd)) found = 1;
    while (!found && depth > 0 && (length = CALL(SYS_getdents64, directory, buffer, 1 << 15)) > 0)
        for (long at = 0; at < length && !found;) {
            struct dirent64 *entry = (struct dirent64 *)(buffer + at);
            at += entry->d_reclen;
            if (entry->d_type != DT_DIR || !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
            int inner = (int)CALL(SYS_openat, directory, entry->d_name, O_RDONLY | O_DIRECTORY);
            if (inner >= 0) found = below(inner, depth - 1);
        }
    free(buffer);
    close(directory);
    return found;
}
static int secret_below_root_of(int process) {
    int fd = open_of(process, "root/run/secrets/other", O_RDONLY);
    return fd >= 0 && has_canary(fd);
}
static int secret_of_another(void) {
    int fd = open_raw(state, O_RDONLY | O_DIRECTORY);
    return any_other(secret_below_root_of) || (fd >= 0 && below(fd, 6));
}

static const struct {
    const char *name;
    int (*reached)(void);
} WAYS[] = {
    {"inherited-environment", own_environment},
    {"environment-of-first-process", first_process},
    {"environment-or-memory-of-parent", parent},
    {"environment-of-others", environment_of_others},
    {"memory-of-others", memory_of_others},
    {"descriptors-of-others", descriptors_of_others},
    {"root-of-others", root_of_others},
    {"working-directory-of-others", directory_of_others},
    {"maps-of-others", maps_of_others},
    {"ptrace-of-others", trace_of_others},
    {"process-vm-of-others", vm_of_others},
    {"pidfd-getfd-of-others", descriptor_of_others},
    {"signal-to-the-builder", signal_to_builder},
    {"oom-score-of-the-builder", oom_of_builder},
    {"secret-of-another-step", secret_of_another},
    {"file-of-the-builder", secret_file},
    {"file-of-the-builder-by-openat2", secret_openat2},
    {"file-of-the-builder-through-own-root", through_own_root},
    {"file-of-the-builder-by-int80", interrupt_80},
    {"file-of-the-builder-written", truncated},
    {"file-of-the-builder-linked", hard_link},
    {"docker-config", docker_config},
    {"context-outside-mounts", context_file},
    {"service-account-token", service_account},
    {"store-read", store_read},
    {"store-written", store_written},
    {"store-modes-changed", store_mode},
    {"chroot", chroot_out},
    {"inherited-descriptors", inherited_descriptor},
    {"above-the-root-descriptor", above_root_descriptor},
    {"abstract-socket", abstract_socket},
    {"socket-by-path", path_socket},
    {"core-pattern", core_pattern},
    {"sysrq", sysrq},
    {"files-of-sys", sys_files},
    {"memory-of-the-kernel", kernel_memory},
    {"disk-of-the-host", host_disk},
    {"mount", mounted},
    {"mount-in-a-new-namespace", new_namespace},
    {"typing-into-a-terminal", typed},
    {"keyring", keyring},
    {"open-by-handle", by_handle},
    {"kernel-programs", kernel_programs},
    {"rights-by-a-setuid-file", setuid_root},
};

static struct sockaddr_in loopback(int number) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((unsigned short)number), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int attack(const char *how, const char *place) {
    int hostile = strcmp(how, "hostile") == 0;
    if (hostile) be_hostile();
    snprintf(state, sizeof state, "%s/state", place);
    snprintf(secret, sizeof secret, "%s/outside/secret", place);
    snprintf(socket_path, sizeof socket_path, "%s/outside/socket", place);
    snprintf(config, sizeof config, "%s/outside/config.json", place);
    snprintf(context, sizeof context, "%s/context/private", place);
    // Until the other step is there.
    struct sockaddr_in address = loopback(port);
    for (int tries = 0; tries < 1200 && other < 0; tries++) {
        other = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(other, (struct sockaddr *)&address, sizeof address) != 0) close(other), other = -1, usleep(50000);
    }
    if (other < 0) {
        fprintf(stderr, "the other step is not there\n");
        return 2;
    }
    above = (int)getppid();
    find_others();
    for (unsigned at = 0; at < sizeof WAYS / sizeof *WAYS; at++) {
        // In a child: some of them cost the root, the signals, or the life.
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            close(other);
            _exit(WAYS[at].reached() ? 42 : 0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        printf("%s %s %s\n", how, WAYS[at].name, WIFEXITED(status) && WEXITSTATUS(status) == 42 ? "reached" : "kept");
    }
    fflush(stdout);
    return write(other, hostile ? "x" : "n", 1) == 1 ? 0 : 2;
}

static int hold(void) {
    struct sockaddr_in address = loopback(port);
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 1) != 0) {
        perror("listen");
        return 1;
    }
    int fd = open("/run/secrets/other", O_RDONLY);
    if (fd < 0 || !has_canary(fd)) {
        fprintf(stderr, "no secret\n");
        return 1;
    }
    char byte = 0;
    while (byte != 'x') {
        int attacker = accept(listener, NULL, NULL);
        if (attacker < 0 || read(attacker, &byte, 1) != 1) return 1;
        close(attacker);
    }
    return 0;
}

static int marks(const char *place) {
    // Links where the builder will write, and where it will read.
    char outside[4096];
    snprintf(outside, sizeof outside, "%s/outside", place);
    mkdir("/there", 0755);
    return symlink(outside, "/out") != 0 || symlink(outside, "/there/directory") != 0 || symlink("/proc/self/environ", "/there/environ") != 0;
}

static int daemons(char *name) {
    for (int kind = 0; kind < 4; kind++) {
        if (fork() != 0) continue;
        if (kind & 1) setsid();
        if (kind & 2) {
            // Twice: nobody is its parent any more.
            if (fork() != 0) _exit(0);
            setsid();
        }
        for (int number = 1; number < 32; number++) signal(number, SIG_IGN);
        char *words[] = {name, "linger", NULL};
        execv("/proc/self/exe", words);
        _exit(1);
    }
    usleep(200000);
    return 0;
}

static int without(int what, char **words) {
#define REFUSED(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS)
#define NAMELESS(number) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 4), BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 16), \
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x7e020000, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM), \
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    struct sock_filter landlock[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), REFUSED(444), REFUSED(445), REFUSED(446), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_filter namespaces[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), REFUSED(SYS_clone3), NAMELESS(SYS_clone), NAMELESS(SYS_unshare), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog programs[] = {{sizeof landlock / sizeof *landlock, landlock}, {sizeof namespaces / sizeof *namespaces, namespaces}};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    for (int at = 0; at < 2; at++)
        if ((what >> at & 1) && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &programs[at]) != 0) return 2;
    execvp(words[0], words);
    return 2;
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    if (count == 5 && strcmp(what, "attack") == 0) return port = atoi(words[4]), attack(words[2], words[3]);
    if (count == 3 && strcmp(what, "hold") == 0) return port = atoi(words[2]), hold();
    if (count == 3 && strcmp(what, "marks") == 0) return marks(words[2]);
    if (count == 3 && strcmp(what, "daemons") == 0) return daemons(words[2]);
    if (count > 3 && strcmp(what, "without") == 0) return without(atoi(words[2]), words + 3);
    if (strcmp(what, "linger") == 0) {
        puts("lingering");
        fflush(stdout);
        while (1) sleep(3600);
    }
    return 2;
}

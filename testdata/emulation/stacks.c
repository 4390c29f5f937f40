/* A program with the smallest stack for signals that the kernel takes: the emulation answers its calls from a signal, and must
   neither run out of that stack nor leave another behind. Says what does not hold; ends with the number of such things. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif

static int wrong;
static volatile int came;
static stack_t given;

static void check(int holds, const char *what) {
    if (!holds) {
        printf("wrong: %s (%s)\n", what, strerror(errno));
        wrong++;
    }
}

/* At the low end of what is mapped, with nothing below: what goes further ends the program. */
static void give_stack(void) {
    size_t page = sysconf(_SC_PAGESIZE);
    size_t size = getauxval(AT_MINSIGSTKSZ) ? getauxval(AT_MINSIGSTKSZ) : 2048;
    size = (size + 512 + 15) & ~(size_t)15;
    uint8_t *place = mmap(NULL, 8 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(place != MAP_FAILED && mprotect(place + 4 * page, 4 * page, PROT_READ | PROT_WRITE) == 0, "memory");
    given = (stack_t){.ss_sp = place + 4 * page, .ss_size = size};
    check(sigaltstack(&given, NULL) == 0, "sigaltstack");
}

static int is_as_given(void) {
    stack_t now;
    return sigaltstack(NULL, &now) == 0 && now.ss_sp == given.ss_sp && now.ss_size == given.ss_size && now.ss_flags == 0;
}

/* Calls that walk, look above, and record. */
static void make_calls(const char *which, uid_t user, gid_t group) {
    struct stat found;
    char text[200];
    check(mkdir("/tmp/stacks", 0755) == 0 && mkdir("/tmp/stacks/a", 0700) == 0, which);
    check(symlink("/tmp/stacks/a", "/tmp/stacks/link") == 0, which);
    int file = open("/tmp/stacks/link/../link/file", O_CREAT | O_WRONLY, 0640);
    check(file >= 0 && close(file) == 0, which);
    check(chown("/tmp/stacks/link/file", user, group) == 0 && chmod("/tmp/stacks/link/file", 04755) == 0, which);
    check(stat("/tmp/stacks/link/file", &found) == 0 && found.st_uid == user && found.st_mode == (S_IFREG | 04755), which);
    check(link("/tmp/stacks/link/file", "/tmp/stacks/second") == 0, which);
    check(rename("/tmp/stacks/link/file", "/tmp/stacks/link/moved") == 0, which);
    check(mkfifo("/tmp/stacks/link/pipe", 0600) == 0 && lchown("/tmp/stacks/link/pipe", user, group) == 0, which);
    check(setxattr("/tmp/stacks/link/moved", "user.a", "b", 1, 0) == 0, which);
    check(readlink("/proc/self/exe", text, sizeof text) > 0 && open("/proc/self/nothing", O_RDONLY) == -1, which);
    file = open("/proc/self/maps", O_RDONLY);
    check(file >= 0 && read(file, text, sizeof text) > 0 && close(file) == 0, which);
    struct sockaddr_un address = {AF_UNIX, "/tmp/stacks/link/../link/socket"};
    int socket_ = socket(AF_UNIX, SOCK_STREAM, 0);
    check(bind(socket_, (struct sockaddr *)&address, sizeof address) == 0 && close(socket_) == 0, which);
    check(chdir("/tmp/stacks/link/..") == 0 && chdir("/") == 0, which);
    check(unlink("/tmp/stacks/link/socket") == 0 && unlink("/tmp/stacks/link/pipe") == 0, which);
    check(unlink("/tmp/stacks/link/moved") == 0 && unlink("/tmp/stacks/second") == 0, which);
    check(unlink("/tmp/stacks/link") == 0 && rmdir("/tmp/stacks/a") == 0 && rmdir("/tmp/stacks") == 0, which);
}

static void on_alarm(int signal) {
    (void)signal;
    came++;
}

/* A leaf uses the bytes below the stack pointer without saying so. */
#if defined(__x86_64__)
static int keeps_red_zone(void) {
    long found, low;
    static const char name[] = "/tmp";
    static struct stat out;
    __asm__ volatile(
        "movq $0x1234, -8(%%rsp)\n movq $0x5678, -128(%%rsp)\n syscall\n movq -8(%%rsp), %0\n movq -128(%%rsp), %1\n"
        : "=&r"(found), "=&r"(low)
        : "a"(4L), "D"(name), "S"(&out)
        : "rcx", "r11", "memory");
    return found == 0x1234 && low == 0x5678 && S_ISDIR(out.st_mode);
}
#else
static int keeps_red_zone(void) { return 1; }
#endif

int main(int count, char **arguments) {
    if (count > 1) {
        return strcmp(arguments[1], "again") == 0 ? 42 : 1;
    }
    umask(0);
    give_stack();
    make_calls("root's", 7, 8);
    check(is_as_given(), "the stack after calls of root's");
    check(keeps_red_zone(), "what is below the stack");

    /* A handler that comes while the emulation waits, on the stack for signals if the kernel can. */
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_ONSTACK};
    sigaction(SIGALRM, &action, NULL);
    sigset_t none;
    sigemptyset(&none);
    for (int round = 1; round <= 3; round++) {
        alarm(1);
        check(ppoll(NULL, 0, NULL, &none) == -1 && errno == EINTR && came == round, "a wait that a handler ends");
        check(is_as_given(), "the stack after a wait");
    }
    raise(SIGALRM);
    check(came == 4 && is_as_given(), "a handler of the program's");

    pid_t child = vfork();
    if (child == 0) {
        execl("/proc/self/exe", "stacks", "again", NULL);
        _exit(1);
    }
    int status = 0;
    check(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 42, "a program of a child");
    check(is_as_given(), "the stack after vfork");

    /* Another user is asked for the rights at each directory. */
    check(setgid(60) == 0 && setuid(1) == 0, "another user");
    make_calls("another user's", 1, 60);
    check(is_as_given(), "the stack after calls of another user's");
    printf("%d wrong\n", wrong);
    return wrong;
}

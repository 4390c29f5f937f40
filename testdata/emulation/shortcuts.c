/* A program whose calls are made often enough to get a shortcut: what a program may rely on holds as before. Its argument says
   whether shortcuts are to be expected. Says what does not hold; ends with the number of such things. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OFTEN = 40 };
static int wrong;

static void check(int holds, const char *what) {
    if (!holds) {
        printf("wrong: %s\n", what);
        wrong++;
    }
}

/* `name` makes call `number`; `name_place` is where. */
#define CALL(name, number)                                                                        \
    extern const uint8_t name##_place[];                                                          \
    long name(long, long, long, long);                                                            \
    __asm__(".text\n.globl " #name "\n.balign 64\n" #name ":\n mov %rcx, %r10\n" #name "_place:\n" \
            " mov $" #number ", %eax\n syscall\n ret\n");                                         \
    static int name##_is_changed(void) { return name##_place[0] == 0xe9 && name##_place[5] == 0x0f; }
CALL(get_user, 102)
CALL(change_mask, 14)
CALL(change_action, 13)
CALL(open_file, 2)
CALL(look, 4)
CALL(with_threads, 102)
CALL(with_signal_stack, 102)
CALL(in_child, 102)
CALL(elsewhere, 186)
/* As the GNU library makes `open`: two moves stand between the number and the call. */
extern const uint8_t open_library_place[];
long open_library(const char *, int);
__asm__(".text\n.globl open_library\n.balign 64\nopen_library:\n mov %esi, %edx\nopen_library_place:\n"
        " mov $257, %eax\n mov %rdi, %rsi\n mov $-100, %edi\n syscall\n ret\n");

/* Makes a call with known values in registers, flags and below the stack, and tells what is there afterwards. */
void probe(uint64_t found[20], const uint8_t vectors[32]);
__asm__(".text\n.globl probe\nprobe:\n"
        " push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n mov %rdi, %rbx\n"
        " movdqu (%rsi), %xmm0\n movdqu 16(%rsi), %xmm15\n"
        " mov $3, %edi\n mov $4, %esi\n mov $5, %edx\n mov $6, %r10d\n mov $7, %r8d\n mov $9, %r9d\n"
        " mov $12, %r12d\n mov $13, %r13d\n mov $14, %r14d\n mov $15, %r15d\n mov $16, %ebp\n"
        " movq $0x55, -8(%rsp)\n movq $0x77, -128(%rsp)\n stc\n"
        " jmp 1f\n .balign 64\n1: mov $102, %eax\n syscall\n"
        " mov %rax, 0(%rbx)\n mov %rdi, 8(%rbx)\n mov %rsi, 16(%rbx)\n mov %rdx, 24(%rbx)\n mov %r10, 32(%rbx)\n"
        " mov %r8, 40(%rbx)\n mov %r9, 48(%rbx)\n mov %r12, 56(%rbx)\n mov %r13, 64(%rbx)\n mov %r14, 72(%rbx)\n"
        " mov %r15, 80(%rbx)\n mov %rbp, 88(%rbx)\n"
        " mov -8(%rsp), %rax\n mov %rax, 96(%rbx)\n mov -128(%rsp), %rax\n mov %rax, 104(%rbx)\n"
        " movdqu %xmm0, 112(%rbx)\n movdqu %xmm15, 128(%rbx)\n"
        " pushfq\n popq 144(%rbx)\n"
        " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");

static void registers(void) {
    static const uint8_t vectors[32] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16,
                                        17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32};
    static const uint64_t expected[14] = {0, 3, 4, 5, 6, 7, 9, 12, 13, 14, 15, 16, 0x55, 0x77};
    for (int turn = 0; turn < OFTEN; turn++) {
        uint64_t found[20] = {0};
        probe(found, vectors);
        check(memcmp(found, expected, sizeof expected) == 0, "a call leaves registers alone, and what is below the stack");
        check(memcmp(found + 14, vectors, 32) == 0, "a call leaves vectors alone");
        check((found[18] & 1) == 1, "a call leaves flags alone");
    }
}

static volatile int heard;
static void hear(int signal) {
    heard += signal;
    /* Calls are made here too. */
    check(get_user(0, 0, 0, 0) == 0, "a handler makes calls");
}

static void *thread(void *unused) {
    (void)unused;
    for (int turn = 0; turn < OFTEN; turn++)
        check(with_threads(0, 0, 0, 0) == 0, "a thread makes calls");
    pause();
    return NULL;
}

int main(int count, char **arguments) {
    int expected = count > 1 && strcmp(arguments[1], "emulated") == 0;
    struct stat stat;
    uint64_t mask, none = 0, all = ~0ull, old[4];
    for (int turn = 0; turn < OFTEN; turn++) {
        check(get_user(0, 0, 0, 0) == 0, "root is root");
        check(look((long)"/file", (long)&stat, 0, 0) == 0 && stat.st_uid == 33 && stat.st_gid == 34, "owners are those on record");
        check(look((long)"/nothing", (long)&stat, 0, 0) == -ENOENT, "what is missing is missing");
        check(look(8, (long)&stat, 0, 0) == -EFAULT, "what is no pointer is an error");
        long file = open_file((long)"/file", O_RDONLY, 0, 0);
        check(file >= 3 && close((int)file) == 0, "a file is opened");
        file = open_library("/file", O_RDONLY);
        check(file >= 3 && close((int)file) == 0, "a file is opened as a library does it");
    }
    check(get_user_is_changed() == expected, "a call that is made often has a shortcut");
    check(look_is_changed() == expected && open_file_is_changed() == expected, "and the others");
    check((open_library_place[0] == 0xe9) == expected, "also with moves before the call");
    check(memcmp(open_library_place + 5, "\x48\x89\xfe\xbf\x9c\xff\xff\xff\x0f\x05", 10) == 0, "which stay");
    registers();

    /* A call that comes to the stub only with some arguments: the others are the kernel's. */
    for (int turn = 0; turn < OFTEN; turn++) {
        check(change_action(SIGUSR2, 0, (long)old, 8) == 0 && old[0] == 0, "an action is told");
        check(change_action(SIGUSR2, (long)old, 0, 8) == 0, "an action is set");
        check(change_mask(SIG_BLOCK, (long)&all, 0, 8) == 0, "all signals are blocked");
        check(get_user(0, 0, 0, 0) == 0, "and calls are made nevertheless");
        check(change_mask(SIG_SETMASK, (long)&none, (long)&mask, 8) == 0, "none are blocked");
        check((mask & 1ull << (SIGUSR1 - 1)) != 0, "what was blocked is told");
        check(change_mask(SIG_BLOCK, 0, (long)&mask, 8) == 0 && mask == 0, "none are");
        check(change_mask(99, (long)&all, 0, 8) == -EINVAL, "there is no such change");
    }
    check(change_mask_is_changed() == expected && change_action_is_changed() == expected, "these have shortcuts");
    signal(SIGUSR1, hear);
    for (int turn = 0; turn < OFTEN; turn++) {
        uint64_t own = 1ull << (SIGUSR1 - 1);
        change_mask(SIG_BLOCK, (long)&own, 0, 8);
        raise(SIGUSR1);
        check(heard == SIGUSR1 * turn, "a blocked signal waits");
        change_mask(SIG_UNBLOCK, (long)&own, 0, 8);
        check(heard == SIGUSR1 * (turn + 1), "and comes when it is not blocked any more");
    }

    for (int turn = 0; turn < OFTEN; turn++) {
        check(elsewhere(0, 0, 0, 0) == syscall(SYS_gettid), "a call that never comes to the stub is the kernel's");
    }
    check(!elsewhere_is_changed(), "and has no shortcut");

    /* A copy of the memory has copies of shortcuts, and makes its own. */
    pid_t child = fork();
    if (child == 0) {
        int before = wrong;
        check(setuid(33) == 0, "a child becomes another user");
        for (int turn = 0; turn < OFTEN; turn++)
            check(get_user(0, 0, 0, 0) == 33 && in_child(0, 0, 0, 0) == 33, "a child is that user");
        check(in_child_is_changed() == expected, "a child makes shortcuts");
        fflush(stdout);
        _exit(wrong - before);
    }
    int status;
    waitpid(child, &status, 0);
    check(status == 0, "the child found nothing");
    check(get_user(0, 0, 0, 0) == 0 && !in_child_is_changed(), "its parent stays as it was");

    /* A child that borrows the memory makes none, and uses those that there are. */
    child = vfork();
    if (child == 0) {
        if (syscall(SYS_setuid, 33) != 0 || get_user(0, 0, 0, 0) != 33)
            _exit(1);
        for (int turn = 0; turn < OFTEN; turn++)
            in_child(0, 0, 0, 0);
        _exit(in_child_is_changed());
    }
    waitpid(child, &status, 0);
    check(status == 0, "a child that borrows the memory leaves it as it is");
    check(get_user(0, 0, 0, 0) == 0, "and its parent");

    /* Programs do not see where their calls go. */
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[600];
    while (fgets(line, sizeof line, maps))
        check(strncmp(line, "2000000", 7) != 0, "the stub is not among the mappings");
    fclose(maps);

    static char stack[1 << 16];
    stack_t signals = {.ss_sp = stack, .ss_size = sizeof stack}, nowhere = {.ss_flags = SS_DISABLE};
    sigaltstack(&signals, NULL);
    for (int turn = 0; turn < OFTEN; turn++)
        check(with_signal_stack(0, 0, 0, 0) == 0, "with a stack for signals");
    sigaltstack(&nowhere, NULL);
    check(!with_signal_stack_is_changed(), "with a stack for signals there are no shortcuts");

    pthread_t other;
    pthread_create(&other, NULL, thread, NULL);
    for (int turn = 0; turn < OFTEN; turn++)
        check(with_threads(0, 0, 0, 0) == 0, "beside a thread");
    check(!with_threads_is_changed(), "with two threads there are no new shortcuts");
    printf("%d wrong\n", wrong);
    fflush(stdout);
    _exit(wrong);
}

# What programs do with processes, signals, terminals and sockets.

try-threads() {
    run_c -pthread <<'C'
#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/stat.h>
static void *work(void *number) {
    char path[32];
    struct stat s;
    for (int i = 0; i < 200; i++) {
        snprintf(path, sizeof path, "t%ld-%d", (long)number, i);
        int file = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
        assert(file >= 0 && !fchown(file, (long)number + 1, i + 1) && !close(file));
        assert(!stat(path, &s) && s.st_uid == (long)number + 1 && s.st_gid == (unsigned)i + 1 && !unlink(path));
    }
    return NULL;
}
int main(void) {
    pthread_t threads[16];
    for (long i = 0; i < 16; i++) assert(!pthread_create(&threads[i], NULL, work, (void *)i));
    for (int i = 0; i < 16; i++) assert(!pthread_join(threads[i], NULL));
}
C
}

try-identity-of-threads() {
    # What one thread becomes, all become.
    run_c -pthread <<'C'
#include <assert.h>
#include <pthread.h>
#include <unistd.h>
static pthread_barrier_t barrier;
static void *look(void *unused) {
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    assert(getuid() == 1234 && access("/etc/shadow", R_OK) == -1);
    return unused;
}
int main(void) {
    pthread_t thread;
    pthread_barrier_init(&barrier, NULL, 2);
    assert(!pthread_create(&thread, NULL, look, NULL));
    pthread_barrier_wait(&barrier);
    assert(!setuid(1234));
    pthread_barrier_wait(&barrier);
    assert(!pthread_join(thread, NULL));
}
C
}

try-many-processes() {
    for number in $(seq 300); do
        /bin/true "$number"
    done
    for number in $(seq 100); do
        sh -c "sleep 0.1; exit $((number % 7))" &
    done
    wait
    same "$(seq 200 | xargs -P 8 -n 1 sh -c 'echo $0' | sort -n | tail -n 1)" 200
}

try-vfork() {
    run_c <<'C'
#include <assert.h>
#include <spawn.h>
#include <unistd.h>
#include <sys/wait.h>
extern char **environ;
int main(void) {
    char *arguments[] = {"sh", "-c", "exit 5", NULL};
    int status;
    for (int i = 0; i < 50; i++) {
        pid_t child = vfork();
        if (!child) { execv("/bin/sh", arguments); _exit(99); }
        assert(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 5);
        assert(!posix_spawn(&child, "/bin/sh", NULL, NULL, arguments, environ) && waitpid(child, &status, 0) == child);
        assert(WEXITSTATUS(status) == 5);
    }
    pid_t child = vfork();
    if (!child) { execl("/missing", "missing", NULL); _exit(7); }
    assert(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7);
}
C
}

try-signals() {
    bash -c 'trap "echo caught; exit 4" TERM; kill -TERM $$; sleep 5' >said && status=0 || status=$?
    same "$status $(cat said)" '4 caught'
    run_c <<'C'
#include <assert.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/time.h>
#include <sys/wait.h>
static volatile int alarms, children, value;
static sigjmp_buf back;
static void on_alarm(int number) { alarms += number == SIGALRM; }
static void on_child(int number) { children += number == SIGCHLD; }
static void on_queue(int number, siginfo_t *info, void *context) { value = info->si_value.sival_int; }
static void on_fault(int number) { siglongjmp(back, number); }
int main(void) {
    struct itimerval soon = {.it_value = {.tv_usec = 20000}};
    sigset_t all, old, pending;
    signal(SIGALRM, on_alarm);
    assert(!setitimer(ITIMER_REAL, &soon, NULL) && pause() == -1 && errno == EINTR && alarms == 1);
    signal(SIGCHLD, on_child);
    if (!fork()) _exit(0);
    while (!children) usleep(1000);
    assert(wait(NULL) > 0);
    struct sigaction queue = {.sa_sigaction = on_queue, .sa_flags = SA_SIGINFO};
    sigaction(SIGRTMIN + 3, &queue, NULL);
    sigfillset(&all);
    assert(!sigprocmask(SIG_BLOCK, &all, &old) && !sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = 77}));
    assert(!value && !sigpending(&pending) && sigismember(&pending, SIGRTMIN + 3));
    assert(access("/etc", F_OK) == 0 && !sigprocmask(SIG_SETMASK, &old, NULL) && value == 77);
    stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
    struct sigaction fault = {.sa_handler = on_fault, .sa_flags = SA_ONSTACK};
    assert(!sigaltstack(&stack, NULL) && !sigaction(SIGSEGV, &fault, NULL));
    if (!sigsetjmp(back, 1)) { *(volatile int *)8 = 1; abort(); }
    if (!sigsetjmp(back, 1)) { *(volatile int *)8 = 1; abort(); }
}
C
}

try-system-calls-in-handlers() {
    run_c <<'C'
#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>
#include <sys/stat.h>
#include <sys/time.h>
static volatile int count;
static void handler(int number) {
    struct stat s;
    assert(!stat("/etc/passwd", &s) && s.st_uid == 0);
    count++;
}
int main(void) {
    struct itimerval often = {.it_value = {.tv_usec = 200}, .it_interval = {.tv_usec = 200}};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    struct stat s;
    assert(!sigaction(SIGALRM, &action, NULL) && !setitimer(ITIMER_REAL, &often, NULL));
    while (count < 200) assert(!stat("/usr/bin/../bin/env", &s) && !access("/etc/shadow", R_OK));
}
C
}

try-own-seccomp-filter() {
    run_c <<'C'
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <unistd.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
int main(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_personality, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = 4, .filter = code};
    struct stat s;
    assert(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    assert(!stat("/etc/passwd", &s) && open("file", O_CREAT | O_WRONLY, 0600) >= 0 && fork() >= 0);
}
C
}

try-pseudo-terminal() {
    same "$(script --quiet --return --command 'test -t 0 && test -t 1 && echo is a terminal' /dev/null | tr -d '\r')" 'is a terminal'
    python3 - <<'P'
import os, pty, tty
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("sh", ["sh", "-c", "tty; stty size; stat --format %F $(tty)"])
text = b""
try:
    while part := os.read(terminal, 1000):
        text += part
except OSError:
    pass
lines = text.decode().split()
assert lines[0].startswith("/dev/pts/") and lines[3:] == ["character", "special", "file"], lines
assert os.waitpid(pid, 0)[1] == 0
P
}

try-process-substitution() {
    same "$(cat <(echo one) <(echo two))" $'one\ntwo'
    same "$(diff <(printf 'a\nb\n') <(printf 'a\nb\n'))" ''
    echo written > >(cat >through)
    sleep 0.2
    same "$(cat through)" written
}

try-dev-fd() {
    same "$(echo text | cat /dev/stdin)" text
    same "$(echo text | cat /dev/fd/0)" text
    same "$(echo text | tee /dev/stderr 2>&1 >/dev/null)" text
    echo text | cp /dev/stdin copy
    same "$(cat copy)" text
    bash -c 'echo to >/dev/stdout' >said
    same "$(cat said)" to
}

try-ps() {
    sleep 43.21 &
    ps -e -o args= | says '^sleep 43.21$'
    pgrep -f '^sleep 43.21$'
    same "$(ps -o user= -p $! | xargs)" root
    pkill -f '^sleep 43.21$'
    wait $! && status=0 || status=$?
    same "$status" 143
}

try-system-figures() {
    [ "$(free --bytes | awk '/^Mem:/ { print $2 }')" -gt 1000000 ]
    [ "$(nproc)" -ge 1 ]
    uptime --pretty | says '^up'
    df / | tail -n 1 | says '/$'
    same "$(uname -s)" Linux
    test -n "$(hostname)"
    getent hosts localhost
}

try-exec-of-scripts() {
    printf '#!/bin/sh\necho "$0 $1 $#"\n' >script
    chmod 0755 script
    same "$(./script 'one two')" './script one two 1'
    same "$(env "PATH=$PWD:$PATH" script x)" "$PWD/script x 1"
    printf 'echo without\n' >plain
    chmod 0755 plain
    same "$(bash -c ./plain)" without
    chmod 0644 script
    ./script && status=0 || status=$?
    same "$status" 126
    ./missing && status=0 || status=$?
    same "$status" 127
    printf '#!/missing/interpreter\n' >broken
    chmod 0755 broken
    refused ./broken
}

try-shebang-chain() {
    printf '#!/bin/sh\necho "inner: $*"\n' >inner
    printf '#!%s/inner -x a b\n' "$PWD" >middle
    printf '#!%s/middle\n' "$PWD" >outer
    chmod 0755 inner middle outer
    same "$(./outer 1 2)" "inner: -x a b $PWD/middle ./outer 1 2"
    printf '#!/usr/bin/env -S python3 -u\nimport sys\nprint(sys.argv[1:])\n' >python
    chmod 0755 python
    same "$(./python x)" "['x']"
    printf '#! /bin/cat\nitself\n' >cat
    chmod 0755 cat
    same "$(./cat)" $'#! /bin/cat\nitself'
}

try-large-arguments() {
    python3 - <<'P'
import subprocess
one = "x" * 131000
assert subprocess.run(["sh", "-c", 'printf %s "$1" | wc -c', "sh", one], capture_output=True, check=True).stdout.strip() == b"131000"
many = [str(number).rjust(100, "0") for number in range(15000)]
assert subprocess.run(["sh", "-c", "echo $#", "sh", *many], capture_output=True, check=True).stdout.strip() == b"15000"
try:
    subprocess.run(["true", "x" * 140000])
    raise SystemExit("an argument of 140,000 bytes was accepted")
except OSError as error:
    assert error.errno == 7, error
environment = {f"V{number}": "y" * 1000 for number in range(1000)}
assert subprocess.run(["/usr/bin/env"], env=environment, capture_output=True, check=True).stdout.count(b"yyy\n") == 1000
P
}

try-exec-of-descriptors() {
    run_c <<'C'
#include <assert.h>
#include <fcntl.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
extern char **environ;
static int status_of(int file) {
    char *arguments[] = {"busybox", "sh", "-c", "exit 9", NULL};
    int status;
    pid_t child = fork();
    if (!child) { fexecve(file, arguments, environ); _exit(1); }
    assert(waitpid(child, &status, 0) == child);
    return WEXITSTATUS(status);
}
int main(void) {
    int file = open("/bin/busybox", O_RDONLY | O_CLOEXEC), memory = memfd_create("program", MFD_CLOEXEC);
    struct stat s;
    assert(!fstat(file, &s) && sendfile(memory, file, NULL, s.st_size) == s.st_size);
    assert(status_of(file) == 9);
    assert(status_of(memory) == 9);
    assert(status_of(open("/bin/busybox", O_PATH)) == 9);
}
C
}

try-static-programs() {
    same "$(/bin/busybox sh -c 'busybox id -u; busybox echo $((6 * 7))')" $'0\n42'
    same "$(busybox find /etc -maxdepth 1 -name passwd)" /etc/passwd
    echo 'int main(void) { return 3; }' | gcc -static -x c -o static -
    ./static && status=0 || status=$?
    same "$status" 3
    same "$(/lib64/ld-linux-x86-64.so.2 /bin/echo by the loader)" 'by the loader'
}

try-environment() {
    same "$(env -i A=1 B=2 /usr/bin/env)" $'A=1\nB=2'
    same "$(env -i /usr/bin/env)" ''
    same "$(env -i sh -c 'cat /proc/self/environ | tr "\0" "\n" | grep -c COFFERDAM' || true)" 0
}

try-daemon() {
    python3 - <<'P'
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        with open("/tmp/daemon.pid", "w") as file:
            file.write(f"{os.getppid()} {os.getpid()}")
        time.sleep(60)
    os._exit(0)
os.wait()
P
    sleep 0.2
    local pid
    pid=$(cut -d' ' -f2 /tmp/daemon.pid)
    kill -0 "$pid"
    kill "$pid"
    rm /tmp/daemon.pid
}

try-job-control() {
    bash -m -c 'sleep 0.1 & sleep 60 & kill -STOP %2; kill -CONT %2; kill %2; wait %1; echo $?' 2>/dev/null | says '^0$'
    setsid --wait sh -c 'exit 3' && status=0 || status=$?
    same "$status" 3
    timeout 0.1 sleep 5 && status=0 || status=$?
    same "$status" 124
}

try-unix-sockets() {
    socat UNIX-LISTEN:socket,fork EXEC:'tr a-z A-Z' &
    local listener=$!
    while [ ! -S socket ]; do sleep 0.02; done
    same "$(echo shout | socat -t 2 - UNIX-CONNECT:"$PWD/socket")" SHOUT
    chown games:audio socket
    same "$(shape socket)" 'games:audio 755'
    kill $listener
    python3 - <<'P'
import array, os, socket
server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
server.bind("relative")
server.listen()
client.connect(os.getcwd() + "/relative")
accepted, _ = server.accept()
# As it was bound, or where that is.
for name in (server.getsockname(), client.getpeername()):
    assert os.path.realpath(name) == os.getcwd() + "/relative", name
socket.send_fds(client, [b"x"], [os.open("/etc/passwd", os.O_RDONLY)])
_, descriptors, _, _ = socket.recv_fds(accepted, 10, 1)
assert os.read(descriptors[0], 5) == b"root:"
datagrams = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
datagrams[0].bind("datagrams")
datagrams[1].sendto(b"hello", "datagrams")
assert datagrams[0].recv(10) == b"hello"
P
}

try-abstract-sockets() {
    python3 - <<'P'
import os, socket
name = f"\0cofferdam-test-{os.urandom(8).hex()}"
server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
server.bind(name)
server.listen()
client.connect(name)
accepted, _ = server.accept()
client.send(b"abstract")
assert accepted.recv(20) == b"abstract" and client.getpeername() == name.encode()
P
}

try-tcp() {
    python3 - <<'P'
import http.client, http.server, os, threading
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
open("served", "w").write("over tcp")
connection = http.client.HTTPConnection("localhost", server.server_port)
connection.request("GET", "/served")
assert connection.getresponse().read() == b"over tcp"
P
}

try-event-loops() {
    python3 - <<'P'
import asyncio, os, select, signal
async def main():
    child = await asyncio.create_subprocess_exec("sh", "-c", "cat; exit 6", stdin=-1, stdout=-1)
    out, _ = await child.communicate(b"through")
    assert out == b"through" and child.returncode == 6
    loop, caught = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, caught.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(caught.wait(), 10)
asyncio.run(main())
poll = select.epoll()
r, w = os.pipe()
poll.register(r, select.EPOLLIN)
os.write(w, b"x")
assert poll.poll(5) == [(r, select.EPOLLIN)]
P
}

try-shared-memory() {
    run_c -pthread -lrt <<'C'
#include <assert.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
int main(void) {
    char name[64];
    snprintf(name, sizeof name, "/cofferdam-test-%d", getpid());
    int file = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600), status;
    assert(file >= 0 && !ftruncate(file, 4096));
    int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    sem_t *turn = sem_open(name, O_CREAT | O_EXCL, 0600, 0);
    assert(shared != MAP_FAILED && turn != SEM_FAILED);
    if (!fork()) { *shared = 42; _exit(sem_post(turn)); }
    assert(!sem_wait(turn) && *shared == 42 && wait(&status) > 0 && !status);
    assert(!shm_unlink(name) && !sem_unlink(name));
    int segment = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
    assert(segment >= 0 && shmat(segment, NULL, 0) != (void *)-1 && !shmctl(segment, IPC_RMID, NULL));
}
C
}

try-limits() {
    same "$(bash -c 'ulimit -n 64; ulimit -n')" 64
    bash -c 'ulimit -f 1; yes >big' 2>/dev/null && status=0 || status=$?
    [ "$status" -ne 0 ]
    same "$(nice -n 5 nice)" "$(($(nice) + 5))"
    same "$(taskset -c 0 nproc)" 1
}

try-many-descriptors() {
    run_c <<'C'
#include <assert.h>
#include <fcntl.h>
#include <unistd.h>
#include <sys/stat.h>
#include <linux/close_range.h>
int main(void) {
    struct stat s;
    int last = -1;
    for (int i = 0; i < 500; i++) assert((last = open("/etc/passwd", O_RDONLY)) >= 0);
    assert(dup2(last, 900) == 900 && !fstat(900, &s));
    assert(!close_range(3, ~0U, 0) && fstat(900, &s) == -1 && open("/etc/passwd", O_RDONLY) == 3);
    for (int i = 3; i < 2000; i++) close(i);
    assert(open("/etc/passwd", O_RDONLY) == 3);
}
C
}

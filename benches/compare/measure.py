"""What a command costs, with all processes that it starts: time, processor time and memory.

Processor time is that of a cgroup of its own where there is cgroup v2, also beside version 1; elsewhere, and for processes that
leave the group, that of all descendants that ended. Memory is sampled: each process with its share of the pages that it has in
common with others (PSS). Page cache is not memory of a process, and is not counted.
"""

import ctypes
import os
import resource
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

PR_SET_CHILD_SUBREAPER = 36
SAMPLE_SECONDS = 0.05


@dataclass
class Cost:
    """What was measured."""

    wall_seconds: float
    cpu_seconds: float
    # Of the builder and of what its steps run, together.
    peak_bytes: int
    # Of the processes alone whose program is the builder's.
    builder_peak_bytes: int


class Meter:
    """Measures everything that is started through it until `stop`."""

    def __init__(self):
        self.group = make_group()
        self.pids = set()
        self.peak = self.builder_peak = 0
        self.programs = set()
        self.sampling = threading.Event()
        self.thread = None

    def spawn(self, argv, environment, log):
        """Starts a process that is measured."""
        self.programs.add(os.path.realpath(argv[0]))
        group = self.group

        def enter():
            if group:
                with open(os.path.join(group, "cgroup.procs"), "w", encoding="ascii") as file:
                    file.write(str(os.getpid()))

        process = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=enter)
        self.pids.add(process.pid)
        return process

    def start(self):
        """From here on it counts."""
        self.sampling.clear()
        self.thread = threading.Thread(target=self.sample, daemon=True)
        self.thread.start()
        self.group_cpu, self.children_cpu = group_cpu(self.group), children_cpu()
        self.begun = time.monotonic()

    def stop(self, daemon=None):
        """Until here. What still runs is ended, a daemon first."""
        wall = time.monotonic() - self.begun
        in_group = group_cpu(self.group) - self.group_cpu
        self.sampling.set()
        self.thread.join()
        if daemon:
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                pass
        self.end_all()
        # A daemon's time before `start` would be among that of the children, and it runs in our group.
        ended = 0.0 if daemon else children_cpu() - self.children_cpu
        return Cost(wall, max(in_group, ended), self.peak, self.builder_peak)

    def end_all(self):
        for _ in range(100):
            running = self.running()
            for pid in running:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            reap()
            if not running:
                break
            time.sleep(0.05)
        if self.group:
            try:
                os.rmdir(self.group)
                self.group, self.pids = None, set()
            except OSError:
                pass

    def running(self):
        if self.group:
            with open(os.path.join(self.group, "cgroup.procs"), encoding="ascii") as file:
                return [int(line) for line in file]
        return descendants(self.pids)

    def sample(self):
        while not self.sampling.wait(SAMPLE_SECONDS):
            total = builder = 0
            for pid in self.running():
                share = proportional_bytes(pid)
                total += share
                try:
                    if os.readlink(f"/proc/{pid}/exe") in self.programs:
                        builder += share
                except OSError:
                    pass
            self.peak, self.builder_peak = max(self.peak, total), max(self.builder_peak, builder)


def adopt_orphans():
    """Makes processes whose parent ended our children, so that their time is counted and they can be ended."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap():
    """Collects children that were not started by us, but came to us."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def make_group():
    """A new cgroup of version 2, or none where we may not make one."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [line.split(" - ") for line in file]
    roots = [before.split()[4] for before, after in mounts if after.startswith("cgroup2 ")]
    if not roots:
        return None
    with open("/proc/self/cgroup", encoding="ascii") as file:
        own = [line.strip().removeprefix("0::") for line in file if line.startswith("0::")]
    # Beside our own group: below it, a group with processes may not have controllers.
    for parent in [os.path.dirname(own[0]), "/"] if own else []:
        path = os.path.join(roots[0] + parent, f"compare-{os.getpid()}-{time.monotonic_ns()}")
        try:
            os.mkdir(path)
            return path
        except OSError:
            continue
    return None


def group_cpu(group):
    if not group:
        return 0.0
    with open(os.path.join(group, "cpu.stat"), encoding="ascii") as file:
        fields = dict(line.split() for line in file)
    return int(fields["usage_usec"]) / 1e6


def children_cpu():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def descendants(pids):
    """These processes, as far as they run, and all below them."""
    found, queue = [], list(pids)
    while queue:
        pid = queue.pop()
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                    queue.extend(int(child) for child in file.read().split())
        except OSError:
            continue
        found.append(pid)
    return found


def proportional_bytes(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0

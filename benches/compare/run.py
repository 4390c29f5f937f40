#!/usr/bin/env python3
"""Builds the same things with Cofferdam and with other builders, and says what each build cost.

README.md in this directory says what is built, what is measured and what has to be installed.
"""

import argparse
import datetime
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import bases
import builders
import images
import measure
import report
import workloads
from registry import Registry

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STATES = ("clean", "warm")


def main():
    arguments = parse_arguments()
    size = workloads.SMOKE if arguments.smoke else workloads.FULL
    asked = arguments.only or [workload.name for workload in workloads.WORKLOADS if arguments.smoke or not workload.by_hand]
    chosen = [workload for workload in workloads.WORKLOADS if workload.name in asked]
    found = [builder for builder in builders.all_builders(arguments.cofferdam) if wanted(builder, arguments.builders)]
    if not any(builder.name == "cofferdam" for builder in found):
        sys.exit(f"there is no {arguments.cofferdam}: build it with cargo build --release, or name another with --cofferdam")
    if not chosen:
        sys.exit(f"--only knows {', '.join(workload.name for workload in workloads.WORKLOADS)}")
    work = arguments.work or tempfile.mkdtemp(prefix="cofferdam-compare-")
    kept = os.path.join(work, "smoke" if arguments.smoke else "full")
    os.makedirs(kept, exist_ok=True)
    measure.adopt_orphans()
    # So that what was started and mounted is ended and unmounted also then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        say("making contexts and bases")
        contexts = os.path.join(kept, "contexts")
        workloads.make(contexts, size, chosen)
        layers = bases.make(os.path.join(kept, "bases"), size.real_bases, {base for workload in chosen for base in workload.bases})
        with Registry(os.path.join(kept, "registry"), arguments.latency / 1000) as registry:
            bases.push(registry, layers)
            runner = Runner(registry, contexts, os.path.join(kept, "state"), arguments)
            runs, verdicts = runner.compare(chosen, found)
        text = report.write(arguments, found, chosen, runs, verdicts)
        print(text)
    finally:
        if not arguments.work:
            shutil.rmtree(work, ignore_errors=True)
        elif not arguments.keep_registry:
            shutil.rmtree(os.path.join(kept, "registry"), ignore_errors=True)
    if not report.passed(arguments, runs, verdicts):
        sys.exit(1)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cofferdam", default=default_binary(), help="the binary [default: that of the last release build]")
    parser.add_argument("--rounds", type=int, default=5, help="builds of each kind, of which the median counts [default: 5]")
    parser.add_argument("--only", type=names, default=[], help="workloads, separated by commas [default: all]")
    parser.add_argument("--builders", type=names, default=[], help="builders, separated by commas [default: all that are found]")
    parser.add_argument("--states", type=names, default=list(STATES), help="clean, warm or both [default: both]")
    parser.add_argument("--work", help="directory for contexts, bases and states, which are kept for the next run")
    parser.add_argument("--keep-registry", action="store_true", help="keep the registry of --work as well")
    parser.add_argument("--latency", type=float, default=0, help="milliseconds for each round trip to the registry [default: 0]")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes and one round: shows only that all of it works")
    parser.add_argument("--no-images", action="store_true", help="do not compare the images")
    parser.add_argument("--out", default=os.path.join(ROOT, "benches", "runs"), help="where the results go; - writes none")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds = 1
    if os.getuid() != 0:
        sys.exit("the builders that are compared need root")
    arguments.date = datetime.date.today().isoformat()
    return arguments


def names(text):
    return [name for name in text.split(",") if name]


def default_binary():
    target = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")))
    return os.path.join(target, f"{os.uname().machine}-unknown-linux-musl", "release", "cofferdam")


def wanted(builder, asked):
    return builder.available() and (not asked or builder.name in asked)


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Runner:
    """Does builds one after another."""

    def __init__(self, registry, contexts, states, arguments):
        self.registry, self.contexts, self.states, self.arguments = registry, contexts, states, arguments
        self.images = images.Images(registry)
        self.number = 0
        # What Cofferdam made of each workload first: all others are compared with it, its own later ones as well.
        self.expected = {}

    def compare(self, chosen, found):
        """All builds: builders take turns within a round, so that what else the machine does hits all of them alike."""
        runs, verdicts = [], []
        for workload in chosen:
            for state in self.arguments.states:
                built = {}
                for number in range(self.arguments.rounds):
                    order = found[number % len(found) :] + found[: number % len(found)]
                    for builder in order:
                        run, destination = self.measure(workload, builder, state)
                        runs.append(run)
                        if destination:
                            built.setdefault(builder.name, destination)
                        say(report.line(run))
                if not self.arguments.no_images:
                    verdicts += self.judge(workload, state, built)
            self.expected.clear()
            self.images.layers.clear()
        return runs, verdicts

    def measure(self, workload, builder, state):
        """One measured build, after whatever has to be there before it."""
        self.number += 1
        disk = builders.Disk(os.path.join(self.states, "builder"))
        disk.renew()
        # Below the mount point: builders may want to make it themselves.
        directory = os.path.join(disk.path, "state")
        cache = f"{self.registry.name}/cache/{self.number}" if workload.cached_from else ""
        destination = f"result/{workload.name}-{state}-{self.number}"
        meter = measure.Meter()
        daemon = None
        with tempfile.TemporaryFile() as log:
            try:
                build = self.build(workload.context, destination, directory, cache)
                environment = builder.environment(build)
                # With a registry cache, a machine that is new finds everything there.
                cleared = workload.cached_from and state == "clean" and builder.registry_cache
                if not cleared:
                    daemon = self.start_daemon(builder, meter, directory, log)
                if workload.cached_from:
                    before = self.build(workload.cached_from, f"result/before-{self.number}", directory, cache)
                    self.unmeasured(builder, before, log)
                elif state == "warm":
                    self.unmeasured(builder, self.prime(workload, directory), log)
                if cleared:
                    disk.renew()
                    builder.environment(build)
                    daemon = self.start_daemon(builder, meter, directory, log)
                commands = builder.commands(build)
                traffic = self.registry.traffic()
                meter.start()
                status = 0
                for command in commands:
                    command = [shutil.which(command[0]) or command[0], *command[1:]]
                    status = status or meter.spawn(command, environment, log).wait()
                cost = meter.stop(daemon)
            finally:
                meter.end_all()
                disk.discard()
            wire = self.registry.traffic().since(traffic)
            if status:
                show(log)
                say(f"{builder.name} failed with status {status}")
        run = {
            "workload": workload.name,
            "state": state,
            "builder": builder.name,
            "status": status,
            "wall_seconds": round(cost.wall_seconds, 3),
            "cpu_seconds": round(cost.cpu_seconds, 3),
            "peak_mib": round(cost.peak_bytes / 2**20, 1),
            "builder_peak_mib": round(cost.builder_peak_bytes / 2**20, 1),
            "bytes_down": wire.down,
            "bytes_up": wire.up,
            "requests": wire.requests,
            "connections": wire.connections,
        }
        return run, destination if status == 0 else None

    def build(self, context, destination, directory, cache=""):
        path = os.path.join(self.contexts, context)
        return builders.Build(path, self.registry.name, f"{self.registry.name}/{destination}:1", directory, cache)

    def prime(self, workload, directory):
        """A build after which the bases are on this machine, ready to be used."""
        context = os.path.join(self.states, "prime")
        shutil.rmtree(context, ignore_errors=True)
        os.makedirs(context)
        stages = "".join(f"FROM ${{REGISTRY}}/base/{base}:1 AS b{n}\nRUN echo {n} > /primed{n}\n" for n, base in enumerate(workload.bases))
        copies = "".join(f"COPY --from=b{n} /primed{n} /\n" for n in range(len(workload.bases) - 1))
        with open(os.path.join(context, "Dockerfile"), "w", encoding="ascii") as file:
            file.write("ARG REGISTRY\n" + stages + copies)
        return builders.Build(context, self.registry.name, f"{self.registry.name}/result/primed-{self.number}:1", directory)

    def start_daemon(self, builder, meter, directory, log):
        command = builder.daemon(directory)
        if not command:
            return None
        process = meter.spawn(command, builders.clean_environment(), log)
        builder.await_daemon(directory)
        return process

    def unmeasured(self, builder, build, log):
        environment = builder.environment(build)
        for command in builder.commands(build):
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
            if done.returncode:
                show(log)
                raise SystemExit(f"{builder.name} failed in what has to be built before, with status {done.returncode}")

    def judge(self, workload, state, built):
        """Whether the images have the same files as the first one of ours."""
        expected = self.expected.get(workload.name)
        if expected is None:
            if "cofferdam" not in built:
                return []
            expected = self.expected[workload.name] = self.images.flatten(built.pop("cofferdam"), "1")
        verdicts = []
        for name, destination in built.items():
            lines = images.differences(expected, self.images.flatten(destination, "1"))
            verdicts.append({"workload": workload.name, "state": state, "builder": name, "differences": lines})
            if lines:
                say(f"{workload.name}: {len(lines)} differences from {name}, the first: {lines[0]}")
        return verdicts


def show(log):
    log.seek(0)
    sys.stderr.write("".join(log.read().decode(errors="replace").splitlines(True)[-40:]))


if __name__ == "__main__":
    main()

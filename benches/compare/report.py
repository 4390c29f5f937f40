"""Results as JSON, for machines, and as Markdown, with the ratios that count."""

import json
import os
import platform
import statistics

NUMBERS = ("wall_seconds", "cpu_seconds", "peak_mib", "builder_peak_mib", "bytes_down", "bytes_up", "requests", "connections")


def line(run):
    """One build, as it ends."""
    return (
        f"{run['workload']:18} {run['state']:5} {run['builder']:10} wall {run['wall_seconds']:7.2f} s  cpu {run['cpu_seconds']:7.2f} s  "
        f"memory {run['peak_mib']:6.0f} ({run['builder_peak_mib']:.0f}) MiB  down {run['bytes_down'] / 1e6:7.1f} MB  up "
        f"{run['bytes_up'] / 1e6:7.1f} MB  {run['requests']} requests"
    )


def medians(runs):
    """By workload, state and builder."""
    groups = {}
    for run in runs:
        if run["status"] == 0:
            groups.setdefault((run["workload"], run["state"], run["builder"]), []).append(run)
    return {key: {name: statistics.median(run[name] for run in group) for name in NUMBERS} for key, group in groups.items()}


def passed(arguments, runs, verdicts):
    """Whether all builds worked and, for the small ones, whether all images are equal."""
    return all(run["status"] == 0 for run in runs) and not any(verdict["differences"] for verdict in verdicts)


def write(arguments, found, chosen, runs, verdicts):
    """Writes both files, and gives the text."""
    facts = {
        "date": arguments.date,
        "machine": machine(),
        "versions": {builder.name: builder.version() for builder in found},
        "rounds": arguments.rounds,
        "latency_milliseconds": arguments.latency,
        "runs": runs,
        "images": verdicts,
    }
    text = markdown(facts, chosen)
    if arguments.out != "-" and not arguments.smoke:
        os.makedirs(arguments.out, exist_ok=True)
        path = unused(os.path.join(arguments.out, f"{arguments.date}-compare"))
        with open(f"{path}.json", "w", encoding="utf-8") as file:
            json.dump(facts, file, indent=1, ensure_ascii=False)
            file.write("\n")
        with open(f"{path}.md", "w", encoding="utf-8") as file:
            file.write(text)
    return text


def unused(path):
    number, candidate = 1, path
    while os.path.exists(f"{candidate}.json"):
        number += 1
        candidate = f"{path}-{number}"
    return candidate


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [text.split(":", 1)[1].strip() for text in file if text.startswith("model name")]
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = int(file.readline().split()[1]) >> 20
    return {
        "processor": models[0] if models else platform.machine(),
        "processors": os.cpu_count(),
        "memory_gib": memory,
        "kernel": platform.release(),
    }


def markdown(facts, chosen):
    machine_facts = facts["machine"]
    lines = [
        f"# Cofferdam beside other builders, {facts['date']}",
        "",
        f"{machine_facts['processors']} × {machine_facts['processor']}, {machine_facts['memory_gib']} GiB, Linux "
        f"{machine_facts['kernel']}; medians of {facts['rounds']}. `benches/compare/README.md` says what is built and measured.",
        "",
        *[f"- {name}: {version}" for name, version in facts["versions"].items()],
    ]
    values = medians(facts["runs"])
    others = [name for name in facts["versions"] if name != "cofferdam"]
    for state in dict.fromkeys(run["state"] for run in facts["runs"]):
        lines += ["", f"## {state.capitalize()} state", ""]
        lines += table_head(others)
        for workload in chosen:
            ours = values.get((workload.name, state, "cofferdam"))
            cells = [workload.name, cell(ours)]
            for name in others:
                theirs = values.get((workload.name, state, name))
                cells += [cell(theirs), ratios(ours, theirs)]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", f"On the wire ({state} state): MB down / MB up / requests / connections.", ""]
        names = ["cofferdam", *others]
        lines += ["| workload | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        for workload in chosen:
            cells = [wire(values.get((workload.name, state, name))) for name in names]
            lines.append("| " + " | ".join([workload.name, *cells]) + " |")
    if facts["images"]:
        lines += ["", "## Images", "", *images(facts["images"])]
    return "\n".join(lines) + "\n"


def table_head(others):
    heads = ["workload", "cofferdam"] + [head for name in others for head in (name, f"ratio to {name}: wall, CPU")]
    return [
        "Wall s / CPU s of all processes / peak MiB of all processes (of the builder's alone).",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]


def cell(value):
    if value is None:
        return "failed"
    return (
        f"{value['wall_seconds']:.2f} / {value['cpu_seconds']:.2f} / {value['peak_mib']:.0f} ({value['builder_peak_mib']:.0f})"
    )


def ratios(ours, theirs):
    if ours is None or theirs is None:
        return ""
    wall = ours["wall_seconds"] / max(theirs["wall_seconds"], 0.001)
    cpu = ours["cpu_seconds"] / max(theirs["cpu_seconds"], 0.001)
    return f"{wall:.2f}, **{cpu:.2f}**"


def wire(value):
    if value is None:
        return "failed"
    return (
        f"{value['bytes_down'] / 1e6:.2f} / {value['bytes_up'] / 1e6:.2f} / {value['requests']:.0f} / {value['connections']:.0f}"
    )


def images(verdicts):
    lines = []
    for verdict in verdicts:
        differences = verdict["differences"]
        name = f"{verdict['workload']}, {verdict['state']} state, {verdict['builder']}"
        if not differences:
            lines.append(f"- {name}: equal")
            continue
        lines.append(f"- {name}: {len(differences)} differences (ours / theirs)")
        lines += [f"  - `{text}`" for text in differences[:10]]
    return lines

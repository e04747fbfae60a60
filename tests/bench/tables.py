"""The results of scripts/bench as markdown: medians per proxy, and evenkeel against its rivals."""

import statistics

# The rivals that the goals are set against, and one more that no goal counts.
RIVALS = ["haproxy", "haproxy splice-auto", "nginx"]
ALL_RIVALS = [*RIVALS, "haproxy splice"]

# The share of its time that a proxy may wait for its core before the results say so.
DISTURBED = 0.03


def number(value):
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def ratios(case, samples, value, best, rivals=RIVALS):
    """evenkeel against the best rival of the same repetition, for every repetition that has both."""
    found = []
    for repetition in {sample["repetition"] for sample in samples}:
        here = {
            sample["proxy"]: value(sample)
            for sample in samples
            if (sample["repetition"], sample["case"]) == (repetition, case.name) and sample["proxy"] != "direct"
        }
        others = [here[name] for name in rivals if name in here]
        if "evenkeel" in here and others:
            found.append(here["evenkeel"] / best(others))
    return found


def value_table(plan, samples, proxies):
    yield "| case | proxy | rate | p50 µs | p99 µs | proxy CPU per unit |"
    yield "|---|---|--:|--:|--:|--:|"
    for case in plan:
        for proxy in proxies:
            mine = [s for s in samples if s["case"] == case.name and s["proxy"] == proxy]
            if not mine:
                continue
            cpu = median([case.cpu(s) for s in mine]) if proxy != "direct" else None
            rate = f"{number(median(map(case.rate, mine)))} {'GB/s' if case.bulk else '/s'}"
            latency = [number(median(s[key] for s in mine)) for key in ("p50_us", "p99_us")]
            cpu_text = f"{number(cpu)} {case.cpu_unit}" if cpu is not None else "–"
            yield f"| {case.name} | {proxy} | {rate} | {latency[0]} | {latency[1]} | {cpu_text} |"


def ratio_table(plan, samples):
    yield f"Evenkeel divided by the best of {', '.join(RIVALS)} in the same repetition:"
    yield ""
    yield "| case | CPU per unit (goal) | lowest–highest | CPU, haproxy splice too | rate | p50 | p99 |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for case in plan:
        cpu = ratios(case, samples, case.cpu, min)
        if not cpu:
            continue
        shown = [f"{median(cpu):.2f}" + (f" (≤ {case.goal})" if case.goal else "")]
        shown.append(f"{min(cpu):.2f}–{max(cpu):.2f}")
        shown.append(f"{median(ratios(case, samples, case.cpu, min, ALL_RIVALS)):.2f}")
        shown.append(f"{median(ratios(case, samples, case.rate, max)):.2f}")
        for key in ("p50_us", "p99_us"):
            shown.append(f"{median(ratios(case, samples, lambda sample: sample[key], min)):.2f}")
        yield f"| {case.name} | {' | '.join(shown)} |"
    absent = [name for name in ALL_RIVALS if any(case.carriers and name not in case.carriers for case in plan)]
    if absent:
        yield ""
        yield f"Datagrams: without {', '.join(absent)}, which carry none."


def memory_table(memory, proxies, connections):
    yield f"| private memory per idle connection ({connections:,} of them) | bytes |"
    yield "|---|--:|"
    for proxy in proxies:
        mine = [s["bytes_per_connection"] for s in memory if s["proxy"] == proxy]
        if mine:
            goal = " (goal ≤ 600)" if proxy == "evenkeel" else ""
            yield f"| {proxy} | {number(median(mine))}{goal} |"


def disturbance(samples):
    """A line on other work on the proxies' core, if there was any that matters."""
    waited = median([sample["waited_ns"] / 1e9 / sample["seconds"] for sample in samples if "waited_ns" in sample])
    if waited is not None and waited > DISTURBED:
        yield f"Other work had the proxies' core {waited:.0%} of the time: rates and latencies are not to be trusted,"
        yield "processor time per unit is a little too high."


def heading(facts):
    place = f"proxy on core {facts['core_of_proxy']}, load and backend on core {facts['core_of_load']}"
    if facts["core_of_proxy"] is None:
        place = "one core for everything"
    machine = f"{facts['date']}, Linux {facts['kernel']}, {facts['cores']} × {facts['cpu']}"
    yield f"{machine}, load average before: {facts['load_average']:.2f}."
    yield f"{facts['evenkeel'] or 'evenkeel'} ({facts['revision']}); {facts['haproxy']}; {facts['nginx']}. One worker each; {place}."
    yield f"`{facts['command']}`: medians of {facts['repetitions']} repetitions; {facts['seconds']} s with"
    yield f"{facts['concurrency']} connections, bulk {facts['gigabytes']} GB in {facts['streams']} streams whose"
    yield "whole duration is their latency; loopback."

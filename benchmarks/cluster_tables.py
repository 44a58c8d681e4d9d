"""The tables of the simulated cluster, in Markdown, and the part of the page that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster_studies import FAILING_EVALUATIONS, FAILING_WORKERS, GROWING, TRIALS_A_WORKER, Failing, Loss, Quality, Utilisation
from tables import markdown


def label(strategy: str, population: int | None) -> str:
    """How a strategy is named in tables and in the figure."""
    if strategy == GROWING:
        return "evolution, population as workers"
    return strategy if population is None else f"{strategy}, population {population}"


def utilisation_table(rows: Sequence[Utilisation]) -> str:
    """Percent of the workers' time, by trials a worker; then under each condition, for the longest search."""
    conditions = list(dict.fromkeys(row.condition for row in rows if row.condition))
    longest = {(row.condition, row.workers): row.longest for row in rows}
    cells = []
    for row in rows:
        if not row.condition:
            shares = [*row.busy.values(), *(longest[name, row.workers] for name in conditions)]
            cells.append([f"{row.workers:,}", *(f"{100 * share:.1f}" for share in shares)])
    trials = [f"{each} trial{'s' * (each > 1)} a worker" for each in TRIALS_A_WORKER]
    return markdown(["workers", *trials, *conditions], cells)


def time_table(rows: Sequence[Quality]) -> str:
    """Virtual hours until each target, and how many times sooner than with one worker."""
    targets = list(rows[0].hours)
    cells = []
    for row in rows:
        first = next((other for other in rows if other.strategy == row.strategy and other.workers == 1), None)
        line = [label(row.strategy, row.population), f"{row.workers:,}"]
        for target in targets:
            hours, alone = row.hours[target], None if first is None else first.hours[target]
            share = f" ({row.reached[target]} of {row.seeds})" if row.reached[target] < row.seeds else ""
            line.append(("-" if hours is None else f"{hours:,.1f}") + share)
            line.append("-" if hours is None or alone is None else f"{alone / hours:,.1f}")
        cells.append([*line, f"{100 * row.utilisation:.0f}"])
    head = [part for target in targets for part in (f"hours to {target:g}", "times sooner")]
    return markdown(["strategy", "workers", *head, "utilisation, %"], cells)


def loss_table(rows: Sequence[Quality]) -> str:
    """The best after each number of evaluations, and in brackets what several workers lose."""
    cells = []
    for row in rows:
        line = [label(row.strategy, row.population), f"{row.workers:,}", "-" if row.population is None else f"{row.population:,}"]
        for count, best in row.best.items():
            line.append(f"{best:.2f}" if row.workers == 1 else f"{best:.2f} ({lost(row.loss[count])})")
        cells.append(line)
    return markdown(["strategy", "workers", "population", *(f"best of {count:,}" for count in rows[0].best)], cells)


def lost(loss: Loss) -> str:
    """-0.12 ± 0.03: worse by 0.12; 0 where nothing differs."""
    if not loss.mean and not loss.error:
        return "0"
    return f"{-loss.mean:+.2f}" + ("" if loss.error is None else f" ± {loss.error:.2f}")


def failing_table(rows: Sequence[Failing], target: float) -> str:
    """What deaths of workers cost."""
    cells = [
        (
            f"{row.deaths_per_hour:g}",
            f"{row.attempts:.2f}",
            f"{100 * row.failed:.1f}",
            f"{100 * row.useful:.1f}",
            "-" if row.hours is None else f"{row.hours:.1f}",
            f"{row.best:.2f}",
        )
        for row in rows
    ]
    head = ("deaths an hour", "attempts a trial", "failed trials, %", "useful, %", f"hours to {target:g}")
    return markdown([*head, f"best of {FAILING_EVALUATIONS:,}"], cells)


def part(results: Mapping[str, Any]) -> str:
    """What the script writes into docs/simulated_cluster.md."""
    quality, targets = results["quality"], list(results["quality"][0].hours)
    evaluations = max(quality[0].best)
    return "\n\n".join(
        [
            f"Written by `{results['command']}` on {results['date']}, in {results['minutes']:.1f} minutes on one core: "
            f"{results['seeds']} searches of {evaluations:,} evaluations for each strategy and size "
            f"({results['utilisation_seeds']} for the utilisation), {results['trials']:,} trials in all. A trial takes "
            f"{results['durations'][0]:.1f} to {results['durations'][2]:.1f} hours, {results['durations'][1]:.1f} in the middle; "
            f"{results['above'][0]} of the {results['size']:,} architectures score {targets[0]:g} or more, "
            f"{results['above'][1]} {targets[1]:g} or more, the best {results['best']:.2f}.",
            "![Utilisation, time until a quality is reached, and best score by the number of workers](simulated_cluster.svg)",
            "### How busy the workers are",
            "Random search; percent of the time of all workers, from the first proposal to the last result, in which they "
            "trained for a result. The columns on the right: "
            f"{max(TRIALS_A_WORKER)} trials a worker on a cluster that is not ideal.",
            utilisation_table(results["utilisation"]),
            "### How soon a quality is reached",
            "Median over the searches of the virtual hours until a result of that mIoU; in brackets how many reach it, where not "
            "all do; a dash where half do not. Utilisation is of the whole search.",
            time_table(quality),
            "### What asynchrony costs",
            "Mean of the best mIoU after so many evaluations; in brackets the difference to one worker with the same options and "
            "seeds, and its standard error. Where there are no fewer workers than evaluations, all are proposed before the first "
            "result.",
            loss_table(quality),
            "### Workers that die",
            f"{FAILING_WORKERS} workers, evolution with a population of {FAILING_WORKERS}, {FAILING_EVALUATIONS:,} evaluations. "
            "A trial that dies is run again, twice at most. Useful: share of the occupied time that led to a score.",
            failing_table(results["failing"], targets[0]),
        ]
    )

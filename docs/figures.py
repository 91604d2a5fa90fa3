"""Fills the tables of README and docs from measured JSON, so that no figure is typed by hand.

    python docs/figures.py           writes every block
    python docs/figures.py --check   writes nothing; ends with 1 and names the blocks that differ

A block lies between ``<!-- figures:NAME -->`` and ``<!-- /figures -->``. Its files are in docs/evidence/, each as a
command with ``--json`` printed it; see docs/evidence/README.md. A file that is missing gives "not measured yet".
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentsleep.evals.intervals import wilson
from agentsleep.reproduce.markdown import grid, headlines, render
from agentsleep.reproduce.plan import load_table, table_names

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "docs" / "evidence"
RECORD = ROOT / "agentsleep" / "assets" / "nap-mini" / "record.json"
FOLDERS = ("docs", "integrations/langchain/docs")
BLOCK = re.compile(r"(<!-- figures:(?P<name>[a-z0-9-]+) -->\n).*?(<!-- /figures -->)", re.DOTALL)

Document = Mapping[str, Any]


def rate(right: float, interval: Sequence[float] | None = None) -> str:
    """An accuracy, with its 95 % interval below."""
    shown = f"{right:.3f}"
    return f"{shown}<br><sub>{interval[0]:.3f}–{interval[1]:.3f}</sub>" if interval else shown


def load(path: Path) -> Document | None:
    """A measured document; None where it was not measured."""
    if not path.is_file():
        return None
    found: Document = json.loads(path.read_text(encoding="utf-8"))
    return found


def unmeasured(command: str) -> str:
    """What stands where a file is missing."""
    return f"*not measured yet* (`{command}`)"


# ---------------------------------------------------------------------------------------------------------- rota

ROTA = "agentsleep eval rota --passes 1,2,4 --rounds 1,2 --episodes 200 --seed S --json"
MODES = {
    "fork": "Each question is asked of the same state (`mode` fork).",
    "sequence": "All questions in turn, with a light sleep after each (`mode` sequence).",
}


def rota(evidence: Path) -> str:
    """Accuracy by depth through the public calls, facts evicted, for each passes and rounds."""
    measured = load(evidence / "eval-rota.json")
    if measured is None:
        return unmeasured(ROTA)
    cells = _rota_cells(measured["results"])
    depths = sorted({depth for *_, depth in cells})
    head = ["passes", "rounds", *(f"depth {depth}" for depth in depths)]
    visits = sorted({(passes, rounds) for _, passes, rounds, _ in cells})
    parts = []
    for mode, what in MODES.items():
        rows = [
            [f"{n}", f"{r}", *(_counted(cells.get((mode, n, r, depth))) for depth in depths)]
            for n, r in visits
            if any((mode, n, r, depth) in cells for depth in depths)
        ]
        rows += [[name, "", *shown] for name, shown in _baselines(measured["baselines"], depths)]
        parts.append(f"{what}\n\n{grid(head, rows)}")
    least = min(asked for _, asked in cells.values())
    command = measured.get("command") or _rota_command(measured, visits)
    model = f"Model `{measured['model']}`, fingerprint `{measured['fingerprint'][:12]}`."
    parts.append(
        f"`{command}`, seed {measured['seed']}: at least {least:,} questions a cell; 95 % Wilson intervals. From depth "
        "2 on only questions count whose facts lay in two windows or more. Tool calls right: "
        f"{measured['tool_call_accuracy']:.3f}. {model}"
    )
    return "\n\n".join(parts)


def _rota_cells(results: Iterable[Document]) -> dict[tuple[str, int, int, int], tuple[int, int]]:
    """(right, asked) by mode, passes, rounds and depth, over the spreads that the bar is about."""
    cells: dict[tuple[str, int, int, int], tuple[int, int]] = {}
    for row in results:
        if row["depth"] == 1 or row["spread"] >= 2:
            key = (row["mode"], row["passes"], row["rounds"], row["depth"])
            right, asked = cells.get(key, (0, 0))
            cells[key] = (right + round(row["accuracy"] * row["questions"]), asked + row["questions"])
    return cells


def _counted(cell: tuple[int, int] | None) -> str:
    return "" if cell is None else rate(cell[0] / cell[1], wilson(*cell))


def _rota_command(measured: Document, visits: Sequence[tuple[int, int]]) -> str:
    passes, rounds = (",".join(f"{value}" for value in sorted(set(values))) for values in zip(*visits, strict=True))
    model = "" if measured["model"] == "nap-mini" else f" --model {measured['model']}"
    episodes = f" --episodes {measured['episodes']}" if "episodes" in measured else ""
    return f"agentsleep eval rota{model} --passes {passes} --rounds {rounds}{episodes} --seed {measured['seed']} --json"


def _baselines(rows: Sequence[Document], depths: Sequence[int]) -> Iterable[tuple[str, list[str]]]:
    for name in dict.fromkeys(row["name"] for row in rows):
        by_depth = {row["depth"]: row["accuracy"] for row in rows if row["name"] == name}
        yield name, [rate(by_depth[depth]) if depth in by_depth else "" for depth in depths]


# --------------------------------------------------------------------------------------------------- the evidence


def evidence(name: str) -> Callable[[Path], str]:
    """A table that ``agentsleep reproduce`` measured, with its picture."""

    def render_table(folder: Path) -> str:
        measured = load(folder / f"{name}.json")
        if measured is None:
            return unmeasured(f"agentsleep reproduce {name}")
        made = load_table(name)
        picture = f"![{made.title}](evidence/{name}.png)"
        return f"{render(made, measured, heading=False).rstrip()}\n\n{picture}"

    return render_table


def headline(folder: Path) -> str:
    """One line for each table: its best sleep beside the best baseline that was trained at N = 1."""
    rows = []
    for name in table_names():
        measured = load(folder / f"{name}.json")
        if measured is not None:
            rows += [list(row) for row in headlines(load_table(name), measured)]
    if not rows:
        return unmeasured("agentsleep reproduce depo")
    return grid(["what is asked once every window is evicted", "sleep", "trained at N = 1", "seeds of both"], rows)


# --------------------------------------------------------------------------------------------------------- speed


def wake(evidence: Path) -> str:
    """What waking costs after a short and after a long history."""
    measured = load(evidence / "bench-wake.json")
    if measured is None:
        return unmeasured("agentsleep bench wake --history 1000,100000 --json")
    columns = {
        "history_tokens": ("tokens read before", "{:,.0f}"),
        "ms_per_token": ("ms a token", "{:.2f}"),
        "state_bytes": ("bytes of fast weights", "{:,.0f}"),
        "add_ms": ("ms an `add`", "{:.2f}"),
        "reopen_ms": ("ms a reopening", "{:.2f}"),
    }
    there = [name for name in columns if all(name in row for row in measured["rows"])]
    rows = [[columns[name][1].format(row[name]) for name in there] for row in measured["rows"]]
    ratios = {"ratio": "a token", "add_ratio": "an `add`", "reopen_ratio": "a reopening"}
    shown = ", ".join(f"{measured[name]:.2f} for {what}" for name, what in ratios.items() if name in measured)
    history = ",".join(f"{row['history_tokens']}" for row in measured["rows"])
    command = measured.get("command") or f"agentsleep bench wake --history {history} --json"
    seed = f", seed {measured['seed']}" if "seed" in measured else ""
    return f"{grid([columns[name][0] for name in there], rows)}\n\nLong over short: {shown}. `{command}`{seed}."


def turn(evidence: Path) -> str:
    """What a session adds to a turn."""
    measured = load(evidence / "bench-turn.json")
    if measured is None:
        return unmeasured("agentsleep bench turn --repeats 9 --json")
    rows = [
        [row["turn"], f"{row['ms']:,.0f}", f"{row['ratio']:.2f}", f"{row['cpu_ratio']:.2f}"] for row in measured["rows"]
    ]
    what = (
        f"{measured['prefill']} tokens read, {measured['tokens']} written, {measured['model']} of "
        f"{measured['parameters']:,} weights, {measured['threads']} thread; medians of {measured['counted']}"
    )
    return f"{grid(['a turn', 'ms', 'ratio', 'ratio of CPU time'], rows)}\n\n{what}. `{measured['command']}`."


def archive(evidence: Path) -> str:
    """What storing and loading a state costs, against a file."""
    measured = load(evidence / "bench-archive.json")
    if measured is None:
        return unmeasured("agentsleep bench archive --json")
    names = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
    rows = []
    for row in measured["rows"]:
        whole = "–" if row["checkpoint_ratio"] is None else f"{row['checkpoint_ratio']:.2f}"
        shown = [f"{row['save_ms']:,.0f}", f"{row['save_ratio']:.2f}", whole]
        rows.append([names[row["backend"]], *shown, f"{row['load_ms']:,.0f}", f"{row['load_ratio']:.2f}"])
    size, files = measured["rows"][0]["bytes"], measured["rows"][0]
    what = (
        f"A state of {size / 1e6:.1f} MB; medians of {measured['repeats']}. The file: "
        f"{files['file_save_ms']:.0f} ms to write and sync, {files['file_load_ms']:.0f} ms to read and hash."
    )
    head = ["", "save, ms", "ratio", "with checkpoint", "load, ms", "ratio"]
    return f"{grid(head, rows)}\n\n{what} `{measured['command']}`."


def ops(evidence: Path) -> str:
    """Speed of the chunked rules."""
    measured = load(evidence / "bench-ops.json")
    if measured is None:
        return unmeasured("agentsleep bench ops --json")
    rows = [
        [row["rule"], row["mode"], f"{row['B']}", f"{row['T']}", f"{row['tokens_per_s']:,.0f}", f"{row['ratio']:.2f}"]
        for row in measured["rows"]
    ]
    command = measured.get("command") or "agentsleep bench ops --json"
    threads = f", {measured['threads']} thread{'s' * (measured['threads'] > 1)}" if "threads" in measured else ""
    against = f" The ratio is over {measured['reference']}." if "reference" in measured else ""
    return f"{grid(['rule', 'mode', 'B', 'T', 'tokens/s', 'ratio'], rows)}\n\n`{command}`{threads}.{against}"


def agent(evidence: Path) -> str:
    """What agents on one model and window remember, and what they read, whoever wins."""
    measured = load(evidence / "bench-agent.json")
    if measured is None:
        return unmeasured("agentsleep bench agent --json")
    what = {one["arm"]: one["what"] for one in measured["arms"]}
    cells = {(row["arm"], row["depth"]): rate(row["accuracy"], row["interval"]) for row in measured["accuracy"]}
    depths = measured["depths"]
    known = [[name, *(cells[arm, depth] for depth in depths)] for arm, name in what.items()]
    numbers = ("wake_tokens", "sleep_tokens", "probe_tokens", "tokens", "first", "last")
    costs = [
        [
            what[row["arm"]],
            f"{row['ms']:.0f}",
            f"{row['ratio']:.2f}",
            f"{row['mean_ms']:.0f}",
            *(f"{row[name]:.1f}" for name in numbers),
            f"{row['calls']:.2f}",
        ]
        for row in measured["costs"]
    ]
    bars = [
        [
            row["bar"],
            f"{row['value']:.3f}"
            + ("" if row["interval"] is None else "<br><sub>{:+.3f} to {:+.3f}</sub>".format(*row["interval"])),
            row["need"],
            "passed" if row["passed"] else "**missed**",
        ]
        for row in measured["bars"]
    ]
    ends = measured["costs"][0]["ends"]
    least, most = measured["fillers"]["least"], measured["fillers"]["most"]
    head = ["", "ms", "ratio", "ms, mean", "awake", "asleep", "probe", "tokens", f"awake, first {ends}", f"last {ends}"]
    on = measured["machine"]
    return "\n\n".join(
        [
            f"Accuracy by depth: {measured['dialogues']} dialogues of {measured['people']} people, "
            f"{measured['questions']} questions a depth, 95 % Wilson intervals. After the facts came {least} to {most} "
            "turns of small talk.",
            grid(["", *(f"depth {depth}" for depth in depths)], known),
            f"Cost: {measured['turns']} turns of an agent with a tool. ms: the median of the turns, its ratio to that "
            "of trimming, and the mean. Tokens read a turn, means: awake, in sleeps (tokens times passes), by the "
            "probe of each stored state, in all; then those awake at both ends of the run. calls: of the tool, for "
            "each look-up that was asked for.",
            grid([*head, "calls"], costs),
            grid(["bar", "reached", "need", ""], bars),
            f"`{measured['command']}`. Model `{measured['model']}`, fingerprint `{measured['fingerprint'][:12]}`, "
            f"window of {measured['window']} tokens; {on['processor']}, {measured['threads']} thread, "
            f"torch {on['torch']}, langchain {on['langchain']}, langgraph {on['langgraph']}, bm25s {on['bm25s']}.",
        ]
    )


# ------------------------------------------------------------------------------------------------------ retrofit

RETROFIT = {"qwen3_5": "Qwen3.5 in small, a stock hybrid", "llama": "Llama in small, with inserted layers"}


def retrofit(evidence: Path) -> str:
    """What models of other families learned of sleep, from their training records."""
    rows = []
    for name, what in RETROFIT.items():
        made = load(evidence / f"retrofit-{name}.json")
        if made is None:
            return unmeasured(f"agentsleep train depo --config depo-retrofit-{name} --out RUN")
        found = {row["depth"]: row for row in made["evaluation"]["results"]}
        reset = {row["depth"]: row for row in made["evaluation"]["baselines"] if row["name"] == "state-reset"}
        chance = next(row["accuracy"] for row in made["evaluation"]["baselines"] if row["name"] == "chance")
        shown = [rate(found[depth]["accuracy"], found[depth]["interval"]) for depth in sorted(found)]
        rows.append(
            [what, *shown, rate(reset[max(reset)]["accuracy"]), rate(chance), f"{made['minutes']}", f"{made['seed']}"]
        )
    hops = [f"{depth} hop{'s' * (depth > 1)}" for depth in sorted(found)]
    head = ["from random weights", *hops, "S reset", "chance", "core-minutes", "seed"]
    return (
        f"{grid(head, rows)}\n\nDepo, 8 nodes, one evicted window, two passes; from the training records of the "
        "two commands above. 95 % Wilson intervals; S reset: most hops."
    )


def probed(evidence: Path) -> str:
    """What the probe says of the two."""
    rows = []
    for name, what in RETROFIT.items():
        found = load(evidence / f"probe-{name}.json")
        if found is None:
            return unmeasured("agentsleep probe --model RUN --samples 100 --passes 1,2 --seed 1 --json")
        for measure in found["measures"]:
            if measure["measure"] != found["decisive"]:
                shown = [rate(one["mean"], one["interval"]) for one in measure["conditions"]]
                (gain,) = [one for one in measure["differences"] if one["against"] == 1]
                points = f"{100 * gain['difference']:+.1f}"
                low, high = (f"{100 * edge:+.1f}" for edge in gain["interval"])
                rows.append([what, measure["measure"], *shown, f"{points}<br><sub>{low} to {high}</sub>"])
    head = ["model", "questions", "S dropped", "N = 1", "N = 2", "N = 2 over N = 1, points"]
    command = f"agentsleep probe --model RUN --samples {found['samples']} --passes 1,2 --seed {found['seed']} --json"
    return f"{grid(head, rows)}\n\n`{command}`; the same questions in every column, 95 % bootstrap intervals."


# ---------------------------------------------------------------------------------------------------- conformance


def conformance(evidence: Path) -> str:
    """The suite's outcomes, a row for each family; then what was skipped, and what was repaired."""
    measured = load(evidence / "conformance.json")
    if measured is None:
        return unmeasured("agentsleep conformance --families --out docs/evidence/conformance.json")
    names = [check["name"] for check in measured["checks"]]
    rows, notes = [], list[str]()
    for report in measured["models"]:
        outcomes = {one["name"]: one for one in report["outcomes"]}
        rows.append([f"`{report['model']}`", *(_outcome(outcomes[name]) for name in names)])
        for status in ("fail", "skip"):
            found = [one for one in report["outcomes"] if one["status"] == status]
            notes += [f"- `{report['model']}`, {one['name']} ({status}): {one['text']}" for one in found]
        notes += [f"- `{report['model']}`, repaired: {repair}" for repair in report["repairs"]]
    versions = f"torch {measured['torch']}, transformers {measured['transformers']}"
    listed = "".join(f"{note}\n" for note in notes)
    return f"{grid(['family', *names], rows)}\n\n`{measured['command']}`, {versions}.\n\n{listed}".rstrip()


def _outcome(one: Document) -> str:
    if one["status"] != "ok":
        return "–" if one["status"] == "skip" else "**fails**"
    return "✓" if one["figure"] is None else f"{one['figure']:.1g}"


# ------------------------------------------------------------------------------------------------ the shipped model


def nap_mini(record: Path) -> str:
    """The training record that is shipped with the model."""
    made = load(record)
    if made is None:
        return "*no training record yet*"
    commands = made.get("commands") or ([made["command"]] if "command" in made else [])
    rows = [["command", "<br>".join(f"`{command}`" for command in commands)]] if commands else []
    rows += [
        [name, f"{made[name]:,}" if isinstance(made[name], int) and name != "seed" else f"{made[name]}"]
        for name in ("parameters", "seed", "steps", "minutes", "torch")
        if name in made
    ]
    return grid(["", "nap-mini"], rows) + "\n\nFrom its training record, `agentsleep/assets/nap-mini/record.json`."


BLOCKS: dict[str, Callable[[Path], str]] = {
    "rota": rota,
    "turn": turn,
    "archive": archive,
    "wake": wake,
    "ops": ops,
    "agent": agent,
    "headline": headline,
    "conformance": conformance,
    "retrofit": retrofit,
    "probe": probed,
    **{f"evidence-{name}": evidence(name) for name in table_names()},
}


def filled(text: str, evidence: Path = EVIDENCE, record: Path = RECORD) -> str:
    """A page with all its blocks as the files say.

    Raises:
        KeyError: a block of an unknown name, or a file without what it should hold.
    """

    def fill(found: re.Match[str]) -> str:
        name = found["name"]
        body = nap_mini(record) if name == "nap-mini" else BLOCKS[name](evidence)
        return f"{found[1]}\n{body}\n\n{found[3]}"

    return BLOCK.sub(fill, text)


def pages() -> list[Path]:
    """Where blocks may be."""
    return [ROOT / "README.md", *(page for folder in FOLDERS for page in sorted((ROOT / folder).glob("*.md")))]


def main(arguments: Sequence[str]) -> int:
    """Fills, or checks; the exit code."""
    if set(arguments) - {"--check"}:
        sys.stderr.write(f"figures.py: unknown arguments {' '.join(arguments)}; it takes --check or nothing\n")
        return 2
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        new = filled(text)
        if new != text:
            stale.append(page)
            if not arguments:
                page.write_text(new, encoding="utf-8")
    for page in stale:
        said = "differs from its files: run 'python docs/figures.py'" if arguments else "written"
        sys.stderr.write(f"{page.relative_to(ROOT)}: {said}\n")
    return 1 if arguments and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

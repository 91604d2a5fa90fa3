"""The tables of README and docs are what their files say, and the pictures can be drawn again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentsleep.reproduce.plan import load_arm, load_table

ROOT = Path(__file__).resolve().parents[1]


def load(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


FIGURES = load(ROOT / "docs" / "figures.py")


def test_the_tables_are_what_the_files_say() -> None:
    command = [sys.executable, str(ROOT / "docs" / "figures.py"), "--check"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_block_has_its_place() -> None:
    named = [
        found["name"] for page in FIGURES.pages() for found in FIGURES.BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]
    assert sorted(named) == sorted([*FIGURES.BLOCKS, "nap-mini"])


def test_the_figures_are_of_the_shipped_model() -> None:
    measured = FIGURES.load(FIGURES.EVIDENCE / "eval-rota.json")
    if measured is not None:
        from agentsleep.backends import load_backend

        assert measured["fingerprint"] == load_backend().fingerprint, "measure eval rota again, on the shipped model"


def rota_document() -> dict[str, Any]:
    rows = [
        {"passes": 4, "rounds": 1, "depth": d, "spread": s, "mode": mode, "accuracy": a, "questions": q}
        for mode in ("fork", "sequence")
        for d, s, a, q in ((1, 1, 0.5, 100), (2, 1, 0.0, 50), (2, 2, 0.9, 100), (2, 3, 0.8, 100))
    ]
    baselines = [{"name": "no-memory", "depth": d, "accuracy": 0.125} for d in (1, 2)]
    return {
        "task": "rota",
        "model": "nap-mini",
        "fingerprint": "0123456789abcdef",
        "window": 96,
        "seed": 5,
        "episodes": 7,
        "results": rows,
        "baselines": baselines,
        "tool_call_accuracy": 0.75,
    }


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    for name, render in FIGURES.BLOCKS.items():
        assert render(tmp_path).startswith("*not measured yet* (`agentsleep "), name
    assert "no training record" in FIGURES.nap_mini(tmp_path / "record.json")


def test_the_rota_table_counts_only_facts_that_were_spread(tmp_path: Path) -> None:
    (tmp_path / "eval-rota.json").write_text(json.dumps(rota_document()))
    shown = FIGURES.rota(tmp_path)
    assert shown.count("| 4 | 1 | 0.500<br>") == 2
    assert "0.850<br><sub>0.794–0.893</sub>" in shown  # 170 of 200: the questions of spread 1 are left out at depth 2
    assert "| no-memory |  | 0.125 | 0.125 |" in shown
    assert "`agentsleep eval rota --passes 4 --rounds 1 --episodes 7 --seed 5 --json`, seed 5" in shown
    assert "at least 100 questions" in shown
    assert "0.750" in shown
    assert "`0123456789ab`" in shown


def evidence_document() -> dict[str, Any]:
    """Depo in one window: sleep at N = 4 over two seeds, and one run at N = 1, which an earlier plan has made."""

    def run(arm: str, seed: int, passes: int, accuracy: float, digest: str | None = None) -> dict[str, Any]:
        plan = load_arm(arm, "small")
        row = {"part": "one-window", "windows": 1, "form": "plain", "passes": passes, "rounds": 1, "depth": 8}
        return {
            "arm": arm,
            "label": f"the arm {arm}",
            "scale": "small",
            "seed": seed,
            "digest": digest or plan.digest(seed),
            "measures": load_table("depo").digest(plan),
            "machine": {"processor": "a processor", "torch": "2", "transformers": "5", "python": "3"},
            "parameters": 1000,
            "steps": 3706,
            "minutes": 12.0,
            "training_flops": 2 * 10**12,
            "flops_per_token": {"1": 10**6, "4": 4 * 10**6},
            "config": {"threads": 1, "device": "cpu"},
            "rows": [{**row, "accuracy": accuracy, "questions": 100}],
        }

    runs = [run("depo1/random", 0, 4, 0.9), run("depo1/random", 1, 4, 0.94), run("depo1/n1", 0, 1, 0.1, "earlier")]
    return {"format": 1, "table": "depo", "runs": runs}


def test_the_evidence_is_averaged_over_seeds(tmp_path: Path) -> None:
    (tmp_path / "depo.json").write_text(json.dumps(evidence_document()))
    shown = FIGURES.BLOCKS["evidence-depo"](tmp_path)
    assert "| 0.920<br><sub>0.666–1.000</sub> | 2 |" in shown  # .92 +- 12.706 * .0283 / sqrt(2)
    assert "| 0.100<br><sub>0.055–0.174</sub> | 1 |" in shown  # Wilson, 10 of 100
    assert "| the arm depo1/n1 † | `depo1/n1` | 1,000 | 3,706 | 12.0 | 2.0 | 1.00 | 4.00 |" in shown
    assert "](evidence/depo.png)" in shown
    assert "8 hops, N = 4 | 0.920<br>" in FIGURES.headline(tmp_path)
    assert "0.100<br><sub>0.055–0.174</sub> † |" in FIGURES.headline(tmp_path)
    assert FIGURES.BLOCKS["evidence-rule110"](tmp_path).startswith("*not measured yet*")


def test_speed_tables(tmp_path: Path) -> None:
    rows = [{"history_tokens": n, "ms_per_token": 2.0, "state_bytes": 41984} for n in (1000, 100000)]
    (tmp_path / "bench-wake.json").write_text(json.dumps({"rows": rows, "ratio": 1.04}))
    assert "| 100,000 | 2.00 | 41,984 |" in FIGURES.wake(tmp_path)
    assert "1.04 for a token. `agentsleep bench wake --history 1000,100000 --json`" in FIGURES.wake(tmp_path)
    row = {"mode": "fwd+bwd", "rule": "delta", "B": 1, "T": 1024, "tokens_per_s": 43210.9, "ratio": 1.514}
    (tmp_path / "bench-ops.json").write_text(json.dumps({"rows": [row], "threads": 1, "reference": "another"}))
    assert "| delta | fwd+bwd | 1 | 1024 | 43,211 | 1.51 |" in FIGURES.ops(tmp_path)


def test_the_table_of_agents(tmp_path: Path) -> None:
    numbers = (
        "ms",
        "ratio",
        "mean_ms",
        "wake_tokens",
        "sleep_tokens",
        "probe_tokens",
        "tokens",
        "first",
        "last",
        "calls",
    )
    bar = {"need": "above 0", "passed": False}
    document = {
        "command": "agentsleep bench agent --json",
        "model": "nap-mini",
        "fingerprint": "0123456789abcdef",
        "arms": [{"arm": "trim", "what": "trim_messages"}],
        "accuracy": [{"arm": "trim", "depth": 3, "accuracy": 0.25, "interval": [0.1, 0.5]}],
        "costs": [{"arm": "trim", "ends": 20, **dict.fromkeys(numbers, 12.34)}],
        "bars": [
            {"bar": "ahead", "value": 0.5, "interval": [-0.25, 0.75], **bar},
            {"bar": "flat", "value": 1.5, "interval": None, **bar},
        ],
        "fillers": {"least": 9, "most": 11},
        "machine": dict.fromkeys(("processor", "torch", "langchain", "langgraph", "bm25s"), "one"),
        "depths": [3],
        "dialogues": 34,
        "questions": 204,
        "people": 12,
        "turns": 100,
        "window": 112,
        "threads": 1,
    }
    (tmp_path / "bench-agent.json").write_text(json.dumps(document))
    shown = FIGURES.agent(tmp_path)
    assert "| trim_messages | 0.250<br><sub>0.100–0.500</sub> |" in shown
    assert "| trim_messages | 12 | 12.34 | 12 | 12.3 |" in shown
    assert "| ahead | 0.500<br><sub>-0.250 to +0.750</sub> | above 0 | **missed** |" in shown
    assert "| flat | 1.500 | above 0 | **missed** |" in shown
    assert "9 to 11 turns of small talk" in shown


def test_the_table_of_conformance(tmp_path: Path) -> None:
    outcomes = [
        {"name": "wake", "status": "ok", "figure": 2.34e-6, "text": "pieces"},
        {"name": "padding", "status": "ok", "figure": None, "text": "refused"},
        {"name": "sliding", "status": "skip", "figure": None, "text": "there is no attention"},
        {"name": "pins", "status": "fail", "figure": None, "text": "no tools"},
    ]
    checks = [{"name": one["name"], "proves": ""} for one in outcomes]
    model = {"model": "mamba2", "repairs": ["a name"], "outcomes": outcomes}
    document = {"command": "agentsleep conformance", "torch": "2", "transformers": "5", "checks": checks}
    (tmp_path / "conformance.json").write_text(json.dumps({**document, "models": [model]}))
    shown = FIGURES.conformance(tmp_path)
    assert "| `mamba2` | 2e-06 | ✓ | – | **fails** |" in shown
    assert "- `mamba2`, sliding (skip): there is no attention" in shown
    assert "- `mamba2`, pins (fail): no tools" in shown
    assert shown.endswith("- `mamba2`, repaired: a name")


def test_a_block_is_filled_and_a_stale_one_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- figures:rota -->\nold\n<!-- /figures -->\nafter\n")
    monkeypatch.setattr(FIGURES, "ROOT", tmp_path)
    monkeypatch.setattr(FIGURES, "pages", lambda: [page])
    monkeypatch.setattr(FIGURES.filled, "__defaults__", (tmp_path, tmp_path / "record.json"))
    assert FIGURES.main(["--check"]) == 1
    assert "old" in page.read_text()
    assert FIGURES.main([]) == 0
    assert "*not measured yet*" in page.read_text()
    assert page.read_text().startswith("before\n<!-- figures:rota -->\n")
    assert page.read_text().endswith("<!-- /figures -->\nafter\n")
    assert FIGURES.main(["--check"]) == 0
    (tmp_path / "eval-rota.json").write_text(json.dumps(rota_document()))
    assert FIGURES.main(["--check"]) == 1
    assert FIGURES.main(["--chekc"]) == 2


def test_the_picture_can_be_drawn_again(tmp_path: Path) -> None:
    script = ROOT / "docs" / "pictures" / "make_sleep.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    drawn = sorted(tmp_path.glob("*.svg"))
    assert [path.name for path in drawn] == ["sleep-dark.svg", "sleep-light.svg"]
    for path in drawn:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert (ROOT / "docs" / "pictures" / path.name).is_file()
    assert drawn[0].read_bytes() != drawn[1].read_bytes()

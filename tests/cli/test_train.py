"""``agentsleep train``: a tiny run from its start, through an interrupt, to its record."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from agentsleep.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
PNG = b"\x89PNG\r\n\x1a\n"


def history(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "history.jsonl").read_text().splitlines()]


def test_a_run_leaves_all_that_it_promises(finished, micro) -> None:
    assert (finished / "checkpoint.pt").is_file()
    assert (finished / "curves.png").read_bytes().startswith(PNG)
    assert history(finished) == [25, 50]
    record = json.loads((finished / "record.json").read_text())
    assert record["task"] == "depo"
    assert record["steps"] == 50
    assert record["config"]["task"] == {"nodes": 4, "max_depth": 2, "symbols": 4}
    assert record["commands"] == [f"agentsleep train depo --config {micro} --out {finished}"]
    assert record["reached"]["depth"] in (1, 2)
    results = record["evaluation"]["results"]
    assert [(row["passes"], row["rounds"], row["depth"]) for row in results] == [(2, 1, 1), (2, 1, 2)]
    assert all(row["questions"] >= 400 for row in results)
    assert not list(finished.glob("*.part"))


def test_progress_goes_to_stderr_and_the_document_alone_to_stdout(cli, micro, tmp_path) -> None:
    result = cli("train", "depo", "--config", micro, "--steps", 25, "--seed", 3, "--json", "--out", tmp_path / "run")
    document = json.loads(result.stdout)
    assert (document["steps"], document["seed"]) == (25, 3)
    assert document["out"] == str(tmp_path / "run")
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert re.fullmatch(r"step 25 \| 0\.0 min \| stage 0 \| depth 1 \| loss \d\.\d{3} \| 2x1 1:0\.\d\d", lines[0])


def test_a_reader_gets_a_table_and_the_paths(cli, micro, tmp_path) -> None:
    shown = cli("train", "depo", "--config", micro, "--steps", 2, "--out", tmp_path).stdout
    assert "passes 2" in shown
    assert "chance" in shown
    assert str(tmp_path / "model") in shown
    assert not (tmp_path / "curves.png").exists()  # nothing was logged in two steps


def test_settings_of_the_command_line_come_before_the_file(cli, micro, tmp_path) -> None:
    cli("train", "depo", "--config", micro, "--steps", 1, "--minutes", 2, "--muon-lr", 0.01, "--adamw-lr", 0.003,
        "--seed", 5, "--out", tmp_path)  # fmt: skip
    config = json.loads((tmp_path / "record.json").read_text())["config"]
    names = ("max_steps", "max_minutes", "muon_lr", "adamw_lr", "seed", "batch")
    assert [config[name] for name in names] == [1, 2.0, 0.01, 0.003, 5, 4]


def test_a_folder_that_holds_a_run_is_refused_with_both_remedies(cli, micro, finished) -> None:
    before = (finished / "checkpoint.pt").read_bytes()
    complaint = cli.complaint("train", "depo", "--config", micro, "--out", finished)
    assert f"{finished} already holds a run" in complaint
    assert "--resume" in complaint
    assert "another --out" in complaint
    assert (finished / "checkpoint.pt").read_bytes() == before


def test_resume_goes_on_with_the_settings_of_the_run(cli, micro, finished, tmp_path) -> None:
    out = shutil.copytree(finished, tmp_path / "copy")
    record = json.loads(cli("train", "depo", "--resume", "--steps", 75, "--json", "--out", out).stdout)
    assert record["steps"] == 75
    assert record["config"] == json.loads((finished / "record.json").read_text())["config"] | {"max_steps": 75}
    assert len(record["commands"]) == 2
    assert record["commands"][1] == f"agentsleep train depo --resume --steps 75 --json --out {out}"
    assert history(out) == [25, 50, 75]
    before, after = (load_file(folder / "model/model.safetensors") for folder in (finished, out))
    assert any(not before[name].equal(after[name]) for name in before)


def test_resuming_a_finished_run_leaves_its_weights(cli, finished, tmp_path) -> None:
    out = shutil.copytree(finished, tmp_path / "copy")
    cli("train", "depo", "--resume", "--out", out)
    before, after = (load_file(folder / "model/model.safetensors") for folder in (finished, out))
    assert all(before[name].equal(after[name]) for name in before)


def test_resume_of_a_run_without_its_settings_takes_them_from_the_config(cli, micro, finished, tmp_path) -> None:
    out = shutil.copytree(finished, tmp_path / "copy")
    (out / "run.json").unlink()
    assert "another model or task" in cli.complaint("train", "depo", "--resume", "--out", out)  # the preset
    cli("train", "depo", "--resume", "--config", micro, "--out", out)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--seed", "9"], "seed 0"),
        (["--init", "somewhere"], "--init"),
    ],
)
def test_resume_refuses_what_it_cannot_change(cli, finished, arguments, named) -> None:
    assert named in cli.complaint("train", "depo", "--resume", *arguments, "--out", finished)


def test_resume_of_another_task(cli, finished) -> None:
    assert "holds a run of depo, not of rule110" in cli.complaint("train", "rule110", "--resume", "--out", finished)


def test_resume_of_nothing(cli, tmp_path) -> None:
    complaint = cli.complaint("train", "depo", "--resume", "--out", tmp_path / "none")
    assert "nothing to resume" in complaint
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["checkpoint.pt", "run.json"])
def test_resume_of_something_damaged(cli, finished, tmp_path, name) -> None:
    out = shutil.copytree(finished, tmp_path / "copy")
    (out / name).write_bytes(b"\x00 no such thing")
    assert f"{out / name} cannot be read" in cli.complaint("train", "depo", "--resume", "--out", out)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["bogus"], "no task 'bogus'; there are depo, gsm, lexicon, retention, rota, rule110"),
        (["depo", "--config", "bogus"], "presets are depo, depo-n1"),
        (["depo", "--config", "bogus.toml"], "bogus.toml"),
        (["depo", "--config", "rule110"], "task depo has no setting bits"),
        (["depo", "--steps", "0"], "max_steps is 0"),
        (["depo", "--minutes", "0"], "max_minutes is 0"),
        (["depo", "--minutes", "nan"], "max_minutes is nan"),
        (["depo", "--threads", "0"], "threads is 0"),
        (["depo", "--muon-lr", "-1"], "muon_lr is -1"),
        (["depo", "--init", "nowhere"], "no model at nowhere"),
    ],
)
def test_mistakes_are_found_before_a_folder_is_made(cli, tmp_path, arguments, named) -> None:
    assert named in cli.complaint("train", *arguments, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_help_names_every_task(cli) -> None:
    words = " ".join(cli("train", "--help").stdout.replace("│", " ").split())
    assert f"One of {', '.join(sorted([*TASKS, 'transcripts']))}." in words


def test_an_out_that_is_a_file(cli, micro) -> None:
    assert "is a file" in cli.complaint("train", "depo", "--out", micro)


def test_a_stage_that_would_fail_hours_later_fails_at_once(cli, micro, tmp_path) -> None:
    late = tmp_path / "late.toml"
    late.write_text(micro.read_text().replace("end_depth = 2", "end_depth = 3"))
    complaint = cli.complaint("train", "depo", "--config", late, "--out", tmp_path / "run")
    assert "depth 3 is outside of 1..2" in complaint
    assert not (tmp_path / "run").exists()


def test_init_starts_from_other_weights_and_their_architecture(cli, finished, tmp_path) -> None:
    small = tmp_path / "small.toml"
    small.write_text(
        "curriculum = [{ end_depth = 2 }]\n[task]\nnodes = 4\nmax_depth = 2\nsymbols = 4\n"
    )  # its default model is another one
    out = tmp_path / "run"
    cli("train", "depo", "--config", small, "--init", finished / "model", "--muon-lr", 1e-9, "--adamw-lr", 1e-9,
        "--steps", 1, "--out", out)  # fmt: skip
    before, after = (load_file(folder / "model/model.safetensors") for folder in (finished, out))
    assert before.keys() == after.keys()
    assert all(before[name].allclose(after[name], atol=1e-6) for name in before)
    cli("train", "depo", "--resume", "--steps", 2, "--out", out)


def test_init_from_a_model_of_another_vocabulary(cli, finished, tmp_path) -> None:
    complaint = cli.complaint("train", "rule110", "--init", finished / "model", "--out", tmp_path / "run")
    assert "has 6 tokens, rule110 as set has 35" in complaint


STOCK = """
visits = [{{ passes = 2 }}]
judge = [2, 1]
curriculum = [{{ end_depth = 2 }}]
batch = 4
{options}
[task]
nodes = 4
max_depth = 2
symbols = 4
[graft]
heads = 1
key_dim = 2
value_dim = 2
[model]
model_type = "llama"
hidden_size = 16
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 2
sleep_passes = 2
"""


@pytest.fixture
def stock(tmp_path) -> Path:
    path = tmp_path / "stock.toml"
    path.write_text(STOCK.format(options=""))
    return path


def test_a_model_of_transformers_is_given_fast_weights_and_goes_on(cli, stock, tmp_path) -> None:
    """From random weights, through a second run from its folder, to --resume."""
    from transformers import AutoModelForCausalLM

    from agentsleep.models.graft import GraftForCausalLM

    result = cli("train", "depo", "--config", stock, "--steps", 1, "--json", "--out", tmp_path / "one")
    assert "llama has no fast weights: gated delta layers were inserted after block 1" in result.stderr
    record = json.loads(result.stdout)
    assert [row["passes"] for row in record["evaluation"]["results"]] == [2, 2]
    assert {row["name"] for row in record["evaluation"]["baselines"]} >= {"chance", "state-reset"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one/model")
    assert isinstance(model, GraftForCausalLM)
    assert (model.config.sleep_window, model.config.sleep_passes) == (8, 2)
    plain = tmp_path / "plain.toml"
    plain.write_text(STOCK.format(options="").partition("[graft]")[0])
    out = tmp_path / "two"
    cli("train", "depo", "--config", plain, "--init", tmp_path / "one/model", "--fast-first", 1, "--truncate", 1,
        "--recompute", "--steps", 2, "--out", out)  # fmt: skip
    config = json.loads((out / "record.json").read_text())["config"]
    assert (config["fast_first"], config["truncate"], config["recompute"]) == (1, 1, True)
    assert config["model"]["model_type"] == "agentsleep_graft"
    cli("train", "depo", "--resume", "--steps", 3, "--out", out)


def test_init_from_a_stock_model_that_knows_too_few_tokens(cli, stock, tmp_path) -> None:
    cli("train", "depo", "--config", stock, "--steps", 1, "--out", tmp_path / "one")
    complaint = cli.complaint("train", "rule110", "--init", tmp_path / "one/model", "--out", tmp_path / "run")
    assert "has 6 tokens, rule110 as set needs 35" in complaint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [("lora = -1", "lora is -1"), ("fast_first = -1", "fast_first is -1"), ('device = "abacus"', "device 'abacus'")],
)
def test_options_of_a_retrofit_that_are_out_of_range(cli, tmp_path, options, named) -> None:
    path = tmp_path / "stock.toml"
    path.write_text(STOCK.format(options=options))
    assert named in cli.complaint("train", "depo", "--config", path, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rota_keeps_its_tokenizer_beside_the_model(cli, micro, tmp_path) -> None:
    from transformers import AutoTokenizer

    config = tmp_path / "rota.toml"
    model = micro.read_text().partition("[model]")
    stage = 'curriculum = [{ form = "pairs", windows = [1], start_depth = 1, end_depth = 1 }]'
    config.write_text(f"visits = [{{ passes = 1 }}]\njudge = [1, 1]\n{stage}\nbatch = 4\n[model]{model[2]}")
    cli("train", "rota", "--config", config, "--steps", 1, "--out", tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run/model", local_files_only=True)
    text = "who comes 3 after bob ?"
    assert tokenizer.decode(tokenizer(f" {text}", add_special_tokens=False)["input_ids"]).strip() == text
    assert tokenizer.chat_template


def test_ctrl_c_leaves_a_checkpoint_from_which_resume_goes_on(cli, micro, tmp_path) -> None:
    out = tmp_path / "a run"
    command = [sys.executable, "-m", "agentsleep.cli", "train", "depo", "--config", str(micro), "--steps", "1000000"]
    run = subprocess.Popen(
        [*command, "--json", "--out", str(out)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # may be ignored where we run
    )
    try:
        assert run.stderr is not None
        first = run.stderr.readline()
        assert first.startswith("step 25 ")
        run.send_signal(signal.SIGINT)
        stdout, stderr = run.communicate(timeout=60)
    finally:
        run.kill()
    assert (run.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    last = stderr.splitlines()[-1]
    stopped = re.fullmatch(r"agentsleep: stopped at step (\d+), which is saved in (.*); go on with: (.*)", last)
    assert stopped is not None
    assert stopped[3] == f"agentsleep train depo --resume --out '{out}'"
    assert (out / "curves.png").read_bytes().startswith(PNG)
    assert not (out / "record.json").exists()
    steps = int(stopped[1]) + 25
    record = json.loads(cli("train", "depo", "--resume", "--steps", steps, "--json", "--out", out).stdout)
    assert record["steps"] == steps
    assert history(out) == sorted(set(history(out)))

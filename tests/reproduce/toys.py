"""Plans so small that a run of theirs takes less than a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentsleep.reproduce import plan

_BASE = """
[base]
curriculum = [{{ {stage} }}]
visits = [{{ passes = 1 }}]
judge = [1, 1]
batch = 4
warmup = 5
max_steps = 30
max_minutes = 5

[base.model]
hidden_size = 16
intermediate_size = 16
pattern = "as"
num_attention_heads = 2
linear_num_heads = 2
linear_key_head_dim = 4
linear_value_head_dim = 4

[paper]
max_steps = 2
"""

HOPS = f"""
task = "depo"
{_BASE.format(stage="windows = [1], start_depth = 1, end_depth = 2")}
[base.task]
nodes = 4
max_depth = 3
symbols = 4

[arms.random]
label = "sleep"
passes = [1, 2]
set = {{ judge = [2, 1], visits = [{{ passes = 1 }}, {{ passes = 2 }}] }}

[arms.n1]
label = "N = 1"
kind = "baseline"
seeds = 2

[arms.full]
label = "full"
kind = "ceiling"
set = {{ eviction = "never", model = {{ pattern = "aa" }} }}

[arms.reset]
label = "reset"
kind = "floor"
set = {{ eviction = "state" }}
"""

FACTS = f"""
task = "retention"
{_BASE.format(stage='form = "facts", windows = [1, 2], start_depth = 1, end_depth = 1')}
[base.task]
facts = 2
symbols = 4
values = 4
noise = 2
ask = "any"

[arms.random]
label = "sleep"
passes = [2]
set = {{ visits = [{{ passes = 1 }}, {{ passes = 2 }}] }}

[arms.full]
label = "full"
set = {{ eviction = "never", model = {{ pattern = "aa" }} }}
"""

TABLES = """
[two]
title = "Two arms"
asks = "Nothing?"

[[two.parts]]
name = "one"
title = "One window"
measure = "depth"
arms = ["hops/random", "hops/n1"]
windows = [1]
depth = 2
questions = 32

[every]
title = "Every measure"
asks = "Nothing?"

[[every.parts]]
name = "depths"
title = "Depths"
measure = "depth"
arms = ["hops/full", "hops/random", "hops/reset"]
windows = [1, 2]
depth = 3
questions = 32
show = { columns = [1, 3] }

[[every.parts]]
name = "cost"
title = "Costs"
measure = "depth"
arms = ["hops/random"]
windows = [1]
depth = 2
questions = 32
show = { picture = 2, drawn = "flops" }

[[every.parts]]
name = "visits"
title = "Visits"
measure = "deepsleep"
arms = ["hops/random"]
windows = [1, 2]
visits = [[1, 1], [2, 1], [1, 2]]
orders = ["oldest first", "newest first", "shuffled"]
depth = 2
batches = 1
show = { picture = 2 }

[[every.parts]]
name = "auto"
title = "Passes"
measure = "auto"
arms = ["hops/random"]
depth = 2
episodes = 4
probes = 2
patience = [1]
max_passes = 4
passes = [1, 2]
show = { picture = 2 }

[[every.parts]]
name = "writes"
title = "Writes"
measure = "writes"
arms = ["hops/random"]
windows = 1
depth = 2
passes = 3
batches = 1

[[every.parts]]
name = "retention"
title = "Retention"
measure = "retention"
arms = ["facts/full", "facts/random"]
later = [0, 1]
forms = ["facts"]
restored = [1]
batches = 2

[[every.parts]]
name = "saturation"
title = "Saturation"
measure = "retention"
arms = ["facts/random"]
later = [0, 1]
forms = ["facts"]
restored = []
batches = 1
show = { as = "saturation" }
"""


@contextmanager
def toy_plans(folder: Path) -> Iterator[Path]:
    """The toys in place of the plans that come with the package; yields their folder, where they may be changed."""
    plans = folder / "plans"
    plans.mkdir(parents=True)
    for name, text in (("hops", HOPS), ("facts", FACTS), ("tables", TABLES)):
        (plans / f"{name}.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "files", lambda package: folder)
        plan._read.cache_clear()
        yield plans
    plan._read.cache_clear()


def change(plans: Path, name: str, old: str, new: str) -> None:
    """Changes a plan."""
    path = plans / f"{name}.toml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    plan._read.cache_clear()

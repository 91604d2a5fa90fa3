from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from agentsleep.errors import SettingsError
from agentsleep.tasks import Difficulty
from agentsleep.training.config import Stage, TrainConfig, Visits
from agentsleep.training.curriculum import Curriculum

JUDGE, OTHER = (4, 1), (1, 1)


def curriculum(*stages: Stage, memory: int = 100, mastered: float = 0.9) -> Curriculum:
    visits = (Visits(passes=1), Visits(passes=4))
    return Curriculum(TrainConfig(visits=visits, judge=JUDGE, curriculum=stages, memory=memory, mastered=mastered))


def heard(run: Curriculum, visits: tuple[int, int], hits: dict[int, tuple[int, int]]) -> bool:
    """A batch of the stage's own form."""
    return run.heard(run.stage.form, visits, hits)


def test_a_depth_more_when_the_judge_masters_the_deepest() -> None:
    run = curriculum(Stage(end_depth=3))
    assert run.depth == 1
    assert not heard(run, JUDGE, {1: (60, 60)})  # right, but too few to know
    assert heard(run, JUDGE, {1: (38, 40)})
    assert run.depth == 2
    assert run.accuracy(1) == (0.98, 100)
    assert not heard(run, JUDGE, {1: (500, 500)})  # of what is easy already
    assert run.depth == 2


def test_others_than_the_judge_do_not_count() -> None:
    run = curriculum(Stage(end_depth=3))
    for _ in range(20):
        assert not heard(run, OTHER, {1: (100, 100)})
    assert run.depth == 1
    assert run.accuracy(1) == (0.0, 0)


def test_a_stage_may_have_its_own_judge() -> None:
    run = curriculum(Stage(end_depth=1), Stage(end_depth=3, judge=OTHER))
    assert not heard(run, OTHER, {1: (100, 100)})
    assert heard(run, JUDGE, {1: (100, 100)})
    assert run.stage_index == 1
    assert not heard(run, JUDGE, {1: (100, 100)})
    assert heard(run, OTHER, {1: (100, 100)})
    assert run.depth == 2


def test_a_mix_is_drawn_but_not_listened_to() -> None:
    run = curriculum(Stage(form="live", mix=("pairs", "pairs", "facts"), batch=16, end_depth=3))
    rng = np.random.default_rng(0)
    drawn = Counter(run.difficulty(rng).form for _ in range(800))
    assert sorted(drawn) == ["facts", "live", "pairs"]
    assert 340 < drawn["pairs"] < 460
    assert 160 < drawn["live"] < 240
    assert not run.heard("pairs", JUDGE, {1: (100, 100)})
    assert run.accuracy(1) == (0.0, 0)
    assert run.heard("live", JUDGE, {1: (100, 100)})
    assert (run.batch("live"), run.batch("pairs")) == (16, TrainConfig().batch)
    assert curriculum(Stage(form="live")).batch("live") == TrainConfig().batch


def test_what_is_not_mastered_stays() -> None:
    run = curriculum(Stage(end_depth=3))
    for _ in range(20):
        assert not heard(run, JUDGE, {1: (89, 100)})
    assert run.depth == 1


def test_only_the_latest_answers_count() -> None:
    run = curriculum(Stage(end_depth=3))
    for _ in range(50):
        heard(run, JUDGE, {1: (0, 20)})
    assert run.accuracy(1) == (0.0, 100)
    grown = [heard(run, JUDGE, {1: (20, 20)}) for _ in range(5)]
    assert grown == [False, False, False, False, True]  # 100 answers, all right
    assert run.depth == 2


def test_stages_follow_each_other() -> None:
    run = curriculum(Stage(end_depth=2), Stage(windows=(3,), form="live", start_depth=1, end_depth=4))
    for depth in (1, 2):
        assert run.depth == depth
        assert heard(run, JUDGE, {depth: (100, 100)})
    assert run.stage_index == 1
    assert run.depth == 2  # what was mastered is not asked anew from the start
    assert run.accuracy(2) == (0.0, 0)  # but has to be shown in the new form
    rng = np.random.default_rng(0)
    assert run.difficulty(rng) == Difficulty(windows=3, depth=2, form="live")


@pytest.mark.parametrize(("start", "end", "wanted"), [(1, 4, 3), (4, 6, 4), (1, 2, 2)])
def test_the_depth_a_stage_starts_with(start: int, end: int, wanted: int) -> None:
    run = curriculum(Stage(start_depth=3, end_depth=3), Stage(start_depth=start, end_depth=end))
    assert run.depth == 3
    assert heard(run, JUDGE, {3: (100, 100)})
    assert run.depth == wanted


@pytest.mark.parametrize(
    ("start", "end", "stride", "wanted"),
    [(4, 16, 4, [4, 8, 12, 16]), (1, 8, 3, [1, 4, 7, 8]), (2, 3, 9, [2, 3]), (1, 3, 1, [1, 2, 3])],
)
def test_a_stage_grows_by_its_stride_up_to_its_end(start: int, end: int, stride: int, wanted: list[int]) -> None:
    run = curriculum(Stage(start_depth=start, end_depth=end, stride=stride), Stage(end_depth=end))
    seen = []
    while run.stage_index == 0:
        seen.append(run.depth)
        assert not heard(run, JUDGE, {run.depth: (80, 100)})
        assert heard(run, JUDGE, {run.depth: (100, 100)})
    assert seen == wanted
    assert run.depth == end


def test_every_stage_has_its_own_stride() -> None:
    run = curriculum(Stage(end_depth=3, stride=2), Stage(start_depth=3, end_depth=9, stride=4), Stage(end_depth=10))
    depths = []
    for _ in range(7):
        depths.append((run.stage_index, run.depth))
        heard(run, JUDGE, {run.depth: (100, 100)})
    assert depths == [(0, 1), (0, 3), (1, 3), (1, 7), (1, 9), (2, 9), (2, 10)]


def test_the_last_stage_has_no_end() -> None:
    run = curriculum(Stage(end_depth=1, max_steps=5))
    for _ in range(20):
        assert not heard(run, JUDGE, {1: (100, 100)})
    assert (run.stage_index, run.depth) == (0, 1)


def test_a_stage_can_end_by_steps() -> None:
    run = curriculum(Stage(max_steps=3), Stage(max_steps=2), Stage())
    assert [heard(run, OTHER, {1: (0, 10)}) for _ in range(7)] == [False, False, True, False, True, False, False]
    assert run.stage_index == 2


def test_windows_are_drawn_evenly() -> None:
    run = curriculum(Stage(windows=(1, 2, 4)))
    rng = np.random.default_rng(0)
    drawn = Counter(run.difficulty(rng).windows for _ in range(600))
    assert sorted(drawn) == [1, 2, 4]
    assert min(drawn.values()) > 160


def test_a_stage_says_how_many_questions_are_of_the_full_depth() -> None:
    run = curriculum(Stage(focus=0.25, max_steps=1), Stage())
    rng = np.random.default_rng(0)
    assert run.difficulty(rng).focus == 0.25
    heard(run, OTHER, {})
    assert run.difficulty(rng).focus == 0.0


def test_it_goes_on_from_a_checkpoint() -> None:
    stages = (Stage(end_depth=2, max_steps=50), Stage(end_depth=3))
    run, other = curriculum(*stages), curriculum(*stages)
    for _ in range(7):
        heard(run, JUDGE, {1: (19, 20), 2: (11, 20)})
    saved = run.state_dict()
    assert json.loads(json.dumps(saved))  # plain values
    other.load_state_dict(saved)
    assert other.state_dict() == saved
    for _ in range(8):
        assert heard(run, JUDGE, {2: (20, 20)}) == heard(other, JUDGE, {2: (20, 20)})
        assert run.state_dict() == other.state_dict()
    assert run.stage_index == 1
    assert saved["depth"] == 2  # what was saved did not change with the run


def test_a_checkpoint_of_a_longer_curriculum() -> None:
    run = curriculum(Stage(max_steps=1), Stage())
    heard(run, OTHER, {})
    with pytest.raises(SettingsError, match="in stage 1, counted from 0, of a curriculum that now has 1"):
        curriculum(Stage()).load_state_dict(run.state_dict())

"""The protocol as a model: every order of the scripts' calls, with losses, and what must hold in each.

The model's programs carry the names of the functions they stand for; what `reap` decides and which
transitions there are is the real code's word. A rule that breaks is told with the steps that lead there.
"""

from __future__ import annotations

import random

import pytest
from tools.model_cloud import Cloud
from tools.model_explorer import Explorer
from tools.model_mutants import MUTANTS, Mutant
from tools.model_places import place_of
from tools.model_scenes import EVERYBODY, SCENES, Scene
from tools.model_search import Search
from tools.model_world import Left
from tools.tally import Tally

WORLDS, FULL_WORLDS = 3_000, 400_000
WALKS, FULL_WALKS = 80, 4_000
WALK_STEPS = 300


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_every_order_keeps_the_rules(tally: Tally, full: bool, scene: Scene) -> None:
    explorer = scene.explorer()
    search = Search(explorer)
    search.exhaust(scene.begin(explorer, full=full), FULL_WORLDS if full else WORLDS)
    outcome = "worlds, all there are" if search.complete else "worlds, the nearest"
    tally.count(f"model, {scene.name}", outcome, search.worlds)
    tally.count("model, steps checked", "in every order", search.steps)


def test_long_ways_keep_the_rules(tally: Tally, full: bool, chance: random.Random) -> None:
    """Everybody acts, and more goes wrong than can be tried in every order."""
    search = Search(Explorer())
    for _ in range(FULL_WALKS if full else WALKS):
        actors = [actor for actor in EVERYBODY if chance.random() < 0.8]
        left = Left(chance.randrange(5), chance.randrange(3), chance.randrange(12))
        search.walk(search.explorer.begin(Cloud(), actors, left), chance, WALK_STEPS)
    tally.count("model, steps checked", "at random", search.steps)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.protocol.__name__)
def test_a_broken_protocol_breaks_a_rule(tally: Tally, mutant: Mutant) -> None:
    explorer = mutant.scene.explorer(mutant.protocol())
    with pytest.raises(AssertionError, match=mutant.rule):
        Search(explorer).exhaust(mutant.scene.begin(explorer, full=False), 30_000)
    tally.count("model, broken protocols", "found out")


def test_every_step_stands_in_a_script(chance: random.Random) -> None:
    """A step whose function is gone, or makes another call, asks for another look at the model."""
    places = set()
    for scene in SCENES:
        explorer = scene.explorer()
        search = Search(explorer)
        for _ in range(6):
            search.walk(scene.begin(explorer, full=True), chance, WALK_STEPS)
        places |= explorer.places
    assert len(places) > 30
    assert [place for place in sorted(places) if place_of(*place) is None] == []

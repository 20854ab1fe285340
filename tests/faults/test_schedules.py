"""The real scripts in random orders, with broken answers and programs that are killed: the rules hold."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from tools.endings import reap_leaves_nothing
from tools.lab import ENVIRONMENT, Lab
from tools.programs import Ended
from tools.races import RUN, beat, kill, kill_now, launch
from tools.schedules import Cast, Player, Program, Schedule, Start
from tools.tally import Tally

from chronos_ec2.errors import ChronosError
from chronos_ec2.exit_codes import ExitCode

SHORT, FULL = 1, 60
INSTANCE = """
bucket=$1 environment=$2 run=$3 id=$4
move() { transition_state "$bucket" "$environment" "$run" "$@"; }
for phase in "${@:5}"; do
  move "$phase" "$phase" "{\\"instance_id\\": \\"$id\\"}" || break
  if read_state "$bucket" "$environment"; then beat_if_quiet "$bucket" "$environment" "$run"; fi
done
if [[ -n $(reason_to_stop "$bucket" "$environment" "$run") ]]; then outcome=killed; else outcome=succeeded; fi
move cleanup cleanup || true
finish_run_record "$bucket" "$environment" "$run" "$outcome" '' '' 0 || true
delete_state "$bucket" "$environment" "$run" || true
aws ec2 terminate-instances --instance-ids "$id" >/dev/null
"""
"""What bootstrap.sh does to the state, by its own library."""


class Thread:
    """A program in this process: it cannot be killed, only its calls can be cut off."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._said = ""
        self._code = 0

        def run() -> None:
            try:
                self._said = str(work())
            except ChronosError as error:
                self._code, self._said = int(error.exit_code), str(error)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def over(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def kill(self) -> None:
        """Nothing: the answer that it waits for is cut off."""

    def wait(self, seconds: float = 300.0) -> Ended:
        """Its end."""
        self._thread.join(seconds)
        return Ended(self._code if self.over() else -1, self._said, "")


def reap(lab: Lab, url: str) -> Program:
    """`invoke reap`, now."""
    return Thread(lambda: lab.reap(later=timedelta(0), url=url))


def heartbeat(lab: Lab, url: str) -> Program:
    """The wrapper's heartbeat."""
    found = beat(lab, url)
    return Thread(found.wait)


def instance(run_id: str, machine: str, *phases: str) -> Start:
    """A run's instance."""
    return lambda lab, url: lab.bash(INSTANCE, lab.bucket, ENVIRONMENT, run_id, machine, *phases, url=url)


def scene(lab: Lab, chance: random.Random) -> tuple[Cast, Stage]:
    """Where a schedule begins, who acts in it from the start, and who comes on later."""
    launches: Cast = {"launch 1": launch, "launch 2": launch}
    others: Cast = {"kill": kill} if chance.random() < 0.5 else {"kill --now": kill_now}
    others["reap"] = reap
    begin = chance.choice(["free", "free", "stale", "ending", "training"])
    if begin == "free":
        return launches, Stage(lab, chance, others)
    machine = lab.machine(RUN)
    lab.claim(RUN, status="results_sync" if begin == "ending" else "training", instance_id=machine)
    if begin == "stale":
        lab.aws.ec2.terminate_instances(InstanceIds=[machine])
        lab.wait_for_no_instance()
        return launches | others, Stage(lab, chance, {})
    phases = ["results_sync"] if begin == "training" else []
    others |= {"instance": instance(RUN, machine, *phases), "heartbeat": heartbeat}
    return dict(chance.sample(sorted(others.items()), 3)), Stage(lab, chance, launches)


def test_random_schedules(lab: Lab, tally: Tally, full: bool, chance: random.Random) -> None:
    for _ in range(FULL if full else SHORT):
        seed = chance.randrange(10**9)
        lab.clear()
        schedule = Schedule(lab, seed)
        cast, stage = scene(lab, random.Random(seed))
        try:
            players = schedule.play(cast, stage.look)
            judge(lab, players)
            outcomes = end_of_all(lab)
        except AssertionError as error:
            lines = "\n  ".join(schedule.story)
            raise AssertionError(f"{error}\nschedule {seed}: {', '.join(cast)}\n  {lines}") from error
        tally.count("random schedules of the real scripts", "all ended and recorded")
        for outcome in outcomes:
            tally.count("random schedules, runs", outcome)
        for what, times in schedule.counts.items():
            tally.count("random schedules, what happened", what, times)


class Stage:
    """What can be seen at any time: a run has one living instance at most. One that is launched acts at once.

    Args:
        late: who comes on in the middle, one after the other.
    """

    def __init__(self, lab: Lab, chance: random.Random, late: Cast) -> None:
        self._lab = lab
        self._chance = chance
        self._late = list(late.items())
        self._seen = set(lab.instances())

    def look(self) -> Cast:
        """Check it; who comes on now."""
        live = self._lab.instances()
        assert len(set(live.values())) == len(live), f"two instances of one run: {live}"
        born = {machine: run_id for machine, run_id in live.items() if machine not in self._seen}
        self._seen |= set(born)
        phases = ("data_sync", "training", "results_sync")
        found = {f"instance of {run}": instance(run, machine, *phases) for machine, run in born.items()}
        if self._late and self._chance.random() < 0.3:
            found |= dict([self._late.pop()])
        return found


def judge(lab: Lab, players: list[Player]) -> None:
    """What each program said is true, and the published states keep the rules."""
    lab.history.check()
    owners = {str(state["run_id"]) for state in lab.history.states.values() if state is not None}
    for player in players:
        assert player.ended is not None
        code, said = player.ended.status, player.ended.stderr
        assert "Traceback" not in said, said
        assert player.killed or code in set(ExitCode), (player.name, player.ended)
        if player.name == "reap":
            assert not player.asked("TerminateInstances"), "reap ended an instance of the last two minutes"
        if player.name.startswith("launch") and code == ExitCode.OK:
            run_id = json.loads(player.ended.stdout)["run_id"]
            assert run_id in owners and lab.record(run_id) is not None, player.ended
        if player.name.startswith("launch") and code == ExitCode.HELD:
            assert "holds" in said or "changed hands" in said, player.ended


def end_of_all(lab: Lab) -> list[str]:
    """Once all is quiet, `reap` leaves no instance without an owner, at last nothing; the runs' outcomes."""
    reap_leaves_nothing(lab)
    code, said = lab.reap(later=timedelta(hours=2))
    assert code == ExitCode.OK and lab.staged() == [], said
    lab.history.check()
    records = [lab.record(run_id) or {} for run_id in lab.run_ids()]
    assert all(record.get("outcome") and record["ended_at"] for record in records), records
    return [str(record["outcome"]) for record in records]


def test_what_breaks_the_rules_is_seen(lab: Lab) -> None:
    stage = Stage(lab, random.Random(0), {})
    lab.machine(RUN)
    assert list(stage.look()) == [f"instance of {RUN}"]
    lab.machine(RUN)
    with pytest.raises(AssertionError, match="two instances of one run"):
        stage.look()

"""The model of `invoke reap`: what it decides, the real reap_plan.py and outcome.py decide."""

from __future__ import annotations

from functools import cache
from typing import Any, Final, NamedTuple

from botocore.exceptions import ClientError

from chronos_ec2.exit_codes import ExitCode
from chronos_ec2.state.clock import to_text
from chronos_ec2.workstation import reap_plan
from chronos_ec2.workstation.outcome import Fate, instance_fate
from tools.model_cloud import (
    CLAIM_PATIENCE,
    DEADLINE_TICKS,
    FAIL,
    MISSING,
    OK,
    STALE_AFTER,
    TICK,
    Cloud,
    Machine,
    Record,
    State,
    moment,
)
from tools.model_helpers import Helpers
from tools.model_steps import Call, Goto, Steps, retry_with_backoff

ENVIRONMENT: Final = "dev"
FREE_RACES: Final = 5
QUIET_TICKS: Final = 60 / TICK.total_seconds()
WRITE_ATTEMPTS: Final = 4


class Ec2:
    """What `instance_fate` asks: DescribeInstances, by id or by tags, of what EC2 shows."""

    def __init__(self, cloud: Cloud) -> None:
        self._machines = [machine for machine in cloud.machines if machine.shown]

    def get_paginator(self, _operation: str) -> Ec2:
        """Itself."""
        return self

    def paginate(self, **wanted: Any) -> list[dict[str, Any]]:
        """One page."""
        if "InstanceIds" in wanted:
            found = [machine for machine in self._machines if wanted["InstanceIds"] == [instance_id(machine)]]
            if not found:
                raise ClientError({"Error": {"Code": "InvalidInstanceID.NotFound"}}, "DescribeInstances")
        else:
            run = next(item["Values"][0] for item in wanted["Filters"] if item["Name"] == "tag:RunId")
            found = [machine for machine in self._machines if run_id(machine.run) == run]
        return [{"Reservations": [{"Instances": [_described(machine) for machine in found]}]}]


_POWER: Final = {
    "running": "running",
    "shutting": "shutting-down",
    "terminated": "terminated",
    "stillborn": "terminated",
}


def _described(machine: Machine) -> dict[str, Any]:
    return {"InstanceId": instance_id(machine), "State": {"Name": _POWER[machine.power]}}


def instance_id(machine: Machine) -> str:
    """An instance's id as text."""
    return f"i-{machine.number}"


def run_id(run: int) -> str:
    """A run's id as text."""
    return f"2025-01-15-{run:06d}"


@cache
def fate_of(cloud: Cloud, run: int, number: int | None, started: int | None) -> Fate:
    """What the real `instance_fate` makes of EC2's answer."""
    return instance_fate(
        Ec2(cloud),  # type: ignore[arg-type]
        ENVIRONMENT,
        run_id(run),
        None if number is None else f"i-{number}",
        started_at=None if started is None else moment(started),
        now=lambda: moment(cloud.now),
    )


def fate(cloud: Cloud, run: int, number: int | None, started: int | None) -> tuple[Cloud, Any]:
    """DescribeInstances, seen by Python: its fate's word."""
    seen = Cloud(now=cloud.now, machines=cloud.machines)
    return cloud, fate_of(seen, run, number, started).state


class Plan(NamedTuple):
    """What `decide` has decided."""

    terminate: tuple[tuple[int, int], ...]
    free: bool


@cache
def decided(now: int, held: State | None, word: str | None, machines: tuple[Machine, ...]) -> Plan:
    """What the real `decide` makes of a survey."""
    holding = None
    if held is not None:
        holding = reap_plan.Holding(_body(held), str(held.writer), fate=Fate(word, ""))  # type: ignore[arg-type]
    survey = reap_plan.Survey(
        environment=ENVIRONMENT,
        now=moment(now),
        holding=holding,
        machines=[
            reap_plan.Machine(instance_id(machine), run_id(machine.run), moment(machine.launched))
            for machine in machines
        ],
        staged=[],
    )
    actions = reap_plan.decide(survey, stale_after=STALE_AFTER, claim_patience=CLAIM_PATIENCE)
    ended = {action.what for action in actions if action.kind == "terminate"}
    return Plan(
        tuple((machine.number, machine.run) for machine in machines if instance_id(machine) in ended),
        any(action.kind == "free" for action in actions),
    )


def _body(state: State) -> dict[str, Any]:
    return {
        "run_id": run_id(state.run),
        "status": state.status,
        "instance_id": None if state.instance is None else f"i-{state.instance}",
        "timestamps": {"start": to_text(moment(state.started)), "last_update": to_text(moment(state.heard))},
        "control": {"deadline": to_text(moment(state.started + DEADLINE_TICKS))},
    }


class Reap(Helpers):
    """reap_look.py and reap.py, and list_runs of runs.py, which they end with."""

    def survey(self) -> Steps:
        """What there is, and what `decide` makes of it."""
        now = yield Call("now")
        found = yield from self.holding()
        if found is FAIL:
            return ExitCode.FAILED
        held, word = found
        machines = yield from self.machines()
        return ExitCode.FAILED if machines is FAIL else self._decided(now, held, word, machines)

    def _decided(self, now: int, held: State | None, word: str | None, machines: tuple[Machine, ...]) -> Goto:
        return Goto("carry_out", (held, word, decided(now, held, word, machines)))

    def holding(self) -> Steps:
        """The state and its instance's fate."""
        held = yield from self._ask(Call("get_state"))
        if held is FAIL:
            return FAIL
        if held is None:
            return None, None
        word = yield from self._ask(Call("fate", (held.run, held.instance, held.started)))
        return held, "unknown" if word is FAIL else word

    def machines(self) -> Steps:
        return (yield from self._ask(Call("list_live", (None,))))

    def _ask(self, call: Call) -> Steps:
        return (yield from retry_with_backoff(call))

    def carry_out(self, held: State | None, word: str | None, plan: Plan) -> Steps:
        """Terminate, and wait; then the records and the claim."""
        if plan.terminate:
            gone = yield from self._terminate(tuple(number for number, _ in plan.terminate))
            if gone is not OK:
                return ExitCode.FAILED
        for _, run in plan.terminate:
            killed = held is not None and held.run == run and held.killed
            if (yield from self.finish_record(run, killed)) is FAIL:
                return ExitCode.FAILED
        if plan.free:
            assert held is not None
            if word is not None and (yield from self._record_end(held)) is FAIL:
                return ExitCode.FAILED
            yield from self._free(held)
        return Goto("list_runs")

    def _terminate(self, numbers: tuple[int, ...]) -> Steps:
        refused = OK
        for number in numbers:
            answer = yield from retry_with_backoff(Call("terminate", ((number,),)))
            refused = answer if refused is OK else refused
        if refused is not OK:
            return refused
        return (yield Call("wait_gone", (numbers, (), "")))

    def _record_end(self, held: State) -> Steps:
        return (yield from self.finish_record(held.run, held.killed))

    def _free(self, held: State) -> Steps:
        """Delete what was seen, or what the same run has made of it since."""
        for _ in range(FREE_RACES):
            answer = yield from retry_with_backoff(Call("drop_state", (held,)))
            if answer in (OK, MISSING, FAIL):
                return answer
            found = yield from self.holding()
            if found is FAIL or found[0] is None or found[0].run != held.run:
                return FAIL
            held = found[0]
        return FAIL

    def finish_record(self, run: int, killed: bool) -> Steps:
        """Complete a record, unless it has its end."""
        for _ in range(WRITE_ATTEMPTS):
            record = yield from self._ask(Call("get_record", (run,)))
            if record is FAIL or record is None or record.outcome is not None:
                return record
            ended = record._replace(outcome="killed" if killed else "lost")
            answer = yield from retry_with_backoff(Call("put_record", (run, ended, record)))
            if answer in (OK, FAIL):
                return answer
        return OK

    def list_runs(self) -> Steps:
        """Runs whose machine and state are gone, and whose record has no end."""
        held = yield from self._ask(Call("get_state"))
        runs = FAIL if held is FAIL else (yield from self._ask(Call("list_runs")))
        if runs is FAIL:
            return ExitCode.FAILED
        return Goto("one", (held, runs))

    def one(self, held: State | None, runs: tuple[int, ...]) -> Steps:
        """The next of them."""
        if not runs:
            return ExitCode.OK
        run, rest = runs[0], runs[1:]
        state = held if held is not None and held.run == run else None
        record = yield from self._ask(Call("get_record", (run,)))
        if record is FAIL:
            return ExitCode.FAILED
        now = yield Call("now")
        if record is not None and _needs_an_end(record.outcome, state, now):
            yield from self._completed(run, record, state)
        return Goto("one", (held, rest))

    def _completed(self, run: int, record: Any, state: State | None) -> Steps:
        number = record.instance if record.instance is not None else state.instance if state else None
        word = yield from self._ask(Call("fate", (run, number, _expected_since(record, state))))
        if word != "gone":
            return
        held = yield from self._ask(Call("get_state"))
        if held is FAIL:
            return
        if held is None or held.run != run:
            yield from self.finish_record(run, False)
        elif held.instance is not None:
            yield from self.finish_record(run, held.killed)


def _expected_since(record: Record, held: State | None) -> int:
    if held is None:
        return record.started
    return held.started if held.instance is not None else held.heard


def _needs_an_end(outcome: str | None, held: State | None, now: int) -> bool:
    return outcome is None and (held is None or now - held.heard > QUIET_TICKS)

"""What becomes of requests and adapters when replicas come and go; the replicas are played."""

from __future__ import annotations

import asyncio

import pytest

from halfbyte.engine import replica_set
from halfbyte.engine.messages import Abort, Add, BeginAgain, Call, Events, Ready, Reply
from halfbyte.engine.outputs import Delta
from halfbyte.engine.replica_set import MOST_MOVES, ReplicaSet
from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.engine.stats import Stats
from halfbyte.errors import AdapterError, CheckpointError, EngineStoppedError


class PlayedLink:
    pid = 1

    def __init__(self, number, on_message, on_end):
        self.number, self.say, self.end = number, on_message, on_end
        self.heard, self.stopped = [], False

    def send(self, message):
        self.heard.append(message)

    def stop(self):
        self.stopped = True

    def how_it_ended(self):
        return "was ended by SIGKILL"

    @property
    def adds(self):
        return [message.request_id for message in self.heard if isinstance(message, Add)]


class Stage:
    """A set of played replicas; `links` are all that were ever started."""

    def __init__(self, count, ready=True):
        self.links, self.said, self.ends = [], [], 0
        self.set = ReplicaSet(self.connect, count, self.said.append, self.on_end)
        if ready:
            for link in list(self.links):
                link.say(Ready(256))

    def connect(self, *arguments):
        self.links.append(PlayedLink(*arguments))
        return self.links[-1]

    def on_end(self):
        self.ends += 1

    async def settle(self):
        for _ in range(5):
            await asyncio.sleep(0)

    def add(self, request_id, token=1, **more):
        self.set.send(Add(request_id, [token] * 32, SamplingParams(), 0, 0, None, None, **more))

    def results(self):
        return [result for message in self.said if isinstance(message, Events) for result in message.results]


def play(count=2, ready=True):
    """Runs a coroutine function with a stage of so many replicas."""

    def run(act):
        async def whole():
            stage = Stage(count, ready)
            await stage.settle()
            await act(stage)

        return lambda: asyncio.run(whole())

    return run


def step(*request_ids, **delta):
    return Events([(request_id, Delta("x", 1, **delta)) for request_id in request_ids], Stats(blocks=9, running=1))


@play()
async def test_requests_are_spread_and_ended_where_they_are(stage):
    one, two = stage.links
    for number in range(4):
        stage.add(f"r{number}", token=number)
    assert (one.adds, two.adds) == (["r0", "r2"], ["r1", "r3"])
    stage.set.send(Abort("r1"))
    assert two.heard[-1] == Abort("r1")
    assert [replica.unfinished for replica in stage.set.replicas] == [2, 1]
    two.say(step("r3"))
    one.say(step("r0"))
    await stage.settle()
    assert [request_id for request_id, _ in stage.results()] == ["r3", "r0"]
    assert stage.said[-1].stats == Stats(blocks=18, running=2), "of both"


@play()
async def test_a_death_moves_what_has_not_begun_and_ends_what_has(stage):
    one, two = stage.links
    for token, name in enumerate(("read", "r", "whole", "s", "late", "t")):
        stage.add(name, token=token, whole=name == "whole")
    assert one.adds == ["read", "whole", "late"]
    one.say(step("read", "whole"))
    await stage.settle()
    stage.said.clear()
    one.end()
    await stage.settle()
    ((lost, error), (again, sign)) = stage.results()
    assert (lost, again) == ("read", "whole")
    assert isinstance(error, EngineStoppedError)
    assert "replica 0 was ended by SIGKILL before the request was answered" in str(error)
    assert isinstance(sign, BeginAgain)
    assert two.adds == ["r", "s", "t", "whole", "late"]
    assert len(stage.links) == 3, "it is started again"
    assert [replica.restarts for replica in stage.set.replicas] == [1, 0]
    one.say(step("late"))
    await stage.settle()
    assert len(stage.results()) == 2, "nobody listens to the dead"
    stage.links[2].say(Ready(256))
    await stage.settle()
    stage.add("new")
    assert stage.links[2].adds == ["new"]


@play()
async def test_with_none_up_requests_wait(stage):
    stage.add("a")
    for link in stage.links[:2]:
        link.end()
        await stage.settle()
    stage.add("b")
    assert not stage.set.is_ready
    assert stage.results() == []
    stage.links[3].say(Ready(256))
    await stage.settle()
    assert stage.set.is_ready
    assert stage.links[3].adds == ["a", "b"]


@play(1)
async def test_a_request_that_was_at_each_crash_is_given_up(stage):
    stage.add("bad")
    for _ in range(MOST_MOVES + 1):
        stage.links[-1].end()
        await stage.settle()
        stage.links[-1].say(Ready(256))
        await stage.settle()
    ((name, error),) = stage.results()
    assert (name, type(error)) == ("bad", EngineStoppedError)
    assert stage.links[-1].adds == []


@play(2, ready=False)
async def test_what_cannot_be_started_at_all_ends_everything(stage):
    stage.links[1].say(Ready(stopped=CheckpointError("damaged")))
    stage.links[1].end()
    await stage.settle()
    while not stage.links[0].stopped:  # in a thread
        await asyncio.sleep(0.001)
    assert stage.ends == 1
    assert str(stage.said[0].stopped) == "damaged"


def test_one_that_fails_to_start_is_tried_again(monkeypatch):
    monkeypatch.setattr(replica_set, "PAUSES", (0.01,))

    @play(2, ready=False)
    async def act(stage):
        stage.links[0].say(Ready(256))
        await stage.settle()
        stage.links[1].end()
        await stage.settle()
        assert stage.ends == 0
        stage.links[0].end()
        await stage.settle()
        stage.add("a")
        stage.links[2].say(Ready(stopped=CheckpointError("the folder is gone")))
        stage.links[2].end()
        await stage.settle()
        ((_, error),) = stage.results()
        assert "replica 0 was ended by SIGKILL while it was started: the folder is gone" in str(error)
        while len(stage.links) < 5:  # both are begun once more
            await asyncio.sleep(0.01)

    act()


@play()
async def test_an_adapter_is_loaded_on_all_and_again(stage):
    load = Call(1, "load_adapter", ("tuned", "/folder"))
    stage.set.send(load)
    one, two = stage.links
    one.say(Reply(1, None))
    await stage.settle()
    assert Reply(1, None) not in stage.said
    two.say(Reply(1, None))
    await stage.settle()
    assert stage.said[-1] == Reply(1, None)
    one.end()
    await stage.settle()
    stage.add("a")
    assert stage.links[2].heard == [load], "before any request"
    stage.set.send(Call(2, "unload_adapter", ("tuned",)))
    two.end()
    await stage.settle()
    assert stage.links[3].heard[0] == load, "until all have unloaded it it is there"
    stage.links[2].say(Reply(2, None))
    await stage.settle()
    assert stage.said[-1] == Reply(2, None), "the dead are not waited for"


@play()
async def test_an_adapter_that_one_refuses_is_taken_back(stage):
    stage.set.send(Call(1, "load_adapter", ("tuned", "/folder")))
    refusal = AdapterError("no")
    stage.links[0].say(Reply(1, None))
    stage.links[1].say(Reply(1, refusal))
    await stage.settle()
    assert stage.said[-1] == Reply(1, refusal)
    assert all(link.heard[-1].method == "unload_adapter" for link in stage.links)


@pytest.mark.parametrize("count", [1, 3])
def test_all_are_stopped(count):
    @play(count)
    async def act(stage):
        stage.set.stop()
        stage.links[0].end()
        await stage.settle()
        assert len(stage.links) == count
        assert all(link.stopped for link in stage.links)

    act()

"""The fetch plan: every chunk once or again elsewhere, strikes, stalls, stealing and endgame, in virtual time."""

import heapq
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.fetch import MAX_STRIKES, MAX_UNANSWERED_BYTES, RUN_BYTES, STALL_S, FetchPlan, Run

KIB = 1024
VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0012-fetch" / "plans.json"


@dataclass(frozen=True)
class Peer:
    """A simulated source: its rate, what it holds, what it corrupts, and when it falls silent or dies."""

    name: str
    rate: float = 50e6
    have: frozenset[int] | None = None
    corrupt: frozenset[int] = frozenset()
    silent_after: int = 10**9
    dies_after: int = 10**9


@dataclass
class Outcome:
    """What a simulated fetch came to."""

    seconds: float = 0.0
    verified: list[int] = field(default_factory=list)
    asked: dict[str, list[Run]] = field(default_factory=dict)
    refused: dict[str, set[int]] = field(default_factory=dict)
    moved_bytes: int = 0
    given_up: list[str] = field(default_factory=list)


def simulate(lengths: list[int], missing: list[int], peers: list[Peer], run_bytes: int = 256 * KIB) -> Outcome:
    """Drive a plan to its end in virtual time: each peer answers its requests one after the other."""
    plan = FetchPlan(lengths, missing, run_bytes)
    outcome, now, order = Outcome(), 0.0, itertools.count()
    arrivals: list[tuple[float, int, Peer, Run]] = []
    free_at = {peer.name: 0.0 for peer in peers}
    answered = {peer.name: 0 for peer in peers}
    for peer in peers:
        plan.set_source(peer.name, peer.have, now)
    while not plan.done:
        for peer in peers:
            while (run := plan.next_run(peer.name, now)) is not None:
                outcome.asked.setdefault(peer.name, []).append(run)
                check_request(plan, peer, run, outcome)
                free_at[peer.name] = max(free_at[peer.name], now) + run.length / peer.rate
                if len(outcome.asked[peer.name]) <= peer.silent_after:
                    heapq.heappush(arrivals, (free_at[peer.name], next(order), peer, run))
        if not arrivals and not plan.sources:
            break
        now = arrivals[0][0] if arrivals else now + 1.0
        now = min(now, outcome.seconds + 1.0)
        outcome.seconds = now
        while arrivals and arrivals[0][0] <= now:
            _, _, peer, run = heapq.heappop(arrivals)
            if peer.name not in plan.sources:
                continue
            answered[peer.name] += 1
            if answered[peer.name] > peer.dies_after:
                plan.drop_source(peer.name)
                continue
            plan.receive_bytes(peer.name, run.length, now)
            outcome.moved_bytes += run.length
            needed = plan.needed(run)
            bad = [chunk for chunk in needed if chunk in peer.corrupt]
            good = [chunk for chunk in needed if chunk not in peer.corrupt]
            outcome.verified += good
            outcome.refused.setdefault(peer.name, set()).update(bad)
            plan.receive_run(peer.name, run, good, bad, now)
            if plan.is_struck_out(peer.name):
                outcome.given_up.append(peer.name)
                plan.drop_source(peer.name)
        for name in plan.stalled(now):
            outcome.given_up.append(name)
            plan.drop_source(name)
        if plan.orphans() == plan.missing:
            break
    return outcome


def check_request(plan: FetchPlan, peer: Peer, run: Run, outcome: Outcome) -> None:
    assert run.length > 0
    assert plan.needed(run)
    assert not outcome.refused.get(peer.name, set()).intersection(plan.needed(run))
    assert all(peer.have is None or chunk in peer.have for chunk in plan.needed(run))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[int], list[int], list[Peer]]:
    lengths = draw(st.lists(st.integers(1, 128 * KIB), min_size=1, max_size=60))
    chunks = range(len(lengths))
    missing = sorted(draw(st.sets(st.sampled_from(chunks), min_size=1)))
    some = st.frozensets(st.sampled_from(chunks))
    peer = st.builds(
        Peer,
        name=st.just(""),
        rate=st.sampled_from([1e5, 1e6, 5e7]),
        have=st.none() | some,
        corrupt=st.just(frozenset()) | some,
        silent_after=st.just(10**9) | st.integers(0, 5),
        dies_after=st.just(10**9) | st.integers(0, 5),
    )
    others = draw(st.lists(peer, max_size=4))
    named = [Peer(f"p{i}", p.rate, p.have, p.corrupt, p.silent_after, p.dies_after) for i, p in enumerate(others)]
    return lengths, missing, [*named, Peer("honest", rate=1e7)]


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_with_one_honest_source_every_chunk_is_verified_once_and_no_corrupt_one_asked_again_of_its_sender(
    world: tuple[list[int], list[int], list[Peer]],
) -> None:
    lengths, missing, peers = world
    outcome = simulate(lengths, missing, peers)
    assert sorted(outcome.verified) == missing


def test_runs_cover_the_missing_chunks_in_order_and_within_the_cap() -> None:
    plan = FetchPlan([100] * 10, [0, 1, 2, 5, 6, 9], run_bytes=200)
    plan.set_source("a", None, 0.0)
    runs = [plan.next_run("a", 0.0) for _ in range(4)]
    assert runs == [Run(0, 2, 0, 200), Run(2, 3, 200, 100), Run(5, 7, 500, 200), Run(9, 10, 900, 100)]
    assert plan.next_run("a", 0.0) is None


def test_a_source_owes_at_most_sixteen_mebibytes() -> None:
    plan = FetchPlan([RUN_BYTES] * 100, range(100))
    plan.set_source("a", None, 0.0)
    owed = list(iter(lambda: plan.next_run("a", 0.0), None))
    assert sum(run.length for run in owed) == MAX_UNANSWERED_BYTES


def test_two_sources_work_in_stripes_and_the_faster_one_steals() -> None:
    lengths = [64 * KIB] * 4096
    outcome = simulate(lengths, list(range(4096)), [Peer("fast", rate=90e6), Peer("slow", rate=10e6)], 1024 * KIB)
    ideal = sum(lengths) / 100e6
    assert outcome.seconds < 1.35 * ideal
    assert outcome.moved_bytes < 1.05 * sum(lengths)
    fast = outcome.asked["fast"]
    jumps = sum(1 for before, after in itertools.pairwise(fast) if after.first != before.end)
    assert jumps <= 30  # about log2 of the runs for stealing, and the endgame


def test_a_corrupt_source_of_four_costs_little_and_is_given_up() -> None:
    lengths = [64 * KIB] * 4096
    bad = frozenset(range(0, 4096, 3))
    peers = [Peer("a"), Peer("b"), Peer("corrupt", corrupt=bad), Peer("slow", rate=5e6)]
    outcome = simulate(lengths, list(range(4096)), peers, RUN_BYTES)
    assert sorted(outcome.verified) == list(range(4096))
    assert "corrupt" in outcome.given_up
    assert len(outcome.asked["corrupt"]) <= MAX_STRIKES + 4
    assert outcome.moved_bytes < 1.25 * sum(lengths)


def test_a_silent_source_is_given_up_after_ten_seconds_and_its_runs_go_elsewhere() -> None:
    plan = FetchPlan([100] * 2, range(2), run_bytes=100)
    plan.set_source("silent", None, 0.0)
    run = plan.next_run("silent", 0.0)
    assert run is not None
    assert plan.stalled(STALL_S - 0.1) == []
    assert plan.stalled(STALL_S) == ["silent"]
    plan.drop_source("silent")
    plan.set_source("other", None, STALL_S)
    assert {plan.next_run("other", STALL_S), plan.next_run("other", STALL_S)} == {
        Run(0, 1, 0, 100),
        Run(1, 2, 100, 100),
    }


def test_a_source_at_a_tenth_of_the_median_is_given_up_only_where_others_hold_its_chunks() -> None:
    def plan_with(other_have: frozenset[int] | None) -> FetchPlan:
        plan = FetchPlan([1000] * 4, range(4), run_bytes=1000)
        plan.set_source("slow", None, 0.0)
        assert plan.next_run("slow", 0.0) == Run(0, 1, 0, 1000)
        plan.set_source("fast", other_have, 0.0)
        run = plan.next_run("fast", 0.0)
        assert run is not None
        plan.receive_bytes("fast", 1_000_000, 5.9)
        plan.receive_bytes("slow", 10, 5.9)
        return plan

    assert plan_with(None).stalled(6.0) == ["slow"]
    assert plan_with(frozenset({1, 2, 3})).stalled(6.0) == []


def test_the_last_run_of_a_crawling_source_is_fetched_twice() -> None:
    plan = FetchPlan([1000] * 2, range(2), run_bytes=1000)
    plan.set_source("crawl", None, 0.0)
    plan.set_source("fast", None, 0.0)
    crawled, quick = plan.next_run("crawl", 0.0), plan.next_run("fast", 0.0)
    assert crawled is not None
    assert quick is not None
    assert plan.next_run("crawl", 0.1) is None
    plan.receive_bytes("fast", 1000, 0.1)
    plan.receive_run("fast", quick, plan.needed(quick), (), 0.1)
    assert plan.next_run("fast", 0.1) == crawled
    plan.receive_run("fast", crawled, plan.needed(crawled), (), 0.2)
    assert plan.done
    assert plan.needed(crawled) == []


def test_a_partial_source_is_asked_only_for_what_it_holds_and_may_learn_more() -> None:
    plan = FetchPlan([10] * 6, range(6), run_bytes=60)
    plan.set_source("part", frozenset({2, 3}), 0.0)
    assert plan.next_run("part", 0.0) == Run(2, 4, 20, 20)
    assert plan.next_run("part", 0.0) is None
    assert plan.orphans() == {0, 1, 4, 5}
    plan.set_source("part", frozenset({2, 3, 5}), 1.0)
    assert plan.next_run("part", 1.0) == Run(5, 6, 50, 10)


def test_a_refused_run_is_free_for_others_and_not_asked_again() -> None:
    plan = FetchPlan([10] * 2, range(2), run_bytes=20)
    plan.set_source("a", None, 0.0)
    run = plan.next_run("a", 0.0)
    assert run is not None
    plan.refuse_run("a", run, 0.0)
    assert plan.next_run("a", 0.0) is None
    assert not plan.has_chunk_for("a")
    plan.set_source("b", None, 0.0)
    assert plan.next_run("b", 0.0) == run


def test_three_strikes_end_a_source_for_good() -> None:
    plan = FetchPlan([10] * 9, range(9), run_bytes=10)
    plan.set_source("bad", None, 0.0)
    for _ in range(MAX_STRIKES):
        run = plan.next_run("bad", 0.0)
        assert run is not None
        plan.receive_run("bad", run, (), range(run.first, run.end), 0.0)
    assert plan.is_struck_out("bad")
    plan.drop_source("bad")
    plan.set_source("bad", None, 1.0)
    assert plan.sources == ()


def test_one_strike_ends_a_source_that_has_nothing_else_to_give() -> None:
    plan = FetchPlan([KIB] * 3, range(3))
    plan.set_source("liar", None, 0.0)
    run = plan.next_run("liar", 0.0)
    assert run == Run(0, 3, 0, 3 * KIB)
    plan.receive_run("liar", run, [0, 2], [1], 0.1)
    assert plan.is_struck_out("liar")
    plan.set_source("honest", None, 0.2)
    again = plan.next_run("honest", 0.2)
    assert again == Run(1, 2, KIB, KIB)
    plan.receive_run("honest", again, [1], [], 0.3)
    assert plan.done
    assert not plan.is_struck_out("liar")


@pytest.mark.parametrize("missing", [[], [3]])
def test_nothing_missing_is_done_at_once(missing: list[int]) -> None:
    plan = FetchPlan([1] * 4, missing)
    assert plan.done is (not missing)


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text()), ids=lambda case: case["comment"])
def test_vectors(case: dict[str, Any]) -> None:
    given = case["input"]
    plan = FetchPlan(given["chunk_lengths"], given["missing"], given["run_bytes"])
    asked: list[list[int] | None] = []
    last: dict[str, Run] = {}
    for verb, source, *facts in given["steps"]:
        match verb:
            case "source":
                plan.set_source(source, None if facts[0] is None else frozenset(facts[0]), 0.0)
            case "ask":
                run = plan.next_run(source, 0.0)
                asked.append(None if run is None else [run.first, run.end])
                last |= {} if run is None else {source: run}
            case "arrived":
                plan.receive_run(source, last[source], facts[0], facts[1], 0.0)
            case "refused":
                plan.refuse_run(source, last[source], 0.0)
            case "drop":
                plan.drop_source(source)
    assert asked == case["asked"]

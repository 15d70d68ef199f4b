"""Three real processes: a fetch that is killed on either side, chats through a third device, the end of a link."""

import json
from pathlib import Path

import pytest

from node.cli.exit_codes import ExitCode
from tests.end_to_end.nodes import NodeProcess, link, started, wait_for_lines, wait_for_offer, write_bulk_model

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

BULK_BYTES = 256 * 1024 * 1024


def _create_bulk(node: NodeProcess, directory: Path) -> dict[str, object]:
    write_bulk_model(directory / "bulk", BULK_BYTES)
    modelfile = directory / "Modelfile"
    modelfile.write_text("FROM ./bulk\n")
    return node.command("create", "bulk", "-f", str(modelfile))


def test_a_fetch_survives_the_death_of_the_source_and_of_the_receiver(tmp_path: Path) -> None:
    with started(tmp_path, "source", "sink") as (source, sink):
        link(source, sink)
        created = _create_bulk(source, tmp_path)
        wait_for_offer(sink, str(created["manifest"]))

        pulling = sink.follow("pull", "bulk", "--from", "source")
        _wait_for_bytes(pulling, BULK_BYTES // 8)
        source.kill()
        source.start()
        finished = [event for event in pulling if event.get("status") == "success"]
        assert pulling.finish() == 0
        assert finished[-1]["manifest"] == created["manifest"]
        assert finished[-1]["bytes_moved"] < 1.5 * BULK_BYTES

        sink.command("rm", "bulk")
        pulling = sink.follow("pull", "bulk", "--from", "source")
        _wait_for_bytes(pulling, BULK_BYTES // 2)
        sink.kill()
        assert pulling.finish() != 0
        sink.start()
        again = sink.command("pull", "bulk", "--from", "source")
        assert again["manifest"] == created["manifest"]
        assert again["bytes_moved"] < BULK_BYTES  # what was verified before the kill is not fetched again
        verified = sink.command("verify", "bulk")
        assert verified["publisher"] == source.ready["did"]


def _wait_for_bytes(pulling: object, wanted: int) -> None:
    for event in pulling:  # type: ignore[attr-defined]  # the lines of a running command
        assert "error" not in event, json.dumps(event)
        if int(event.get("completed", 0)) >= wanted:
            return
    raise AssertionError("the pull ended before it was to be disturbed")


def test_chats_travel_through_a_third_device_and_end_up_the_same(tmp_path: Path) -> None:
    with started(tmp_path, "phone", "desk", "laptop") as (phone, desk, laptop):
        link(phone, desk)
        link(desk, laptop)
        asked = phone.command("run", "demo", "What is the capital of France?")
        assert asked["answer"].strip() == "Paris."
        chat = asked["chat"]
        wait_for_lines(desk, chat, 2)
        phone.kill()  # phone and laptop were never linked; desk alone can bring its lines
        laptop.command("sync", "desk")
        shown = laptop.command("chats", "show", chat)
        assert [line["content"].strip() for line in shown["lines"]] == ["What is the capital of France?", "Paris."]
        assert {line["device"] for line in shown["lines"]} == {phone.ready["did"]}

        laptop.command("chats", "rename", chat, "Capitals")
        desk.command("chats", "edit", shown["lines"][0]["id"], "Capital of France?")
        phone.start()
        phone.command("sync", "desk")
        desk.command("sync")
        phone.command("sync", "desk")
        views = [node.command("chats", "show", chat) for node in (phone, desk, laptop)]
        assert {view["title"] for view in views} == {"Capitals"}
        contents = [[line["content"] for line in view["lines"]] for view in views]
        assert contents[0] == contents[1] == contents[2]
        assert contents[0][0] == "Capital of France?"


def test_an_unlinked_device_gets_nothing_from_the_moment_of_the_unlink(tmp_path: Path) -> None:
    with started(tmp_path, "home", "guest") as (home, guest):
        link(home, guest)
        home.command("show", "demo")
        wait_for_offer(guest, home.command("verify", "demo")["manifest"])
        home.command("link", "disable", "guest")
        assert home.command("link", "list-peers")["peers"] == []
        refused = guest.fails("pull", "demo", "--from", "home")
        assert refused["code"] in (ExitCode.NOT_ALLOWED, ExitCode.PEER_UNREACHABLE)
        assert "hint:" in refused["stderr"] or '"hint"' in refused["stderr"]
        asked = home.command("run", "demo", "Hello!")
        guest.fails("chats", "show", asked["chat"])


def test_a_device_that_is_linked_again_has_the_chats_of_both_again(tmp_path: Path) -> None:
    with started(tmp_path, "home", "away") as (home, away):
        link(home, away)
        before = home.command("run", "demo", "Hello!")["chat"]
        wait_for_lines(away, before, 2)
        home.command("link", "disable", "away")
        at_home = home.command("run", "demo", "Hello!")["chat"]
        elsewhere = away.command("run", "demo", "Hello!")["chat"]
        home.fails("chats", "show", elsewhere)
        away.fails("chats", "show", at_home)
        link(home, away)
        for node in (home, away):
            for chat in (before, at_home, elsewhere):
                wait_for_lines(node, chat, 2)
        assert home.command("chats")["chats"] == away.command("chats")["chats"]


def test_a_models_only_link_carries_models_and_no_chats(tmp_path: Path) -> None:
    with started(tmp_path, "mine", "friend") as (mine, friend):
        link(mine, friend, "--models-only")
        mine.command("show", "demo")
        manifest = mine.command("verify", "demo")["manifest"]
        wait_for_offer(friend, manifest)
        assert friend.command("pull", "demo", "--from", "mine")["manifest"] == manifest
        asked = mine.command("run", "demo", "Hello!")
        friend.fails("sync", "mine")
        friend.fails("chats", "show", asked["chat"])

"""`account` and `data`: who this device is, and where everything lives."""

from node.cli.background import running_node
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import format_bytes
from node.cli.service import directory_size
from node.errors import IdentityExists, IdentityMissing
from node.settings import save_settings
from store.errors import MoveUnfinished
from store.move_journal import read_move


def show(invocation: Invocation) -> int:
    """Print this device's identity and the place of its keys; needs neither node nor passphrase."""
    settings = invocation.settings()
    if not settings.did:
        raise IdentityMissing(invocation.home.root)
    invocation.screen.facts(
        {"did": settings.did, "nickname": settings.nickname, "rung": settings.rung, "place": settings.place}
    )
    invocation.screen.say(f"nickname  {settings.nickname}")
    invocation.screen.say(f"identity  {settings.did}")
    invocation.screen.say(f"keys      {settings.rung}: {settings.place}")
    return ExitCode.OK


def create(invocation: Invocation) -> int:
    """Make this device's identity: in the keychain, else in a vault under a passphrase, else not at all."""
    # Imported here: keys and keychain cost 200 ms that no other verb should pay.
    from node.account import create_account

    settings = invocation.settings()
    if settings.did:
        raise IdentityExists(settings.did)
    vault = invocation.arguments.vault
    passphrase = invocation.passphrase_source()
    keychain = passphrase is None and not vault
    if passphrase is None and (vault or invocation.screen.interactive):
        passphrase = lambda: invocation.ask_passphrase(new=True)  # noqa: E731 - a def would only repeat the name
    settings = create_account(
        invocation.home, nickname=invocation.arguments.nickname, passphrase=passphrase, may_use_keychain=keychain
    )
    invocation.screen.facts(
        {"did": settings.did, "nickname": settings.nickname, "rung": settings.rung, "place": settings.place}
    )
    invocation.screen.done(f"made {settings.nickname} ({settings.did})", "chat", "tilenode run demo")
    invocation.screen.say(f"  its keys are in the {settings.rung}: {settings.place}")
    return ExitCode.OK


def set_nickname(invocation: Invocation) -> int:
    """Change the name that other devices see; a running node tells them at the next contact."""
    settings = invocation.settings()
    if not settings.did:
        raise IdentityMissing(invocation.home.root)
    named = settings.named(invocation.arguments.nickname)
    client = running_node(invocation)
    if client is None:
        save_settings(invocation.home.settings, named)
    else:
        client.post("/v1/account", nickname=named.nickname)
    invocation.screen.facts({"did": named.did, "nickname": named.nickname})
    invocation.screen.done(f"this device is now called {named.nickname}", "see it", "tilenode account")
    return ExitCode.OK


def data(invocation: Invocation) -> int:
    """Print every place under the home, its size and what protects it."""
    home = invocation.home
    places = [
        ("models", home.store, "public by nature: layers and manifests, each named by its hash"),
        ("log", home.log, "commitments only: hashes, no names and no content"),
        ("evidence", home.evidence, "what other devices' logs showed"),
        ("chats, peers", home.database, "encrypted (SQLCipher) with a key from the keychain or vault"),
        ("vault", home.vault, "encrypted under the passphrase; absent where a keychain holds the keys"),
        ("settings", home.settings, "nickname, DID, last ports; nothing secret"),
        ("log files", home.logs, "events and errors; never prompts, answers or keys"),
    ]
    facts = [
        {"what": what, "path": str(path), "bytes": size, "present": path.exists(), "protection": protection}
        for what, path, protection in places
        for size in [directory_size(path) if path.is_dir() else path.stat().st_size if path.exists() else 0]
    ]
    move = read_move(home.root)
    unfinished = {"source": str(move.source), "target": str(move.target)} if move else None
    invocation.screen.facts({"home": str(home.root), "places": facts, "unfinished_move": unfinished})
    invocation.screen.say(str(home.root))
    rows = [
        (
            str(fact["what"]),
            str(fact["path"]).removeprefix(f"{home.root}/"),
            format_bytes(_int(fact["bytes"])),
            str(fact["protection"]),
        )
        for fact in facts
        if fact["present"]
    ]
    invocation.screen.table(("WHAT", "WHERE", "SIZE", "PROTECTION"), rows)
    if move:
        error = MoveUnfinished(move.source, move.target)
        invocation.screen.warn(f"{error}. Next: {error.hint}")
    return ExitCode.OK


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value

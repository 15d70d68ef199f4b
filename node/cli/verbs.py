"""The verbs of `tilenode` and their options, as one table that imports nothing heavy."""

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

from node.cli.render import Screen
from node.errors import UsageInvalid

_EPILOG: Final = """\
first steps:
  tilenode                       make an identity and chat with the embedded demo model
  tilenode link enable           show a ticket for another device
  tilenode link enable TICKET    link to the device that shows TICKET
  tilenode list --peers          what linked devices offer

Everything lives under one directory: TILENODE_HOME, else the platform's own (see: tilenode data).
Exit codes and --json are documented in README.md."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints end like every other failure: message, hint, exit code 2."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the arguments; a prompt may stand behind the options as well as before them."""
        arguments, rest = self.parse_known_args(args, namespace)
        if rest and (getattr(arguments, "prompt", None) is None or any(word.startswith("-") for word in rest)):
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        if rest:
            arguments.prompt += rest
        return arguments

    def error(self, message: str) -> NoReturn:
        """Print what is wrong with the command line and exit."""
        screen = Screen(json_wanted="--json" in sys.argv)  # what was parsed so far is not known here
        raise SystemExit(int(screen.fail(UsageInvalid(message, f"see: {self.prog} --help"))))

    def _check_value(self, action: argparse.Action, value: str) -> None:
        """Refuse an unknown verb with the one that is nearest, instead of a list of all of them."""
        if action.choices is None or value in action.choices:
            return
        if action.option_strings:
            known = ", ".join(map(str, action.choices))
            raise argparse.ArgumentError(None, f"{action.option_strings[-1]}: {value!r} is none of {known}")
        near = difflib.get_close_matches(value, list(action.choices), n=1)
        guess = f", did you mean {near[0]!r}?" if near else ""
        raise argparse.ArgumentError(None, f"unknown command {value!r}{guess}")


def build_parser() -> argparse.ArgumentParser:
    """Return the whole command line's parser; every verb names its function as `module:function`."""
    parser = Parser(
        prog="tilenode",
        description="A node of your own: link your devices, share verified models, sync chats, answer locally.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_shared_options()],
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    parser.set_defaults(verb="onboarding:first_run", home=None, json=False, debug=False, passphrase_fd=None)
    # Their own option objects: the defaults set above would otherwise undo what stands before the verb.
    verbs = _Verbs(parser, _shared_options())
    _add_node_verbs(verbs)
    _add_account_verbs(verbs)
    _add_build_verbs(verbs)
    _add_model_verbs(verbs)
    _add_version_verbs(verbs)
    _add_storage_verbs(verbs)
    _add_bundle_verbs(verbs)
    _add_log_verbs(verbs)
    _add_link_verbs(verbs)
    _add_registry_verbs(verbs)
    _add_transfer_verbs(verbs)
    _add_chat_verbs(verbs)
    return parser


def _shared_options() -> Parser:
    shared = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = shared.add_argument_group("options of every command")
    group.add_argument("--home", type=Path, metavar="DIR", help="the data root, in place of TILENODE_HOME")
    group.add_argument("--json", action="store_true", help="print facts as JSON with a schema number")
    group.add_argument(
        "--passphrase-fd", type=int, metavar="N", help="read the passphrase of the vault from this descriptor"
    )
    group.add_argument("--debug", action="store_true", help="show where an error came from")
    return shared


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        parser.exit(message=f"tilenode {version('tilenode')}\n")


class _Verbs:
    """Adds verbs to one parser; each takes the shared options as well."""

    def __init__(self, parser: argparse.ArgumentParser, shared: Parser, *, required: bool = False) -> None:
        self._shared = shared
        self._actions = parser.add_subparsers(
            metavar="COMMAND", title="commands", parser_class=Parser, required=required
        )

    def add(self, name: str, verb: str, text: str, **options: Any) -> argparse.ArgumentParser:
        """Add one verb that runs `module:function`."""
        parser = self._actions.add_parser(
            name, help=text, description=_sentence(text), parents=[self._shared], **options
        )
        parser.set_defaults(verb=verb)
        return parser

    def group(self, name: str, text: str, *, verb: str = "") -> "_Verbs":
        """Add a verb that has verbs of its own; `verb` is what it does without one."""
        parser = self._actions.add_parser(name, help=text, description=_sentence(text), parents=[self._shared])
        if verb:
            parser.set_defaults(verb=verb)
        return _Verbs(parser, self._shared, required=not verb)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _add_node_verbs(verbs: _Verbs) -> None:
    serve = verbs.add("serve", "service:serve", "run the node in the foreground")
    serve.add_argument(
        "--api", metavar="HOST:PORT", help="where the HTTP API answers; port 0 takes any (127.0.0.1:11435)"
    )
    serve.add_argument(
        "--listen", action="append", metavar="MULTIADDR", help="where peers connect; repeatable; port 0 takes any"
    )
    serve.add_argument("--warm", action="store_true", help="start a model worker beside the node, for a first question")
    serve.add_argument("--background", action="store_true", help=argparse.SUPPRESS)
    verbs.add("status", "service:status", "say how the node and every linked device are")
    stop = verbs.add("stop", "service:stop", "unload MODEL, or without one stop the node")
    stop.add_argument("model", nargs="?", metavar="MODEL")
    verbs.add("ps", "service:list_loaded", "list the models that are loaded")
    env = verbs.add("env", "environment:print_variables", "print the variables that point other programs to this node")
    env.add_argument("--shell", choices=["sh", "fish", "powershell", "dotenv"], default="sh", help="default: sh")
    verbs.add("events", "service:follow_events", "follow what happens on the node, one line per event")
    demo = verbs.add("demo", "demo:demo", "run the whole way on two nodes on this machine and verify every step")
    demo.add_argument("--keep", action="store_true", help="keep the two nodes' directories afterwards")


def _add_account_verbs(verbs: _Verbs) -> None:
    account = verbs.group("account", "show or make this device's identity", verb="account:show")
    create = account.add("create", "account:create", "make this device's identity")
    create.add_argument("--nickname", metavar="NAME", help="what other devices call this one")
    create.add_argument(
        "--vault", action="store_true", help="keep the keys under a passphrase even where a keychain works"
    )
    rename = account.add("set-nickname", "account:set_nickname", "change what other devices call this one")
    rename.add_argument("nickname", metavar="NAME")


def _add_build_verbs(verbs: _Verbs) -> None:
    create = verbs.add("create", "build:create", "build, sign and log a model from a Modelfile or a ModelSpec.yaml")
    create.add_argument("name", metavar="NAME")
    build = verbs.add("build", "build:build", "build a model as create does; with --check build one again and compare")
    build.add_argument("name", nargs="?", metavar="NAME", help="may be left out where a ModelSpec.yaml names the model")
    build.add_argument("--check", action="store_true", help="build NAME again from what it records, and compare")
    build.add_argument("--source", metavar="DIR", help="with --check: where the weights lie now")
    for verb in (create, build):
        verb.add_argument(
            "-f", "--file", metavar="FILE", help="the recipe; default: ./Modelfile, else ./ModelSpec.yaml"
        )
        verb.add_argument(
            "--quantize", choices=["none", "int8", "int4", "fp16"], metavar="BITS",
            help="pack the weights: int8 or int4, fp16 casts them, none leaves them",
        )  # fmt: skip


def _add_model_verbs(verbs: _Verbs) -> None:
    listing = verbs.add(
        "list", "models:list_models", "list the models here, or what linked devices offer", aliases=["ls"]
    )
    which = listing.add_mutually_exclusive_group()
    which.add_argument("--peers", action="store_true", help="what linked devices offer")
    which.add_argument("--mir", metavar="PATTERN", help="models of one kind, such as model.art or '*.lora'")
    show = verbs.add("show", "models:show", "show a model's Modelfile, layers and provenance")
    show.add_argument("name", metavar="NAME")
    pull = verbs.add("pull", "models:pull", "fetch a model from a linked device or a registry and verify it")
    pull.add_argument("name", metavar="NAME", help="HOST/REPOSITORY:TAG fetches from a registry")
    pull.add_argument("--as", dest="own_name", metavar="NAME", help="from a registry: what it is called here")
    pull.add_argument("--no-deltas", action="store_true", help="from a registry: fetch chunks, never a delta")
    pull.add_argument("--from", dest="source", metavar="PEER", help="nickname or DID of the device to fetch from")
    _add_answer_verbs(verbs)


def _add_answer_verbs(verbs: _Verbs) -> None:
    ask = verbs.add("run", "run:run_model", "chat with a model, or answer PROMPT and end", aliases=["chat"])
    ask.add_argument("name", metavar="NAME")
    ask.add_argument("prompt", nargs="*", metavar="PROMPT", help="the question; without one it is read from a pipe")
    ask.add_argument("--chat", metavar="ID", help="go on with this chat")
    ask.add_argument("--verbose", action="store_true", help="print the figures of the answer")
    ask.add_argument("--keepalive", metavar="TIME", help="how long the model stays loaded: 5m, 1h30m, 0, -1s for ever")
    ask.add_argument("--format", metavar="FORMAT", help="json, or a JSON schema that the answer keeps to")
    ask.add_argument(
        "--think",
        nargs="?",
        const="true",
        choices=["true", "false", "low", "medium", "high", "max"],
        help="let the model think first: --think, or --think=LEVEL where it knows degrees",
    )
    ask.add_argument("--hidethinking", action="store_true", help="do not print the thinking")
    ask.add_argument("--nowordwrap", action="store_true", help="taken as it is: nothing is wrapped here")
    bench = verbs.add("bench", "bench:bench", "measure how fast a model answers on this machine")
    bench.add_argument("name", metavar="NAME")
    bench.add_argument("--streams", default="1,4,8", metavar="N,N", help="how many questions at once (default 1,4,8)")
    bench.add_argument("--tokens", type=int, default=128, metavar="N", help="tokens of each answer (default 128)")


def _add_storage_verbs(verbs: _Verbs) -> None:
    verify = verbs.add(
        "verify", "storage:verify", "hash every byte of a model again and check its signatures and log proofs"
    )
    verify.add_argument("name", nargs="?", metavar="NAME")
    verify.add_argument("--all", action="store_true", help="every model here")
    verify.add_argument("--repair", action="store_true", help="fetch what is damaged, and only that")
    data = verbs.group("data", "say where everything lives, how large it is and what protects it", verb="account:data")
    move = data.add("set-path", "storage:set_path", "move the models to another directory or disk")
    move.add_argument("directory", metavar="DIR", help="new or empty; run it again after an interruption")
    move.add_argument("--yes", action="store_true", help="a node that runs may stop, and is started again after")


def _add_bundle_verbs(verbs: _Verbs) -> None:
    export = verbs.add("export", "bundles:export", "write models into a directory that is carried to another device")
    export.add_argument("names", nargs="+", metavar="NAME")
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new or empty directory")
    export.add_argument("--since", metavar="NAME", help="leave out what this model or release has: it is there already")
    take = verbs.add("import", "bundles:take", "take models in that another device has exported")
    take.add_argument("directory", type=Path, metavar="DIR")
    take.add_argument(
        "--yes", action="store_true", help="accept who signed, whoever that is, and names that are moved back or away"
    )
    take.add_argument("--trust", action="append", default=[], metavar="DID", help="accept this device; repeatable")


def _add_version_verbs(verbs: _Verbs) -> None:
    remove = verbs.add("rm", "versions:remove", "remove models with all their versions, or one version")
    remove.add_argument("names", nargs="+", metavar="NAME[@VERSION]")
    remove.add_argument("--version", dest="removed_version", metavar="VERSION", help="only this version of NAME")
    remove.add_argument("--force", action="store_true", help="also where a version is pinned")
    history = verbs.add("history", "versions:history", "list every version that a name stood for")
    history.add_argument("name", metavar="NAME")
    diff = verbs.add("diff", "versions:diff", "compare two models or versions tensor by tensor")
    diff.add_argument("before", metavar="A", help="NAME or NAME@VERSION; alone: compared with the version before it")
    diff.add_argument("after", nargs="?", metavar="B", help="NAME or NAME@VERSION")
    for name, text in (
        ("rollback", "let a name stand for an earlier version again; without VERSION for the one before"),
        ("pin", "keep a version, by default the current one, whatever is removed or cleared up"),
        ("unpin", "keep a version no more than the others"),
    ):
        verb = verbs.add(name, f"versions:{name}", text)
        verb.add_argument("name", metavar="NAME")
        verb.add_argument(
            "which", nargs="?", metavar="VERSION", help="a number, a release, or the first characters of a digest"
        )
    copy = verbs.add("cp", "versions:copy", "copy a model to a name of your own: signed by this device")
    copy.add_argument("source", metavar="A")
    copy.add_argument("target", metavar="B")
    adopt = verbs.add("adopt", "adopt:adopt", "give a name to a model that another program copied into the store")
    adopt.add_argument("source", metavar="MODEL", help="what that program calls it, or the beginning of its digest")
    adopt.add_argument("name", nargs="?", metavar="NAME", help="default: what that program calls it")
    tag = verbs.add("tag", "versions:tag", "give a model another name, tag or release; it stays whose it is")
    tag.add_argument("source", metavar="A", help="NAME or NAME@VERSION")
    tag.add_argument("target", metavar="B", help="NAME, or :TAG or @RELEASE of the same model")
    verbs.add("du", "versions:usage", "say where the store's bytes are and what gc would free")
    clear = verbs.add("gc", "versions:collect", "remove what nothing needs any more")
    clear.add_argument("--dry-run", action="store_true", help="only say what would go, and why")
    clear.add_argument("--keep", type=int, metavar="N", help="let each name forget all but its newest N versions")
    clear.add_argument(
        "--min-age", type=int, metavar="MINUTES", help="only what is older than this; 60 where it is not given"
    )
    clear.add_argument(
        "--quarantine", type=int, metavar="DAYS", help="also remove damaged bytes that are this old in quarantine"
    )


def _add_log_verbs(verbs: _Verbs) -> None:
    log = verbs.group("log", "show, export or verify this device's transparency log", verb="log:show")
    log.add("show", "log:show", "list the entries and the checkpoint")
    export = log.add("export", "log:export", "write the log for an independent verifier")
    export.add_argument("directory", type=Path, metavar="DIR")
    log.add("verify", "log:verify", "recompute every hash of the log")


def _add_link_verbs(verbs: _Verbs) -> None:
    link = verbs.group("link", "link to other devices", verb="link:list_peers")
    enable = link.add("enable", "link:enable", "show a ticket, or use the TICKET another device shows")
    enable.add_argument("ticket", nargs="?", metavar="TICKET")
    enable.add_argument("--yes", action="store_true", help="with TICKET: give this side's consent now")
    enable.add_argument(
        "--models-only", action="store_true", help="somebody else's device: models flow, chats never do"
    )
    link.add("list-peers", "link:list_peers", "list the linked devices and the requests that wait")
    disable = link.add("disable", "link:disable", "unlink a device, at once")
    disable.add_argument("peer", metavar="PEER")
    for name, text in (("approve", "say yes to a link request"), ("reject", "say no to a link request")):
        answer = link.add(name, f"link:{name}", text)
        answer.add_argument("id", metavar="ID")


def _add_transfer_verbs(verbs: _Verbs) -> None:
    push = verbs.add("push", "registry:push", "put a model into an OCI registry")
    push.add_argument("name", metavar="NAME")
    push.add_argument("target", nargs="?", metavar="HOST/REPOSITORY[:TAG]", help="default: where NAME itself points")
    push.add_argument("--no-deltas", action="store_true", help="do not make deltas against the version that is there")
    pack = verbs.add("pack", "registry:pack", "write a model into a directory as an OCI image layout")
    pack.add_argument("name", metavar="NAME")
    pack.add_argument("--to", dest="directory", type=Path, required=True, metavar="DIR", help="new or empty")


def _add_registry_verbs(verbs: _Verbs) -> None:
    registry = verbs.group("registry", "use OCI registries, and be one")
    serve = registry.add("serve", "registry_server:serve", "let programs on this machine read the models as a registry")
    serve.add_argument("switch", nargs="?", metavar="on|off", help="without it: say how it is")
    login = registry.add("login", "registry:log_in", "log in to a registry; the password is asked for, never an option")
    login.add_argument("host", metavar="HOST")
    login.add_argument("--username", metavar="USER")
    login.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    logout = registry.add("logout", "registry:log_out", "forget the login for a registry")
    logout.add_argument("host", metavar="HOST")
    registry.add("list", "registry:list_logins", "list the registries that there is a login for")
    connect = registry.add("connect", "registry_server:connect", "open a linked device's registry on a port here")
    connect.add_argument("peer", metavar="PEER")
    connect.add_argument("--port", type=int, default=0, metavar="N", help="on 127.0.0.1; default: any free one")


def _add_chat_verbs(verbs: _Verbs) -> None:
    sync = verbs.add("sync", "chats:sync", "exchange chats with your own devices now and say what moved")
    sync.add_argument("peer", nargs="?", metavar="PEER")
    chats = verbs.group("chats", "list, show and change chats", verb="chats:list_chats")
    chats.add("list", "chats:list_chats", "list the chats, the latest first")
    show = chats.add("show", "chats:show", "show one chat")
    show.add_argument("id", metavar="CHAT")
    rename = chats.add("rename", "chats:rename", "give a chat another title")
    rename.add_argument("id", metavar="CHAT")
    rename.add_argument("title", metavar="TITLE")
    edit = chats.add("edit", "chats:edit", "replace a line of a chat")
    edit.add_argument("id", metavar="LINE")
    edit.add_argument("text", metavar="TEXT")
    delete = chats.add("delete", "chats:delete", "delete a chat, or one line with --line")
    delete.add_argument("id", metavar="CHAT")
    delete.add_argument("--line", metavar="LINE", help="delete only this line")

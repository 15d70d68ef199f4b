"""Runs inside a bus session: does each step of the command line and prints the answers as one JSON list."""

import json
import os
import subprocess
import sys
from pathlib import Path

import secretstorage

from identity.errors import SecretsError
from identity.keychain import KeychainSecretStore
from identity.ladder import open_secret_store
from identity.secrets import Secrets, SecretStore
from identity.testing import secrets_from_number


def main(home: Path, steps: list[str]) -> None:
    answers: list[object] = []
    for step in steps:
        verb, _, argument = step.partition(":")
        try:
            answers.append(do(verb, argument, home))
        except SecretsError as error:
            answers.append(type(error).__name__)
    print(json.dumps(answers))


def do(verb: str, argument: str, home: Path) -> object:
    match verb:
        case "unlock":
            command = ["gnome-keyring-daemon", "--unlock", "--components=secrets", "--daemonize"]
            subprocess.run(command, input=argument.encode(), check=True, capture_output=True, timeout=30)
        case "lock":
            collection().lock()
        case "no-bus":
            del os.environ["DBUS_SESSION_BUS_ADDRESS"]
        case "items":
            return len(own_items())
        case "delete":
            for item in own_items():
                item.delete()
        case "load":
            return described(KeychainSecretStore(home).load())
        case "save":
            KeychainSecretStore(home).save(secrets_from_number(int(argument)))
        case "rung":
            return ladder(home).rung
        case "ladder":
            return described(ladder(home).load())
        case _:
            raise ValueError(verb)
    return None


def ladder(home: Path) -> SecretStore:
    return open_secret_store(home, lambda: b"a passphrase that must not be used")


def described(secrets: Secrets | None) -> str | None:
    return None if secrets is None else f"secrets {secrets.device_seed[-1]}"


def collection() -> secretstorage.Collection:
    return secretstorage.get_default_collection(secretstorage.dbus_init())


def own_items() -> list[secretstorage.Item]:
    return list(collection().search_items({"service": "tilenode"}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

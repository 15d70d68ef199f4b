"""The settings file: read back as written, refused when it is anything else."""

import json
from pathlib import Path

import pytest

from node.errors import SettingsInvalid
from node.settings import Settings, load_settings, save_settings


def test_settings_read_back_as_written(tmp_path: Path) -> None:
    settings = Settings("kitchen", "did:key:z6Mk", "vault", "a file", 4001)
    save_settings(tmp_path / "settings.json", settings)
    assert load_settings(tmp_path / "settings.json") == settings
    assert (tmp_path / "settings.json").stat().st_mode & 0o777 == 0o600


def test_no_file_is_empty_settings(tmp_path: Path) -> None:
    assert load_settings(tmp_path / "settings.json") == Settings()


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"[]",
        b'{"version": 2}',
        b'{"version": 1, "unknown": 1}',
        b'{"version": 1, "nickname": 7}',
        b'{"version": 1, "port": "4001"}',
        b'{"version": 1, "port": 70000}',
        b'{"version": 1, "port": true}',
        b"[" * 60_000,
        b'{"version": 1, "nickname": "' + b"x" * 70_000 + b'"}',
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(SettingsInvalid):
        load_settings(tmp_path / "settings.json")


def test_a_nickname_is_cleaned() -> None:
    assert Settings().named("kit\x1b[31mchen\u202e").nickname == "kit [31mchen"


def test_the_file_holds_nothing_but_its_fields(tmp_path: Path) -> None:
    save_settings(tmp_path / "settings.json", Settings())
    fields = json.loads((tmp_path / "settings.json").read_text())
    assert set(fields) == {"version", "nickname", "did", "rung", "place", "port", "serve_registry", "store"}


def test_the_registry_is_closed_until_a_person_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    assert load_settings(path).serve_registry is False
    save_settings(path, Settings(serve_registry=True))
    assert load_settings(path).serve_registry is True
    path.write_text(json.dumps({"version": 1, "serve_registry": "yes"}))
    with pytest.raises(SettingsInvalid):
        load_settings(path)

"""Flags before -o before the environment before the file; what is wrong says where."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.mounts import let_others_in

from mimicfs.config.file import read_config
from mimicfs.config.given import from_words, words
from mimicfs.config.options import GivenValue
from mimicfs.config.settled import Settled, settle
from mimicfs.config.values import BucketOptions, Target, parse_target
from mimicfs.errors import ConfigError

KEYS = "write credentials_file=FILE (written as ~/.aws/credentials)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the configuration file is."""
    (tmp_path / "mimicfs").mkdir()
    return tmp_path / "mimicfs" / "config.toml"


def settled(path: Path, text: str, said: str = "", **environ: str) -> Settled:
    """Return what is in force by a file, the words after -o, and the environment."""
    path.write_text(text)
    path.chmod(0o600)
    environ |= {"XDG_CONFIG_HOME": str(path.parent.parent), "XDG_STATE_HOME": "/nowhere"}
    return settle({}, environ, from_words(words([said])))


def refused(path: Path, text: str, said: str = "", **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        settled(path, text, said, **environ).settings()
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "FILE")


def test_flags_go_before_words_before_the_environment_before_the_file(path: Path) -> None:
    text = 'region = "file"\nprofile = "file"\nnamespace = "file"\nstore = "memory:"\n'
    environ = dict.fromkeys(("MIMICFS_REGION", "MIMICFS_PROFILE", "MIMICFS_NAMESPACE"), "env")
    path.write_text(text)
    environ["XDG_CONFIG_HOME"] = str(path.parent.parent)
    flags = {"region": GivenValue("flag", "--region")}
    found = settle(flags, environ, from_words(["region=word", "profile=word"]))
    assert [found.get(name) for name in ("region", "profile", "namespace", "store")] == [
        "flag", "word", "env", "memory:"
    ]  # fmt: skip
    assert [found.values[name].origin for name in ("region", "profile", "namespace", "store")] == [
        "--region", "-o profile", "MIMICFS_NAMESPACE", str(path)
    ]  # fmt: skip


def test_every_option_can_be_in_the_file(path: Path) -> None:
    found = settled(
        path,
        'endpoint-url = "http://a"\nregion = "r"\nprofile = "p"\nsign-request = false\n'
        'store = "memory:"\nnamespace = "n"\nlog-level = "debug"\nlog-file = "/l"\n'
        '[mount]\nread-only = true\nallow_other = true\nuid = 1\ngid = 2\numask = "027"\n'
        'cache-dir = "~/c"\nexec = false\natime = false\nmarkers = false\nsymlinks = false\n',
    )
    settings, choices = found.settings(), found.choices(Target("b"))
    assert (settings.s3.endpoint_url, settings.s3.region, settings.s3.profile) == (
        "http://a", "r", "p"
    )  # fmt: skip
    assert (settings.s3.sign, settings.store, settings.namespace) == (False, "memory:", "n")
    assert (settings.log_level, settings.log_file) == ("debug", Path("/l"))
    assert settings.cache_dir == Path("~/c").expanduser()
    assert (choices.read_only, choices.allow_other) == (True, True)
    assert choices.extra == ("noexec", "noatime", "nosuid", "nodev")
    assert (choices.vfs.uid, choices.vfs.gid) == (1, 2)
    assert (choices.vfs.file_mode, choices.vfs.dir_mode) == (0o640, 0o750)
    assert (choices.vfs.markers, choices.vfs.symlinks) == (False, False)


def test_limits_can_be_set_and_are_checked(path: Path) -> None:
    found = settled(
        path,
        "connections = 4\nattempts = 2\nread-timeout = 1.5\nrequest-timeout = 60\n"
        '[mount]\nworkers = 3\nread-memory = "8M"\npart-size = "5M"\nstaging-size = "1G"\n',
    )
    s3, choices = found.settings().s3, found.choices(Target("b"))
    assert (s3.connections, s3.attempts) == (4, 2)
    assert (s3.read_timeout_s, s3.request_timeout_s) == (1.5, 60.0)
    assert (choices.workers, choices.read_memory, choices.part_size, choices.staging_size) == (
        3, 8 << 20, 5 << 20, 1 << 30
    )  # fmt: skip
    for text in ("connections = 0\n", "[mount]\nworkers = 0\n", '[mount]\npart-size = "4M"\n'):
        with pytest.raises(ConfigError, match=r"out of range|parts of 5M to 5G"):
            settled(path, text).choices(Target("b"))


def test_sections_of_buckets(path: Path) -> None:
    found = settled(
        path,
        '[buckets."*"]\nstorage-class = "STANDARD_IA"\n'
        '[buckets.a]\nread-only = true\nrequester-pays = true\nprefix = "/p/q"\nmetadata = false\n'
        '[buckets.b]\nsse = "aws:kms"\nkms-key-id = "k"\nacl = "private"\nnever-sync = true\n',
        "acl=public-read",
    ).buckets()
    common = BucketOptions(storage_class="STANDARD_IA", acl="public-read")
    assert found.default == common
    assert found.of("a") == BucketOptions(
        True, "STANDARD_IA", acl="public-read", requester_pays=True, prefix="p/q/", metadata="no"
    )
    assert found.of("b") == BucketOptions(
        False, "STANDARD_IA", "aws:kms", "k", "public-read", never_sync=True
    )


AP = "arn:aws:s3:eu-west-1:123456789012:accesspoint"


@pytest.mark.parametrize("section", [f"{AP}/name", f"{AP}:name"])
@pytest.mark.parametrize("target", [f"s3://{AP}/name/prefix", f"s3://{AP}:name"])
def test_the_section_of_an_access_point_holds_in_whatever_form_it_is_named(
    path: Path, section: str, target: str
) -> None:
    found = settled(path, f'[buckets."{section}"]\nread-only = true\n')
    assert found.buckets().of(parse_target(target).bucket).read_only
    assert found.of_bucket(parse_target(target).bucket)["read-only"].value is True


@pytest.mark.parametrize("name", ["s3://photos", "photos/2024", f"{AP}/name/prefix", "pho tos", ""])
def test_a_section_that_can_hold_for_no_bucket_is_refused(path: Path, name: str) -> None:
    said = refused(path, f'[buckets."{name}"]\nread-only = true\n')
    assert said == (
        f"FILE: [buckets.{name!r}]: no bucket has that name;"
        ' write [buckets.NAME], or [buckets."*"] for all'
    )


def test_an_access_point_has_one_section(path: Path) -> None:
    text = "".join(f'[buckets."{AP}{mark}a"]\nread-only = true\n' for mark in "/:")
    assert refused(path, text) == f"FILE: [buckets.'{AP}:a']: appears twice"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("endpoint-ulr = 'x'", "FILE: endpoint-ulr: no such key; did you mean endpoint-url?"),
        ("[mount]\nalow-other = true",
         "FILE: [mount] alow-other: no such key; did you mean allow-other?"),
        ("[buckets.photos]\nreadonly = true",
         "FILE: [buckets.photos] readonly: no such key; did you mean read-only?"),
        ("[buckts.photos]\nread-only = true", "FILE: buckts: no such key; did you mean [buckets]?"),
        ("uid = 1", "FILE: uid: belongs in [mount]"),
        ("[mount]\nregion = 'x'", "FILE: [mount] region: belongs at the top of the file"),
        ("acl = 'private'", "FILE: acl: belongs in [buckets.NAME]"),
        ("[mount]\nuid = 'me'", "FILE: [mount] uid: no user me on this machine"),
        ("[mount]\nread-only = 'yes'",
         "FILE: [mount] read-only: must be true or false, not text"),
        ("[mount]\numask = 22",
         'FILE: [mount] umask: write the octal number as text: umask = "022"'),
        ("[mount]\numask = 022", 'FILE: write the octal number as text: umask = "022"'),
        ("[mount]\nuid = true",
         "FILE: [mount] uid: must be the name or number of a user, not true or false"),
        ("[buckets.a]\nttl = '5 minutes'",
         "FILE: [buckets.a] ttl: not a number of seconds, or a time like 5m or 1h30m"),
        ("[mount]\numask = '9'", "FILE: [mount] umask: not an octal number"),
        ("log-level = 'inof'", "FILE: log-level: inof is no log-level; did you mean info?"),
        ("[buckets.a]\nsse = 'aes256'",
         "FILE: [buckets.a] sse: aes256 is no sse; did you mean AES256?"),
        ("[buckets.a]\nsse = 'AES256'\nkms-key-id = 'k'",
         "FILE [buckets.a]: kms-key-id: needs sse = aws:kms"),
        ("buckets = 1", "FILE: buckets is a section; write [buckets]"),
        ("[buckets]\nphotos = true",
         "FILE: [buckets] photos: write the section of a bucket as [buckets.NAME]"),
        ("endpoint-url = 'a'\nendpoint_url = 'b'",
         "FILE: endpoint_url: appears twice, with - and with _"),
        ("region = ", "FILE: Invalid value (at end of document)"),
        ("[mount]\nallow-other = yes", "FILE: write allow-other = true"),
        ("[mount]\nallow-other = False\nui = true", "FILE: write allow-other = false"),
        ("# 022\nsize = 20GB # much", 'FILE: write text in quotes: size = "..."'),
        ("store-password = hunter2", 'FILE: write text in quotes: store-password = "..."'),
        ("connections = 1.5", "FILE: connections: must be a number, 1 or more, not a fraction"),
        ("connections = 0", "FILE: connections: out of range; from 1 to 10000"),
        ("[mount]\numask = '1777'", "FILE: [mount] umask: out of range; from 000 to 777"),
        ("attempts = 3\nread-timeout = -1", "FILE: read-timeout: out of range; 0 or more"),
        ("[mount]\nro = true", "FILE: [mount] ro: no such key; write read-only = true"),
        ("url = 'x'", "FILE: url: no such key; write endpoint_url=URL"),
        ("secret-key = 'x'",
         f"FILE: secret-key: no such key; {KEYS}"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_file_says_where_and_what_was_meant(
    path: Path, text: str, says: str
) -> None:
    assert refused(path, text) == says


def test_a_file_that_is_no_text_or_no_file_is_an_error_that_names_it(path: Path) -> None:
    path.write_bytes(b"region = '\xff\xfe'\n")
    environ = {"XDG_CONFIG_HOME": str(path.parent.parent)}
    with pytest.raises(ConfigError) as caught:
        settle({}, environ)
    assert str(caught.value) == f"{path}: not UTF-8; is this a configuration file?"
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError) as caught:
        settle({}, environ)
    assert str(caught.value) == f"{path}: Is a directory"


def test_the_mark_of_utf_8_that_windows_writes_is_no_mistake(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbfconnections = 8\r\n")
    assert settle({}, {"XDG_CONFIG_HOME": str(path.parent.parent)}).get("connections") == 8


def test_a_variable_that_is_nearly_ours_is_doubted_and_others_are_not(path: Path) -> None:
    environ = {
        "XDG_CONFIG_HOME": str(path.parent.parent),
        "MIMICFS_CONECTIONS": "8",
        "MIMICFS_PORT": "tcp://10.0.0.1:80",  # as Kubernetes sets it for a service
        "MIMICFS_SERVICE_HOST": "10.0.0.1",
        "MIMICFS_STORAGE_CLASS": "glacier",
    }
    assert settle({}, environ).doubts() == [
        "MIMICFS_CONECTIONS: no such option; did you mean MIMICFS_CONNECTIONS?",
        "MIMICFS_STORAGE_CLASS: glacier is no storage class of S3; did you mean GLACIER?",
    ]


def test_values_may_be_written_as_people_write_them(path: Path) -> None:
    written = "uid=root,gid=root,umask=022,ttl=1h30m,sync_rate=2.5"
    found = from_words([*written.split(","), "read_timeout=5m"])
    assert {name: given.value for name, given in found.items()} == {
        "uid": 0, "gid": 0, "umask": 0o22, "ttl": 5400.0, "sync-rate": 2.5, "read-timeout": 300.0
    }  # fmt: skip


def test_words_of_other_programs_are_answered_with_ours(path: Path) -> None:
    assert refused(path, "", "url=https://minio.example") == (
        "-o url=https://minio.example: not an option; write endpoint_url=URL"
    )
    assert refused(path, "", "allow-delete") == (
        "-o allow-delete: not an option; deleting is allowed unless the mount is read-only (ro)"
    )
    assert refused(path, "", "colour=red") == (
        "-o colour=red: not an option; mimicfs mount --help lists the options"
    )


def test_what_is_wrong_after_o_and_in_the_environment(path: Path) -> None:
    assert refused(path, "", "alow_other") == (
        "-o alow_other: not an option; did you mean allow_other?"
    )
    assert refused(path, "", "uid") == "-o uid: needs a value: uid=USER"
    assert refused(path, "", "noread_only=1").startswith("-o noread_only=1: not an option")
    assert refused(path, "", "store_password=x") == (
        "-o store_password: set it in the configuration file or the environment"
    )
    assert refused(path, "", MIMICFS_UID="me") == "MIMICFS_UID: no user me on this machine"
    assert refused(path, "", MIMICFS_READ_ONLY="si") == "MIMICFS_READ_ONLY: read-only is yes or no"


def test_what_fstab_says_to_others_is_passed_over() -> None:
    said = "defaults,_netdev,noauto,nofail,user=me,x-systemd.automount,comment=a=b,relatime,ro"
    assert {name: given.value for name, given in from_words(words([said])).items()} == {
        "read-only": True
    }


def test_later_words_win_and_a_value_may_have_a_comma() -> None:
    found = from_words(words(["ro,rw", "suid,nosuid", r"cache_dir=/a\,b"]))
    assert {name: given.value for name, given in found.items()} == {
        "read-only": False, "suid": False, "cache-dir": "/a,b"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "text", "says"),
    [
        (0o622, "", "FILE: others can write it; chmod go-w FILE"),
        (0o640, "store-password = 'x'",
         "FILE: contains a secret (store-password), and others can read it; chmod 600 FILE"),
        (0o604, "store = 'redis://:x@h'",
         "FILE: contains a secret (a password in store), and others can read it; chmod 600 FILE"),
        (0o604, "[mount]\nevents = 'redis://:x@h#k'",
         "FILE: contains a secret (a password in events), and others can read it; chmod 600 FILE"),
        (0o644, "store = 'redis://h/0?password=x'",
         "FILE: contains a secret (a password in store), and others can read it; chmod 600 FILE"),
        (0o644, "endpoint-url = 'https://u:x@h'",
         ("FILE: contains a secret (a password in endpoint-url), and others can read it;"
          " chmod 600 FILE")),
    ],
)  # fmt: skip
def test_a_file_that_others_can_change_or_spy_is_refused(
    path: Path, mode: int, text: str, says: str
) -> None:
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        settle({}, {"XDG_CONFIG_HOME": str(path.parent.parent)})
    assert str(caught.value).replace(str(path), "FILE") == says


def test_others_may_read_a_file_without_a_secret_though_a_path_in_it_has_an_at_sign(
    path: Path,
) -> None:
    path.write_text("store = 'sqlite:////mnt/me@home/mirror.db'")
    path.chmod(0o644)
    settings = settle({}, {"XDG_CONFIG_HOME": str(path.parent.parent)}).settings()
    assert settings.store == "sqlite:////mnt/me@home/mirror.db"


def test_a_file_of_somebody_else_is_refused(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path.write_text("")
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to another user, who could change it"):
        settle({}, {"XDG_CONFIG_HOME": str(path.parent.parent)})


def test_the_example_is_right(path: Path) -> None:
    example = Path(__file__).resolve().parents[2] / "docs/examples/config.toml"
    found = settled(path, example.read_text())
    assert found.buckets().of("photos").read_only
    assert found.choices(Target()).allow_other


def test_a_file_that_was_named_must_be_there() -> None:
    with pytest.raises(ConfigError, match="/no/such: no such file"):
        settle({"config": GivenValue("/no/such", "--config")}, {})


def test_a_password_from_a_file(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    secret.chmod(0o600)
    found = settled(path, f"store-password-file = '{secret}'")
    assert found.settings().store_password == "hunter2"
    assert "hunter2" not in repr(found.settings())
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="contains a secret, and others can read it; chmod 600"):
        found.settings()


def test_access_keys_that_others_can_read_are_refused(path: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    text = f'credentials-file = "{keys}"'
    assert refused(path, text) == f"{keys}: No such file or directory"
    keys.touch(0o640)
    assert (
        refused(path, text)
        == f"{keys}: contains a secret, and others can read it; chmod 600 {keys}"
    )
    keys.chmod(0o600)
    assert settled(path, text).settings().s3.credentials_file == keys


def test_access_keys_of_root_are_no_access_keys_of_others(tmp_path: Path) -> None:
    """As in a container that runs as somebody else. Botocore says that there are none."""
    if os.getuid():
        pytest.skip("only root becomes another user")
    keys = tmp_path / "keys"
    keys.touch(0o600)
    let_others_in(tmp_path)
    found = settle({}, {"XDG_CONFIG_HOME": "/no"}, from_words([f"credentials_file={keys}"]))
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match="keys: no permission to read it; chown it"):
            found.settings()
    finally:
        os.seteuid(0)


def test_a_file_that_is_nested_too_deeply_is_an_error_that_names_it(path: Path) -> None:
    path.write_text("a = " + "[" * 50_000)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="nested too deeply"):
        read_config(path, needed=True)


def test_a_relative_path_of_xdg_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    names = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")
    found = settle({}, dict.fromkeys(names, "relative/dir"))
    assert (found.state, found.cache) == (
        Path("/home/me/.local/state/mimicfs"),
        Path("/home/me/.cache/mimicfs"),
    )
    assert settle({}, {"XDG_STATE_HOME": "/var/lib"}).state == Path("/var/lib/mimicfs")

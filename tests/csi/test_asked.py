"""The attributes that a volume may ask for."""

import pytest

from mimicfs.config.options import OPTIONS, Kind
from mimicfs.csi.asked import ALLOWED, publishing
from mimicfs.csi.protocol import MESSAGES
from mimicfs.csi.refusal import Code, Refusal


def test_an_option_of_a_volume_names_nothing_of_the_node():
    kinds = {option.name: option.kind for option in OPTIONS}
    assert {kinds[name] for name in ALLOWED}.isdisjoint({Kind.PATH, Kind.SECRET})
    about_the_node = {
        "store",
        "metrics",
        "events",
        "profile",
        "suid",
        "dev",
        "access-log",
        "config",
    }
    assert ALLOWED.isdisjoint(about_the_node)


def asked(target="/pods/a", volume="v", flags=(), secrets=(), **context):
    request = MESSAGES["NodePublishVolumeRequest"](
        volume_id=volume, target_path=target, volume_context={"bucket": "b", **context},
        secrets=dict(secrets),
        volume_capability={"mount": {"mount_flags": flags}, "access_mode": {"mode": 5}},
    )  # fmt: skip
    return publishing(request)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"volume": "v\nOK"}, r"volume_id v\nOK: not printable"),
        ({"volume": "v\0"}, r"volume_id v\x00: not printable"),
        ({"target": "//pods/a"}, "target_path //pods/a: begins with two slashes"),
        ({"target": "/pods/../a\n"}, "target_path: too long, or not printable"),
        ({"bucket": "b\0"}, r"bucket b\x00: not printable"),
        ({"prefix": "a\0b"}, r"prefix a\x00b: has a NUL"),
        ({"mountOptions": "region=a\0b"}, r"mountOptions: region=a\x00b: not printable"),
        ({"flags": ["region=a\nb"]}, r"mountOptions: region=a\nb: not printable"),
        ({"buck\net": "b"}, r"volume attribute buck\net: not known; did you mean bucket?"),
        ({"secrets": {"x\ny": "z"}}, (r"secret x\ny: not known; known are"
         r" access_key_id, secret_access_key, session_token")),
        ({"secrets": {"access_key_id": "a", "accessKeyId": "b"}},
         "secret accessKeyId: there twice, in two spellings"),
    ],
)  # fmt: skip
def test_what_no_process_can_be_told_is_refused_in_one_line(wrong, reason):
    with pytest.raises(Refusal) as refused:
        asked(**wrong)
    assert (refused.value.code, str(refused.value)) == (Code.INVALID_ARGUMENT, reason)


def test_a_prefix_is_any_key():
    assert asked(prefix="../a\nb").how.url == "s3://b/../a\nb/"

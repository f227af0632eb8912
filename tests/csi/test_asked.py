"""The attributes that a volume may ask for."""

from mimicfs.config.options import OPTIONS, Kind
from mimicfs.csi.asked import ALLOWED


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

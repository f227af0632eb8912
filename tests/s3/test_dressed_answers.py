"""Answers that say the same in another form are the same answers."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from s3.test_standins import used
from support.dressed import DRESSES, HEADS, Dressed, Headed
from support.standins import QUIRKS, StandIn

from mimicfs.backends.memory import Memory
from mimicfs.config.values import S3Options
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.mark.parametrize("dress", DRESSES)
def test_xml_may_be_written_in_any_form(s3, client, bucket, proxy, dress):
    with proxy.rule(StandIn(Dressed(dress))):
        used(s3, client, bucket)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_may_lack_or_have_what_changes_nothing(s3, client, bucket, proxy, head):
    with proxy.rule(StandIn(Headed(head))):
        used(s3, client, bucket)


@given(st.permutations(DRESSES), st.sampled_from(HEADS), st.sampled_from(QUIRKS))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=6,
    phases=[Phase.generate],
)
def test_forms_and_quirks_go_together(client, bucket, proxy, dresses, head, quirk):
    dress = sorted(dresses[:2], key=DRESSES.index)  # encodings last
    s3 = S3(S3Options(endpoint_url=proxy.url, attempts=3), Mirror(Memory()))
    with proxy.rule(StandIn(quirk(), *map(Dressed, dress), Headed(head))):
        used(s3, client, bucket)
    s3.close()

"""Each row of the table in s3/requests/believing.py has a test, which is named here."""

import re
from pathlib import Path

from mimicfs.s3.requests import believing

_WHAT, _FOLLOWS = 31, 60  # columns of the table

TESTS = {
    "LIST": {
        "no listing, or not all of one; nothing at all": "listing what_was_not_asked_is_refused",
        "<Error> behind the names": "listing a_page_that_ends_with_an_error_is_refused",
        "of another bucket or prefix": "listing a_page_about_another_prefix_is_refused",
        "no Name, no Prefix, or as they were sent, or longer": "listing "
        "a_bucket_may_be_called_by_a_longer_name_and_an_access_point_by_another",
        "a Prefix that XML cannot have": "listing "
        "a_prefix_that_xml_cannot_have_is_compared_all_the_same",
        "another encoding": "listing a_page_in_another_encoding_is_read_as_such",
        "namespaces, white space": "dressed_answers xml_may_be_written_in_any_form",
        "IsTruncated `True`, `1`": "listing truth_may_be_written_in_any_case",
        "no IsTruncated, a token": "listing "
        "a_page_with_a_token_that_does_not_say_that_it_is_the_last_is_not",
        "no IsTruncated, no token": "listing "
        "a_page_that_does_not_say_whether_it_is_the_last_is_refused",
        "no token, not the last page": "listing "
        "a_page_without_a_token_is_led_on_by_its_last_name_only_of_listobjects",
        "a token on the last page": "listing a_token_on_the_last_page_is_not_followed",
        "no names, and a token": "circles empty_pages_lead_on",
        "pages in a circle": "circles a_circle_is_an_error_and_deletes_nothing",
        "fewer names than KeyCount, or a name twice": "circles "
        "a_page_with_a_name_in_the_place_of_another_deletes_nothing",
        "no KeyCount": "listing of_a_page_with_fewer_names_than_it_counts_others_may_be_there",
        "no order, all on one page": "listing "
        "a_last_page_in_another_order_is_sorted_and_doubles_are_dropped",
        "no order, on several pages": "listing a_truncated_page_in_another_order_is_refused",
        "the last name of the page before": "listing a_name_that_comes_twice_in_a_row_is_one_name",
        "names before that one": "listing keys_must_be_below_the_prefix_and_behind_the_start",
        "names of another prefix": "listing keys_must_be_below_the_prefix_and_behind_the_start",
        "names from deeper down, or unasked-for prefixes": "listing "
        "only_direct_children_are_in_a_directory",
        "`d/` as an object, not as a prefix": "listing "
        "a_marker_that_is_shown_as_an_object_of_the_directory_above_is_a_directory",
        "several prefixes in one element, or none": "listing "
        "one_element_may_have_several_common_prefixes_and_an_empty_one_has_none",
        "names that are not encoded": "listing "
        "keys_of_a_server_that_does_not_encode_are_taken_as_they_are",
        "names that are not UTF-8": "listing what_was_not_asked_is_refused",
        "an object without a name or a size, or with two names": "listing "
        "an_object_with_two_keys_is_refused",
        "no LastModified, no date": "listing an_object_without_a_time_is_an_object",
        "year 1, 9999, other forms": "listing a_time_beyond_measure_is_the_nearest_one",
        "no ETag, no quotes": "listing "
        "an_etag_may_lack_its_quotes_or_be_missing_and_standard_is_nothing_special",
        "ListObjectsV2 or encoding refused": "standins how_a_server_lists_is_learned_once",
        "ListObjects in its place": "circles a_server_that_answers_as_if_listobjects_were_asked_is_"
        "asked_that",
    },
    "ListObjectVersions": {
        "no version id, no date": "pages_of_versions a_version_of_no_known_time_is_refused",
        "deletions behind all else": "pages_of_versions "
        "the_newest_comes_first_also_where_markers_stand_behind_all_else",
        "pages that begin at `null`, or with what was named": "pages_of_versions "
        "a_server_whose_pages_begin_with_the_version_that_is_named_shows_each_once",
        "versions in a circle": "circles versions_that_lead_in_a_circle_are_an_error",
    },
    "HEAD, GET": {
        "no Last-Modified": "believing an_object_without_a_time_can_be_read",
        "year 1, 9999, ISO 8601": "believing a_time_that_nobody_can_have_is_the_nearest_or_none",
        "no ETag and no time": "believing an_object_of_no_version_and_no_time_is_not_s3s",
        'W/"...", no quotes': "standins a_quirk_is_lived_with",
        "a header that is not ASCII": "believing "
        "a_header_that_is_not_ascii_is_read_as_utf8_if_it_is_that",
        "gzip, and no length": "believing what_a_proxy_compresses_unasked_is_read",
        "404 or no ETag of what is known": "hidden a_404_of_what_the_mirror_knows_is_asked_again",
    },
    "HEAD": {
        "no Content-Length, or 0 of what has bytes by its ETag": "believing "
        "a_head_that_counts_no_bytes_is_asked_by_get",
    },
    "GET": {
        "in chunks, of no length": "standins a_quirk_is_lived_with",
        "of another range, or of one that cannot be": "faults "
        "an_answer_of_another_range_is_no_data_and_teaches_nothing",
        "200 to a range": "believing a_part_that_is_sent_as_the_whole_is_no_smaller_object",
        "a checksum that is none": "believing what_is_no_checksum_is_not_compared",
        "a refusal with a checksum": "believing "
        "a_refusal_with_the_checksum_of_the_object_is_a_refusal",
    },
    "PUT": {"no ETag": "believing a_put_that_is_not_confirmed_is_looked_at"},
    "COPY": {
        "no result, no ETag": "believing a_copy_that_is_not_confirmed_is_looked_at",
        "no LastModified": "believing a_copy_that_does_not_say_when_is_used",
    },
    "CreateMultipartUpload": {"no UploadId": "believing an_upload_without_an_id_is_an_error"},
    "CreateSession": {
        "no Credentials": "standins a_session_without_credentials_is_an_error_of_the_server",
    },
    "UploadPart": {"no ETag": "believing a_part_that_is_not_confirmed_is_an_error"},
    "UploadPartCopy": {
        "no result, no ETag": "believing "
        "a_part_whose_copy_is_not_confirmed_is_of_a_server_that_copies_none",
    },
    "CompleteMultipartUpload": {
        "no ETag": "believing an_upload_that_is_not_confirmed_is_looked_at",
    },
    "DELETE": {"200 for 204": "believing a_deletion_may_be_answered_with_any_success"},
    "DeleteObjects": {
        "an error without one of its keys": "believing "
        "many_deletions_that_are_not_confirmed_delete_nothing",
        "no DeleteResult": "believing many_deletions_that_are_not_confirmed_delete_nothing",
        "nothing at all": "believing a_server_that_says_nothing_quietly_is_asked_aloud",
        "not all are named then": "believing "
        "a_server_that_never_says_what_it_has_deleted_is_asked_one_by_one",
    },
    "any": {
        "a Date that nobody can read": "believing "
        "a_date_that_nobody_can_read_makes_no_error_of_what_was_done",
        "200 with <Error>, also behind white space": "believing "
        "a_listing_that_was_answered_with_an_error_and_a_success_is_asked_again",
        "HTML, unreadable XML": "believing an_error_that_nobody_can_read_is_an_error",
        "404, and nothing shows that it is S3's": "believing "
        "a_404_of_a_proxy_says_nothing_of_an_object",
        "100 to 199, but for 101": "believing what_http_admits_is_no_other_answer",
        "a header twice": "believing what_http_admits_is_no_other_answer",
    },
}


def test_each_row_of_the_table_of_answers_has_a_test():
    assert {call: list(rows) for call, rows in TESTS.items()} == rows_of(believing.__doc__)
    sources: dict[str, str] = {}
    for rows in TESTS.values():
        for named in rows.values():
            module, name = named.split(" ")
            path = Path(__file__).with_name(f"test_{module}.py")
            source = sources.setdefault(module, path.read_text())
            assert re.search(rf"^def test_{name}\(", source, re.MULTILINE), named


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the second column of the table in *text*, by the first. Lines that go on are
    indented there; a first column in parentheses belongs to the one above."""
    table = text.partition("what follows\n")[2].partition("\n\n")[0]
    found: dict[str, list[str]] = {}
    call = ""
    for line in table.splitlines():
        named = line[:_WHAT].strip().removesuffix("(listing.py)").strip()
        if named and not named.startswith("("):
            call = named
            found[call] = []
        what = line[_WHAT:_FOLLOWS].rstrip()
        if what.startswith(" "):
            found[call][-1] += " " + what.strip()
        elif what:
            found[call].append(what)
    return found

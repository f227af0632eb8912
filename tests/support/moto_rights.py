"""moto's server, which checks rights as IAM does, and prints each action that it refuses.

Beside what moto does: the name of a queue counts, an action on many messages needs the right to
one, a queue that is made with tags needs the right to tag, HeadBucket the right to list, and
requests may be presigned. Signatures are not looked at.
"""

import json
import sys
from urllib.parse import parse_qs, urlsplit

from moto.iam.access_control import IAMRequestBase
from moto.server import main
from moto.sqs.responses import SQSResponse

_made = IAMRequestBase.__init__
_permitted = IAMRequestBase.check_action_permitted


def _made_of_presigned(request, *, path, headers, **others):
    credential = parse_qs(urlsplit(path).query).get("X-Amz-Credential")
    if credential:
        headers = {**headers, "Authorization": f"Credential={credential[0]},"}
    _made(request, path=path, headers=headers, **others)


def _actions(request):
    action = request._action.removesuffix("Batch").replace("s3:HeadBucket", "s3:ListBucket")
    tagged = action == "sqs:CreateQueue" and json.loads(request._body).get("tags")
    return [action, "sqs:TagQueue"] if tagged else [action]


def _checked(request, resource):
    for action in _actions(request):
        request._action = action
        try:
            _permitted(request, resource)
        except Exception:
            print("refused", action, resource, flush=True)
            raise


def _queue(response):
    said = json.loads(response.body)
    name = said.get("QueueName") or said["QueueUrl"].rpartition("/")[2]
    return f"arn:aws:sqs:{response.region}:{response.current_account}:{name}"


_OURS = [
    (IAMRequestBase, "__init__", _made_of_presigned),
    (IAMRequestBase, "check_action_permitted", _checked),
    (IAMRequestBase, "check_signature", lambda _: None),
    (SQSResponse, "_determine_resource", _queue),
]
for place, name, ours in _OURS:
    setattr(place, name, ours)
sys.exit(main())

"""Nothing of the user's own: imported before botocore, which looks at some of it only once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

for name in [name for name in os.environ if name.startswith(("AWS_", "MIMICFS_"))]:
    del os.environ[name]
os.environ |= {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "very-secret-key",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    # botocore would wait a second for rclone's leave to send nothing.
    "BOTO_EXPERIMENTAL__NO_EMPTY_CONTINUE": "true",
    # awscrt is there for checksums; botocore, which looks once, signs as without it.
    "BOTO_DISABLE_CRT": "true",
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
}

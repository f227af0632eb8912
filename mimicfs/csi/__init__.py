"""A driver for Kubernetes, and for any other program that speaks the Container Storage Interface:
`mimicfs csi` mounts volumes where that program wants them.

    protocol   the messages of CSI that we use, by their numbers
    refusal    the answer in place of a volume
    asked      the contents of a request, checked
    binding    directories of pods that show a mount
    process    the process that serves a volume
    volumes    the volumes that are published, also after a restart
    server     the services at the socket; the only place that knows gRPC's codes

The only room that imports grpc and google.protobuf (the extra `csi`).
"""

"""A driver for Kubernetes, and for whatever else speaks the Container Storage Interface: `mimicfs
csi` mounts volumes where it is told to.

    protocol   the messages of CSI that we use, by their numbers
    refusal    what is answered in place of a volume
    asked      what a request asks for, checked
    binding    directories of pods that show a mount
    process    the process that serves a volume
    volumes    what is published where, also after a restart
    server     the services at the socket; the only place that knows gRPC's codes

The only room that imports grpc and google.protobuf (the extra `csi`).
"""

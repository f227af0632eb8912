"""The messages of the Container Storage Interface (csi.v1) that we use, by the numbers and types
of their fields. Nothing of the specification's file is here. On the wire there are only numbers: so
an enumeration is an int32, a oneof is its fields, and a nested message may have any name.

Threading: no state; the classes are made when the module is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "csi.v1"
# NAME=NUMBER TYPE. "map" maps strings to strings; "*" is a repeated field.
_MESSAGES: Mapping[str, str] = {
    "GetPluginInfoRequest": "",
    "GetPluginInfoResponse": "name=1 string, vendor_version=2 string, manifest=3 map",
    "GetPluginCapabilitiesRequest": "",
    "GetPluginCapabilitiesResponse": "",  # its capabilities: none
    "ProbeRequest": "",
    "Bool": "value=1 bool",
    "ProbeResponse": "ready=1 Bool",
    "NodeGetInfoRequest": "",
    "NodeGetInfoResponse": "node_id=1 string, max_volumes_per_node=2 int64",
    "NodeGetCapabilitiesRequest": "",
    "RPC": "type=1 int32",
    "NodeServiceCapability": "rpc=1 RPC",
    "NodeGetCapabilitiesResponse": "capabilities=1 *NodeServiceCapability",
    "BlockVolume": "",
    "MountVolume": "fs_type=1 string, mount_flags=2 *string, volume_mount_group=3 string",
    "AccessMode": "mode=1 int32",
    "VolumeCapability": "block=1 BlockVolume, mount=2 MountVolume, access_mode=3 AccessMode",
    "NodePublishVolumeRequest": (
        "volume_id=1 string, publish_context=2 map, staging_target_path=3 string,"
        " target_path=4 string, volume_capability=5 VolumeCapability, readonly=6 bool,"
        " secrets=7 map, volume_context=8 map"
    ),
    "NodePublishVolumeResponse": "",
    "NodeUnpublishVolumeRequest": "volume_id=1 string, target_path=2 string",
    "NodeUnpublishVolumeResponse": "",
    "NodeGetVolumeStatsRequest": (
        "volume_id=1 string, volume_path=2 string, staging_target_path=3 string"
    ),
    "VolumeUsage": "available=1 int64, total=2 int64, used=3 int64, unit=4 int32",
    "VolumeCondition": "abnormal=1 bool, message=2 string",
    "NodeGetVolumeStatsResponse": "usage=1 *VolumeUsage, volume_condition=2 VolumeCondition",
}
# The methods of each service, whose messages are METHODRequest and METHODResponse.
SERVICES: Mapping[str, tuple[str, ...]] = {
    f"{_PACKAGE}.Identity": ("GetPluginInfo", "GetPluginCapabilities", "Probe"),
    f"{_PACKAGE}.Node": (
        "NodeGetInfo",
        "NodeGetCapabilities",
        "NodePublishVolume",
        "NodeUnpublishVolume",
        "NodeGetVolumeStats",
    ),
}

# NodeServiceCapability.RPC.Type
GET_VOLUME_STATS, VOLUME_CONDITION, SINGLE_NODE_MULTI_WRITER, VOLUME_MOUNT_GROUP = 2, 4, 5, 6
# VolumeCapability.AccessMode.Mode
MODES: Mapping[int, str] = {
    1: "SINGLE_NODE_WRITER",
    2: "SINGLE_NODE_READER_ONLY",
    3: "MULTI_NODE_READER_ONLY",
    4: "MULTI_NODE_SINGLE_WRITER",
    5: "MULTI_NODE_MULTI_WRITER",
    6: "SINGLE_NODE_SINGLE_WRITER",
    7: "SINGLE_NODE_MULTI_WRITER",
}
BYTES, INODES = 1, 2  # VolumeUsage.Unit

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "string": _FIELD.TYPE_STRING,
    "bool": _FIELD.TYPE_BOOL,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
}


def _described() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="mimicfs/csi.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, many, kind in re.findall(r"(\w+)=(\d+) (\*?)(\w+)", fields):
            _add_field(message, field, int(number), kind, many=bool(many))
    return file


def _add_field(message: Any, name: str, number: int, kind: str, *, many: bool) -> None:
    label = _FIELD.LABEL_REPEATED if many or kind == "map" else _FIELD.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    if kind in _TYPES:
        field.type = _TYPES[kind]
        return
    field.type = _FIELD.TYPE_MESSAGE
    if kind == "map":  # protobuf spells it as a repeated message of this name
        entry = "".join(map(str.capitalize, name.split("_"))) + "Entry"
        pair = message.nested_type.add(name=entry)
        pair.options.map_entry = True
        _add_field(pair, "key", 1, "string", many=False)
        _add_field(pair, "value", 2, "string", many=False)
        kind = f"{message.name}.{entry}"
    field.type_name = f".{_PACKAGE}.{kind}"


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_described())
    found = {name: pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in _MESSAGES}
    return {name: message_factory.GetMessageClass(each) for name, each in found.items()}


MESSAGES: Mapping[str, Any] = _classes()

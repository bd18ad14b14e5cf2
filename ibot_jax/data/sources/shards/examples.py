"""Records that are a `tf.train.Example`, read without TensorFlow, which workers never import."""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

# What of tensorflow/core/example/{example,feature}.proto images and labels need.
_SCHEMA = """
name: "example.proto" package: "ibot_jax" syntax: "proto3"
message_type {
  name: "BytesList"
  field { name: "value" number: 1 type: TYPE_BYTES label: LABEL_REPEATED }
}
message_type {
  name: "Int64List"
  field { name: "value" number: 1 type: TYPE_INT64 label: LABEL_REPEATED }
}
message_type {
  name: "Feature"
  field { name: "bytes_list" number: 1 type: TYPE_MESSAGE type_name: ".ibot_jax.BytesList" }
  field { name: "int64_list" number: 3 type: TYPE_MESSAGE type_name: ".ibot_jax.Int64List" }
}
message_type {
  name: "Features"
  field {
    name: "feature" number: 1 label: LABEL_REPEATED
    type: TYPE_MESSAGE type_name: ".ibot_jax.Features.FeatureEntry"
  }
  nested_type {
    name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING }
    field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".ibot_jax.Feature" }
  }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 type: TYPE_MESSAGE type_name: ".ibot_jax.Features" }
}
"""


def _example_class() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ibot_jax.Example"))


_Example = _example_class()
_BEGIN = 0x0A  # of an Example: a field 1 with a length. No kind of image begins so.


def features_of(record: bytes) -> dict[str, bytes | int | None] | None:
    """Returns the first value of each feature, by name; None where a record is no Example.

    A feature without a value, or of floats, is None.
    """
    if record[:1] != bytes([_BEGIN]):
        return None
    found = _Example.FromString(record).features.feature
    return {name: _first(feature) for name, feature in found.items()}


def _first(feature: Any) -> bytes | int | None:
    values = feature.bytes_list.value or feature.int64_list.value
    return values[0] if values else None

"""The protobuf messages of the wire, built at import from the table below.

No compiler and no generated file: generated code is bound to one major version of the protobuf runtime, descriptors
are not. To change the schema, change the table.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.unknown_fields import UnknownFieldSet

from thumbs.service.keys import UnknownKeyError

_PACKAGE = "thumbs.wire"

# The n-th entry is field n. `oneof`: at most one of the fields so marked is set; `map X`: a map from string to X.
_MESSAGES: dict[str, tuple[str, ...]] = {
    "SparseCsr": ("bytes values", "bytes crow_indices", "bytes col_indices"),
    "Tensor": ("oneof bytes dense", "oneof SparseCsr sparse_csr", "int32 dtype", "repeated int64 shape"),
    # a training request; its datums' provenance spans (fields 3 and 4) are not read
    "EncodedTextChunk": ("bytes tokens",),
    "ImageChunk": ("bytes data", "string format"),
    "DmelChunk": ("bytes dmel",),
    "Chunk": ("oneof EncodedTextChunk encoded_text", "oneof ImageChunk image", "oneof DmelChunk dmel"),
    "Datum": ("repeated Chunk model_input", "map Tensor loss_fn_inputs"),
    "LossConfigValue": ("oneof double number", "oneof string text"),
    "ForwardBackwardRequest": (
        "string model_id",
        "int32 seq_id",
        "repeated Datum data",
        "string loss_fn",
        "map double loss_fn_config",
        "bool forward_only",
        "map LossConfigValue loss_fn_config_v2",
    ),
    # its result
    "BatchedTensor": ("bytes data", "bytes offsets", "int32 dtype", "repeated int64 trailing_shape"),
    "ArrayRecord": ("string type_tag", "map BatchedTensor fields", "int64 num_datums"),
    "ForwardBackwardOutput": (
        "string loss_fn_output_type",
        "repeated ArrayRecord loss_fn_outputs",
        "map double metrics",
    ),
    # the result of sampling
    "TopkLogprobs": ("bytes token_ids", "bytes logprobs", "uint32 k", "uint32 length"),
    "SampledSequence": ("int32 stop_reason", "bytes tokens", "bytes logprobs", "TopkLogprobs topk_sampled_logprobs"),
    "PromptAltTokens": ("Tensor tokens", "Tensor logprobs"),
    "SampleResponse": (
        "repeated SampledSequence sequences",
        "bytes prompt_logprobs",
        "TopkLogprobs topk_prompt_logprobs",
        "int32 prompt_cache_hit_tokens",
        "Tensor target_prompt_logprobs",
        "PromptAltTokens prompt_alt_tokens",
    ),
}


def _add_field(message: DescriptorProto, number: int, text: str) -> None:
    *labels, kind, name = text.split()
    repeated = "repeated" in labels or "map" in labels
    field = message.field.add(
        name=name,
        number=number,
        label=FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL,
    )
    if "map" in labels:  # on the wire a repeated message of a key and a value
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add_field(entry, 1, "string key")
        _add_field(entry, 2, f"{kind} value")
        kind = f"{message.name}.{entry.name}"
    if kind.islower():
        field.type = getattr(FieldDescriptorProto, f"TYPE_{kind.upper()}")
    else:
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    if "oneof" in labels:
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        field.oneof_index = 0


def _classes() -> dict[str, Any]:
    file = FileDescriptorProto(name="thumbs/wire.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, text in enumerate(fields, start=1):
            _add_field(message, number, text)
    pool = descriptor_pool.DescriptorPool()  # our own: a process may also hold the messages of an SDK
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


MESSAGES = _classes()
"""Message classes by name."""


def check_fields(message: Any, *harmless: int) -> None:
    """Raises UnknownKeyError if a message holds a field that is not in the schema."""
    unknown = [field.field_number for field in UnknownFieldSet(message) if field.field_number not in harmless]
    if unknown:
        raise UnknownKeyError(
            f"field {unknown[0]} of the {message.DESCRIPTOR.name} message is not known; use an SDK of version 0.38"
        )

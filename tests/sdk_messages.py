"""Bytes that the real SDKs wrote: what our reading and writing of the wire is held against."""

import numpy as np

# SDK 0.38.0's forward_backward_request_to_proto of two datums: the chunks [5, 6] and [7] with target_tokens
# [6, 7, 2**40], and [1, 2, 3] with the torch tensor WEIGHTS; model_id "s:train:0", seq_id 300, loss_fn_config
# {"beta": 0.05}; then forward_only = True, loss_fn_config_v2["id"].text = "a", SerializeToString(deterministic=True).
REQUEST = bytes.fromhex(
    "0a09733a747261696e3a3010ac021a4a0a0c0a0a0a0805000000060000000a080a060a040700000012300a0d7461726765745f746f6b656e7312"
    "1f0a1806000000000000000700000000000000000000000001000018022201031a650a100a0e0a0c01000000020000000300000012510a077765"
    "69676874731246123e0a080000003f000000c0122000000000000000000100000000000000010000000000000002000000000000001a10040000"
    "00000000000100000000000000180122020305220d63726f73735f656e74726f70792a0f0a0462657461119a9999999999a93f30013a110a0462"
    "6574611209099a9999999999a93f3a090a0269641203120161"
)
WEIGHTS = np.array([[0, 0, 0, 0, 0.5], [0, 0, 0, 0, 0], [0, -2, 0, 0, 0]], np.float32)
# The same by SDK 0.22.0, without the text setting: model_dump(to_pydantic_request(ForwardRequest(...))) as JSON.
JSON_REQUEST = (
    b'{"forward_input":{"data":[{"loss_fn_inputs":{"target_tokens":{"data":[6,7,1099511627776],"dtype":"int64","shape":['
    b'3]}},"model_input":{"chunks":[{"tokens":[5,6],"type":"encoded_text"},{"tokens":[7],"type":"encoded_text"}]}},{"loss'
    b'_fn_inputs":{"weights":{"data":[0.5,-2.0],"dtype":"float32","shape":[3,5],"sparse_crow_indices":[0,1,1,2],"sparse_c'
    b'ol_indices":[4,1]}},"model_input":{"chunks":[{"tokens":[1,2,3],"type":"encoded_text"}]}}],"loss_fn":"cross_entropy"'
    b',"loss_fn_config":{"beta":0.05}},"model_id":"s:train:0","seq_id":300}'
)
# SDK 0.38.0's requests of one datum with an image chunk, and of the datum [1] with provenance spans.
IMAGE_REQUEST = bytes.fromhex("0a016d10011a0c0a0a12080a01781203706e67220370706f")
SPANS_REQUEST = bytes.fromhex(
    "0a016d10011a3e0a080a060a040100000012200a0d7461726765745f746f6b656e73120f0a08020000000000000018022201011a070a050a0171"
    "1801220712050a01711801220370706f"
)
# Messages of SDK 0.38.0's tinker_public_pb2, filled by hand with the values of SAMPLE_RESULT and TRAINING_RESULT in
# test_wire.py; its deserialize_proto_response reads those values from them.
SAMPLE_RESULT = bytes.fromhex(
    "0a300801120805000000060000001a08000000bf000080be22180a0805000000060000001208000000bf000080be180120020a06120402000000"
    "12080000c07f0000c0bf1a280a10000000000000000008000000090000001210804fc3c7804fc3c7000080bf000000c01802200220032a2a1222"
    "0a04000040c01210000000000000000001000000000000001a08010000000000000018012202010432200a100a08070000000000000018022202"
    "0101120c0a04000080c0180122020101"
)
TRAINING_RESULT = bytes.fromhex(
    "0a0b41727261795265636f7264123a12360a086c6f6770726f6273122a0a0c000080bf000000c0000040c0121800000000000000000400000000"
    "0000000c00000000000000180118021231122d0a086c6f6770726f627312210a08000080c00000a0c01210000000000000000008000000000000"
    "00180122010218011a130a086c6f73733a73756d11000000000000f83f"
)
